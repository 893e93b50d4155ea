"""The loss of a mask branch. He et al. 2017, arXiv 1703.06870, section 3 and table 2b.

Public: mask_loss, MaskLoss. Shape letters: N masks, C maps, m their side.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

MaskLoss = Literal["sigmoid", "softmax"]


def mask_loss(
    logits: Tensor, targets: Tensor, column: Tensor, kind: MaskLoss = "sigmoid"
) -> Tensor:
    """Mean over the m x m cells of all masks: logits [N, C, m, m], targets [N, m, m] in 0..1.

    "sigmoid": binary cross-entropy of each mask's own map, column[n]; no other map learns.
    "softmax": the classes compete in every cell, map 0 being the background's. 0 for no mask.
    """
    if len(logits) == 0:
        return logits.sum() * 0.0
    if kind == "sigmoid":
        own = logits[torch.arange(len(logits), device=logits.device), column]
        return F.binary_cross_entropy_with_logits(own, targets)
    wanted = torch.where(targets >= 0.5, column[:, None, None], 0)
    return F.cross_entropy(logits, wanted)
