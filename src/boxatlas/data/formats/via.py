"""VGG Image Annotator 1 and 2: JSON (an export or a project) or CSV; regions in pixels."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from boxatlas.data.formats.building import Box, Builder, around, json_of, read_text
from boxatlas.data.formats.places import Place, Seen, by_split
from boxatlas.data.masks import Mask
from boxatlas.data.table import Table
from boxatlas.errors import InputError

CACHED = True
FIELD = "regions[{}]"
OF_IMAGE = True
_PROJECT = "_via_img_metadata"
_CLASS = ("class", "label", "name", "type", "category", "object", "class_name", "object_name")
_NO_OBJECTS = ("point", "polyline", "line")


def evidence(place: Place) -> Seen | None:
    name = next((n for names in files(place).values() for n in names), None)
    return None if name is None else Seen(f"{name} holds regions of the VGG Image Annotator")


def files(place: Place) -> dict[str, list[str]]:
    """Split -> JSON and CSV files."""
    names = place.few(place.own(".json", ".csv"))
    return by_split(place.documents(names, _is_mine))


def _is_mine(place: Place, name: str) -> bool:
    return _is_csv(place, name) if name.endswith(".csv") else _is_json(place, name)


def _is_csv(place: Place, name: str) -> bool:
    return "region_shape_attributes" in place.head(name).partition("\n")[0]


def _is_json(place: Place, name: str) -> bool:
    kind, value, _ = place.document(name)
    if kind != "object" or not value:
        return False
    first = next(iter(value.values()))
    is_image = isinstance(first, dict) and "filename" in first and "regions" in first
    return isinstance(value.get(_PROJECT), dict) or is_image


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
    passed_over = 0
    for name in names:
        images = _of_csv if name.endswith(".csv") else _of_json
        for field, stated, regions in images(place.path(name)):
            try:
                path = place.path(name)
                folder = name.rpartition("/")[0]
                near = (folder, f"{folder}/images".removeprefix("/"))
                image = place.image(stated, path, f"{field}.filename", near)
                builder.image(image, stated, None, path)
            except InputError as error:
                builder.refuse(error)
                continue
            for k, (i, shape, attributes) in enumerate(regions):
                try:
                    where = f"{field}.{FIELD.format(i)}"
                    if shape.get("name") in _NO_OBJECTS:
                        passed_over += 1
                        continue
                    box, mask = _shape(builder, shape, path, f"{where}.shape_attributes")
                    label = _class(attributes, path, f"{where}.region_attributes")
                    builder.add(box, classes.setdefault(label, len(classes)), k, mask=mask)
                except InputError as error:
                    builder.refuse(error)
    if passed_over:
        builder.notes.append(f"{passed_over} points and lines are no objects")
    return builder.table(list(classes)).relabelled(sorted(classes))


Regions = list[tuple[Any, dict[str, Any], dict[str, Any]]]  # number, shape, attributes


def _of_json(path: Path) -> Iterator[tuple[str, str, Regions]]:
    """(where, file name, regions) of each image."""
    document = json_of(path)
    for key, image in (document.get(_PROJECT) or document).items():
        if not isinstance(image, dict) or not isinstance(image.get("filename"), str):
            raise InputError("an image needs `filename`", file=path, field=key, value=image)
        given = image.get("regions") or {}
        regions = given.items() if isinstance(given, dict) else enumerate(given)
        yield key, image["filename"], [(i, *_parts(one, path, key)) for i, one in regions]


def _parts(region: Any, path: Path, field: str) -> tuple[dict[str, Any], dict[str, Any]]:
    parts = region if isinstance(region, dict) else {}
    shape, attributes = parts.get("shape_attributes"), parts.get("region_attributes")
    if not isinstance(shape, dict) or not isinstance(attributes, dict):
        problem = "a region needs `shape_attributes` and `region_attributes`"
        raise InputError(problem, file=path, field=f"{field}.regions", value=region)
    return shape, attributes


def _of_csv(path: Path) -> Iterator[tuple[str, str, Regions]]:
    """The same of a CSV file, a region a line; an image without one has a line too."""
    found: dict[str, Regions] = {}
    first: dict[str, int] = {}
    reader = csv.DictReader(read_text(path).split("\n"))
    for row in reader:
        field = f"line {reader.line_num}"
        name = row.get("#filename") or row.get("filename")
        if not name:
            raise InputError("names no image", file=path, field=field)
        regions = found.setdefault(name, [])
        first.setdefault(name, reader.line_num)
        try:
            shape = json.loads(row.get("region_shape_attributes") or "{}")
            attributes = json.loads(row.get("region_attributes") or "{}")
        except ValueError as error:
            raise InputError(f"is not valid JSON: {error}", file=path, field=field) from None
        if shape:
            regions.append((reader.line_num, shape, attributes))
    for name, regions in found.items():
        yield f"line {first[name]}", name, regions


def _class(attributes: dict[str, Any], path: Path, field: str) -> str:
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


def _shape(builder: Builder, shape: dict[str, Any], path: Path, field: str) -> tuple[Box, Mask]:
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
        cos, sin = math.cos(turn), math.sin(turn)
        rx, ry = math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos)
        return (x - rx, y - ry, x + rx, y + ry), None
    if kind != "polygon":
        raise InputError("is no shape that is read", file=path, field=f"{field}.name", value=kind)
    xs, ys = shape.get("all_points_x"), shape.get("all_points_y")
    if not isinstance(xs, list) or not isinstance(ys, list) or len(xs) != len(ys) or len(xs) < 3:
        problem = "a polygon of fewer than three points"
        raise InputError(problem, file=path, field=field, value=shape)
    points = [builder.number(v, path, field) for pair in zip(xs, ys, strict=True) for v in pair]
    return around(points), [points]
