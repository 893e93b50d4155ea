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
from collections.abc import Callable
from pathlib import Path

from boxatlas.data.formats import yolo_labels
from boxatlas.data.formats.building import Builder, read_text, sizes_of
from boxatlas.data.formats.darknet_data import (
    MAPS,
    SPLITS,
    classes_of,
    data_file,
    data_files,
    describe,
    near,
    nodes_of,
)
from boxatlas.data.formats.darknet_labels import label_alone, label_of
from boxatlas.data.formats.places import Place, Seen
from boxatlas.data.table import Table
from boxatlas.errors import InputError

FIELD = "line {}"


def evidence(place: Place) -> Seen | None:
    path = data_file(place)
    if path is None:
        return None
    sure = any(
        re.search(r"^\s*(train|valid|names|classes)\s*=", place.head(n), re.M)
        for n in data_files(place)
    )
    return Seen(f"{place.relative(path)} is a .data file of Darknet's", sure)


def splits(place: Place) -> list[str]:
    return sorted({SPLITS[key] for key in describe(place) if key in SPLITS})


def read(place: Place, split: str | None, builder: Builder) -> Table:
    """The images of a split, or of all of them.

    Raises InputError for boxes of `train` where only `map` is given: whose classes they are is not
    known.
    """
    options = describe(place)
    names = classes_of(place, options)
    for key, value in options.items():
        if key in SPLITS and split in (None, SPLITS[key]):
            _read_list(
                place, options, key, _images(place, value, key, builder.refuse), names, builder
            )
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
    nodes = nodes_of(place, options, key, names)
    boxed = names if nodes is None else [names[node] for node in nodes]
    unknown = nodes is None and any(other in options for other in MAPS.values())
    for image, size in zip(images, sizes_of(images), strict=True):
        if isinstance(size, InputError):
            builder.refuse(size)
            continue
        label = label_of(image)
        lines = read_text(label).split("\n") if label.is_file() else []
        alone = label_alone(lines, label, names)
        builder.image(image, image.stem, size, label, -1 if alone is None else alone)
        if alone is not None or not any(line.strip() for line in lines):
            continue
        if unknown:
            field = MAPS[SPLITS[key]]
            raise InputError(
                f"{label} holds boxes, and no {field} says which words their classes are",
                file=data_file(place),
                field=key,
                value=options[key],
                hint="Darknet maps `valid` by `map`, `train` by the cfg's: name that as train_map",
            )
        yolo_labels.add_objects(builder, label, size, boxed, nodes)


def _nothing(error: InputError) -> None:
    """What is wrong is said where the set is read."""


def _images(
    place: Place, name: str, field: str, refuse: Callable[[InputError], None]
) -> list[Path]:
    """The images of a list, wherever it was written: names that lead nowhere mean the only image
    below whose path ends as they do."""
    file = near(place, name, field)
    found = []
    for n, line in enumerate(map(str.strip, read_text(file).split("\n")), 1):
        if not line:
            continue
        path = Path(line)
        tries = [path] if path.is_absolute() else [file.parent / path, file.parent.parent / path]
        here = next((one for one in tries if one.is_file()), None)
        ends = [] if here is not None else place.ends(line.replace("\\", "/"))
        if here is not None or len(ends) == 1:
            found.append(here or place.path(ends[0]))
        else:
            error = InputError("the image is missing", file=file, field=f"line {n}", value=line)
            refuse(error)
    return found


def annotation_names(place: Place) -> list[str]:
    """Every text file that describes the set."""
    options = describe(place)
    path = data_file(place)
    assert path is not None
    keys = [key for key in options if key in SPLITS]
    lists = [near(place, options[key], key) for key in keys]
    images = [image for key in keys for image in _images(place, options[key], key, _nothing)]
    labels = sorted({label for label in map(label_of, images) if label.is_file()})
    return [place.relative(file) for file in (path, *lists, *labels)]
