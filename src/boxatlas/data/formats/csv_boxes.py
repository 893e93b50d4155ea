"""Boxes in a CSV file, one a line: corners in pixels, in columns that the first line names.

TensorFlow's and Roboflow's `filename,width,height,class,xmin,ymin,xmax,ymax`, others of those
names in any order, and keras-retinanet's `path,x1,y1,x2,y2,class` without a first line. A line
without corners and class is an image without objects.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path

from boxatlas.data.formats.building import (
    Builder,
    encoding_of,
    number,
    stated_size,
)
from boxatlas.data.formats.places import Place, Seen, by_split, per_place
from boxatlas.data.sources import COLUMNS
from boxatlas.data.table import Table
from boxatlas.errors import InputError

CACHED = True
CORNERS = True  # the four numbers in the files are x1, y1, x2, y2
FIELD = "line {}"
_MORE = {"width": ("width",), "height": ("height",), "ignore": ("ignore", "difficult")}
_BARE = {"image": 0, "x1": 1, "y1": 2, "x2": 3, "y2": 4, "class": 5}
_DELIMITERS = (",", ";", "\t")


def evidence(place: Place) -> Seen | None:
    name = next((n for n in place.few(place.own(".csv")) if _columns(place, n)), None)
    return None if name is None else Seen(f"{name} has columns of an image, a class and corners")


@per_place
def files(place: Place) -> dict[str, list[str]]:
    """Split -> CSV files."""
    return by_split(n for n in place.few(place.own(".csv")) if _columns(place, n))


def splits(place: Place) -> list[str]:
    return sorted(split for split in files(place) if split)


def annotation_files(place: Place) -> list[Path]:
    """Every text file that describes the set."""
    names = [name for names in files(place).values() for name in names]
    return [place.path(n) for n in [*names, *([] if place.named else place.called("classes.csv"))]]


def _columns(place: Place, name: str) -> tuple[str, dict[str, int], int] | None:
    """(the delimiter, column of each part, lines before the first box); None for another CSV."""
    first = next((line for line in place.head(name).splitlines() if line.strip()), "")
    for delimiter in _DELIMITERS:
        words = [word.strip().strip('"').lower() for word in first.split(delimiter)]
        found = {
            part: words.index(one)
            for part, names in (COLUMNS | _MORE).items()
            for one in reversed(names)
            if one in words
        }
        if found.keys() >= COLUMNS.keys():
            return delimiter, found, 1
        if len(words) == 6 and (_are_numbers(words[1:5]) or not any(words[1:])):
            return delimiter, _BARE, 0
    return None


def _are_numbers(words: list[str]) -> bool:
    try:
        return all(math.isfinite(float(word)) for word in words)
    except ValueError:
        return False


def read(place: Place, split: str | None, builder: Builder) -> Table:
    """The images of a split, or of all of them."""
    found = files(place)
    names = [n for one in found.values() for n in one] if split is None else found[split]
    classes: dict[str, int] = {}
    for name in names:
        columns = _columns(place, name)
        assert columns is not None
        _file(place, name, columns, builder, classes)
    return builder.table(list(classes)).relabelled(sorted(classes))


def _file(
    place: Place,
    name: str,
    columns: tuple[str, dict[str, int], int],
    builder: Builder,
    classes: dict[str, int],
) -> None:
    path, (delimiter, at, _) = place.path(name), columns
    image, kind, *corners = (at[part] for part in ("image", "class", "x1", "y1", "x2", "y2"))
    a, b, c, d = corners
    images: dict[str, int] = {}
    most, ignore = max(image, kind, *corners), at.get("ignore")
    for n, row in _rows(path, columns):
        try:
            if len(row) <= most:
                raise InputError(
                    f"holds {len(row)} values, not {most + 1} or more",
                    file=path,
                    field=FIELD.format(n),
                    value=delimiter.join(row),
                )
            i = images.get(row[image])
            if i is None:
                images[row[image]] = -1  # told once
                images[row[image]] = i = _image(place, name, row, at, n, builder)
            if i < 0:
                continue
            try:
                x1, y1, x2, y2 = float(row[a]), float(row[b]), float(row[c]), float(row[d])
                if not -1e9 < x1 + y1 + x2 + y2 < 1e9:
                    raise ValueError
            except ValueError:
                if not any(row[k].strip() for k in (a, b, c, d, kind)):
                    continue  # an image without objects
                x1, y1, x2, y2 = (number(row[k], path, FIELD.format(n)) for k in corners)
            label = row[kind].strip()
            if not label:
                raise InputError("a box without a class", file=path, field=FIELD.format(n))
            flag = ignore is not None and ignore < len(row) and row[ignore].strip()
            flag = builder.flag(flag, path, f"line {n}.ignore", str) if flag else False
            number_of = classes.setdefault(label, len(classes))
            builder.add((x1, y1, x2, y2), number_of, n, image=i, ignore=bool(flag))
        except InputError as error:
            builder.refuse(error)


def _rows(path: Path, columns: tuple[str, dict[str, int], int]) -> Iterator[tuple[int, list[str]]]:
    """(number of the line, its values) of each line that is not empty, but the first."""
    delimiter, _, skipped = columns
    try:
        with open(path, encoding=encoding_of(path), newline="") as file:
            reader = csv.reader(file, delimiter=delimiter)
            for row in reader:
                if not row:
                    continue
                if skipped:
                    skipped -= 1
                    continue
                yield reader.line_num, row
    except UnicodeDecodeError as error:
        raise InputError(f"is not UTF-8 text: {error.reason}", file=path) from None
    except csv.Error as error:
        raise InputError(f"is not valid CSV: {error}", file=path) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from None


def _image(
    place: Place, name: str, row: list[str], at: dict[str, int], n: int, builder: Builder
) -> int:
    path, stated = place.path(name), row[at["image"]].strip()
    folder, field = name.rpartition("/")[0], FIELD.format(n)
    if not stated:
        raise InputError("names no image", file=path, field=field)
    near = [folder, f"{folder}/images".removeprefix("/"), "images", ""]
    image = place.image(stated, path, field, near)
    height, width = (
        (row[at[side]].strip() if at.get(side, len(row)) < len(row) else "") or None
        for side in ("height", "width")
    )
    size = stated_size(height, width, path, f"{field}.", number)
    builder.image(image, stated, size, path)
    return len(builder.paths) - 1
