"""VGG Image Annotator 1 and 2: JSON (an export or a project) or CSV; regions in pixels."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from boxatlas.data.formats.building import Builder, json_of, read_text
from boxatlas.data.formats.places import Place, Seen, by_split, per_place
from boxatlas.data.formats.via_regions import class_of, parts_of, shape_of
from boxatlas.data.table import Table
from boxatlas.errors import InputError

CACHED = True
FIELD = "regions[{}]"
OF_IMAGE = True
_PROJECT = "_via_img_metadata"
_NO_OBJECTS = ("point", "polyline", "line")


def evidence(place: Place) -> Seen | None:
    name = next((n for names in files(place).values() for n in names), None)
    return None if name is None else Seen(f"{name} holds regions of the VGG Image Annotator")


@per_place
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
                    box, mask = shape_of(builder, shape, path, f"{where}.shape_attributes")
                    label = class_of(attributes, path, f"{where}.region_attributes")
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
        if not isinstance(given, dict | list):
            raise InputError("must be a list", file=path, field=f"{key}.regions", value=given)
        regions = given.items() if isinstance(given, dict) else enumerate(given)
        yield key, image["filename"], [(i, *parts_of(one, path, key)) for i, one in regions]


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
