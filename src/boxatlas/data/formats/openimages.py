"""Open Images: SPLIT-annotations-bbox.csv; edges as fractions of the image, classes as codes whose
names another CSV file has. A box around a group of objects is ignored, as COCO's crowds are.

Images that were not downloaded are left out and counted: few people have all of them.
"""

from __future__ import annotations

from pathlib import Path

from boxatlas.data.formats.building import Builder, number, sizes_of
from boxatlas.data.formats.csv_rows import lines_of_csv
from boxatlas.data.formats.places import Place, Seen, by_split, per_place
from boxatlas.data.table import Table
from boxatlas.errors import InputError

CORNERS = True
FIELD = "line {}"
_COLUMNS = {"ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax"}


def evidence(place: Place) -> Seen | None:
    name = next((n for names in files(place).values() for n in names), None)
    return None if name is None else Seen(f"{name} has the columns of Open Images' boxes")


@per_place
def files(place: Place) -> dict[str, list[str]]:
    """Split -> CSV files."""
    return by_split(n for n in place.few(place.own(".csv")) if _is_mine(place, n))


def _is_mine(place: Place, name: str) -> bool:
    return set(place.head(name).partition("\n")[0].strip().split(",")) >= _COLUMNS


def splits(place: Place) -> list[str]:
    return sorted(split for split in files(place) if split)


def annotation_names(place: Place) -> list[str]:
    """Every text file that describes the set."""
    names = [name for names in files(place).values() for name in names]
    return [*names, *_name_files(place)]


def _name_files(place: Place) -> list[str]:
    return [n for n in place.files if "class-descriptions" in n and n.endswith(".csv")]


def _names(place: Place) -> dict[str, str]:
    """Code -> name of a class."""
    found = {}
    for name in _name_files(place):
        rows = (row for _, row in lines_of_csv(place.path(name)))
        found |= {row[0]: row[1].strip() for row in rows if len(row) >= 2}
    return found


def read(place: Place, split: str | None, builder: Builder) -> Table:
    """The images of a split, or of all of them."""
    found = files(place)
    parts = found if split is None else {split: found[split]}
    classes: dict[str, int] = {}
    names = _names(place)
    absent: set[str] = set()
    for part, listed in parts.items():
        images: dict[str, int] = {}
        for name in listed:
            _file(place, place.path(name), part, builder, classes, names, images, absent)
    if absent:
        builder.notes.append(f"{len(absent)} images are listed and not there; they are left out")
    _to_pixels(builder)
    return builder.table(list(classes)).relabelled(sorted(classes))


def _file(
    place: Place,
    path: Path,
    split: str,
    builder: Builder,
    classes: dict[str, int],
    names: dict[str, str],
    images: dict[str, int],
    absent: set[str],
) -> None:
    lines = lines_of_csv(path)
    at = {column.strip(): k for k, column in enumerate(next(lines, (0, []))[1])}
    if not at.keys() >= _COLUMNS:
        raise InputError("lacks columns of boxes", file=path, field="line 1", value=[*at])
    edges = [at[column] for column in ("XMin", "YMin", "XMax", "YMax")]
    key, kind = at["ImageID"], at["LabelName"]
    group, cut = at.get("IsGroupOf"), at.get("IsTruncated")
    for n, row in lines:
        field = FIELD.format(n)
        try:
            if len(row) < len(at):
                problem = f"holds {len(row)} values, not {len(at)}"
                raise InputError(problem, file=path, field=field, value=",".join(row))
            i = _image(place, row[key], split, path, builder, images, absent)
            if i < 0:
                continue
            x1, y1, x2, y2 = (number(row[k], path, field) for k in edges)
            label = names.get(row[kind], row[kind])
            builder.add(
                (x1, y1, x2, y2),
                classes.setdefault(label, len(classes)),
                n,
                image=i,
                ignore=group is not None and row[group] == "1",
                truncated=None if cut is None else row[cut] == "1",
            )
        except InputError as error:
            builder.refuse(error)


def _image(
    place: Place,
    id_: str,
    split: str,
    path: Path,
    builder: Builder,
    images: dict[str, int],
    absent: set[str],
) -> int:
    """The number of an image, begun where it is new; -1 where it is not there."""
    if id_ in images:
        return images[id_]
    found = place.by_bare_stem.get(id_, [])
    own = [name for name in found if not split or f"/{name}".find(f"/{split}") >= 0] or found
    if len(own) != 1:
        absent.add(id_)
        images[id_] = -1
        return -1
    image = place.path(own[0])
    (size,) = sizes_of([image])
    if isinstance(size, InputError):
        images[id_] = -1
        raise size
    builder.image(image, id_, size, path)
    images[id_] = len(builder.paths) - 1
    return images[id_]


def _to_pixels(builder: Builder) -> None:
    """The edges, which were taken in as fractions."""
    for row, owner in enumerate(builder.owners):
        height, width = builder.sizes[owner]
        for k, side in enumerate((width, height, width, height)):
            builder.boxes[4 * row + k] *= side
