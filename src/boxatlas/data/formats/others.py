"""Layouts that are not read: how they are known, so that one who has them is told what to do."""

from __future__ import annotations

import re
from collections.abc import Callable

from boxatlas.data.formats.places import Place

# Datumaro (1.13.12, tried on a set of each) reads these; TFRecord it does only with TensorFlow.
_OF_DATUMARO: dict[str, Callable[[Place, str], bool]] = {
    "MOT": lambda place, name: name.endswith("gt/gt.txt"),
    "WIDER Face": lambda place, name: re.search(r"wider_face_\w+_bbx_gt\.txt$", name) is not None,
    "Datumaro": lambda place, name: _holds(place, name, "items", "categories"),
}
_UNKNOWN: dict[str, Callable[[Place, str], bool]] = {
    "TFRecord": lambda place, name: ".tfrecord" in name,
    "CrowdHuman": lambda place, name: name.endswith(".odgt"),
    "Supervisely": lambda place, name: _holds(place, name, "size", "objects"),
}


def _holds(place: Place, name: str, *keys: str) -> bool:
    if not name.endswith(".json"):
        return False
    kind, value, _ = place.document(name)
    return kind == "object" and all(key in value for key in keys)


def hint(place: Place) -> str:
    """What a folder looks like that is of no layout that is read, "" where nothing is known."""
    names = list(place.few(place.files, 8))
    for layout, is_like in _OF_DATUMARO.items():
        if any(is_like(place, name) for name in names):
            which = "DIR/SEQUENCE -if mot_seq" if layout == "MOT" else "DIR"
            return (
                f"it looks like {layout}, which Datumaro converts: "
                f"datum convert -i {which} -f coco -o OUT -- --save-media"
            )
    for layout, is_like in _UNKNOWN.items():
        if any(is_like(place, name) for name in names):
            return f"it looks like {layout}; export it as COCO, VOC or YOLO"
    strange = [name for name in names if name.endswith((".json", ".xml", ".csv", ".txt"))]
    return f"{strange[0]} is of none of them" if strange else ""
