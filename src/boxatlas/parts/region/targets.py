"""What RoIs are trained on: which of them, which class, which box. Girshick 2015, arXiv 1504.08083,
section 2.3.

Shape letters: B images, P proposals and S samples of an image, K classes (background is column 0 of
the K + 1 logits), M objects, D box columns.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from boxatlas.boxes.coders import DeltaCoder
from boxatlas.boxes.formats import pairwise_ioa
from boxatlas.boxes.matching import BACKGROUND, IGNORED, Assigned, match_thresholds
from boxatlas.boxes.sampling import sample
from boxatlas.structures import Targets

# A RoI of which more than this lies in an object that is to be ignored is not trained.
CROWD = 0.7


class HeadBatch(NamedTuple):
    """What heads are trained on: the maps, proposals [B, P, 4] with valid [B, P], the objects,
    width and height [B, 2] of each image's content, and the generator of every draw."""

    features: list[Tensor]
    boxes: Tensor
    valid: Tensor
    targets: Targets
    limits: Tensor
    generator: torch.Generator | None


class SampledRoIs(NamedTuple):
    """Labelled RoIs: boxes [B, S, 4], labels [B, S] (0 background, -1 padding),
    wanted [B, S, 4]: the object each positive answers for, owner [B, S]: which object."""

    boxes: Tensor
    labels: Tensor
    wanted: Tensor
    owner: Tensor


def assigned_rois(name: str, rois: SampledRoIs, boxes: Tensor) -> Assigned:
    """Labelled RoIs, drawn as `boxes` [B, S, 4]: those of no label are ignored."""
    aside = torch.where(rois.labels == 0, BACKGROUND, IGNORED)
    return Assigned(name, boxes, torch.where(rois.labels > 0, rois.owner, aside))


def delta_column(label: Tensor, columns: int, agnostic: bool, classes: int) -> Tensor:
    """Which of D box columns serves a class 0..K-1; the background's, where held, is the first."""
    if agnostic:
        return torch.full_like(label, columns - 1)
    return label + (columns - classes)


def label_rois(
    boxes: Tensor,
    valid: Tensor,
    targets: Targets,
    *,
    positive_iou: float,
    background_low: float = 0.0,
    learn_difficult: bool = False,
    append_objects: bool = True,
    inclusive: bool = False,
) -> SampledRoIs:
    """Every proposal [B, P, 4] (and object, where they are appended) with its label and target.

    A RoI is positive from `positive_iou` on and background in [background_low, positive_iou).
    learn_difficult: objects to ignore are trained as others are; without it RoIs that lie in one
    are left out. inclusive: corners are pixels that belong to a box.
    """
    usable = targets.valid if learn_difficult else targets.valid & ~targets.ignore
    if append_objects:
        boxes = torch.cat([targets.boxes, boxes], 1)
        valid = torch.cat([usable, valid], 1)
    matches = match_thresholds(boxes, targets.boxes, usable, positive_iou, inclusive=inclusive)
    label = matches.labels(targets.labels + 1, background=0)
    trained = valid & (matches.positive | (matches.iou >= background_low))
    aside = targets.valid & ~usable
    if bool(aside.any()):
        regions = targets.boxes * aside[..., None]  # those of no area hold nothing
        inside = pairwise_ioa(boxes, regions, inclusive).amax(-1) > CROWD
        trained &= matches.positive | ~inside
    label = torch.where(trained, label, -1)
    index = matches.index.clamp(min=0)
    if targets.boxes.shape[1] == 0:
        wanted = boxes
    else:
        wanted = targets.boxes.gather(1, index[..., None].expand(-1, -1, 4))
    return SampledRoIs(boxes, label, wanted, index)


@torch.no_grad()
def draw_rois(
    rois: SampledRoIs,
    count: int,
    positive_fraction: float,
    generator: torch.Generator | None = None,
) -> SampledRoIs:
    """A random draw of `count` RoIs an image, at most `positive_fraction` of them on objects."""
    drawn = sample(rois.labels > 0, rois.labels == 0, count, positive_fraction, generator)
    taken = take(rois, drawn.index)
    return taken._replace(labels=torch.where(drawn.valid, taken.labels, -1))


def take(rois: SampledRoIs, index: Tensor) -> SampledRoIs:
    """Select RoIs by index [B, S] within each image."""
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
