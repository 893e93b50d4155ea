"""RefineDet's loss: SSD's twice, for refining the anchors and for detecting from the refined ones.

Public: refinement_loss, RefinementLoss, RefinementChoices. Zhang et al. 2017, section 3.2 and
equation 1.
Shape letters: B images, A anchors, C columns (background first), M objects.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from boxatlas.boxes.coders import DeltaCoder
from boxatlas.boxes.matching import Matches
from boxatlas.losses.multibox import MultiboxLoss, multibox_loss
from boxatlas.options import NotNegative, Options, habit

Match = Callable[[Tensor, Tensor, Tensor], Matches]


class RefinementChoices(Options):
    """How one port's training differs from RefineDet's."""

    filter_positives: bool = habit(
        False, "the negative filter takes positives too, which then are mined as hard examples"
    )
    log_epsilon: NotNegative = habit(
        0.0, "added inside the logarithm of the box code's width and height targets"
    )


@dataclass
class RefinementLoss:
    """The two parts, how each was matched, and the objectness [B, A] that filtered anchors."""

    arm: MultiboxLoss
    odm: MultiboxLoss
    arm_matches: Matches
    odm_matches: Matches
    objectness: Tensor


def refinement_loss(
    arm_logits: Tensor,
    arm_deltas: Tensor,
    logits: Tensor,
    deltas: Tensor,
    anchors: Tensor,
    boxes: Tensor,
    labels: Tensor,
    valid: Tensor,
    match: Match,
    coder: DeltaCoder,
    *,
    two_step: bool = True,
    least: float = 0.01,
    filter_negatives: bool = True,
    filter_positives: bool = False,
    ratio: float = 3.0,
    ranking: Literal["background", "label"] = "background",
    neg_overlap: float | None = 0.5,
    mine_over: Literal["image", "batch"] = "image",
    ignored: Tensor | None = None,
) -> RefinementLoss:
    """arm_logits [B, A, 2], arm_deltas [B, A, 4]; logits [B, A, C], deltas [B, A, 4].

    The first step is trained on object or not, and on boxes from the anchors [A, 4]. The second
    matches the objects `boxes` [B, M, 4] with the refined anchors (`two_step`), without a gradient
    through them, and takes no negatives where p(object) < `least`: those are easy. Positives stay,
    however sure the first step is, unless `filter_positives`: then one at `least` or below is no
    positive, but a candidate for mining under its class label. ratio, ranking, neg_overlap,
    mine_over, ignored: as in `multibox_loss`.
    """
    first = match(anchors, boxes, valid)
    mining: dict[str, Any] = {"ratio": ratio, "ranking": ranking, "neg_overlap": neg_overlap}
    mining |= {"mine_over": mine_over, "ignored": ignored}
    kind = torch.zeros_like(labels)  # object or not
    arm = multibox_loss(arm_logits, arm_deltas, first, anchors, boxes, kind, coder, **mining)
    objectness = arm_logits.detach().softmax(dim=-1)[..., 1]
    refined = coder.decode(arm_deltas.detach(), anchors) if two_step else anchors
    second = match(refined, boxes, valid) if two_step else first
    odm = multibox_loss(
        logits,
        deltas,
        second,
        refined,
        boxes,
        labels,
        coder,
        **mining,
        candidates=objectness >= least if filter_negatives else None,
        dropped=objectness <= least if filter_positives else None,
    )
    return RefinementLoss(arm, odm, first, second, objectness)
