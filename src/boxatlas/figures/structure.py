"""A network as its maps: what each part hands on, with shapes and strides, asked of the network.

Public: Part, trace, draw_structure. The network runs once on tensors without values ("meta"), and
hooks note the shape of every output; nothing is written down by hand but which parts are shown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from boxatlas.figures.svg import FILLS, GREY, INK, LINES, WIDTH, Drawing, wrapped
from boxatlas.parts.base import Detector
from boxatlas.parts.region.detector import RegionDetector

Shape = tuple[int, ...]
_ROIS = 16  # that the heads are asked about


@dataclass(frozen=True)
class Part:
    """One row of the picture.

    modules: a name pattern (fnmatch) of the modules whose outputs it shows; along: maps of a row
    feed their neighbour, the finer one or the coarser one. beside: it reads what the row above
    read, not what that row gives. roi: its maps are a RoI's, so that they have no stride.
    """

    title: str
    modules: str
    note: str = ""
    along: Literal["", "finer", "coarser"] = ""
    beside: bool = False
    roi: bool = False


@dataclass(frozen=True)
class Row:
    """A part with the shapes [C, H, W] or [C] that it gave, and the input's height."""

    part: Part
    shapes: tuple[Shape, ...]
    height: int


def trace(detector: Detector, parts: Sequence[Part], size: tuple[int, int]) -> list[Row]:
    """Run a detector on the meta device for an input of `size` (height, width).

    Raises ValueError for a part of which no module ran.
    """
    seen: dict[str, list[Shape]] = {}
    handles: list[RemovableHandle] = []

    def note(name: str) -> Any:
        def hook(_module: nn.Module, _given: Any, out: Any) -> None:
            seen.setdefault(name, []).extend(_shapes(out))

        return hook

    for name, module in detector.named_modules():
        if any(_matches(name, part.modules) for part in parts):
            handles.append(module.register_forward_hook(note(name)))
    try:
        with torch.no_grad(), torch.device("meta"):
            _run(detector.eval(), torch.empty(1, 3, *size))
    finally:
        for handle in handles:
            handle.remove()
    rows, order = [], [name for name, _ in detector.named_modules() if name in seen]
    for part in parts:
        shapes = [s for name in order if _matches(name, part.modules) for s in seen[name]]
        if not shapes:
            raise ValueError(f"no module that ran is named {part.modules!r}")
        if not part.roi:  # fine to coarse, whatever the order in which they are made
            shapes.sort(key=lambda shape: -shape[-1] if len(shape) == 3 else 0)
        rows.append(Row(part, tuple(shapes), size[0]))
    return rows


def _run(detector: Detector, images: Tensor) -> None:
    """The network; of two stages what the heads see of a RoI, whose pooling needs values."""
    if not isinstance(detector, RegionDetector):
        network = getattr(detector, "network", None)  # R-CNN's, which sees crops
        (network or detector)(images)
        return
    features = detector.features(images)
    if detector.rpn is not None:
        detector.rpn.head(detector.rpn_maps(features))
    side = detector.roi_side
    for head, predictor in zip(_each(detector.head), _each(detector.predictor), strict=True):
        predictor(head(torch.empty(_ROIS, features[0].shape[1], side, side)))
    if isinstance(mask := getattr(detector, "mask", None), nn.Module):
        mask(torch.empty(_ROIS, features[0].shape[1], 14, 14))


def _matches(name: str, pattern: str) -> bool:
    """fnmatch between dots: "head.*" is not "head.0.conv"."""
    own, wanted = name.split("."), pattern.split(".")
    return len(own) == len(wanted) and all(map(fnmatchcase, own, wanted))


def _each(module: nn.Module) -> list[nn.Module]:
    return list(module) if isinstance(module, nn.ModuleList) else [module]


def _shapes(out: Any) -> list[Shape]:
    """Shapes without the batch of the tensors in an output."""
    if isinstance(out, Tensor):
        return [tuple(out.shape[1:])]
    rows = out.values() if isinstance(out, dict) else out if isinstance(out, list | tuple) else ()
    return [shape for one in rows for shape in _shapes(one)]


# -- the drawing ----------------------------------------------------------------------------------

_MARGIN, _GAP = 12.0, 12.0
_LARGEST, _SMALLEST = 72.0, 16.0  # sides of the squares that stand for maps


def draw_structure(rows: Sequence[Row], title: str, input_note: str = "") -> str:
    """Rows from the image down to the answers, as SVG: square = map, bar = vector."""
    heights = [_row_height(row) for row in rows]
    drawing = Drawing(sum(heights) + 84, title)
    height = rows[0].height
    drawing.text(_MARGIN, 30, input_note or f"image, {height} high", size=21, bold=True)
    drawing.arrow((WIDTH / 2, 44), (WIDTH / 2, 74))
    largest = max(max(s[-2:], default=1) for row in rows for s in row.shapes if len(s) == 3)
    top = 78.0
    for i, (row, high) in enumerate(zip(rows, heights, strict=True)):
        middles = _draw_row(drawing, row, top, largest, i)
        if i + 1 < len(rows) and not rows[i + 1].part.beside:
            follows = len(rows[i + 1].shapes) == len(row.shapes) and len(middles) > 1
            for x in middles if follows else [WIDTH / 2]:
                drawing.arrow((x, top + high - 26), (x, top + high - 2))
        top += high
    return str(drawing)


def _row_height(row: Row) -> float:
    beneath = 78.0 if _square_of(row) == _LARGEST else 34.0
    return 34 + 22.0 * len(_note(row)) + _square_of(row) + beneath + 30


def _note(row: Row) -> list[str]:
    return wrapped(row.part.note, 62) if row.part.note else []


def _square_of(row: Row) -> float:
    return _LARGEST if any(len(s) == 3 for s in row.shapes) else 34.0


def _draw_row(drawing: Drawing, row: Row, top: float, largest: int, i: int) -> list[float]:
    """The tiles of a row; the middles of them, from left to right."""
    fill, stroke = FILLS[i % len(FILLS)], LINES[i % len(LINES)]
    drawing.text(_MARGIN, top + 22, row.part.title, size=21, bold=True, fill=stroke)
    for k, line in enumerate(_note(row)):
        drawing.text(_MARGIN, top + 46 + 22 * k, line, size=18, fill=GREY)
    top += 34 + 22 * len(_note(row))
    wide = (WIDTH - 2 * _MARGIN) / max(len(row.shapes), 1)
    middles = [_MARGIN + wide * (k + 0.5) for k in range(len(row.shapes))]
    foot = top + _square_of(row)
    for x, shape in zip(middles, row.shapes, strict=True):
        height = 0 if row.part.roi else row.height
        _tile(drawing, x, foot, shape, largest, height, fill, stroke)
    for left, right in pairwise(middles) if row.part.along else ():
        ends = (right - 38, left + 38) if row.part.along == "finer" else (left + 38, right - 38)
        drawing.arrow((ends[0], foot - 12), (ends[1], foot - 12), stroke=stroke)
    return middles


def _tile(
    drawing: Drawing,
    x: float,
    foot: float,
    shape: Shape,
    largest: int,
    height: int,
    fill: str,
    stroke: str,
) -> None:
    """A map as a stack of sheets as large as it is fine, or a vector as a bar, with its numbers."""
    told = "x".join(str(n) for n in shape)
    if len(shape) != 3:
        drawing.box(x - 34, foot - 22, 68, 18, fill=fill, stroke=stroke, radius=3, data_shape=told)
        drawing.text(x, foot + 22, f"{shape[-1]:,}", size=19, anchor="middle")
        return
    channels, rows, columns = shape
    share = math.log2(max(rows, columns, 1) + 1) / math.log2(largest + 1)
    side = _SMALLEST + (_LARGEST - _SMALLEST - 10) * share**1.5
    for k in (2, 1, 0):
        drawing.box(
            x - side / 2 + 4 * k, foot - side - 4 * k, side, side, fill=fill, stroke=stroke,
            width=1.5, data_shape=told if k == 0 else "",
        )  # fmt: skip
    drawing.text(x, foot + 22, f"{channels:,}", size=19, anchor="middle", bold=True, fill=INK)
    drawing.text(x, foot + 44, f"{rows}×{columns}", size=18, anchor="middle")
    if rows > 1 and height > rows:
        drawing.text(
            x, foot + 66, f"1/{_stride(height / rows)}", size=18, anchor="middle", fill=GREY
        )


def _stride(ratio: float) -> int:
    """Pixels of the input under a cell: a power of two where padding alone keeps it from one."""
    power = 2 ** round(math.log2(ratio))
    return power if abs(ratio / power - 1) < 0.1 else round(ratio)
