"""What is in memory as a table's columns: DataFrames, dictionaries, torchvision's data sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxatlas.data.numbers import number
from boxatlas.errors import InputError, nearest
from boxatlas.images import size_of

# The names that columns of CSV files and DataFrames have.
COLUMNS = {
    "image": ("filename", "file_name", "image", "image_path", "path", "file", "img", "image_name"),
    "class": ("class", "label", "class_name", "category", "name"),
    "x1": ("xmin", "x1", "x_min"),
    "y1": ("ymin", "y1", "y_min"),
    "x2": ("xmax", "x2", "x_max"),
    "y2": ("ymax", "y2", "y_max"),
}
_PATH = (*COLUMNS["image"], "path")
_SIDES = ("x1", "y1", "x2", "y2")
Thing = tuple[Sequence[float], Any, bool]  # corners, class (a name or a number), ignored
Picture = tuple[str, tuple[Any, Any], list[Thing]]  # path, (height, width) or Nones, objects


@dataclass(frozen=True)
class Found:
    """What a table is made of: see its columns. counts [N]: objects of each image."""

    classes: tuple[str, ...]
    paths: list[str]
    sizes: NDArray[np.int32]
    counts: NDArray[np.int64]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int32]
    ignore: NDArray[np.bool_]


def found_in(source: Any, classes: Sequence[str] | None = None) -> Found:
    """What one of the sources that `Table.of` takes holds."""
    names = {name: i for i, name in enumerate(classes or ())}
    where, given = type(source).__name__, classes is not None
    paths, sizes, counts = list[str](), list[tuple[int, int]](), list[int]()
    boxes, labels, ignore = list[list[float]](), list[int](), list[bool]()
    for row, (path, sides, things) in enumerate(_pictures(source)):
        paths.append(path)
        stated = None not in sides
        values = [int(number(v, where, f"[{row}].size")) for v in sides] if stated else []
        counts.append(len(things))
        for k, (box, kind, flag) in enumerate(things):
            field = f"[{row}].boxes[{k}]"
            if len(box) != 4:
                raise InputError("a box is x1, y1, x2, y2", file=where, field=field, value=box)
            boxes.append([number(v, where, field) for v in box])
            labels.append(_label(kind, names, given, classes, where, f"[{row}].labels[{k}]"))
            ignore.append(flag)
        sizes.append((values[0], values[1]) if stated and min(values) > 0 else size_of(path))
    if not paths:
        raise InputError("holds no image", field="source", value=where)
    order = list(names) if given else sorted(names, key=_order)
    new = np.array([order.index(name) for name in names], np.int32)
    return Found(
        tuple(order),
        paths,
        np.array(sizes, np.int32).reshape(-1, 2),
        np.array(counts, np.int64),
        np.array(boxes, np.float32).reshape(-1, 4),
        new[np.array(labels, np.int64)] if labels else np.zeros(0, np.int32),
        np.array(ignore, bool),
    )


def _order(name: str) -> tuple[bool, int, str]:
    digits = name.removeprefix("class")
    return (not digits.isdecimal(), int(digits) if digits.isdecimal() else 0, name)


def _label(
    kind: Any,
    names: dict[str, int],
    given: bool,
    classes: Sequence[str] | None,
    where: str,
    field: str,
) -> int:
    if not isinstance(kind, str):
        value = number(kind, where, field)
        if value != int(value) or value < 0 or (classes is not None and value >= len(classes)):
            raise InputError("no such class", file=where, field=field, value=kind)
        kind = classes[int(value)] if classes is not None else f"class{int(value)}"
    if given and kind not in names:
        hint = nearest(kind, names)
        raise InputError("no such class", file=where, field=field, value=kind, hint=hint)
    return names.setdefault(kind, len(names))


def _pictures(source: Any) -> Iterator[Picture]:
    if hasattr(source, "columns") and hasattr(source, "to_dict"):
        return _of_rows(source)
    if hasattr(source, "coco") and hasattr(source, "ids"):  # torchvision's CocoDetection
        return _of_coco(source)
    if hasattr(source, "images") and hasattr(source, "annotations"):  # its VOCDetection
        return _of_voc(source)
    return _of_targets(source)


def _of_rows(frame: Any) -> Iterator[Picture]:
    lower = {str(name).lower(): name for name in frame.columns}
    at = {
        part: next((lower[one] for one in choices if one in lower), None)
        for part, choices in COLUMNS.items()
    }
    missing = [part for part, name in at.items() if name is None]
    if missing:
        raise InputError(
            f"needs columns of an image, a class and corners; there is no {', '.join(missing)}",
            file="DataFrame",
            field="columns",
            value=list(frame.columns),
        )
    found: dict[str, Picture] = {}
    for row in frame.to_dict("records"):
        path = str(row[at["image"]])
        size = _known(row.get("height")), _known(row.get("width"))
        _, _, things = found.setdefault(path, (path, size, []))
        kind, corners = _known(row[at["class"]]), [_known(row[at[side]]) for side in _SIDES]
        if kind is not None or any(value is not None for value in corners):
            things.append((corners, kind, bool(_known(row.get("ignore")))))
    return iter(found.values())


def _known(value: Any) -> Any:
    """None for what a DataFrame has where nothing is known."""
    return None if value is None or value != value or value == "" else value


def _of_coco(source: Any) -> Iterator[Picture]:
    names = {id_: kind["name"] for id_, kind in source.coco.cats.items()}
    for id_ in source.ids:
        (image,) = source.coco.loadImgs(id_)
        things: list[Thing] = []
        for thing in source.coco.loadAnns(source.coco.getAnnIds(id_)):
            x, y, w, h = thing["bbox"]
            kind, crowd = names[thing["category_id"]], bool(thing.get("iscrowd"))
            things.append(((x, y, x + w, y + h), kind, crowd))
        size = image.get("height"), image.get("width")
        yield str(Path(source.root) / image["file_name"]), size, things


def _of_voc(source: Any) -> Iterator[Picture]:
    """Corners are counted from 1 there, as in the files."""
    from defusedxml.ElementTree import parse

    for path, file in zip(source.images, source.annotations, strict=True):
        found = source.parse_voc_xml(parse(file).getroot())["annotation"]
        things: list[Thing] = []
        for thing in found.get("object", []):
            x1, y1, x2, y2 = (
                number(thing["bndbox"].get(side), file, f"bndbox.{side}")
                for side in ("xmin", "ymin", "xmax", "ymax")
            )
            hard = thing.get("difficult", "0") == "1"
            things.append(((x1 - 1, y1 - 1, x2, y2), thing["name"], hard))
        size = found.get("size", {})
        yield str(path), (size.get("height"), size.get("width")), things


def _of_targets(source: Any) -> Iterator[Picture]:
    """Dictionaries, or pairs of an image and a dictionary."""
    count = len(source) if hasattr(source, "__len__") else None
    rows = source if count is None else (source[i] for i in range(count))
    for row, one in enumerate(rows):
        image, target = one if isinstance(one, tuple | list) and len(one) == 2 else (None, one)
        if not isinstance(target, Mapping) or "boxes" not in target or "labels" not in target:
            raise InputError(
                "needs `boxes` and `labels`",
                file=type(source).__name__,
                field=f"[{row}]",
                value=list(target) if isinstance(target, Mapping) else type(target).__name__,
            )
        path = next((target[key] for key in _PATH if key in target), None)
        path = path or getattr(image, "filename", None)
        if not path:
            raise InputError(
                "the image's file is not known",
                file=type(source).__name__,
                field=f"[{row}].path",
                hint="images are opened when they are needed: give each target its `path`",
            )
        boxes = np.asarray(target["boxes"], np.float64).reshape(-1, 4).tolist()
        labels = _listed(target["labels"])
        flags = _listed(target.get("ignore", target.get("iscrowd", [False] * len(boxes))))
        if not len(boxes) == len(labels) == len(flags):
            raise InputError(
                f"{len(boxes)} boxes and {len(labels)} labels",
                file=type(source).__name__,
                field=f"[{row}].labels",
            )
        things: list[Thing] = [
            (b, k, bool(f)) for b, k, f in zip(boxes, labels, flags, strict=True)
        ]
        yield str(path), (target.get("height"), target.get("width")), things


def _listed(values: Any) -> list[Any]:
    """A list of an array's, a tensor's or a list's values."""
    return values.tolist() if hasattr(values, "tolist") else list(values)
