"""Boxes in a CSV file, one a line: corners in pixels, in columns that the first line names.

TensorFlow's and Roboflow's `filename,width,height,class,xmin,ymin,xmax,ymax`, others of those
names in any order, and keras-retinanet's `path,x1,y1,x2,y2,class` without a first line. A line
without corners and class is an image without objects.
"""

from __future__ import annotations

from boxatlas.data.formats.building import (
    Builder,
    number,
    stated_size,
)
from boxatlas.data.formats.csv_rows import columns_of, rows_of
from boxatlas.data.formats.places import Place, Seen, by_split, per_place
from boxatlas.data.table import Table
from boxatlas.errors import InputError

CACHED = True
CORNERS = True  # the four numbers in the files are x1, y1, x2, y2
FIELD = "line {}"


def evidence(place: Place) -> Seen | None:
    name = next((n for n in place.few(place.own(".csv")) if columns_of(place, n)), None)
    return None if name is None else Seen(f"{name} has columns of an image, a class and corners")


@per_place
def files(place: Place) -> dict[str, list[str]]:
    """Split -> CSV files."""
    return by_split(n for n in place.few(place.own(".csv")) if columns_of(place, n))


def splits(place: Place) -> list[str]:
    return sorted(split for split in files(place) if split)


def annotation_names(place: Place) -> list[str]:
    """Every text file that describes the set."""
    names = [name for names in files(place).values() for name in names]
    return [*names, *([] if place.named else place.called("classes.csv"))]


def read(place: Place, split: str | None, builder: Builder) -> Table:
    """The images of a split, or of all of them."""
    found = files(place)
    names = [n for one in found.values() for n in one] if split is None else found[split]
    classes: dict[str, int] = {}
    for name in names:
        columns = columns_of(place, name)
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
    for n, row in rows_of(path, columns):
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
