"""VGG Image Annotator 1 and 2: JSON (an export or a project) or CSV; regions in pixels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from boxatlas.data.formats.building import Builder
from boxatlas.data.formats.csv_rows import lines_of_csv
from boxatlas.data.formats.json_stream import entries
from boxatlas.data.formats.places import VIA_IMAGES, Place, Seen, by_split, per_place
from boxatlas.data.formats.via_regions import class_of, parts_of, shape_of
from boxatlas.data.table import Table
from boxatlas.errors import InputError

CACHED = True
FIELD = "regions[{}]"
OF_IMAGE = True
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
    return isinstance(value.get(VIA_IMAGES), dict) or is_image


def splits(place: Place) -> list[str]:
    return sorted(split for split in files(place) if split)


def annotation_names(place: Place) -> list[str]:
    """Every text file that describes the set."""
    return [name for names in files(place).values() for name in names]


def read(place: Place, split: str | None, builder: Builder) -> Table:
    """The images of a split, or of all of them."""
    found = files(place)
    names = [n for one in found.values() for n in one] if split is None else found[split]
    classes: dict[str, int] = {}
    passed_over = 0
    for name in names:
        path, begun = place.path(name), dict[str, int]()
        given = _of_csv(path, builder) if name.endswith(".csv") else _of_json(path, builder)
        for key, stated, where, i, region in given:
            try:
                if key not in begun:
                    begun[key] = -1  # told once
                    begun[key] = _image(place, name, stated, f"{where}.filename", builder)
                if region is None or begun[key] < 0:
                    continue
                shape, attributes = parts_of(region, path, where)
                if shape.get("name") in _NO_OBJECTS:
                    passed_over += 1
                    continue
                box, mask = shape_of(builder, shape, path, f"{where}.shape_attributes")
                label = class_of(attributes, path, f"{where}.region_attributes")
                number = classes.setdefault(label, len(classes))
                builder.add(box, number, i, mask=mask, image=begun[key])
            except InputError as error:
                builder.refuse(error)
    if passed_over:
        builder.notes.append(f"{passed_over} points and lines are no objects")
    return builder.table(list(classes)).relabelled(sorted(classes))


def _image(place: Place, name: str, stated: str, field: str, builder: Builder) -> int:
    """Begin an image; its number."""
    path, folder = place.path(name), name.rpartition("/")[0]
    near = (folder, f"{folder}/images".removeprefix("/"))
    builder.image(place.image(stated, path, field, near), stated, None, path)
    return len(builder.paths) - 1


# Which image, its file name, where it is said, the region's number, the region if there is one.
Given = Iterator[tuple[str, str, str, int, Any]]


def _of_json(path: Path, builder: Builder) -> Given:
    """The images, each as one without a region, and their regions."""
    for key, image in entries(path, VIA_IMAGES):
        if key.startswith("_via_"):
            continue
        name = image.get("filename") if isinstance(image, dict) else None
        if not isinstance(name, str):
            error = InputError("an image needs `filename`", file=path, field=key, value=image)
            builder.refuse(error)
            continue
        yield key, name, key, 0, None
        given = image.get("regions") or {}
        if not isinstance(given, dict | list):
            where = f"{key}.regions"
            builder.refuse(InputError("must be a list", file=path, field=where, value=given))
            continue
        regions = given.items() if isinstance(given, dict) else enumerate(given)
        for n, (i, one) in enumerate(regions):
            yield key, name, f"{key}.{FIELD.format(i)}", n, one


def _of_csv(path: Path, builder: Builder) -> Given:
    """The same of a CSV file, a region a line; an image without one has a line too."""
    lines = lines_of_csv(path)
    head = [word.lstrip("#") for word in next(lines, (0, []))[1]]
    for n, values in lines:
        row, field = dict(zip(head, values, strict=False)), f"line {n}"
        name, found = row.get("filename"), {}
        try:
            if not name:
                raise InputError("names no image", file=path, field=field)
            for part in ("region_shape_attributes", "region_attributes"):
                found[part.removeprefix("region_")] = json.loads(row.get(part) or "{}")
        except ValueError as error:
            if not isinstance(error, InputError):
                error = InputError(f"is not valid JSON: {error}", file=path, field=field)
            builder.refuse(error)
            continue
        parts = {
            "shape_attributes": found["shape_attributes"],
            "region_attributes": found["attributes"],
        }
        yield name, name, field, n, parts if parts["shape_attributes"] else None
