"""A shape of CVAT's as a box and a mask."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from boxatlas.data.formats.building import Box, number
from boxatlas.data.formats.shapes import around, ellipse, turned
from boxatlas.data.masks import Mask, encode
from boxatlas.errors import InputError


def shape_of(
    shape: Element, size: tuple[int, int] | None, path: Path, field: str
) -> tuple[Box, Mask]:
    def values(*names: str) -> tuple[float, ...]:
        return tuple(number(shape.get(name), path, f"{field}.{name}") for name in names)

    turn = number(shape.get("rotation") or 0, path, f"{field}.rotation")
    if shape.tag == "box":
        x1, y1, x2, y2 = values("xtl", "ytl", "xbr", "ybr")
        outline = turned((x1, y1, x2, y2), turn) if turn else None
        return (x1, y1, x2, y2) if outline is None else around(outline), outline and [outline]
    if shape.tag == "ellipse":
        x, y, rx, ry = values("cx", "cy", "rx", "ry")
        return ellipse(x, y, rx, ry, math.radians(turn)), None
    if shape.tag == "mask":
        return _mask(shape, values("left", "top", "width", "height"), size, path, field)
    pairs = [pair.split(",") for pair in (shape.get("points") or "").split(";") if pair]
    if len(pairs) < 3 or any(len(pair) != 2 for pair in pairs):
        problem = "a polygon of fewer than three points"
        raise InputError(problem, file=path, field=field, value=shape.get("points"))
    points = [number(v, path, f"{field}.points") for pair in pairs for v in pair]
    return around(points), [points]


def _mask(
    shape: Element, place: Any, size: tuple[int, int] | None, path: Path, field: str
) -> tuple[Box, Mask]:
    left, top, width, height = (int(v) for v in place)
    runs = [number(v, path, f"{field}.rle") for v in (shape.get("rle") or "").split(",")]
    fits = width > 0 and height > 0 and left >= 0 and top >= 0
    if size is not None:
        fits = fits and left + width <= size[1] and top + height <= size[0]
    if not fits or min(runs) < 0 or sum(runs) != width * height:
        raise InputError("is no mask of its box", file=path, field=f"{field}.rle")
    counts = np.asarray(runs, np.int64)
    part = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(height, width)
    whole = np.zeros(size or (top + height, left + width), bool)
    whole[top : top + height, left : left + width] = part
    return (left, top, left + width, top + height), encode(whole)
