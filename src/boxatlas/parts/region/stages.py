"""What passes between heads in a row (Cai & Vasconcelos 2017, arXiv 1712.00726).

Shape letters: B images, P boxes of an image, K classes, T stages, M objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from boxatlas.boxes.formats import pairwise_iou
from boxatlas.options import Fraction, NotNegative, Options, Positive, habit
from boxatlas.parts.region.roi import Four
from boxatlas.structures import Targets


class StageChoices(Options):
    """The box codes, scores and losses of heads in a row."""

    gone: ClassVar[Mapping[str, Any]] = {"clip_between": True}

    stage_weights: tuple[Four, ...] = habit(
        ((10, 10, 5, 5), (20, 20, 10, 10), (30, 30, 15, 15), (40, 40, 20, 20)),
        "weights of each stage's box deltas; without `stage_statistics` all have the first's",
    )
    stage_gradients: tuple[NotNegative, ...] = habit(
        (1, 0.5, 0.25, 0.125), "part of each stage's gradient that reaches the trunk"
    )
    stage_losses: tuple[Positive, ...] = habit((1, 1, 1, 1), "weights of the stages' losses")
    score_boxes: Literal["last", "own"] = habit(
        "last", "heads score the last stage's boxes, or those that each was given"
    )
    score_of: Literal["probability", "logit"] = habit(
        "probability", "the mean of the stages' scores is of probabilities or of logits"
    )
    resample: bool = habit(False, "later stages draw from their boxes as the first does")
    append_objects: bool = habit(True, "later stages are trained on the objects themselves too")
    drop_above: Fraction | None = habit(
        0.95, "a box that overlaps an object so much before a stage goes no further; None: all do"
    )


def mean_scores(config: StageChoices, logits: Sequence[Tensor]) -> Tensor:
    """Section 4.2: logits [B, P, K + 1] of T classifiers -> their mean scores [B, P, K + 1]."""
    if config.score_of == "logit":
        return torch.stack(list(logits)).mean(0).softmax(-1)
    return torch.stack(list(logits)).softmax(-1).mean(0)


def goes_on(config: StageChoices, boxes: Tensor, targets: Targets, inclusive: bool) -> Tensor:
    """[B, P] bool: boxes [B, P, 4] that a stage did not find right already."""
    if config.drop_above is None or targets.boxes.shape[1] == 0:
        return torch.ones(boxes.shape[:2], dtype=torch.bool, device=boxes.device)
    objects = targets.boxes * targets.valid[..., None]
    return pairwise_iou(boxes, objects, inclusive).amax(-1) < config.drop_above


def with_gradient(x: Tensor, part: float) -> Tensor:
    """The same values, of whose gradient only a part goes on."""
    return x if part == 1.0 else x * part + x.detach() * (1 - part)
