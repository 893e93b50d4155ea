"""VisDrone's detection sets: a text file for each image, a line an object: left, top, width, height
in pixels, score, category, truncation, occlusion.

A score of 0 says that the object is not judged: it is ignored, as are `ignored regions`.
"""

from __future__ import annotations

import re
from pathlib import Path

from boxatlas.data.formats.building import Builder, number, read_text
from boxatlas.data.formats.per_image import begun
from boxatlas.data.formats.places import SPLIT_NAMES, Place, Seen, by_split, per_place, split_in
from boxatlas.data.table import Table
from boxatlas.errors import InputError

FIELD = "line {}"
CLASSES = (
    "ignored regions",
    "pedestrian",
    "people",
    "bicycle",
    "car",
    "van",
    "truck",
    "tricycle",
    "awning-tricycle",
    "bus",
    "motor",
    "others",
)


def evidence(place: Place) -> Seen | None:
    for name in place.few(place.own(".txt")):
        if _is_mine(place, name):
            return Seen(f"{name} has lines of VisDrone's")
    return None


def _is_mine(place: Place, name: str) -> bool:
    """Eight whole numbers, and an image beside it or in the folder of images."""
    line = next((one for one in place.head(name).splitlines() if one.strip()), "")
    words = line.strip().rstrip(",").split(",")
    if len(words) != 8 or not all(word.strip().lstrip("-").isdecimal() for word in words):
        return False
    return place.companion(name.rpartition(".")[0]) is not None


@per_place
def files(place: Place) -> dict[str, list[str]]:
    """Split -> the files of the folders in which one of the first is VisDrone's."""
    return by_split(place.of_folders(place.own(".txt"), _is_mine), _split)


def _split(name: str) -> str:
    """VisDrone2019-DET-train/ is train, VisDrone2019-DET-test-dev/ is test."""
    for part in reversed(name.split("/")[:-1]):
        for word in re.split(r"[^a-z]+", part.lower()):
            if word in SPLIT_NAMES and word != "dev":
                return SPLIT_NAMES[word]
    return split_in(name)


def splits(place: Place) -> list[str]:
    return sorted(split for split in files(place) if split)


def annotation_names(place: Place) -> list[str]:
    """Every text file that describes the set."""
    return [name for names in files(place).values() for name in names]


def read(place: Place, split: str | None, builder: Builder) -> Table:
    """The images of a split, or of all of them. Of the twelve classes only those that are there."""
    found = files(place)
    names = [n for one in found.values() for n in one] if split is None else found[split]
    for path in begun(place, names, builder):
        _objects(path, builder)
    table = builder.table(CLASSES)
    return table.relabelled([n for i, n in enumerate(CLASSES) if (table.labels == i).any()])


def _objects(path: Path, builder: Builder) -> None:
    for n, line in enumerate(read_text(path).split("\n"), 1):
        text, field = line.strip().rstrip(","), FIELD.format(n)
        if not text:
            continue
        try:
            words = text.split(",")
            if len(words) != 8:
                problem = "must be left, top, width, height, score, category and two flags"
                raise InputError(problem, file=path, field=field, value=line)
            x, y, w, h, score, kind, cut, _ = (number(word, path, field) for word in words)
            if kind not in range(len(CLASSES)):
                raise InputError("no such class", file=path, field=field, value=words[5])
            ignore = kind == 0 or score == 0
            box = (x, y, x + w, y + h)
            builder.add(box, int(kind), n, ignore=ignore, truncated=cut > 0)
        except InputError as error:
            builder.refuse(error)
