"""Hugging Face's ImageFolder with boxes: metadata.jsonl in each split's folder, a line an image.

`objects` holds `bbox`, each left, top, width, height in pixels, and `categories` (or `category`),
names or numbers; the numbers are named in the head of README.md, if it names them.
"""

from __future__ import annotations

import json
import re
from typing import Any

from boxatlas.data.formats.building import Builder, lines_in, read_text, stated_size
from boxatlas.data.formats.places import Place, Seen, per_place, split_in
from boxatlas.data.table import Table
from boxatlas.errors import InputError

FIELD = "objects[{}]"
OF_IMAGE = True
_FILE = "metadata.jsonl"
_CLASSES = ("categories", "category", "label", "labels", "class")


def evidence(place: Place) -> Seen | None:
    found = [name for names in files(place).values() for name in names]
    return Seen(f"{found[0]} lists images and objects") if found else None


@per_place
def files(place: Place) -> dict[str, list[str]]:
    """Split -> metadata files."""
    found: dict[str, list[str]] = {}
    for name in place.own(".jsonl"):
        if name.rpartition("/")[2] == _FILE and _is_mine(place.head(name)):
            found.setdefault(split_in(name), []).append(name)
    return found


def _is_mine(head: str) -> bool:
    line = next((one for one in head.splitlines() if one.strip()), "")
    return '"file_name"' in line and '"bbox"' in line


def splits(place: Place) -> list[str]:
    return sorted(split for split in files(place) if split)


def annotation_names(place: Place) -> list[str]:
    """Every text file that describes the set."""
    return [name for names in files(place).values() for name in names]


def read(place: Place, split: str | None, builder: Builder) -> Table:
    """The images of a split, or of all of them."""
    found = files(place)
    names = [n for one in found.values() for n in one] if split is None else found[split]
    known = _named(place)
    classes: dict[Any, int] = {}
    for name in names:
        path = place.path(name)
        for n, line in lines_in(path):
            if not line.strip():
                continue
            try:
                _image(place, name, line, f"line {n}", builder, classes)
            except InputError as error:
                builder.refuse(error)
    return _table(builder, classes, known)


def _table(builder: Builder, classes: dict[Any, int], known: dict[int, str]) -> Table:
    """Numbers in their order, by the names that are known of them; names in theirs."""
    titles = {key: known.get(key, f"class{key}") if type(key) is int else key for key in classes}
    table = builder.table(list(titles.values()))
    order = sorted(classes, key=lambda key: (type(key) is not int, key))
    return table.relabelled([titles[key] for key in order])


def _named(place: Place) -> dict[int, str]:
    """What the head of README.md calls the numbers of a class label."""
    import yaml

    if "README.md" not in place.known:
        return {}
    head = re.match(r"---\n(.*?)\n---", read_text(place.path("README.md")), re.DOTALL)
    try:
        found: list[Any] = [yaml.load(head[1], yaml.BaseLoader)] if head else []
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    while found:
        one = found.pop()
        if isinstance(one, dict):
            names = one.get("names")
            if isinstance(names, dict) and all(str(key).isdecimal() for key in names):
                return {int(key): str(name) for key, name in names.items()}
            found += one.values()
        elif isinstance(one, list):
            found += one
    return {}


def _image(
    place: Place, name: str, line: str, field: str, builder: Builder, classes: dict[Any, int]
) -> None:
    path, folder = place.path(name), name.rpartition("/")[0]
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"is not valid JSON: {error}", file=path, field=field) from None
    stated = row.get("file_name") if isinstance(row, dict) else None
    if not isinstance(stated, str):
        raise InputError("an image needs `file_name`", file=path, field=field, value=row)
    sides = row.get("height"), row.get("width")
    size = stated_size(*sides, path, f"{field}.", builder.number)
    builder.image(place.image(stated, path, f"{field}.file_name", (folder,)), stated, size, path)
    objects = row.get("objects") or {}
    if isinstance(objects, list) and all(isinstance(one, dict) for one in objects):  # one by one
        keys = {key for one in objects for key in one}
        objects = {key: [one.get(key) for one in objects] for key in keys}
    columns = objects if isinstance(objects, dict) else {}
    boxes = columns.get("bbox")
    kinds = next((columns[key] for key in _CLASSES if key in columns), None)
    if not objects or boxes == []:
        return
    if not isinstance(boxes, list) or not isinstance(kinds, list) or len(boxes) != len(kinds):
        problem = "needs as many `categories` as boxes in `bbox`"
        raise InputError(problem, file=path, field=f"{field}.objects", value=objects)
    for k, (box, kind) in enumerate(zip(boxes, kinds, strict=True)):
        where = f"{field}.{FIELD.format(k)}"
        try:
            if not isinstance(box, list) or len(box) != 4:
                problem = "a box is [x, y, width, height]"
                raise InputError(problem, file=path, field=f"{where}.bbox", value=box)
            if type(kind) not in (int, str):
                raise InputError(
                    "a class is a name or a number", file=path, field=where, value=kind
                )
            x, y, w, h = (builder.number(v, path, f"{where}.bbox") for v in box)
            builder.add((x, y, x + w, y + h), classes.setdefault(kind, len(classes)), k)
        except InputError as error:
            builder.refuse(error)
