"""FiftyOne's files: labels.json beside data/ (its FiftyOneImageDetectionDataset), and samples.json.

A box is left, top, width, height as fractions of the image. labels.json names each image by its
path in data/ without suffix; a set with splits has a folder for each. samples.json (its
FiftyOneDataset) holds samples whose tags name the split; masks are compressed arrays of the box.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from boxatlas.data.formats import json_stream
from boxatlas.data.formats.building import (
    Builder,
    above_zero,
    sizes_of,
    stated_size,
)
from boxatlas.data.formats.fiftyone_detections import add_detections
from boxatlas.data.formats.places import SPLIT_NAMES, Place, Seen, per_place, split_name
from boxatlas.data.table import Table
from boxatlas.errors import InputError

FIELD = "detections[{}]"
OF_IMAGE = True  # objects are numbered anew for each image of a file


def evidence(place: Place) -> Seen | None:
    for name in _label_files(place).values():
        return Seen(f"{name} holds the classes and labels of FiftyOne's")
    name = _samples_file(place)
    return None if name is None else Seen(f"{name} holds samples of FiftyOne's")


def splits(place: Place) -> list[str]:
    found = _label_files(place)
    if found:
        return sorted(name for name in found if name)
    samples = _samples_file(place)
    tags = {_split_of(s) for _, s in _samples(place.path(samples))} if samples else set()
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


@per_place
def _samples_file(place: Place) -> str | None:
    for name in place.own(".json"):
        if name.rpartition("/")[2] == "samples.json" or place.named is not None:
            kind, value, whole = place.document(name)
            if kind == "object" and ("samples" in value or (not whole and not value)):
                return name
    return None


def annotation_names(place: Place) -> list[str]:
    """Every text file that describes the set."""
    samples = _samples_file(place)
    return list(_label_files(place).values()) or ([samples] if samples else [])


def read(place: Place, split: str | None, builder: Builder) -> Table:
    """The images of a split, or of all of them."""
    classes: dict[str, int] = {}
    found, samples = _label_files(place), _samples_file(place)
    if not found and samples is None:
        raise InputError("holds neither labels.json nor samples.json", file=place.given)
    if not found and samples is not None:
        _read_samples(place, samples, split, builder, classes)
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


def _read_samples(
    place: Place, file: str, split: str | None, builder: Builder, classes: dict[str, int]
) -> None:
    path, parent = place.path(file), file.rpartition("/")[0]
    for i, sample in _samples(path):
        if split is not None and _split_of(sample) != split:
            continue
        field, name = f"samples[{i}]", sample.get("filepath")
        try:
            if not isinstance(name, str):
                raise InputError(
                    "is not the path of an image", file=path, field=f"{field}.filepath", value=name
                )
            image = place.image(name, path, f"{field}.filepath", (parent, ""))
            data = sample.get("metadata")
            data = data if isinstance(data, dict) else {}
            size = stated_size(data.get("height"), data.get("width"), path, f"{field}.metadata.")
            size = above_zero(size) or sizes_of([image])[0]
            if isinstance(size, InputError):
                raise InputError(
                    "the image is missing or cannot be read",
                    file=path,
                    field=f"{field}.filepath",
                    value=name,
                )
            builder.image(image, str(Path(name).with_suffix("")), size, path)
            add_detections(builder, _detections(sample), path, field, classes, [])
        except InputError as error:
            builder.refuse(error)


def _samples(path: Path) -> list[tuple[int, dict[str, Any]]]:
    return [
        (i, value)
        for key, i, value in json_stream.members(path)
        if key == "samples" and i is not None and i >= 0 and isinstance(value, dict)
    ]


def _split_of(sample: dict[str, Any]) -> str | None:
    tags = sample.get("tags")
    for tag in tags if isinstance(tags, list) else []:
        if isinstance(tag, str) and tag.lower() in SPLIT_NAMES:
            return SPLIT_NAMES[tag.lower()]
    return None


def _detections(sample: dict[str, Any]) -> Any:
    """`ground_truth`, or the only field that holds detections."""
    fields = [
        v
        for k, v in sorted(sample.items(), key=lambda item: item[0] != "ground_truth")
        if isinstance(v, dict) and v.get("_cls") == "Detections"
    ]
    return fields[0].get("detections") if fields else []
