"""KITTI: a text file for each image; class, truncation, occlusion, angle, then the box's left, top,
right and bottom edges in pixels, counted from 0, and seven numbers of the object in space.

`DontCare` regions are objects of a class of that name that are ignored.
"""

from __future__ import annotations

from pathlib import Path

from boxatlas.data.formats.building import Builder, number, read_text
from boxatlas.data.formats.per_image import begun
from boxatlas.data.formats.places import Place, Seen, by_split, per_place, split_in
from boxatlas.data.table import Table
from boxatlas.errors import InputError

CORNERS = True
FIELD = "line {}"
_IGNORED = "DontCare"
_LENGTHS = (15, 16)  # with a score


def evidence(place: Place) -> Seen | None:
    for name in place.few(place.own(".txt")):
        if _is_mine(place, name):
            return Seen(f"{name} has lines of KITTI's")
    return None


def _is_mine(place: Place, name: str) -> bool:
    line = next((one for one in place.head(name).splitlines() if one.strip()), "")
    words = line.split()
    if len(words) not in _LENGTHS or words[0].replace(".", "").isdecimal():
        return False
    return all(word.lstrip("+-").replace(".", "", 1).isdecimal() for word in words[1:15])


@per_place
def files(place: Place) -> dict[str, list[str]]:
    """Split -> the label files of the folders in which one of the first is KITTI's."""
    return by_split(place.of_folders(place.own(".txt"), _is_mine), split_in)


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
    for path in begun(place, names, builder):
        _objects(path, builder, classes)
    return builder.table(list(classes)).relabelled(sorted(classes))


def _objects(path: Path, builder: Builder, classes: dict[str, int]) -> None:
    for n, line in enumerate(read_text(path).split("\n"), 1):
        words, field = line.split(), FIELD.format(n)
        if not words:
            continue
        try:
            if len(words) not in _LENGTHS:
                problem = "must be a class and 14 numbers"
                raise InputError(problem, file=path, field=field, value=line)
            cut, x1, y1, x2, y2 = (number(words[k], path, field) for k in (1, 4, 5, 6, 7))
            label = classes.setdefault(words[0], len(classes))
            ignore = words[0] == _IGNORED
            builder.add((x1, y1, x2, y2), label, n, ignore=ignore, truncated=cut > 0)
        except InputError as error:
            builder.refuse(error)
