"""CreateML (Roboflow and RectLabel write it too): a JSON list of images; a box is its centre, width
and height in pixels."""

from __future__ import annotations

from typing import Any

from boxatlas.data.formats import json_stream
from boxatlas.data.formats.building import Builder
from boxatlas.data.formats.places import Place, Seen, by_split, per_place
from boxatlas.data.table import Table
from boxatlas.errors import InputError

FIELD = "annotations[{}]"
OF_IMAGE = True
_IMAGE = ("image", "imagefilename", "filename")
_LIST = ("annotations", "annotation")


def evidence(place: Place) -> Seen | None:
    name = next((n for names in files(place).values() for n in names), None)
    return None if name is None else Seen(f"{name} is a list of CreateML's images")


@per_place
def files(place: Place) -> dict[str, list[str]]:
    """Split -> JSON files."""
    return by_split(place.documents(place.few(place.own(".json")), _is_mine))


def _is_mine(place: Place, name: str) -> bool:
    kind, value, _ = place.document(name)
    images = value if kind == "list" else []
    return any(isinstance(one, dict) and _of(one, _IMAGE) and _holds_boxes(one) for one in images)


def _holds_boxes(image: dict[str, Any]) -> bool:
    things = _of(image, _LIST)
    first = things[0] if isinstance(things, list) and things else {}
    empty = isinstance(things, list) and not things
    return empty or (isinstance(first, dict) and "coordinates" in first)


def _of(thing: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((thing[name] for name in names if name in thing), None)


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
    for name in names:
        for i, image in enumerate(json_stream.elements(place.path(name))):
            try:
                _image(place, name, image, f"[{i}]", builder, classes)
            except InputError as error:
                builder.refuse(error)
    return builder.table(list(classes)).relabelled(sorted(classes))


def _image(
    place: Place, name: str, image: Any, field: str, builder: Builder, classes: dict[str, int]
) -> None:
    path, folder = place.path(name), name.rpartition("/")[0]
    stated = _of(image, _IMAGE) if isinstance(image, dict) else None
    things = _of(image, _LIST) if isinstance(image, dict) else None
    if not isinstance(stated, str) or not isinstance(things, list | None):
        problem = "an image needs `image` and `annotations`"
        raise InputError(problem, file=path, field=field, value=image)
    near = (folder, f"{folder}/images".removeprefix("/"))
    builder.image(place.image(stated, path, f"{field}.image", near), stated, None, path)
    for k, thing in enumerate(things or []):
        where = f"{field}.{FIELD.format(k)}"
        try:
            box = thing.get("coordinates") if isinstance(thing, dict) else None
            label = thing.get("label") if isinstance(thing, dict) else None
            if not isinstance(box, dict) or not isinstance(label, str) or not label:
                problem = "an object needs `label` and `coordinates`"
                raise InputError(problem, file=path, field=where, value=thing)
            x, y, w, h = (
                builder.number(box.get(part), path, f"{where}.coordinates.{part}")
                for part in ("x", "y", "width", "height")
            )
            corners = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
            builder.add(corners, classes.setdefault(label, len(classes)), k)
        except InputError as error:
            builder.refuse(error)
