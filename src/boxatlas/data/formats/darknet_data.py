"""Darknet's .data file: its options, and the files that they name."""

from __future__ import annotations

from pathlib import Path

from boxatlas.data.formats.building import read_text
from boxatlas.data.formats.places import Place, per_place
from boxatlas.errors import InputError, nearest

SPLITS = {"train": "train", "valid": "val", "val": "val", "test": "test"}
MAPS = {"train": "train_map", "val": "map", "test": "map"}  # the option that maps a split's boxes


@per_place
def data_files(place: Place) -> list[str]:
    """The .data files nearest to the top."""
    found = place.own(".data")
    least = min((name.count("/") for name in found), default=0)
    return [name for name in found if name.count("/") == least]


def data_file(place: Place) -> Path | None:
    """The .data file: given itself, or the only one of a folder."""
    found = data_files(place)
    return place.path(found[0]) if len(found) == 1 else None


def describe(place: Place) -> dict[str, str]:
    """The options of the .data file. Raises InputError naming the line that is none."""
    path = data_file(place)
    if path is None:
        raise InputError(
            "holds no .data file, or several", file=place.given, hint="name the .data file itself"
        )
    options = {}
    for n, raw in enumerate(read_text(path).splitlines(), 1):
        line = raw.split("#")[0].strip()
        if not line or line.startswith(";"):
            continue
        key, equals, value = line.partition("=")
        if not equals or not key.strip():
            raise InputError("must be: key = value", file=path, field=f"line {n}", value=raw)
        options[key.strip()] = value.strip()
    return options


def near(place: Place, name: str, field: str) -> Path:
    """A file that the .data file names: beside it, above it, or the only one below that ends so."""
    path = data_file(place)
    assert path is not None
    tries = [path.parent / name, path.parent.parent / name]
    for one in tries:
        if one.is_file():
            return one
    found = place.ends(name.replace("\\", "/"))
    if len(found) == 1:
        return place.path(found[0])
    raise InputError(
        "no such file",
        file=path,
        field=field,
        value=name,
        hint=f"looked at {tries[0]} and {tries[1]}",
    )


def read_names(path: str | Path) -> list[str]:
    """A .names file: one class a line. Raises InputError where it is missing or names are equal."""
    path = Path(path)
    names = [line.strip() for line in read_text(path).splitlines()]
    while names and not names[-1]:
        names.pop()
    seen: set[str] = set()
    for n, name in enumerate(names, 1):
        if not name or name in seen:
            raise InputError(
                "two classes of one name" if name else "an empty name",
                file=path,
                field=f"line {n}",
                value=name,
            )
        seen.add(name)
    return names


def classes_of(place: Place, options: dict[str, str]) -> list[str]:
    """The names of the classes; of a tree's words the ids, as the words are not all different."""
    path = data_file(place)
    tree = "labels" in options and any(key in options for key in MAPS.values())
    key = "labels" if tree else "names"
    if key not in options:
        raise InputError("says no names", file=path, field="names", hint=nearest("names", options))
    names = read_names(near(place, options[key], key))
    stated = options.get("classes", str(len(names)))
    if stated != str(len(names)):
        raise InputError(
            f"{options[key]} holds {len(names)} names", file=path, field="classes", value=stated
        )
    return names


def nodes_of(place: Place, options: dict[str, str], key: str, names: list[str]) -> list[int] | None:
    """The node of each class of a box in a list, or None: classes are nodes."""
    field = MAPS[SPLITS[key]]
    if field not in options:
        return None
    file = near(place, options[field], field)
    nodes = []
    for n, line in enumerate(read_text(file).split(), 1):
        if not line.isdigit() or int(line) >= len(names):
            raise InputError(
                f"is none of the {len(names)} classes", file=file, field=f"line {n}", value=line
            )
        nodes.append(int(line))
    return nodes
