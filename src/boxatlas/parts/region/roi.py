"""What a RoI is: how it is pooled, what it is trained on, which outputs it has.

Shape letters: B images, P RoIs of an image, R = B * P, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor

from boxatlas.boxes.coders import CLAMP, DeltaCoder
from boxatlas.boxes.formats import pyramid_level
from boxatlas.ops.roi import pyramid_pool
from boxatlas.options import (
    AtLeastOne,
    Count,
    Fraction,
    NotNegative,
    Options,
    Positive,
    Width,
    habit,
    idea,
    setting,
)

Four = tuple[Positive, Positive, Positive, Positive]


class RoIChoices(Options):
    """How RoIs are pooled, trained, coded and read out; every region detector has these."""

    gone: ClassVar[Mapping[str, Any]] = {"box_end": 0.0}

    roi_op: Literal["align", "pool", "warp"] = idea(
        "pool", "FPN section 4.2 pools; RoIAlign from Mask R-CNN (table 2c) on"
    )
    sampler: Literal["random", "ohem"] = idea(
        "random", "Fast R-CNN section 2.3; OHEM (1604.03540) keeps the RoIs of largest loss"
    )

    roi_count: AtLeastOne = setting(512, "RoIs of an image that are trained")
    roi_positive_iou: Fraction = setting(
        0.5, "IoU with an object from which a RoI is positive", gt=0
    )
    roi_positive_fraction: Fraction = setting(0.25, "largest part of positives in a random draw")
    background_low: Fraction = setting(
        0.0, "least IoU with an object of a background RoI; hard example mining takes all"
    )
    box_width: Width = setting(1024, "width of a RoI's fully connected layers")
    class_agnostic: bool = setting(False, "one box for all classes")

    roi_sampling: Count = habit(2, "RoIAlign's samples a side of a bin; 0: one for each cell")
    roi_aligned: bool = habit(False, "RoIAlign shifts a RoI by half a cell")
    roi_reduce: Literal["average", "max"] = habit(
        "average", "what becomes of RoIAlign's samples in a bin"
    )
    level_epsilons: tuple[NotNegative, NotNegative] = habit(
        (0.0, 1e-6), "added inside and outside of the logarithm that gives a RoI's pyramid level"
    )
    roi_weights: Four = habit((10, 10, 5, 5), "weights of a RoI's box deltas: x, y, width, height")
    box_clamp: Positive | None = habit(
        CLAMP, "upper bound of a decoded box's growth, as a logarithm; None: no bound"
    )
    box_clamp_below: bool = habit(False, "`box_clamp` bounds the shrinking of a box too")
    inclusive: bool = habit(
        False, "corners are pixels that belong to a box, whose width is x2 - x1 + 1"
    )
    code_inclusive: bool = habit(True, "with `inclusive`: the box code counts widths so too")
    inclusive_centre: bool = habit(
        False, "a box's centre is the middle of its corner pixels, x1 + (width - 1) / 2"
    )
    learn_difficult: bool = habit(
        False, "VOC's difficult objects are trained (off where the ignored are crowds)"
    )
    roi_beta: NotNegative = habit(1.0, "where a RoI's smooth L1 turns linear; 0: L1")
    background_box: bool = habit(False, "a RoI's box outputs begin with one for the background")
    min_detection: NotNegative = habit(0.0, "smallest side of a detection, in pixels")

    def idle(self) -> dict[str, str]:
        why = super().idle()
        if self.sampler == "ohem":
            of_the_draw = ("background_low", "roi_positive_fraction")
            why |= dict.fromkeys(of_the_draw, "hard example mining looks at all RoIs")
        if self.roi_op == "pool":
            why["roi_reduce"] = "RoI pooling takes no samples"
        return why

    @model_validator(mode="after")
    def _roi_rules(self) -> Self:
        if self.background_low > self.roi_positive_iou:
            raise ValueError(
                f"background_low {self.background_low} is above "
                f"roi_positive_iou {self.roi_positive_iou}"
            )
        return self


def box_coder(config: RoIChoices, weights: Four = (1.0, 1.0, 1.0, 1.0)) -> DeltaCoder:
    """How a region detector writes boxes; an RPN's deltas have no weights, each head's its own."""
    return DeltaCoder(
        weights,
        clamp=config.box_clamp,
        clamp_below=config.box_clamp_below,
        inclusive=config.inclusive and config.code_inclusive,
        inclusive_centre=config.inclusive_centre,
    )


def pool_rois(
    config: RoIChoices, maps: Sequence[Tensor], boxes: Tensor, strides: Sequence[int], side: int
) -> Tensor:
    """Boxes [B, P, 4] -> [B * P, C, side, side], each from the map that fits it.

    maps: at least those of `strides`, fine to coarse.
    """
    rois = with_image(boxes)
    levels = roi_levels(config, rois[:, 1:], strides)
    scales = [1 / stride for stride in strides]
    return pool_from(config, maps[: len(scales)], rois, levels, scales, side)


def pool_from(
    config: RoIChoices,
    maps: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    scales: Sequence[float],
    side: int,
) -> Tensor:
    """RoIs [R, 5], each from maps[level] [B, C, h, w] -> [R, C, side, side].

    levels [R]; scales: cells of each map for one pixel of the input.
    """
    if config.roi_op == "warp":  # RoIAlign of corners rounded to cells (Dai et al. 2016)
        scale = rois.new_tensor(scales)[levels, None]
        rois = torch.cat([rois[:, :1], (rois[:, 1:] * scale).round() / scale], 1)
    # The largest of n x n samples: a grid n times as fine, of one sample a cell.
    largest = config.roi_reduce == "max" and config.roi_op != "pool"
    finer = max(config.roi_sampling, 2) if largest else 1
    pooled = pyramid_pool(
        maps,
        scales,
        rois,
        levels,
        side * finer,
        op="pool" if config.roi_op == "pool" else "align",
        sampling_ratio=1 if largest else config.roi_sampling,
        aligned=config.roi_aligned,
    )
    return F.max_pool2d(pooled, finer) if largest else pooled


def with_image(boxes: Tensor) -> Tensor:
    """Boxes [B, P, 4] -> RoIs [B * P, 5], the image's number first."""
    image = torch.arange(boxes.shape[0], device=boxes.device, dtype=boxes.dtype)
    image = image[:, None, None].expand(*boxes.shape[:2], 1)
    return torch.cat([image, boxes], -1).reshape(-1, 5)


def roi_levels(config: RoIChoices, boxes: Tensor, strides: Sequence[int]) -> Tensor:
    """Boxes [R, 4] -> [R]: which of the maps of these strides each is pooled from.

    Lin et al. 2016, equation 1: a RoI of 224 x 224 pixels belongs to level 4, of stride 16.
    """
    if len(strides) == 1:
        return torch.zeros(boxes.shape[0], dtype=torch.int64, device=boxes.device)
    first = int(math.log2(strides[0]))
    inside, outside = config.level_epsilons
    level = pyramid_level(
        boxes,
        first,
        int(math.log2(strides[-1])),
        4,
        224.0,
        epsilon_inside_log=inside,
        epsilon_outside_log=outside,
    )
    return level - first
