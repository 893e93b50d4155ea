"""Anchors and default boxes: the fixed boxes that predictions are relative to.

Public: DefaultBoxLevel, default_boxes (SSD and its family); cell_anchors, grid_anchors,
pyramid_anchors, image_strides, AnchorChoices; AnchorCache.

Every function returns float32 xyxy unless a parameter says otherwise, in the published order:
level, row, column, box within the cell. Shape letters: A anchors, K boxes in a cell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from boxatlas.options import Options, Positive, habit, idea


@dataclass(frozen=True)
class DefaultBoxLevel:
    """One map's default boxes (SSD, section 2.2), sizes in pixels.

    A cell holds a square of min_size, one of sqrt(min_size * max_size) unless max_size is None,
    and for each ratio r the boxes r:1 and 1:r of min_size's area. shapes [(width, height), ...]
    replaces that rule where a program has its own order.
    """

    grid: tuple[int, int]  # rows, columns
    step: float | tuple[float, float]  # pixels between centres, or (vertical, horizontal)
    min_size: float
    max_size: float | None = None
    ratios: tuple[float, ...] = ()
    offset: float = 0.5
    shapes: tuple[tuple[float, float], ...] | None = None

    def cell(self, truncate_sizes: bool = False) -> list[tuple[float, float]]:
        """(width, height) of a cell's boxes, in order; truncate_sizes drops sizes' fractions."""
        if self.shapes is not None:
            return list(self.shapes)
        whole = math.trunc if truncate_sizes else float
        low = whole(self.min_size)
        shapes = [(float(low), float(low))]
        if self.max_size is not None:
            side = math.sqrt(low * whole(self.max_size))
            shapes.append((side, side))
        for ratio in self.ratios:
            long, short = low * math.sqrt(ratio), low / math.sqrt(ratio)
            shapes += [(long, short), (short, long)]
        return shapes


def default_boxes(
    levels: Sequence[DefaultBoxLevel],
    image: tuple[int, int],
    *,
    clip: Literal["none", "each", "size"] = "none",
    truncate_sizes: bool = False,
    form: Literal["xyxy", "cxcywh"] = "xyxy",
    unit: Literal["relative", "pixel"] = "pixel",
    centre: Literal["(index + offset) * step", "offset + index * step"] = "(index + offset) * step",
) -> Tensor:
    """The default boxes of all levels, [A, 4] float32, for an input of `image` (height, width).

    clip acts on centre and size as fractions of the image: "each" clamps all four to [0, 1],
    "size" only width and height. unit: fractions of the image or pixels of the input.
    """
    height, width = image
    scale = torch.tensor([width, height, width, height], dtype=torch.float64)
    parts = [_level(level, truncate_sizes, centre) / scale for level in levels]
    boxes = torch.cat(parts)
    if clip == "each":
        boxes = boxes.clamp(0, 1)
    elif clip == "size":
        boxes = torch.cat([boxes[:, :2], boxes[:, 2:].clamp(0, 1)], dim=1)
    if form == "xyxy":
        half = boxes[:, 2:] / 2
        boxes = torch.cat([boxes[:, :2] - half, boxes[:, :2] + half], dim=1)
    return (boxes * scale if unit == "pixel" else boxes).float()


def _level(level: DefaultBoxLevel, truncate_sizes: bool, centre: str) -> Tensor:
    """cxcywh in pixels, float64 [rows * columns * K, 4]."""
    rows, columns = (torch.arange(n, dtype=torch.float64) for n in level.grid)
    down, across = level.step if isinstance(level.step, tuple) else (level.step, level.step)
    if centre == "offset + index * step":
        y, x = level.offset + rows * down, level.offset + columns * across
    else:
        y, x = (rows + level.offset) * down, (columns + level.offset) * across
    shapes = torch.tensor(level.cell(truncate_sizes), dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)  # [rows, columns, (x, y)]
    lead = (*level.grid, len(shapes), 2)
    return torch.cat([grid[:, :, None].expand(lead), shapes.expand(lead)], dim=-1).reshape(-1, 4)


class AnchorChoices(Options):
    """The shapes of a pyramid's anchors, and how the programs lay them out."""

    anchor_ratios: tuple[Positive, ...] = idea(
        (0.5, 1.0, 2.0), "heights over widths of the anchors", min_length=1
    )
    anchor_scales: tuple[Positive, ...] = habit(
        (1.0,), "further sizes of anchors on each level, as factors", min_length=1
    )
    anchor_rounded: bool = habit(False, "the anchors' corners are rounded to whole pixels")
    anchor_stride: Literal["fixed", "image // grid"] = habit(
        "fixed", "pixels between anchors: the map's stride, or the input's side // the map's"
    )
    anchor_order: Literal["ratio,size", "size,ratio"] = habit(
        "ratio,size", "order of a cell's anchors: the slower index first"
    )


def cell_anchors(
    sizes: Sequence[float],
    ratios: Sequence[float],
    *,
    rounded: bool = False,
    base_size: int | None = None,
    order: Literal["ratio,size", "size,ratio"] = "ratio,size",
) -> Tensor:
    """The anchors of one cell, [K, 4] float32 xyxy; ratio is height / width, size^2 the area.

    base_size None: boxes centred on 0, corners rounded to whole pixels if `rounded` (torchvision;
    detectron2 keeps the fractions). base_size given: inclusive corners about (base_size - 1) / 2,
    where the base box takes each ratio first (with `rounded`, its width is rounded and then its
    height) and is scaled by size / base_size after (Faster R-CNN's own anchors; Detectron's).
    """
    ratio = torch.tensor(list(ratios), dtype=torch.float64)[:, None]
    size = torch.tensor(list(sizes), dtype=torch.float64)[None, :]
    if base_size is None:
        width, height = size / ratio.sqrt(), size * ratio.sqrt()
    else:
        base_width = (base_size * base_size / ratio).sqrt()
        base_width = base_width.round() if rounded else base_width
        base_height = base_width * ratio
        base_height = base_height.round() if rounded else base_height
        width, height = base_width * (size / base_size), base_height * (size / base_size)
    if order == "size,ratio":
        width, height = width.t(), height.t()
    shape = torch.stack([width, height], dim=-1).reshape(-1, 2)
    if base_size is None:
        half = shape / 2
        boxes = torch.cat([-half, half], dim=1)
        return (boxes.round() if rounded else boxes).float()
    middle, half = (base_size - 1) / 2, (shape - 1) / 2
    return torch.cat([middle - half, middle + half], dim=1).float()


def grid_anchors(
    cell: Tensor, grid: tuple[int, int], stride: float | tuple[float, float], offset: float = 0.0
) -> Tensor:
    """`cell` [K, 4] at every position of a grid (rows, columns): [rows * columns * K, 4].

    stride: pixels, or (vertical, horizontal). offset: of the first centre, in strides.
    """
    down, across = stride if isinstance(stride, tuple) else (stride, stride)
    y = (torch.arange(grid[0], dtype=torch.float64, device=cell.device) + offset) * down
    x = (torch.arange(grid[1], dtype=torch.float64, device=cell.device) + offset) * across
    y, x = torch.meshgrid(y, x, indexing="ij")
    shift = torch.stack([x, y, x, y], dim=-1).to(cell.dtype)
    return (shift[:, :, None] + cell).reshape(-1, 4)


def pyramid_anchors(
    cells: Sequence[Tensor],
    grids: Sequence[tuple[int, int]],
    strides: Sequence[float | tuple[float, float]],
    offset: float = 0.0,
) -> Tensor:
    """The grids of all levels, one after the other: [A, 4]."""
    levels = zip(cells, grids, strides, strict=True)
    return torch.cat([grid_anchors(cell, grid, stride, offset) for cell, grid, stride in levels])


def image_strides(
    grids: Sequence[tuple[int, int]], image: tuple[int, int]
) -> list[tuple[float, float]]:
    """(vertical, horizontal) pixels between anchors as torchvision has them: whole numbers."""
    return [(image[0] // rows, image[1] // columns) for rows, columns in grids]


def _flat(grids: Sequence[tuple[int, int]], image: tuple[int, int]) -> list[int]:
    return [*image, *(side for grid in grids for side in grid)]


class AnchorCache:
    """What `make(grids, image)` gives, made once for each size of maps, input, and device."""

    def __init__(
        self, make: Callable[[Sequence[tuple[int, int]], tuple[int, int]], Tensor]
    ) -> None:
        self.make = make
        self._made: dict[object, Tensor] = {}

    def __call__(self, maps: Sequence[Tensor], image: tuple[int, int]) -> Tensor:
        """[A, 4] on the device of maps [B, C, h, w], for an input of `image` (height, width)."""
        grids = tuple((m.shape[-2], m.shape[-1]) for m in maps)
        if torch.compiler.is_exporting() and not all(type(n) is int for n in _flat(grids, image)):
            return self.make(grids, image).to(maps[0].device)  # sizes are symbols
        key = (grids, image, maps[0].device)
        held = self._made.get(key)
        if held is None:
            # Made during a detection, they must still serve training.
            with torch.inference_mode(False), torch.no_grad():
                held = self.make(grids, image).to(maps[0].device)
            if type(held) is not Tensor or torch.compiler.is_compiling():
                return held  # of a trace, which nothing else may see
            if len(self._made) >= 16:  # training at many scales must not fill the memory
                self._made.clear()
            self._made[key] = held
        return held

    def __getstate__(self) -> dict[str, object]:
        """Without what was made: a copy may be given other sizes."""
        return {"make": self.make, "_made": {}}
