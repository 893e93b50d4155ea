"""Online hard example mining. Shrivastava et al. 2016, arXiv 1604.03540, section 4.

Public: hardest. Shape letters: B images, R RoIs.
"""

from __future__ import annotations

from torch import Tensor


def hardest(losses: Tensor, valid: Tensor, keep: int) -> Tensor:
    """The `keep` RoIs of largest loss in each image: [B, R] -> index [B, min(keep, R)].

    valid [B, R]: RoIs that may be kept; where an image has fewer, the rest are its others.
    """
    ranked = losses.detach().masked_fill(~valid, float("-inf"))
    return ranked.topk(min(keep, losses.shape[1]), dim=1).indices
