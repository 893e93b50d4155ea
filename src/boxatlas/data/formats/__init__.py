"""Data sets as people have them: which layout a folder is in, and reading it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from boxatlas.data import cache
from boxatlas.data.formats import coco, darknet, fiftyone, folders, labelstudio, voc, yolo
from boxatlas.data.formats.building import Builder
from boxatlas.data.table import Table
from boxatlas.errors import InputError, nearest

FORMATS: dict[str, ModuleType] = {
    "voc": voc,
    "coco": coco,
    "darknet": darknet,
    "yolo": yolo,
    "fiftyone": fiftyone,
    "labelstudio": labelstudio,
    "folders": folders,
}
WRITABLE = tuple(name for name in FORMATS if name != "folders")  # the layouts that hold boxes


def detect_format(folder: Path) -> str:
    """The layout of a folder, found by looking. Raises InputError where it is none of ours."""
    if not folder.exists():
        raise InputError("no such folder", file=folder)
    if folder.is_file() and darknet.looks_like(folder):
        return "darknet"
    if not folder.is_dir():
        raise InputError("is a file, not the folder of a data set", file=folder)
    for name, module in FORMATS.items():
        if module.looks_like(folder):
            return name
    strange = [path.name for path in sorted(folder.glob("*.json"))[:1]]
    raise InputError(
        "holds no data set: neither VOC (Annotations/*.xml), COCO (annotations/*.json), YOLO "
        "(data.yaml or labels/), FiftyOne (labels.json), Label Studio (tasks.json), Darknet "
        "(.data) nor a folder for each class",
        file=folder,
        hint="; ".join(
            [*(f"{name} is of none of them" for name in strange), "--format names the layout"]
        ),
    )


def module_of(folder: Path, format: str | None) -> ModuleType:
    """The layout named, or the one found. Raises InputError for an unknown one, or no folder."""
    if format is not None and format not in FORMATS:
        raise InputError(
            "no such layout", field="format", value=format, hint=nearest(format, FORMATS)
        )
    if format is not None and not folder.is_dir() and not darknet.looks_like(folder):
        raise InputError("no such folder", file=folder)
    return FORMATS[format or detect_format(folder)]


def splits(folder: str | Path, format: str | None = None) -> list[str]:
    """The names of a data set's splits; empty where it has none."""
    folder = Path(folder)
    return module_of(folder, format).splits(folder)


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


def read_splits(folder: str | Path, format: str | None = None) -> dict[str, Table]:
    """A table for each split of a set; one table named "" where it has none.

    VOC's lists may overlap (trainval), so its annotations are read once.
    """
    folder = Path(folder)
    module = module_of(folder, format)
    names = module.splits(folder)
    if not names:
        return {"": read(folder, None, format)}
    if module is not voc:
        return {name: read(folder, name, format) for name in names}
    table = read(folder, None, format)
    row = {id_: i for i, id_ in enumerate(table.ids)}
    found = {}
    for name in names:
        members = voc.members(folder, name)
        for id_ in members:
            if id_ not in row:
                raise InputError(
                    "an image that has no annotation",
                    file=folder / "ImageSets" / "Main" / f"{name}.txt",
                    field="name",
                    value=id_,
                )
        found[name] = table.select([row[id_] for id_ in members])
    return found


def _read_one(folder: Path, split: str | None, format: str | None) -> Table:
    module = module_of(folder, format)
    known = module.splits(folder)
    if split is not None and known and split not in known:
        raise InputError(
            "no such split", file=folder, field="split", value=split, hint=nearest(split, known)
        )
    if split is not None and not known:
        raise InputError(
            "this data set has no splits",
            file=folder,
            field="split",
            value=split,
            hint="`boxatlas data split` makes them; without a split all images are meant",
        )
    key = cache.key_of(folder, module, split)
    table = cache.load(key, folder) if key else None
    if table is None:
        builder = Builder()
        table = module.read(folder, split, builder)
        if key and not builder.headers:
            cache.save(key, folder, table)
    if len(table) == 0:
        raise InputError("the data set holds no image", file=folder, field="split", value=split)
    return table
