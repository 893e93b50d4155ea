"""samples.json of FiftyOne's own form: samples whose tags name the split."""

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
from boxatlas.data.formats.places import SPLIT_NAMES, Place, per_place
from boxatlas.errors import InputError


@per_place
def samples_file(place: Place) -> str | None:
    for name in place.own(".json"):
        if name.rpartition("/")[2] == "samples.json" or place.named is not None:
            kind, value, whole = place.document(name)
            if kind == "object" and ("samples" in value or (not whole and not value)):
                return name
    return None


def read_samples(
    place: Place, file: str, split: str | None, builder: Builder, classes: dict[str, int]
) -> None:
    path, parent = place.path(file), file.rpartition("/")[0]
    for i, sample in samples_of(path):
        if split is not None and split_of_sample(sample) != split:
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


def samples_of(path: Path) -> list[tuple[int, dict[str, Any]]]:
    return [
        (i, value)
        for key, i, value in json_stream.members(path)
        if key == "samples" and i is not None and i >= 0 and isinstance(value, dict)
    ]


def split_of_sample(sample: dict[str, Any]) -> str | None:
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
