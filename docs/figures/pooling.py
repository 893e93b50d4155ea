"""RoI pooling, RoIAlign and position-sensitive pooling, by the library's operators."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch

from boxatlas import ops
from boxatlas.figures.svg import FILLS, GREY, INK, LINES, Drawing

# The map of the survey that this library began from, and its region: seven cells by five.
MAP = (
    (0.1, 0.3, 0.2, 0.3, 0.2, 0.6, 0.8, 0.9),
    (0.4, 0.5, 0.1, 0.4, 0.7, 0.1, 0.4, 0.3),
    (0.2, 0.1, 0.3, 0.8, 0.6, 0.2, 0.1, 0.1),
    (0.4, 0.6, 0.2, 0.1, 0.3, 0.6, 0.1, 0.2),
    (0.1, 0.8, 0.3, 0.3, 0.5, 0.3, 0.3, 0.3),
    (0.2, 0.9, 0.4, 0.5, 0.1, 0.1, 0.1, 0.2),
    (0.3, 0.1, 0.8, 0.6, 0.3, 0.3, 0.6, 0.5),
    (0.5, 0.5, 0.2, 0.1, 0.1, 0.2, 0.1, 0.2),
)
REGION = (0, 3, 6, 7)  # first and last column and row, as cells: x1, y1, x2, y2
_CELL, _LEFT = 44.0, 20.0
Bins = Sequence[tuple[int, int]]


def plain_bins(length: int, bins: int = 2) -> list[tuple[int, int]]:
    """Cells [first, last) of bins that share none."""
    edges = [i * length // bins for i in range(bins + 1)]
    return list(pairwise(edges))


def caffe_bins(length: int, bins: int = 2) -> list[tuple[int, int]]:
    """Cells [first, last) as Fast R-CNN's layer has them: from the floor to the ceiling."""
    size = length / bins
    return [(math.floor(i * size), math.ceil((i + 1) * size)) for i in range(bins)]


def values() -> torch.Tensor:
    """The map [1, 1, 8, 8]."""
    return torch.tensor(MAP)[None, None]


def pooled() -> list[list[float]]:
    """What `ops.roi_pool` makes of the region."""
    rois = torch.tensor([[0.0, *(float(v) for v in REGION)]])
    out = ops.roi_pool(values(), rois, 2, 1.0)
    return (out[0] if isinstance(out, tuple) else out)[0, 0].tolist()


def aligned() -> list[list[float]]:
    """What `ops.roi_align` makes of it, with 2 x 2 samples a bin, as the paper has them."""
    x1, y1, x2, y2 = REGION
    rois = torch.tensor([[0.0, x1, y1, x2 + 1.0, y2 + 1.0]])
    return ops.roi_align(values(), rois, 2, 1.0, sampling_ratio=2)[0, 0].tolist()


def even() -> list[list[float]]:
    """The maxima where no two bins share a cell: the survey's answer."""
    x1, y1, x2, y2 = REGION
    part = values()[0, 0, y1 : y2 + 1, x1 : x2 + 1]
    rows, columns = plain_bins(y2 - y1 + 1), plain_bins(x2 - x1 + 1)
    return [[float(part[a:b, c:d].max()) for c, d in columns] for a, b in rows]


def roi_pool(kind: str = "even") -> str:
    """kind: even (bins that share nothing), caffe (as trained), align."""
    titles = {
        "even": "Bins that share no cell: largest value of each",
        "caffe": "Caffe's bins: floor to ceiling, so they overlap",
        "align": "RoIAlign: mean of 2 × 2 samples a bin",
    }
    answer = {"even": even, "caffe": pooled, "align": aligned}[kind]()
    drawing = Drawing(470, titles[kind])
    drawing.text(_LEFT, 30, titles[kind], size=21, bold=True)
    top = 50.0
    _grid(drawing, top)
    x1, y1, x2, y2 = REGION
    if kind == "align":
        _samples(drawing, top)
    else:
        make = plain_bins if kind == "even" else caffe_bins
        _bins(drawing, top, make(y2 - y1 + 1), make(x2 - x1 + 1))
    drawing.box(
        _LEFT + x1 * _CELL,
        top + y1 * _CELL,
        (x2 - x1 + 1) * _CELL,
        (y2 - y1 + 1) * _CELL,
        stroke=INK,
        width=4,
    )
    _answer(drawing, answer, 420, 150, 3 if kind == "align" else 1)
    return str(drawing)


def _grid(drawing: Drawing, top: float) -> None:
    x1, y1, x2, y2 = REGION
    for r, row in enumerate(MAP):
        for c, value in enumerate(row):
            inside = x1 <= c <= x2 and y1 <= r <= y2
            drawing.box(_LEFT + c * _CELL, top + r * _CELL, _CELL, _CELL, stroke="#c3cad2", width=1)
            drawing.text(
                _LEFT + (c + 0.5) * _CELL,
                top + (r + 0.5) * _CELL + 7,
                f"{value:g}",
                size=19,
                anchor="middle",
                fill=INK if inside else "#9aa5b1",
            )


def _bins(drawing: Drawing, top: float, rows: Bins, columns: Bins) -> None:
    x1, y1 = REGION[:2]
    for i, (a, b) in enumerate(rows):
        for j, (c, d) in enumerate(columns):
            k = 2 * i + j
            inset = 3 + 2 * k
            drawing.box(
                _LEFT + (x1 + c) * _CELL + inset,
                top + (y1 + a) * _CELL + inset,
                (d - c) * _CELL - 2 * inset,
                (b - a) * _CELL - 2 * inset,
                stroke=LINES[k],
                width=3,
                dash=("", "9 4", "3 4", "12 3 3 3")[k],
                data_bin=f"{a}:{b},{c}:{d}",
            )


def _samples(drawing: Drawing, top: float) -> None:
    x1, y1, x2, y2 = REGION
    high, wide = (y2 - y1 + 1) * _CELL, (x2 - x1 + 1) * _CELL
    left, upper = _LEFT + x1 * _CELL, top + y1 * _CELL
    for k in range(4):
        x, y = left + (k % 2) * wide / 2, upper + (k // 2) * high / 2
        drawing.box(x, y, wide / 2, high / 2, stroke=LINES[k], width=2, fill="none")
        for s in range(4):
            drawing.dot(
                x + wide / 8 * (1 + 2 * (s % 2)),
                y + high / 8 * (1 + 2 * (s // 2)),
                6,
                fill=LINES[k],
            )


def _answer(
    drawing: Drawing, values: list[list[float]], left: float, top: float, digits: int
) -> None:
    drawing.text(left + 90, top - 20, "gives", size=20, anchor="middle", fill=GREY)
    for r, row in enumerate(values):
        for c, value in enumerate(row):
            k = 2 * r + c
            drawing.box(left + 90 * c, top + 60 * r, 90, 60, fill=FILLS[k], stroke=LINES[k])
            drawing.text(
                left + 90 * c + 45,
                top + 60 * r + 38,
                f"{value:.{digits}f}",
                size=23,
                anchor="middle",
                bold=True,
                data_value=f"{value:.4f}",
            )


_SIDE = 15  # cells of a part's map; the object lies at columns and rows 2 to 10


def position_sensitive(k: int = 3, shift: int = 0) -> str:
    """Each part of a RoI reads its own map. shift: cells by which the RoI misses the object."""
    drawing = Drawing(500, "Position-sensitive pooling: each part reads its own map")
    maps, first, last = _part_maps(k), 2 + shift, 10 + shift
    rois = torch.tensor([[0.0, first, 2.0, last, 10.0]])  # the corners belong to it
    votes = ops.psroi_pool(maps, rois, k, 1.0)[0, 0]
    drawing.text(20, 30, f"{k} × {k} score maps of one class", size=21, bold=True)
    cell = 9.4 * 3 / k
    for i in range(k):
        for j in range(k):
            place = (20 + j * (_SIDE * cell + 8), 50 + i * (_SIDE * cell + 8))
            _one_map(drawing, maps[0, k * i + j], place, cell, (i, j), k, (first, 2))
    left, top = 478.0, 160.0
    drawing.text(left, top - 24, "parts' means", size=20, bold=True)
    side = 138 / k
    for i in range(k):
        for j in range(k):
            value = float(votes[i, j])
            x, y = left + side * j, top + side * i
            drawing.box(x, y, side, side, fill=_shade(value), data_value=f"{value:.3f}")
            ink = "white" if value > 0.5 else INK
            foot = y + side / 2 + 7
            drawing.text(x + side / 2, foot, f"{value:.1f}", size=18, anchor="middle", fill=ink)
    drawing.text(left, top + 174, f"vote {float(votes.mean()):.2f}", size=22, bold=True)
    return str(drawing)


def _part_maps(k: int) -> torch.Tensor:
    """[1, k * k, 15, 15]: each is 1 where the object has that part, else 0."""
    maps = torch.zeros(1, k * k, _SIDE, _SIDE)
    side = 9 // k
    for i in range(k):
        for j in range(k):
            top, left = 2 + i * side, 2 + j * side
            maps[0, k * i + j, top : top + side, left : left + side] = 1.0
    return maps


def _one_map(
    drawing: Drawing,
    values: torch.Tensor,
    place: tuple[float, float],
    cell: float,
    part: tuple[int, int],
    k: int,
    corner: tuple[int, int],
) -> None:
    """A map, the RoI of 9 x 9 cells from `corner` (column, row), and the bin that reads it."""
    left, top = place
    drawing.box(left, top, _SIDE * cell, _SIDE * cell, stroke=GREY, width=1)
    for r, c in values.nonzero().tolist():
        drawing.box(left + c * cell, top + r * cell, cell, cell, fill=_shade(1.0), stroke="none")
    x, y, side = left + corner[0] * cell, top + corner[1] * cell, 9 * cell
    drawing.box(x, y, side, side, stroke=INK, width=2)
    own = side / k
    drawing.box(x + part[1] * own, y + part[0] * own, own, own, stroke=LINES[1], width=3)


def _shade(value: float) -> str:
    """White to blue."""
    r, g, b = (round(255 + (end - 255) * value) for end in (0, 90, 181))
    return f"#{r:02x}{g:02x}{b:02x}"
