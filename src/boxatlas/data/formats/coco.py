"""MS COCO: annotations/*.json beside the image folders. A box is x, y, width, height in pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from boxatlas.data.formats import coco_rows, json_stream
from boxatlas.data.formats.building import Builder
from boxatlas.data.formats.coco_files import (
    Finder,
    evidence,
    files,
    lists_images_alone,
    splits,
)
from boxatlas.data.formats.coco_taking import Taking
from boxatlas.data.formats.places import Place
from boxatlas.data.table import Table
from boxatlas.errors import InputError

__all__ = ["evidence", "splits"]  # of `coco_files`; the rest is here
CACHED = True  # a table depends on nothing but the annotations and the names of files
FIELD = "annotations[{}]"


def read(place: Place, split: str | None, builder: Builder) -> Table:
    """The images of a split, or of all of them: without those whose objects no file lists."""
    found = files(place)
    names = [name for one in found.values() for name in one] if split is None else found[split]
    if not names:
        raise InputError("holds no annotation file", file=place.given)
    listed = [name for name in names if not lists_images_alone(name)] or names
    if len(listed) == 1:
        table = read_file(place.path(listed[0]), place, builder)
    else:
        table = Table.join([_part(place, name, builder) for name in listed])
    left = [name for name in names if name not in listed]
    notes = tuple(f"{name}: lists images without objects, and is left out" for name in left)
    return replace(table, notes=(*table.notes, *notes)) if notes else table


def _part(place: Place, name: str, whole: Builder) -> Table:
    """One of several files. What was found wrong, and where each image and object came from, goes
    to the builder of the whole."""
    builder = Builder(whole.strict)
    table = read_file(place.path(name), place, builder)
    whole.problems += builder.problems
    whole.remarks += builder.remarks
    whole.headers |= builder.headers
    whole.files += builder.files
    whole.origins = np.concatenate([whole.origins, builder.origins])
    whole.no_sizes |= {i + len(whole.paths): size for i, size in builder.no_sizes.items()}
    whole.paths += builder.paths
    return table


def annotation_names(place: Place) -> list[str]:
    """Every text file that describes the set."""
    return [name for names in files(place).values() for name in names]


def read_file(path: Path, place: Place, builder: Builder) -> Table:
    """One annotation file, whose images lie below the place's root.

    The file is taken in piece by piece, in whatever order its lists come; only flat arrays stay.
    """
    taking = Taking(path, builder, Finder(path, place))
    lists = {
        "images": taking.image,
        "categories": taking.category,
        "annotations": taking.annotation,
    }
    found = set()
    for key, i, value in json_stream.members(path, coco_rows.scanner(path)):
        take = lists.get(key)
        if take is None:
            _keep(builder.head, key, i, value)
            continue
        if i is None:
            raise InputError("must be a list", file=path, field=key)
        found.add(key)
        if i < 0:
            continue
        if isinstance(value, coco_rows.Rows):
            if key == "annotations" and taking.rows(value, i):
                continue
            values = value.objects()
        else:
            values = [value]
        for n, one in enumerate(values, i):
            try:
                if not isinstance(one, dict):
                    raise InputError("must be an object", file=path, field=f"{key}[{n}]", value=one)
                take(one, n)
            except InputError as error:
                builder.refuse(error)
    for key in lists:
        if key not in found and not (key == "annotations" and lists_images_alone(path.name)):
            raise InputError("the list is missing", file=path, field=key)
    return taking.table()


def _keep(head: dict[str, Any], key: str, i: int | None, value: Any) -> None:
    """A piece of what a document holds besides COCO's lists."""
    if i is None or i < 0:
        head[key] = value
    else:
        head[key] += value.objects() if isinstance(value, coco_rows.Rows) else [value]
