"""FiftyOne's files: labels.json beside data/ (its FiftyOneImageDetectionDataset), and samples.json.

A box is left, top, width, height as fractions of the image. labels.json names each image by its
path in data/ without suffix; a set with splits has a folder for each. samples.json (its
FiftyOneDataset) holds samples whose tags name the split; masks are compressed arrays of the box.
"""

from __future__ import annotations

from typing import Any

from boxatlas.data.formats import json_stream
from boxatlas.data.formats.building import (
    Builder,
    sizes_of,
)
from boxatlas.data.formats.fiftyone_detections import add_detections
from boxatlas.data.formats.fiftyone_samples import (
    read_samples,
    samples_file,
    samples_of,
    split_of_sample,
)
from boxatlas.data.formats.places import Place, Seen, per_place, split_name
from boxatlas.data.table import Table
from boxatlas.errors import InputError

FIELD = "detections[{}]"
OF_IMAGE = True  # objects are numbered anew for each image of a file


def evidence(place: Place) -> Seen | None:
    for name in _label_files(place).values():
        return Seen(f"{name} holds the classes and labels of FiftyOne's")
    name = samples_file(place)
    return None if name is None else Seen(f"{name} holds samples of FiftyOne's")


def splits(place: Place) -> list[str]:
    found = _label_files(place)
    if found:
        return sorted(name for name in found if name)
    samples = samples_file(place)
    tags = {split_of_sample(s) for _, s in samples_of(place.path(samples))} if samples else set()
    return sorted(tag for tag in tags if tag)


@per_place
def _label_files(place: Place) -> dict[str, str]:
    """Split ("" where there are none) -> labels.json."""
    found: dict[str, str] = {}
    for name in place.own(".json"):
        bare = name.rpartition("/")[2]
        if bare != "labels.json" and place.named is None:
            continue
        kind, value, whole = place.document(name)
        if kind == "object" and ("labels" in value or (not whole and _maybe(value))):
            found[split_name(name.split("/")[-2]) if "/" in name else ""] = name
    return found


def _maybe(value: dict[str, Any]) -> bool:
    """Of a file that cannot be read to its end: whether nothing in it speaks against it."""
    return value.keys() <= {"classes", "labels", "info"}


def annotation_names(place: Place) -> list[str]:
    """Every text file that describes the set."""
    samples = samples_file(place)
    return list(_label_files(place).values()) or ([samples] if samples else [])


def read(place: Place, split: str | None, builder: Builder) -> Table:
    """The images of a split, or of all of them."""
    classes: dict[str, int] = {}
    found, samples = _label_files(place), samples_file(place)
    if not found and samples is None:
        raise InputError("holds neither labels.json nor samples.json", file=place.given)
    if not found and samples is not None:
        read_samples(place, samples, split, builder, classes)
    for name, file in found.items():
        if split is None or name == split:
            _read_labels(place, file, builder, classes)
    table = builder.table(list(classes))
    return table if found else table.relabelled(sorted(classes))


def _read_labels(place: Place, file: str, builder: Builder, classes: dict[str, int]) -> None:
    path = place.path(file)
    names, labels = list[Any](), None
    for key, i, value in json_stream.members(path):
        if key == "classes" and i is not None and i >= 0:
            names.append(value)
        elif key == "labels" and i is None:
            labels = value
    if not isinstance(labels, dict):
        raise InputError("must map images to detections", file=path, field="labels", value=labels)
    for i, name in enumerate(names):
        if not isinstance(name, str) or (name in names[:i]):
            raise InputError(
                "class names are texts, each once", file=path, field=f"classes[{i}]", value=name
            )
        classes.setdefault(name, len(classes))
    data = f"{file.rpartition('/')[0]}/data/".removeprefix("/")
    images = {
        stem.removeprefix(data): place.path(image)
        for stem, image in place.by_stem.items()
        if stem.startswith(data)
    }
    known = [name for name in labels if name in images]
    sizes = dict(zip(known, sizes_of([images[n] for n in known]), strict=True))
    for name, things in labels.items():
        field = f"labels[{name}]"
        size = sizes.get(name, InputError("the image is missing", file=path, field=field))
        if isinstance(size, InputError):
            builder.refuse(size)
            continue
        builder.image(images[name], name, size, path)
        add_detections(builder, things, path, field, classes, names)
