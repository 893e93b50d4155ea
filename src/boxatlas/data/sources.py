"""Tables of what is in memory, and tables as DataFrames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from boxatlas.data.formats.building import Builder, number, stated_size
from boxatlas.data.formats.csv_boxes import COLUMNS
from boxatlas.data.table import Table
from boxatlas.errors import InputError, nearest

_PATH = (*COLUMNS["image"], "path")
_SIDES = ("x1", "y1", "x2", "y2")
Thing = tuple[Sequence[float], Any, bool]  # corners, class (a name or a number), ignored
Picture = tuple[str, tuple[Any, Any], list[Thing]]  # path, (height, width) or Nones, objects


def table_of(source: Any, classes: Sequence[str] | None = None) -> Table:
    """A table of one of these; boxes are x1, y1, x2, y2 in pixels of the upright image.

    - a pandas DataFrame, a row an object: `path`, `class` and four corners in columns of the names
      that CSV files have (also `width`, `height`, `ignore`); a row without class and corners is an
      image without objects;
    - dictionaries, an image each: `path`, `boxes` [m, 4], `labels` [m], and if known `ignore`,
      `height`, `width`;
    - a data set as torchvision has them: its CocoDetection and VOCDetection, or any that gives
      (image, target) with `boxes` and `labels`, if target has `path` or the image its file name.

    Labels are names, or numbers into `classes`. Raises InputError naming the row and the field.
    """
    builder = Builder()
    names = {name: i for i, name in enumerate(classes or ())}
    given = classes is not None
    for row, (path, (height, width), things) in enumerate(_pictures(source)):
        where = Path(type(source).__name__)
        size = stated_size(height, width, where, f"[{row}].", number)
        builder.image(Path(path), Path(path).stem, size, where)
        for k, (box, kind, ignore) in enumerate(things):
            field = f"[{row}].boxes[{k}]"
            if len(box) != 4:
                raise InputError("a box is x1, y1, x2, y2", file=where, field=field, value=box)
            x1, y1, x2, y2 = (number(v, where, field) for v in box)
            label = _label(kind, names, given, classes, where, f"[{row}].labels[{k}]")
            builder.add((x1, y1, x2, y2), label, k, ignore=ignore)
    table = builder.table(list(names))
    if len(table) == 0:
        raise InputError("holds no image", field="source", value=type(source).__name__)
    return table if given else table.relabelled(sorted(names, key=_order))


def _order(name: str) -> tuple[bool, int, str]:
    digits = name.removeprefix("class")
    return (not digits.isdecimal(), int(digits) if digits.isdecimal() else 0, name)


def _label(
    kind: Any,
    names: dict[str, int],
    given: bool,
    classes: Sequence[str] | None,
    where: Path,
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
    from boxatlas.data.formats import voc

    for path, file in zip(source.images, source.annotations, strict=True):
        root = voc.parse(Path(file))
        things: list[Thing] = []
        for i, thing in enumerate(root.iter("object")):
            kind = (thing.findtext("name") or "").strip()
            hard = bool(voc.flag(Builder(), thing, Path(file), i, "difficult"))
            things.append((voc.box_of(thing, Path(file), i), kind, hard))
        yield str(path), (root.findtext("size/height"), root.findtext("size/width")), things


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


def dataframe_of(table: Table) -> Any:
    """See `Table.to_dataframe`."""
    try:
        import pandas  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise InputError(
            "pandas is not installed", field="to_dataframe", hint="pip install 'boxatlas[pandas]'"
        ) from None
    rows = np.flatnonzero(table.counts == 0)
    owner = np.concatenate([table.image_of, rows])
    order = np.argsort(owner, kind="stable")
    owner, none = owner[order], len(rows)
    nothing = np.full((none, 4), np.nan, np.float32)
    boxes = np.concatenate([table.boxes, nothing])[order]
    kinds = [*(table.classes[k] for k in table.labels), *[None] * none]
    ignore = np.concatenate([table.ignore, np.zeros(none, bool)])[order]
    return pandas.DataFrame(
        {
            "path": [table.paths[i] for i in owner],
            "width": table.sizes[owner, 1],
            "height": table.sizes[owner, 0],
            "class": [kinds[k] for k in order],
            **{side: boxes[:, k] for k, side in enumerate(_SIDES)},
            "ignore": ignore,
        }
    )
