"""Instance masks: what a RoI should learn of an object's outline, and a small map put back on the
image. He et al. 2017, arXiv 1703.06870, section 3.

Shape letters: N masks (each with its box), m the side of a RoI's map, H, W the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from boxatlas.boxes.formats import budget
from boxatlas.ops.rle import counts_of

Mask = Any  # polygons (a list of x, y, x, y, ... lists), an RLE dict, or None


@dataclass(frozen=True)
class MaskTargetRule:
    """How an object's outline becomes the m x m target of a RoI.

    source "polygon": scaled into the RoI and rasterised there (Detectron); an object without
    polygons is sampled as "bitmap" is. "bitmap": the RoIAlign of the object's pixels, with or
    without the half-pixel shift, as many samples as a cell has pixels; `threshold` makes it hard.
    """

    source: Literal["polygon", "bitmap"] = "polygon"
    aligned: bool = True
    threshold: float | None = 0.5


def rasterise(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Polygons [x, y, x, y, ...] -> [height, width] bool, pixel for pixel as pycocotools has it."""
    out = np.zeros(size, np.uint8)
    packed = _Packed([[list(polygon) for polygon in polygons]])
    from boxatlas.ops._mask_kernels import polygon_bitmap  # numba takes a moment to load

    polygon_bitmap(packed.points, packed.parts, 0, len(polygons), out)
    return out.astype(bool)


@torch.no_grad()
def mask_targets(
    masks: Sequence[Mask],
    index: Tensor,
    boxes: Tensor,
    side: int,
    size: tuple[int, int],
    rule: MaskTargetRule | None = None,
) -> Tensor:
    """What each RoI should show of its object: [N, side, side] float32 in 0..1.

    masks: of the objects, in pixels of an input of `size` (height, width); index [N]: the object of
    each RoI; boxes [N, 4]: the RoIs, xyxy. Only what lies inside a RoI is rasterised. An object
    without a mask counts as filled.
    """
    rule = rule or MaskTargetRule()
    packed = _Packed(masks)
    rows = index.cpu().numpy().astype(np.int64)
    rois = np.ascontiguousarray(boxes.detach().cpu().float().numpy())
    out = np.ones((len(rows), side, side), np.float32)
    drawn = packed.kinds[rows] == _POLYGONS if rule.source == "polygon" else np.zeros(len(rows))
    inside = np.flatnonzero(drawn)
    sampled = np.flatnonzero((drawn == 0) & (packed.kinds[rows] != _NONE))
    objects = (packed.points, packed.parts, packed.objects)
    from boxatlas.ops._mask_kernels import bitmap_targets, polygon_targets

    polygon_targets(*objects, rows, inside, rois, out)
    bitmap_targets(
        *objects,
        packed.ends,
        packed.runs,
        packed.kinds == _RLE,
        rows,
        sampled,
        rois,
        size,
        rule.aligned,
        -1.0 if rule.threshold is None else rule.threshold,
        out,
    )
    return torch.from_numpy(out).to(boxes.device)


_NONE, _POLYGONS, _RLE = range(3)


class _Packed:
    """Masks in flat arrays, as compiled code reads them.

    Object i has the polygons objects[i] to objects[i + 1], polygon j the points parts[j] to
    parts[j + 1], and the runs that end at ends[runs[i]:runs[i + 1]] (down the columns).
    """

    def __init__(self, masks: Sequence[Mask]) -> None:
        kinds, points, parts, objects, ends, runs = [], [], [0], [0], [], [0]
        for mask in masks:
            counts = np.zeros(0, np.int64)
            if isinstance(mask, dict):
                kinds.append(_RLE)
                counts = counts_of(mask)
            else:
                kinds.append(_NONE if mask is None else _POLYGONS)
                for polygon in mask or ():
                    points.append(np.asarray(polygon, np.float64).reshape(-1, 2))
                    parts.append(parts[-1] + len(points[-1]))
            objects.append(len(parts) - 1)
            ends.append(np.cumsum(counts))
            runs.append(runs[-1] + len(counts))
        self.kinds = np.array(kinds, np.int64)
        self.points = np.concatenate([np.zeros((0, 2)), *points])
        self.parts, self.objects = np.array(parts, np.int64), np.array(objects, np.int64)
        self.ends = np.concatenate([np.zeros(0, np.int64), *ends])
        self.runs = np.array(runs, np.int64)


def paste_masks(
    maps: Tensor,
    boxes: Tensor,
    size: tuple[int, int],
    *,
    grid: Literal["whole", "continuous"] = "whole",
    threshold: float | None = None,
) -> Tensor:
    """Maps [N, m, m] stretched over their boxes [N, 4] in an image of `size` (height, width).

    -> [N, H, W], 0 outside of a box; bool (above the threshold) where one is given. A map's cells
    and the image's pixels are both read at their centres. grid "whole" (the release): one cell of
    zeros around the map, the box grown alike, its corners truncated to whole pixels that belong to
    it. "continuous": the box as it is, every pixel sampled where it lies (detectron2).
    """
    height, width = size
    kind = maps.dtype if threshold is None else torch.bool
    out = maps.new_zeros(len(maps), height, width, dtype=kind)
    if len(maps) == 0:
        return out
    ring = F.pad(maps, (1, 1, 1, 1))
    across = _axis(boxes[:, 0], boxes[:, 2], maps.shape[-1], width, grid)
    down = _axis(boxes[:, 1], boxes[:, 3], maps.shape[-2], height, grid)
    step = max(1, 16 * budget(maps.device) // (height * width))
    for start in range(0, len(maps), step):
        part = slice(start, start + step)
        shown = down[part] @ (ring[part] @ across[part].transpose(1, 2))
        out[part] = shown if threshold is None else shown > threshold
    return out


def _axis(low: Tensor, high: Tensor, cells: int, size: int, grid: str) -> Tensor:
    """[N, size, cells + 2]: how much of each cell (of a map with a ring) a pixel shows."""
    pixel = torch.arange(size, device=low.device, dtype=low.dtype)
    if grid == "whole":
        half = (high - low) * 0.5 * ((cells + 2) / cells)
        centre = (high + low) * 0.5
        first, last = (centre - half).trunc(), (centre + half).trunc()
        side = (last - first + 1).clamp(min=1)
        inside = (pixel >= first[:, None]) & (pixel < (first + side)[:, None])
        scale = (torch.full_like(side, cells + 2) / side)[:, None]  # one division, one rounding
        at = _multiply_add(pixel - first[:, None] + 0.5, scale, -0.5).clamp(0, cells + 1)
    else:
        side = (high - low).clamp(min=torch.finfo(low.dtype).eps)
        at = (pixel + 0.5 - low[:, None]) / side[:, None] * cells + 0.5
        inside = (at > 0) & (at < cells + 1)
        at = at.clamp(0, cells + 1)
    cell = at.floor().clamp(max=cells)
    part = at - cell
    weights = at.new_zeros(*at.shape, cells + 2)
    weights.scatter_(2, cell.long()[..., None], (1 - part)[..., None])
    weights.scatter_(2, cell.long()[..., None] + 1, part[..., None])
    return weights * inside[..., None]


def _multiply_add(a: Tensor, b: Tensor, c: float) -> Tensor:
    """a * b + c rounded once, as a resize has it in hardware."""
    if a.dtype != torch.float32 or a.device.type == "mps":
        return a * b + c
    return (a.double() * b.double() + c).float()
