"""A shape of LabelMe's as a box and a mask."""

from __future__ import annotations

import base64
import binascii
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from boxatlas.data.formats.building import Box, Builder
from boxatlas.data.formats.shapes import around
from boxatlas.data.masks import Mask, encode
from boxatlas.errors import InputError

POLYGONS = frozenset(("polygon", "rotation", "quadrilateral"))


def points_of(builder: Builder, shape: dict[str, Any], path: Path, field: str) -> list[float]:
    """x, y, x, y, ..."""
    points = shape.get("points")
    if not isinstance(points, list) or not points:
        raise InputError("must be a list of [x, y]", file=path, field=f"{field}.points")
    found: list[float] = []
    for n, point in enumerate(points):
        if not isinstance(point, list) or len(point) != 2:
            where = f"{field}.points[{n}]"
            raise InputError("must be [x, y]", file=path, field=where, value=point)
        found += [builder.number(v, path, f"{field}.points[{n}]") for v in point]
    return found


def shape_of(
    kind: str,
    points: list[float],
    shape: dict[str, Any],
    size: tuple[int, int] | None,
    path: Path,
    field: str,
) -> tuple[Box, Mask]:
    if kind == "rectangle" and len(points) in (4, 8):  # later versions write all four corners
        return around(points), None
    if kind == "circle" and len(points) == 4:  # its centre and a point of it
        x, y = points[:2]
        r = math.hypot(points[2] - x, points[3] - y)
        return (x - r, y - r, x + r, y + r), None
    if kind == "mask" and len(points) == 4:
        return _mask(points, shape.get("mask"), size, path, field)
    if kind not in POLYGONS:
        problem = "is no shape that is read, or has another number of points"
        raise InputError(problem, file=path, field=f"{field}.shape_type", value=kind)
    if len(points) < 6:
        problem = "a polygon of fewer than three points"
        raise InputError(problem, file=path, field=f"{field}.points", value=points)
    return around(points), [points]


def _mask(
    points: list[float], text: Any, size: tuple[int, int] | None, path: Path, field: str
) -> tuple[Box, Mask]:
    x1, y1 = (int(v) for v in points[:2])
    try:
        with Image.open(io.BytesIO(base64.b64decode(text))) as image:
            part = np.asarray(image.convert("L")) > 0
        height, width = size or (y1 + part.shape[0], x1 + part.shape[1])
        if x1 < 0 or y1 < 0 or x1 + part.shape[1] > width or y1 + part.shape[0] > height:
            raise ValueError("it reaches beyond the image")
        bitmap = np.zeros((height, width), bool)
        bitmap[y1 : y1 + part.shape[0], x1 : x1 + part.shape[1]] = part
    except (ValueError, TypeError, OSError, binascii.Error, MemoryError) as error:
        raise InputError(f"is no mask: {error}", file=path, field=f"{field}.mask") from None
    return (x1, y1, x1 + part.shape[1], y1 + part.shape[0]), encode(bitmap)
