"""Shapes that are no boxes: the boxes around them, and masks of a part of an image."""

from __future__ import annotations

import math
from collections.abc import Sequence

from boxatlas.data.formats.building import Box


def around(points: Sequence[float]) -> Box:
    """The box around x, y, x, y, ..."""
    xs, ys = points[0::2], points[1::2]
    return (min(xs), min(ys), max(xs), max(ys))


def turned(box: Box, degrees: float) -> list[float]:
    """The corners, x, y, x, y, ..., of a box turned clockwise about its centre."""
    x1, y1, x2, y2 = box
    x, y, cos, sin = (x1 + x2) / 2, (y1 + y2) / 2, *_turn(degrees)
    sides = ((x1 - x, y1 - y), (x2 - x, y1 - y), (x2 - x, y2 - y), (x1 - x, y2 - y))
    return [v for a, b in sides for v in (x + a * cos - b * sin, y + a * sin + b * cos)]


def _turn(degrees: float) -> tuple[float, float]:
    return math.cos(math.radians(degrees)), math.sin(math.radians(degrees))


def ellipse(x: float, y: float, a: float, b: float, radians: float) -> Box:
    """The box around an ellipse of radii a and b that is turned about its centre."""
    cos, sin = math.cos(radians), math.sin(radians)
    w, h = math.hypot(a * cos, b * sin), math.hypot(a * sin, b * cos)
    return (x - w, y - h, x + w, y + h)
