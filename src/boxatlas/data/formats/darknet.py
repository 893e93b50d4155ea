"""Darknet: a .data file that names lists of images, their classes and, for a tree, maps.

    classes   = 20
    train     = train.txt      # one image a line; its labels lie beside it, as in the YOLO layout
    valid     = val.txt
    names     = voc.names      # one class a line, or `labels`: WordNet ids
    map       = inet9k.map     # the node of the tree that each class of a box of `valid` is
    train_map = coco9k.map     # the same of `train`; ours: Darknet has it in the cfg, as `map`

A line `class 0 0 0 0` says what an image shows without a box. Its class is not mapped. Files are
looked for beside the .data file, in the folder above it (as in Darknet's own checkout) and, where
a name is absolute, there.
"""

from __future__ import annotations

import re
from pathlib import Path

from boxatlas.data.formats import yolo
from boxatlas.data.formats.building import Builder, lines_of, read_text, sizes_of
from boxatlas.data.formats.places import Place, Seen, per_place
from boxatlas.data.table import Table
from boxatlas.errors import InputError, nearest

FIELD = yolo.FIELD
_SPLITS = {"train": "train", "valid": "val", "val": "val", "test": "test"}
_MAPS = {"train": "train_map", "val": "map", "test": "map"}  # the option that maps a split's boxes


def evidence(place: Place) -> Seen | None:
    path = _file(place)
    if path is None:
        return None
    sure = any(
        re.search(r"^\s*(train|valid|names|classes)\s*=", place.head(n), re.M)
        for n in _files(place)
    )
    return Seen(f"{place.relative(path)} is a .data file of Darknet's", sure)


@per_place
def _files(place: Place) -> list[str]:
    """The .data files nearest to the top."""
    found = place.own(".data")
    least = min((name.count("/") for name in found), default=0)
    return [name for name in found if name.count("/") == least]


def _file(place: Place) -> Path | None:
    """The .data file: given itself, or the only one of a folder."""
    found = _files(place)
    return place.path(found[0]) if len(found) == 1 else None


def describe(place: Place) -> dict[str, str]:
    """The options of the .data file. Raises InputError naming the line that is none."""
    path = _file(place)
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


def splits(place: Place) -> list[str]:
    return sorted({_SPLITS[key] for key in describe(place) if key in _SPLITS})


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


def _near(place: Place, name: str, field: str) -> Path:
    """A file that the .data file names: beside it, above it, or the only one below that ends so."""
    path = _file(place)
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


def _classes(place: Place, options: dict[str, str]) -> list[str]:
    """The names of the classes; of a tree's words the ids, as the words are not all different."""
    path = _file(place)
    tree = "labels" in options and any(key in options for key in _MAPS.values())
    key = "labels" if tree else "names"
    if key not in options:
        raise InputError("says no names", file=path, field="names", hint=nearest("names", options))
    names = read_names(_near(place, options[key], key))
    stated = options.get("classes", str(len(names)))
    if stated != str(len(names)):
        raise InputError(
            f"{options[key]} holds {len(names)} names", file=path, field="classes", value=stated
        )
    return names


def _nodes(place: Place, options: dict[str, str], key: str, names: list[str]) -> list[int] | None:
    """The node of each class of a box in a list, or None: classes are nodes."""
    field = _MAPS[_SPLITS[key]]
    if field not in options:
        return None
    file = _near(place, options[field], field)
    nodes = []
    for n, line in enumerate(read_text(file).split(), 1):
        if not line.isdigit() or int(line) >= len(names):
            raise InputError(
                f"is none of the {len(names)} classes", file=file, field=f"line {n}", value=line
            )
        nodes.append(int(line))
    return nodes


def read(place: Place, split: str | None, builder: Builder) -> Table:
    """The images of a split, or of all of them.

    Raises InputError for boxes of `train` where only `map` is given: whose classes they are is not
    known.
    """
    options = describe(place)
    names = _classes(place, options)
    for key, value in options.items():
        if key in _SPLITS and split in (None, _SPLITS[key]):
            _read_list(place, options, key, _images(place, value, key), names, builder)
    return builder.table(names)


def _read_list(
    place: Place,
    options: dict[str, str],
    key: str,
    images: list[Path],
    names: list[str],
    builder: Builder,
) -> None:
    """Add the images of one list."""
    nodes = _nodes(place, options, key, names)
    boxed = names if nodes is None else [names[node] for node in nodes]
    unknown = nodes is None and any(other in options for other in _MAPS.values())
    for image, size in zip(images, sizes_of(images), strict=True):
        if isinstance(size, InputError):
            builder.refuse(size)
            continue
        label = label_of(image)
        lines = read_text(label).split("\n") if label.is_file() else []
        alone = _label_alone(lines, label, names)
        builder.image(image, image.stem, size, label, -1 if alone is None else alone)
        if alone is not None or not any(line.strip() for line in lines):
            continue
        if unknown:
            field = _MAPS[_SPLITS[key]]
            raise InputError(
                f"{label} holds boxes, and no {field} says which words their classes are",
                file=_file(place),
                field=key,
                value=options[key],
                hint="Darknet maps `valid` by `map`, `train` by the cfg's: name that as train_map",
            )
        yolo.add_objects(builder, label, size, boxed, nodes)


def _images(place: Place, name: str, field: str) -> list[Path]:
    """The images of a list, wherever it was written: names that lead nowhere mean the only image
    below whose path ends as they do."""
    file = _near(place, name, field)
    found = []
    for line in lines_of(file):
        path = Path(line)
        tries = [path] if path.is_absolute() else [file.parent / path, file.parent.parent / path]
        here = next((one for one in tries if one.is_file()), None)
        ends = [] if here is not None else place.ends(line.replace("\\", "/"))
        found.append(here or (place.path(ends[0]) if len(ends) == 1 else tries[0]))
    return found


def label_of(image: Path) -> Path:
    """Where an image's labels lie: the last folder named images or JPEGImages becomes labels."""
    parts = list(image.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] in ("images", "JPEGImages"):
            label = Path(*parts[:i], "labels", *parts[i + 1 :]).with_suffix(".txt")
            beside = image.with_suffix(".txt")
            return beside if beside.is_file() and not label.is_file() else label
    return image.with_suffix(".txt")


def _label_alone(lines: list[str], file: Path, names: list[str]) -> int | None:
    """The class that a file says of an image as a whole, or None."""
    for n, line in enumerate(lines, 1):
        parts = line.split()
        if len(parts) == 5 and all(_zero(part) for part in parts[1:]):
            if not parts[0].isdigit() or int(parts[0]) >= len(names):
                raise InputError(
                    f"no such class (there are {len(names)})",
                    file=file,
                    field=f"line {n}",
                    value=parts[0],
                )
            return int(parts[0])
    return None


def _zero(text: str) -> bool:
    try:
        return float(text) == 0
    except ValueError:
        return False


def annotation_files(place: Place) -> list[Path]:
    """Every text file that describes the set."""
    options = describe(place)
    path = _file(place)
    assert path is not None
    keys = [key for key in options if key in _SPLITS]
    lists = [_near(place, options[key], key) for key in keys]
    images = [image for key in keys for image in _images(place, options[key], key)]
    labels = {label_of(image) for image in images}
    return [path, *lists, *sorted(label for label in labels if label.is_file())]
