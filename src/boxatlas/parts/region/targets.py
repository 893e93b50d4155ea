"""What the RoIs of a head learn: which of them, which class, which box. Girshick 2015, arXiv
1504.08083, section 2.3.

Shape letters: B images, P proposals and S samples of an image, K classes (background is column 0 of
the K + 1 logits), M objects, D box columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from boxatlas.boxes.coders import DeltaCoder
from boxatlas.boxes.formats import pairwise_ioa
from boxatlas.boxes.matching import match_thresholds
from boxatlas.boxes.sampling import sample
from boxatlas.structures import Targets


@dataclass(frozen=True)
class RoITargets:
    """How RoIs learn (Fast R-CNN, section 2.3): thresholds, the draw, and the box loss.

    A RoI is positive from `high` on and background in [low, high). sampler "ohem" (Shrivastava et
    al. 2016) keeps the `count` RoIs of largest loss instead of a random draw. Objects to ignore are
    none to learn (`learn_ignored`: VOC's difficult ones are); a RoI of which more than `crowd` lies
    in one of them learns nothing.
    """

    high: float = 0.5
    low: float = 0.0
    count: int = 512
    positive_fraction: float = 0.25
    sampler: Literal["random", "ohem"] = "random"
    append_objects: bool = True
    beta: float = 1.0
    inclusive: bool = False
    learn_ignored: bool = False
    crowd: float | None = 0.7


class HeadBatch(NamedTuple):
    """What heads learn from: the maps, proposals [B, P, 4] with valid [B, P], the objects, width
    and height [B, 2] of each image's content, and the generator of every draw."""

    features: list[Tensor]
    boxes: Tensor
    valid: Tensor
    targets: Targets
    limits: Tensor
    generator: torch.Generator | None


class SampledRoIs(NamedTuple):
    """What the heads learn from: boxes [B, S, 4], labels [B, S] (0 background, -1 padding),
    wanted [B, S, 4]: the object each positive answers for, owner [B, S]: which object."""

    boxes: Tensor
    labels: Tensor
    wanted: Tensor
    owner: Tensor


def delta_column(label: Tensor, columns: int, agnostic: bool, classes: int) -> Tensor:
    """Which of D box columns serves a class 0..K-1; the background's, where held, is the first."""
    if agnostic:
        return torch.full_like(label, columns - 1)
    return label + (columns - classes)


def all_rois(rule: RoITargets, boxes: Tensor, valid: Tensor, targets: Targets) -> SampledRoIs:
    """Every proposal (and object, where they are appended) with its label and target."""
    usable = targets.valid if rule.learn_ignored else targets.valid & ~targets.ignore
    if rule.append_objects:
        boxes = torch.cat([targets.boxes, boxes], 1)
        valid = torch.cat([usable, valid], 1)
    matches = match_thresholds(boxes, targets.boxes, usable, rule.high, inclusive=rule.inclusive)
    label = matches.labels(targets.labels + 1, background=0)
    learns = valid & (matches.positive | (matches.iou >= rule.low))
    aside = targets.valid & ~usable
    if rule.crowd is not None and bool(aside.any()):
        regions = targets.boxes * aside[..., None]  # those of no area hold nothing
        inside = pairwise_ioa(boxes, regions, rule.inclusive).amax(-1) > rule.crowd
        learns &= matches.positive | ~inside
    label = torch.where(learns, label, -1)
    index = matches.index.clamp(min=0)
    if targets.boxes.shape[1] == 0:
        wanted = boxes
    else:
        wanted = targets.boxes.gather(1, index[..., None].expand(-1, -1, 4))
    return SampledRoIs(boxes, label, wanted, index)


@torch.no_grad()
def sample_rois(
    rule: RoITargets,
    boxes: Tensor,
    valid: Tensor,
    targets: Targets,
    generator: torch.Generator | None = None,
) -> SampledRoIs:
    """Draw `count` RoIs an image, at most `positive_fraction` of them on objects."""
    rois = all_rois(rule, boxes, valid, targets)
    drawn = sample(rois.labels > 0, rois.labels == 0, rule.count, rule.positive_fraction, generator)
    taken = take(rois, drawn.index)
    return taken._replace(labels=torch.where(drawn.valid, taken.labels, -1))


def take(rois: SampledRoIs, index: Tensor) -> SampledRoIs:
    """Of each image the RoIs at index [B, S]."""
    wide = index[..., None].expand(-1, -1, 4)
    return SampledRoIs(
        rois.boxes.gather(1, wide),
        rois.labels.gather(1, index),
        rois.wanted.gather(1, wide),
        rois.owner.gather(1, index),
    )


def roi_losses(
    logits: Tensor,
    deltas: Tensor,
    rois: SampledRoIs,
    coder: DeltaCoder,
    beta: float,
    agnostic: bool = False,
) -> tuple[Tensor, Tensor]:
    """Per-RoI class and box losses [B, S], 0 where a RoI is padding (or, for boxes, background).

    logits [B, S, K + 1], deltas [B, S, D, 4]; agnostic: one box serves every class.
    """
    labels = rois.labels
    cls = F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=-1, reduction="none"
    ).view_as(labels)
    image, row = (labels > 0).nonzero(as_tuple=True)
    own, classes = labels[image, row] - 1, logits.shape[-1] - 1
    column = delta_column(own, deltas.shape[2], agnostic, classes)
    wanted = coder.encode(rois.wanted[image, row], rois.boxes[image, row])
    one = F.smooth_l1_loss(deltas[image, row, column], wanted, beta=beta, reduction="none").sum(-1)
    box = cls.new_zeros(labels.shape).index_put((image, row), one)
    return cls, box
