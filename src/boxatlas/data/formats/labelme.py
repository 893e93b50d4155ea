"""LabelMe: a JSON file for each image, beside it or in a folder of its own; points in pixels.

A rectangle is two corners, in any order; polygons of one `group_id` are parts of one object;
a mask is a picture of its box, whose last corner is its last pixel.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from boxatlas.data.formats.building import Box, Builder, around, json_of, stated_size
from boxatlas.data.formats.places import Place, Seen, by_split, per_place, split_in
from boxatlas.data.masks import Mask, encode
from boxatlas.data.table import Table
from boxatlas.errors import InputError

CACHED = True
FIELD = "shapes[{}]"
_NO_OBJECTS = frozenset(("point", "points", "line", "linestrip"))  # they have no area
_POLYGONS = frozenset(("polygon", "rotation", "quadrilateral"))


def evidence(place: Place) -> Seen | None:
    name = next((n for n in place.few(place.own(".json")) if _is_mine(place, n)), None)
    return None if name is None else Seen(f"{name} holds LabelMe's shapes")


def _is_mine(place: Place, name: str) -> bool:
    kind, value, _ = place.document(name)
    return kind == "object" and "shapes" in value and "imagePath" in value


@per_place
def files(place: Place) -> dict[str, list[str]]:
    """Split -> the JSON files of the folders in which one of the first is LabelMe's."""
    return by_split(place.of_folders(place.own(".json"), _is_mine), split_in)


def splits(place: Place) -> list[str]:
    return sorted(split for split in files(place) if split)


def annotation_files(place: Place) -> list[Path]:
    """Every text file that describes the set."""
    return [place.path(name) for names in files(place).values() for name in names]


def read(place: Place, split: str | None, builder: Builder) -> Table:
    """The images of a split, or of all of them."""
    found = files(place)
    names = [n for one in found.values() for n in one] if split is None else found[split]
    classes: dict[str, int] = {}
    passed_over = others = 0
    for name in names:
        try:
            found = _file(place, name, builder, classes)
        except InputError as error:
            builder.refuse(error)
        else:
            passed_over += max(found, 0)
            others += found < 0
    if others:
        builder.notes.append(f"{others} JSON files beside LabelMe's are none of its own")
    if passed_over:
        builder.notes.append(f"{passed_over} points and lines are no objects")
    return builder.table(list(classes)).relabelled(sorted(classes))


def _file(place: Place, name: str, builder: Builder, classes: dict[str, int]) -> int:
    """Add an image and its objects; returns how many shapes are none, -1 for another file."""
    path = place.path(name)
    document = json_of(path)
    shapes = document.get("shapes") if isinstance(document, dict) else None
    if isinstance(document, dict) and document.keys().isdisjoint(("shapes", "imagePath")):
        return -1
    if not isinstance(shapes, list):
        raise InputError("must be a list", file=path, field="shapes", value=shapes)
    image = _image(place, name, path, document.get("imagePath"))
    sides = document.get("imageHeight"), document.get("imageWidth")
    size = stated_size(*sides, path, "image", builder.number)
    builder.image(image, name.rpartition(".")[0], size, path)
    groups: dict[tuple[Any, str], list[tuple[int, list[float], bool]]] = {}
    passed_over = 0
    for i, shape in enumerate(shapes):
        field = FIELD.format(i)
        try:
            if not isinstance(shape, dict) or not isinstance(shape.get("label"), str | int):
                raise InputError("a shape needs a label", file=path, field=field, value=shape)
            if shape.get("shape_type") in _NO_OBJECTS:
                passed_over += 1
                continue
            label = str(shape["label"])
            points = _points(builder, shape, path, field)
            ignore = builder.flag(shape.get("difficult"), path, f"{field}.difficult", bool)
            kind = shape.get("shape_type") or "polygon"
            if kind in _POLYGONS and shape.get("group_id") is not None:
                key = (str(shape["group_id"]), label)
                groups.setdefault(key, []).append((i, points, bool(ignore)))
                continue
            box, mask = _shape(kind, points, shape, size, path, field)
        except InputError as error:
            builder.refuse(error)
        else:
            kind = classes.setdefault(label, len(classes))
            builder.add(box, kind, i, ignore=bool(ignore), mask=mask)
    for (_, label), parts in groups.items():
        box = around([v for _, points, _ in parts for v in points])
        kind = classes.setdefault(label, len(classes))
        ignore, mask = any(one[2] for one in parts), [points for _, points, _ in parts]
        builder.add(box, kind, parts[0][0], ignore=ignore, mask=mask)
    return passed_over


def _image(place: Place, name: str, path: Path, stated: Any) -> Path:
    """The one that the file names, or else the one of its own name."""
    if isinstance(stated, str) and stated:
        try:
            return place.image(stated, path, "imagePath", (name.rpartition("/")[0],))
        except InputError:
            if place.companion(name.rpartition(".")[0]) is None:
                raise
    return place.beside(name.rpartition(".")[0], path, "imagePath")


def _points(builder: Builder, shape: dict[str, Any], path: Path, field: str) -> list[float]:
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


def _shape(
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
    if kind not in _POLYGONS:
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
