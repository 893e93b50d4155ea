"""LabelMe: a JSON file for each image, beside it or in a folder of its own; points in pixels.

A rectangle is two corners, in any order; polygons of one `group_id` are parts of one object;
a mask is a picture of its box, whose last corner is its last pixel.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from boxatlas.data.formats.building import Builder, json_of, stated_size
from boxatlas.data.formats.labelme_shapes import POLYGONS, points_of, shape_of
from boxatlas.data.formats.places import Place, Seen, by_split, per_place, split_in
from boxatlas.data.formats.shapes import around
from boxatlas.data.table import Table
from boxatlas.errors import InputError

CACHED = True
FIELD = "shapes[{}]"
_NO_OBJECTS = frozenset(("point", "points", "line", "linestrip"))  # they have no area


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


def annotation_names(place: Place) -> list[str]:
    """Every text file that describes the set."""
    return [name for names in files(place).values() for name in names]


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
            points = points_of(builder, shape, path, field)
            ignore = builder.flag(shape.get("difficult"), path, f"{field}.difficult", bool)
            kind = shape.get("shape_type") or "polygon"
            if kind in POLYGONS and shape.get("group_id") is not None:
                key = (str(shape["group_id"]), label)
                groups.setdefault(key, []).append((i, points, bool(ignore)))
                continue
            box, mask = shape_of(kind, points, shape, size, path, field)
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
