"""What can be wrong with what an annotation file says of its images and objects, but boxes."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from boxatlas.data.doctor.flaws import Flaw
from boxatlas.data.doctor.reading import Part
from boxatlas.data.formats import coco, coco_taking
from boxatlas.data.formats.json_stream import members
from boxatlas.errors import InputError


def check_entries(parts: Sequence[Part]) -> Iterator[Flaw]:
    """Sizes that are none, and what COCO's files say of ids."""
    for part in parts:
        yield from _no_sizes(part)
        if part.module is coco and len(part.table):
            yield from _category_ids(part)
            yield from _listed_twice(part)
            yield from _annotation_ids(Path(part.file(0)))
    yield from _shared_ids([part for part in parts if part.module is coco])


def _no_sizes(part: Part) -> Iterator[Flaw]:
    for i, (height, width) in part.builder.no_sizes.items():
        yield Flaw(
            "image_size",
            part.file(i),
            "size",
            f"states {width} x {height}, which is no size",
            part.table.paths[i],
            remedy=tuple(part.table.sizes[i].tolist()),
        )


def _category_ids(part: Part) -> Iterator[Flaw]:
    ids = [i for i in part.table.category_ids or () if isinstance(i, int)]
    if ids and sorted(ids) != list(range(min(ids), min(ids) + len(ids))):
        yield Flaw(
            "id_gaps",
            part.file(0),
            "categories",
            f"{len(ids)} categories have ids from {min(ids)} to {max(ids)}",
        )


def _listed_twice(part: Part) -> Iterator[Flaw]:
    table = part.table
    times = Counter(table.paths)
    seen: dict[str, Any] = {}
    for path, id_ in zip(table.paths, table.ids, strict=True):
        if times[path] > 1 and seen.setdefault(path, id_) != id_:
            yield Flaw(
                "image_twice",
                part.file(0),
                f"images: id {id_}",
                f"{Path(path).name} is listed already, with id {seen[path]}",
                path,
            )


def _shared_ids(parts: Sequence[Part]) -> Iterator[Flaw]:
    """An id that is one image in one split and another in another."""
    of = [dict(zip(part.table.ids, part.table.paths, strict=True)) for part in parts]
    for a, b in itertools.combinations(range(len(parts)), 2):
        shared = [id_ for id_ in of[a].keys() & of[b].keys() if of[a][id_] != of[b][id_]]
        if shared:
            yield Flaw(
                "id_shared",
                parts[b].file(0),
                "images",
                f"{len(shared)} ids are of other images in {parts[a].split} and in "
                f"{parts[b].split}",
                count=len(shared),
            )


def _annotation_ids(file: Path) -> Iterator[Flaw]:
    nameless = 0
    try:
        for key, i, value in members(file):
            if key == "annotations" and i is not None and i >= 0 and isinstance(value, dict):
                if value.get("id") == 0:
                    yield Flaw(
                        "annotation_id_zero",
                        str(file),
                        f"annotations[{i}].id",
                        "id 0 counts as unmatched in COCO's own evaluator",
                        number=i,
                        remedy="renumber",
                    )
                nameless += coco_taking.plain_id(value.get("id")) is None
    except InputError:
        return  # told already by the reader
    if nameless:
        message = f"{nameless} annotations have no id"
        yield Flaw(
            "annotation_invalid",
            str(file),
            "annotations",
            message,
            count=nameless,
            remedy="renumber",
        )
