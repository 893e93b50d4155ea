"""A region of Label Studio's, in percent of the image, as an object."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from boxatlas.data.formats.building import (
    Box,
    Builder,
    number,
)
from boxatlas.data.formats.shapes import ellipse
from boxatlas.data.masks import Mask
from boxatlas.errors import InputError


def add_region(
    builder: Builder,
    region: Any,
    i: int,
    path: Path,
    field: str,
    size: tuple[int, int],
    classes: dict[str, int],
) -> None:
    kind = region.get("type") if isinstance(region, dict) else None
    value = region.get("value") if isinstance(region, dict) else None
    if kind in (
        "keypointlabels",
        "choices",
        "textarea",
        "rating",
        "number",
        "taxonomy",
        "relation",
    ):
        return  # of the whole image, or of a region that comes by itself
    take = _SHAPES.get(kind) if isinstance(kind, str) else None
    if take is None or kind is None or not isinstance(value, dict):
        raise InputError(
            "neither a rectangle, an ellipse nor a polygon with a label",
            file=path,
            field=f"{field}.type",
            value=kind,
        )
    names = value.get(kind)
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise InputError(
            "a region needs a label", file=path, field=f"{field}.value.{kind}", value=names
        )
    box, mask = take(value, size, path, f"{field}.value")
    flags = region.get("meta")
    ignore = isinstance(flags, dict) and flags.get("ignore") is True
    builder.add(box, classes.setdefault(names[0], len(classes)), i, ignore=ignore, mask=mask)


def _rectangle(
    value: dict[str, Any], size: tuple[int, int], path: Path, field: str
) -> tuple[Box, Mask]:
    """A rotated rectangle (about its top left corner, clockwise) becomes the box around it."""
    keys = ("x", "y", "width", "height")
    x, y, w, h = (number(value.get(key), path, f"{field}.{key}") / 100 for key in keys)
    height, width = size
    left, top, w, h = x * width, y * height, w * width, h * height
    turn = math.radians(number(value.get("rotation") or 0, path, f"{field}.rotation"))
    if not turn:
        return (left, top, left + w, top + h), None
    cos, sin = math.cos(turn), math.sin(turn)
    corners = [
        (0.0, 0.0),
        (w * cos, w * sin),
        (w * cos - h * sin, w * sin + h * cos),
        (-h * sin, h * cos),
    ]
    xs, ys = [left + p[0] for p in corners], [top + p[1] for p in corners]
    return _outlined(xs, ys)


def _outlined(xs: list[float], ys: list[float]) -> tuple[Box, Mask]:
    """A polygon, and the box around it."""
    outline = [v for pair in zip(xs, ys, strict=True) for v in pair]
    return (min(xs), min(ys), max(xs), max(ys)), [outline]


def _polygon(
    value: dict[str, Any], size: tuple[int, int], path: Path, field: str
) -> tuple[Box, Mask]:
    points = value.get("points")
    if not isinstance(points, list) or not all(isinstance(p, list) and len(p) == 2 for p in points):
        raise InputError(
            "must be a list of [x, y]", file=path, field=f"{field}.points", value=points
        )
    if len(points) < 3:
        raise InputError(
            "a polygon of fewer than three points", file=path, field=f"{field}.points", value=points
        )
    height, width = size
    where = f"{field}.points"
    xs = [number(p[0], path, f"{where}[{n}]") * width / 100 for n, p in enumerate(points)]
    ys = [number(p[1], path, f"{where}[{n}]") * height / 100 for n, p in enumerate(points)]
    return _outlined(xs, ys)


def _ellipse(
    value: dict[str, Any], size: tuple[int, int], path: Path, field: str
) -> tuple[Box, Mask]:
    """The box around it; its radii are percents of the width and of the height."""
    keys = ("x", "y", "radiusX", "radiusY")
    x, y, a, b = (number(value.get(key), path, f"{field}.{key}") / 100 for key in keys)
    height, width = size
    turn = math.radians(number(value.get("rotation") or 0, path, f"{field}.rotation"))
    return ellipse(x * width, y * height, a * width, b * height, turn), None


_SHAPES = {
    "rectanglelabels": _rectangle,
    "polygonlabels": _polygon,
    "ellipselabels": _ellipse,
}
