"""Classification losses over a softmax.

Public: softmax_cross_entropy, IGNORE. Shape letters: N rows, C columns.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

IGNORE = -100


def softmax_cross_entropy(
    logits: Tensor, labels: Tensor, reduction: str = "sum", weight: Tensor | None = None
) -> Tensor:
    """-log softmax(logits [N, C])[label], labels [N] int64; rows labelled -100 count for nothing.

    "mean" divides by the rows that count, and is 0 (not NaN) where none does. weight [N] scales
    rows of "sum".
    """
    if reduction == "none":
        return F.cross_entropy(logits, labels, reduction="none", ignore_index=IGNORE)
    if weight is not None:
        rows = F.cross_entropy(logits, labels, reduction="none", ignore_index=IGNORE)
        total = (rows * weight).sum()
    else:
        total = F.cross_entropy(logits, labels, reduction="sum", ignore_index=IGNORE)
    if reduction == "sum":
        return total
    if reduction != "mean":
        raise ValueError(f"reduction must be sum, mean or none, not {reduction!r}")
    return total / (labels != IGNORE).sum().clamp(min=1)
