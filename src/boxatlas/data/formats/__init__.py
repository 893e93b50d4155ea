"""Data sets as people have them: which layout a folder is in, and reading it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from boxatlas.data.formats import coco, fiftyone, labelstudio, voc, yolo
from boxatlas.data.formats.building import Builder
from boxatlas.data.table import Table
from boxatlas.errors import InputError, nearest

FORMATS: dict[str, ModuleType] = {
    "voc": voc, "coco": coco, "yolo": yolo, "fiftyone": fiftyone, "labelstudio": labelstudio,
}  # fmt: skip


def detect_format(folder: Path) -> str:
    """The layout of a folder, found by looking. Raises InputError where it is none of ours."""
    if not folder.exists():
        raise InputError("no such folder", file=folder)
    if not folder.is_dir():
        raise InputError("is a file, not the folder of a data set", file=folder)
    for name, module in FORMATS.items():
        if module.looks_like(folder):
            return name
    raise InputError(
        "holds no data set: neither VOC (Annotations/*.xml), COCO (annotations/*.json), YOLO "
        "(data.yaml or labels/), FiftyOne (labels.json) nor Label Studio (tasks.json)",
        file=folder, hint="--format names the layout",
    )  # fmt: skip


def _module(folder: Path, format: str | None) -> ModuleType:
    if format is not None and format not in FORMATS:
        raise InputError("no such layout", field="format", value=format,
                         hint=nearest(format, FORMATS))  # fmt: skip
    if format is not None and not folder.is_dir():
        raise InputError("no such folder", file=folder)
    return FORMATS[format or detect_format(folder)]


def splits(folder: str | Path, format: str | None = None) -> list[str]:
    """The names of a data set's splits; empty where it has none."""
    folder = Path(folder)
    return _module(folder, format).splits(folder)


def read(
    folders: str | Path | Sequence[str | Path],
    split: str | None = None,
    format: str | None = None,
) -> Table:
    """One table of one or several data sets; classes are merged by name.

    split: a split's name, found in every folder; None: all images. format: one of FORMATS; None:
    found by looking. Raises InputError naming file, field and value for what is wrong.
    """
    many = [folders] if isinstance(folders, str | Path) else list(folders)
    if not many:
        raise InputError("no data set was given", field="data")
    return Table.join([_read_one(Path(folder), split, format) for folder in many])


def _read_one(folder: Path, split: str | None, format: str | None) -> Table:
    module = _module(folder, format)
    known = module.splits(folder)
    if split is not None and known and split not in known:
        raise InputError("no such split", file=folder, field="split", value=split,
                         hint=nearest(split, known))  # fmt: skip
    table = module.read(folder, split if known else None, Builder())
    if len(table) == 0:
        raise InputError("the data set holds no image", file=folder, field="split", value=split)
    return table
