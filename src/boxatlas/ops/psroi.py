"""Position-sensitive RoI pooling. Dai et al. 2016, arXiv 1605.06409, section 2, equation 1.

Each of the k x k bins of a RoI is pooled from score maps of its own, so that what a position should
look like is learned by convolutions over the whole image and a RoI costs next to nothing.

Shape letters: B images, R RoIs, k bins a side, D outputs (classes, or box coordinates).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
import torchvision.ops
from torch import Tensor


@dataclass(frozen=True)
class PSRoIRule:
    """Where a program sets the borders of the bins.

    The defaults are the authors': corners are rounded to pixels of the image and belong to the RoI
    (`end_offset`), which is then real-valued on the map. rounding "map" rounds after scaling, as
    torchvision's ps_roi_pool does, which moves half of all bins. min_side: the least side of a RoI
    on the map. clip_offset: bins are clipped to 0 .. side + clip_offset.
    """

    rounding: Literal["image", "map"] = "image"
    end_offset: float = 1.0
    min_side: float = 0.1
    clip_offset: int = 0


AUTHORS = PSRoIRule()


def psroi_pool(
    maps: Tensor, rois: Tensor, k: int, spatial_scale: float, rule: PSRoIRule = AUTHORS
) -> Tensor:
    """Mean of each bin over its own map: maps [B, D * k * k, H, W] -> [R, D, k, k].

    rois [R, 5]: image, x1, y1, x2, y2 in input pixels. Channel (d * k + row) * k + column serves
    that bin of output d; a bin without a cell is 0. Every bin is four reads of a summed-area table.
    """
    channels, height, width = maps.shape[1:]
    outputs = channels // (k * k)
    if outputs * k * k != channels:
        raise ValueError(f"{channels} maps are not {k} x {k} times a whole number of outputs")
    boxes = rois[:, 1:].detach()
    left, right = _edges(boxes[:, 0], boxes[:, 2], k, spatial_scale, width, rule)
    top, bottom = _edges(boxes[:, 1], boxes[:, 3], k, spatial_scale, height, rule)
    cells = (bottom - top).clamp(min=0)[:, :, None] * (right - left).clamp(min=0)[:, None]
    table = _summed(maps).flatten()
    area = (height + 1) * (width + 1)
    own = torch.arange(channels, device=maps.device).view(outputs, k, k) * area
    own = own + rois[:, 0].long()[:, None, None, None] * (channels * area)  # [R, D, k, k]

    def at(row: Tensor, column: Tensor) -> Tensor:
        place = row[:, :, None] * (width + 1) + column[:, None]  # [R, k, k]
        return table.index_select(0, (own + place[:, None]).flatten()).view(own.shape)

    inner = at(bottom, right) - at(top, right) - at(bottom, left) + at(top, left)
    empty = (cells == 0)[:, None]
    return (inner / cells.clamp(min=1)[:, None]).masked_fill(empty, 0.0).to(maps.dtype)


def _edges(
    low: Tensor, high: Tensor, k: int, scale: float, size: int, rule: PSRoIRule
) -> tuple[Tensor, Tensor]:
    """First cell and the one after the last, [R, k] each, of every bin along one axis."""
    steps = torch.arange(k + 1, device=low.device, dtype=low.dtype)
    if rule.rounding == "image":
        start, end = _round(low) * scale, (_round(high) + rule.end_offset) * scale
        inner = None
    else:
        inner = _round(low * scale)
        start, end = inner, _round(high * scale) + rule.end_offset
    side = (end - start).clamp(min=rule.min_side) / k
    reach = steps * side[:, None]
    shift = start[:, None]
    if inner is None:
        first, last = torch.floor(reach[:, :-1] + shift), torch.ceil(reach[:, 1:] + shift)
    else:  # whole cells: the fraction is that of the bin alone
        first, last = torch.floor(reach[:, :-1]) + shift, torch.ceil(reach[:, 1:]) + shift
    limit = size + rule.clip_offset
    return first.clamp(0, limit).long(), last.clamp(0, limit).long()


def _round(x: Tensor) -> Tensor:
    """Half away from zero, as C rounds."""
    return torch.sign(x) * torch.floor(x.abs() + 0.5)


def _summed(maps: Tensor) -> Tensor:
    """[B, C, H + 1, W + 1]: sums of all cells above and left, in double precision."""
    exact = maps if maps.device.type == "mps" else maps.double()  # mps has no doubles
    return F.pad(exact.cumsum(-1).cumsum(-2), (1, 0, 1, 0))


def psroi_align(
    maps: Tensor, rois: Tensor, k: int, spatial_scale: float, sampling_ratio: int = 2
) -> Tensor:
    """As `psroi_pool`, the mean of bilinear samples instead of whole cells."""
    return torchvision.ops.ps_roi_align(maps, rois, k, spatial_scale, sampling_ratio)
