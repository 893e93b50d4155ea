"""Cutting boxes out of images as R-CNN does: warped to one size, with context around them.

Girshick et al. 2014, arXiv 1311.2524, section 2.1 and appendix A.
Shape letters: B images, R boxes, S side of a crop.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

Mode = Literal["warp", "square", "square_masked"]


@dataclass(frozen=True)
class Crop:
    """How a box becomes a crop of `size` x `size`.

    mode "warp" stretches the box to the crop, "square" first widens it to the tightest square, and
    "square_masked" leaves out of that what lies around the box (appendix A's square without
    context). padding: pixels of context in the crop on every side (0: none).
    """

    size: int = 227
    mode: Mode = "warp"
    padding: int = 16

    def geometry(self, boxes: Tensor, sizes: Tensor) -> Tensor:
        """[R, 8] int64: x1, y1, x2, y2 (the part of the image that is seen: first and last pixel,
        counted from 1), the width and height it takes in the crop, and where it begins there.

        boxes [R, 4] xyxy; sizes [R, 2]: height, width of each box's image.
        """
        boxes, sizes = boxes.double(), sizes.to(boxes.device)
        low, high = boxes[:, :2] + 1, boxes[:, 2:]  # pixels counted from 1, the last one included
        limit = sizes.flip(1).double()
        if not self.padding and self.mode == "warp":
            low, high = _rounded(low), _rounded(high)
            low = torch.minimum(low.clamp(min=1), limit)
            high = torch.maximum(torch.minimum(high, limit), low)
            whole = torch.full_like(low, self.size)
            return torch.cat([low, high, whole, torch.zeros_like(low)], 1).long()
        half = (high - low + 1) / 2
        centre = low + half
        if self.mode != "warp":
            half = half.amax(1, keepdim=True).expand_as(half)
        half = half * (self.size / (self.size - 2 * self.padding))
        low, high = _rounded(centre - half), _rounded(centre + half)
        scale = self.size / (high - low + 1)
        start = _rounded((1 - low).clamp(min=0) * scale)
        low = torch.minimum(low.clamp(min=1), limit)
        high = torch.maximum(torch.minimum(high, limit), low)
        taken = _rounded((high - low + 1) * scale)
        taken = torch.minimum(taken, self.size - start)
        return torch.cat([low, high, taken, start], 1).long()

    def __call__(
        self,
        images: Tensor,
        boxes: Tensor,
        image: Tensor,
        sizes: Tensor | None = None,
        mean: Tensor | None = None,
    ) -> Tensor:
        """Crops [R, C, S, S] (channels last) of boxes [R, 4] in images [B, C, H, W].

        image [R]: which one each box lies in; sizes [B, 2]: height, width of their content, whole
        if not given. mean [C, S, S] is subtracted within the content. What lies beyond the image
        is 0, so images are to be given less their mean, or with `mean`. Bilinear at half-pixel
        centres, without antialiasing.
        """
        if sizes is None:
            sizes = torch.tensor([images.shape[-2:]]).expand(len(images), 2)
        sizes = sizes.to(images.device)
        spot = self.geometry(boxes, sizes[image])
        columns = _samples(spot[:, 0], spot[:, 2], spot[:, 4], spot[:, 6], self.size)
        rows = _samples(spot[:, 1], spot[:, 3], spot[:, 5], spot[:, 7], self.size)
        if self.mode == "square_masked":
            columns, rows = _within(columns, boxes[:, 0::2]), _within(rows, boxes[:, 1::2])
        width = images.shape[-1]
        flat = images.permute(0, 2, 3, 1).reshape(
            -1, images.shape[1]
        )  # a pixel's channels together
        first = (image * images.shape[-2] * width)[:, None]
        out = _bilinear(flat, first, rows, columns, width)
        if mean is not None:
            out = out - mean.to(out).permute(1, 2, 0)
        out.mul_((rows.inside[:, :, None] & columns.inside[:, None, :])[..., None])
        return out.permute(0, 3, 1, 2)

    def batches(
        self, images: Tensor, boxes: Tensor, image: Tensor, sizes: Tensor | None, count: int
    ) -> Iterator[Tensor]:
        """The crops of `__call__` in order, `count` at a time."""
        for start in range(0, len(boxes), count):
            part = slice(start, start + count)
            yield self(images, boxes[part], image[part], sizes)


@dataclass
class _Samples:
    """Along one axis, for each place of a crop [R, S]: the two pixels it lies between, the weight
    of the second, and whether it shows the image; step [R, 1]: pixels from place to place."""

    before: Tensor
    after: Tensor
    weight: Tensor
    inside: Tensor
    step: Tensor


def _samples(first: Tensor, last: Tensor, taken: Tensor, start: Tensor, size: int) -> _Samples:
    place = torch.arange(size, device=first.device)[None] - start[:, None]
    length = (last - first + 1)[:, None].double()
    step = length / taken.clamp(min=1)[:, None]
    at = (place + 0.5) * step - 0.5
    at = torch.minimum(at.clamp(min=0), length - 1)  # the border is replicated
    before = at.floor().long()
    after = torch.minimum(before + 1, (last - first)[:, None])
    weight = (at - before).float()
    shift = (first - 1)[:, None]
    inside = (place >= 0) & (place < taken[:, None])
    return _Samples(before + shift, after + shift, weight, inside, step)


def _within(samples: _Samples, ends: Tensor) -> _Samples:
    """Only places that touch the pixels between the ends [R, 2] of a box are seen."""
    centre, half = samples.before + samples.weight + 0.5, samples.step / 2
    seen = (centre + half > ends[:, :1].floor()) & (centre - half < ends[:, 1:].ceil())
    return replace(samples, inside=samples.inside & seen)


def _bilinear(flat: Tensor, first: Tensor, rows: _Samples, columns: _Samples, width: int) -> Tensor:
    """[R, S, S, C] of images laid end to end [pixels, C]; first [R, 1]: where a box's begins."""
    top = (first + rows.before * width)[:, :, None]
    bottom = (first + rows.after * width)[:, :, None]
    left, right = columns.before[:, None], columns.after[:, None]
    across, down = columns.weight[:, None, :, None].to(flat), rows.weight[:, :, None, None].to(flat)

    def line(row: Tensor) -> Tensor:
        return torch.lerp(_read(flat, row + left), _read(flat, row + right), across)

    return torch.lerp(line(top), line(bottom), down)


def _read(flat: Tensor, index: Tensor) -> Tensor:
    return flat.index_select(0, index.flatten()).view(*index.shape, -1)


def _rounded(x: Tensor) -> Tensor:
    """To the nearest whole number, halves away from zero."""
    return x.sign() * (x.abs() + 0.5).floor()
