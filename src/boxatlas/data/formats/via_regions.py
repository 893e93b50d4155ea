"""A region of the VGG Image Annotator: its class, and its shape as a box and a mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from boxatlas.data.formats.building import Box, Builder
from boxatlas.data.formats.shapes import around, ellipse
from boxatlas.data.masks import Mask
from boxatlas.errors import InputError

_CLASS = ("class", "label", "name", "type", "category", "object", "class_name", "object_name")


def parts_of(region: Any, path: Path, field: str) -> tuple[dict[str, Any], dict[str, Any]]:
    parts = region if isinstance(region, dict) else {}
    shape, attributes = parts.get("shape_attributes"), parts.get("region_attributes")
    if not isinstance(shape, dict) or not isinstance(attributes, dict):
        problem = "a region needs `shape_attributes` and `region_attributes`"
        raise InputError(problem, file=path, field=f"{field}.regions", value=region)
    return shape, attributes


def class_of(attributes: dict[str, Any], path: Path, field: str) -> str:
    """The value of the attribute that is the class; a set that has none is of one class."""
    if not attributes:
        return "object"
    lower = {str(key).lower(): value for key, value in attributes.items()}
    key = next((one for one in _CLASS if one in lower), None)
    if key is None and len(lower) > 1:
        names = ", ".join(attributes)
        raise InputError(
            f"several attributes ({names}), of which none is called class", file=path, field=field
        )
    value = lower[key] if key is not None else next(iter(lower.values()))
    if isinstance(value, dict):  # boxes that were ticked
        chosen = [name for name, ticked in value.items() if ticked]
        value = chosen[0] if len(chosen) == 1 else None
    if not isinstance(value, str) or not value.strip():
        raise InputError("a region needs one class", file=path, field=field, value=attributes)
    return value.strip()


def shape_of(builder: Builder, shape: dict[str, Any], path: Path, field: str) -> tuple[Box, Mask]:
    def values(*names: str) -> list[float]:
        return [builder.number(shape.get(name), path, f"{field}.{name}") for name in names]

    kind = shape.get("name")
    if kind == "rect":
        x, y, w, h = values("x", "y", "width", "height")
        return (x, y, x + w, y + h), None
    if kind == "circle":
        x, y, r = values("cx", "cy", "r")
        return (x - r, y - r, x + r, y + r), None
    if kind == "ellipse":
        x, y, rx, ry = values("cx", "cy", "rx", "ry")
        turn = builder.number(shape.get("theta") or 0, path, f"{field}.theta")
        return ellipse(x, y, rx, ry, turn), None
    if kind != "polygon":
        raise InputError("is no shape that is read", file=path, field=f"{field}.name", value=kind)
    xs, ys = shape.get("all_points_x"), shape.get("all_points_y")
    if not isinstance(xs, list) or not isinstance(ys, list) or len(xs) != len(ys) or len(xs) < 3:
        problem = "a polygon of fewer than three points"
        raise InputError(problem, file=path, field=field, value=shape)
    points = [builder.number(v, path, field) for pair in zip(xs, ys, strict=True) for v in pair]
    return around(points), [points]
