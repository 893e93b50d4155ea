"""BDD100K: JSON lists of frames (det_train.json, Scalabel's), or a JSON file for each image.

`box2d` is the first and the last pixel of an object, counted from 0: its right edge is x2 + 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from boxatlas.data.formats import json_stream
from boxatlas.data.formats.building import Builder, json_of
from boxatlas.data.formats.places import Place, Seen, by_split, per_place
from boxatlas.data.table import Table
from boxatlas.errors import InputError

FIELD = "labels[{}]"
OF_IMAGE = True
_SIDES = ("x1", "y1", "x2", "y2")


def evidence(place: Place) -> Seen | None:
    name = next((n for names in files(place).values() for n in names), None)
    return None if name is None else Seen(f"{name} holds frames of BDD100K's")


@per_place
def files(place: Place) -> dict[str, list[str]]:
    """Split -> JSON files: all of the folders in which one of the first is BDD100K's."""
    names = place.own(".json")
    folders = {n.rpartition("/")[0] for n in place.few(names, 8) if _is_mine(place, n)}
    inner = [n for n in names if n.rpartition("/")[0] in folders]
    return by_split(inner if len(inner) > 100 else place.documents(inner, _is_mine))


def _is_mine(place: Place, name: str) -> bool:
    kind, value, _ = place.document(name)
    if kind == "object":
        frames = value.get("frames")
        if not isinstance(frames, list) or not frames or not isinstance(frames[0], dict):
            return False
        return "objects" in frames[0] or _is_frame(frames[0])
    return kind == "list" and any(isinstance(one, dict) and _is_frame(one) for one in value)


def _is_frame(frame: dict[str, Any]) -> bool:
    labels = frame.get("labels")
    named = isinstance(frame.get("name"), str)
    return (
        named
        and isinstance(labels, list)
        and all(isinstance(one, dict) and "category" in one for one in labels)
    )


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
        for i, (stated, labels) in enumerate(_frames(place, name)):
            try:
                passed_over += _frame(place, name, stated, labels, f"[{i}]", builder, classes)
            except InputError as error:
                builder.refuse(error)
    if passed_over:
        builder.notes.append(f"{passed_over} lanes and areas without a box are no objects")
    return builder.table(list(classes)).relabelled(sorted(classes))


def _frames(place: Place, name: str) -> Iterator[tuple[Any, Any]]:
    """(name of the image, its labels) of each frame."""
    path = place.path(name)
    if place.document(name).kind == "list":
        for frame in json_stream.elements(path):
            frame = frame if isinstance(frame, dict) else {}
            yield frame.get("name"), frame.get("labels")
        return
    document = json_of(path)
    for frame in document.get("frames", []) if isinstance(document, dict) else []:
        frame = frame if isinstance(frame, dict) else {}
        if "objects" in frame:  # the first releases: a file for each image
            yield document.get("name"), frame["objects"]
        else:
            yield frame.get("name"), frame.get("labels")


def _frame(
    place: Place,
    name: str,
    stated: Any,
    labels: Any,
    field: str,
    builder: Builder,
    classes: dict[str, int],
) -> int:
    """Add an image and its objects; returns how many labels are none."""
    path = place.path(name)
    if not isinstance(stated, str) or not isinstance(labels, list | None):
        problem = "a frame needs `name` and a list of `labels`"
        raise InputError(problem, file=path, field=field, value=stated)
    if "." not in stated:
        stated = f"{stated}.jpg"
    builder.image(place.image(stated, path, f"{field}.name"), stated, None, path)
    passed_over = 0
    for k, label in enumerate(labels or []):
        where = f"{field}.{FIELD.format(k)}"
        try:
            kind = label.get("category") if isinstance(label, dict) else None
            if not isinstance(kind, str) or not kind:
                raise InputError("a label needs `category`", file=path, field=where, value=label)
            box = label.get("box2d")
            if box is None:
                passed_over += 1
                continue
            if not isinstance(box, dict):
                raise InputError("must be x1, y1, x2, y2", file=path, field=where, value=box)
            x1, y1, x2, y2 = (
                builder.number(box.get(side), path, f"{where}.box2d.{side}") for side in _SIDES
            )
            more = label.get("attributes")
            more = more if isinstance(more, dict) else {}
            crowd = builder.flag(more.get("crowd"), path, f"{where}.attributes.crowd", bool)
            cut = builder.flag(more.get("truncated"), path, f"{where}.attributes.truncated", bool)
            number_of = classes.setdefault(kind, len(classes))
            corners = (x1, y1, x2 + 1, y2 + 1)
            builder.add(corners, number_of, k, ignore=bool(crowd), truncated=cut)
        except InputError as error:
            builder.refuse(error)
    return passed_over
