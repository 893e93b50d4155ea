"""Data sets as people have them: which layout a folder is in, and reading it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from boxatlas.data import cache
from boxatlas.data.formats import (
    bdd100k,
    coco,
    createml,
    csv_boxes,
    cvat,
    darknet,
    fiftyone,
    folders,
    huggingface,
    kitti,
    labelme,
    labelstudio,
    openimages,
    others,
    via,
    visdrone,
    voc,
    voc_files,
    yolo,
    yolo_yaml,
)
from boxatlas.data.formats.building import Builder
from boxatlas.data.formats.places import Place, Seen, split_name
from boxatlas.data.table import Table, unbelievable
from boxatlas.errors import InputError, nearest

FORMATS: dict[str, ModuleType] = {
    "voc": voc,
    "coco": coco,
    "darknet": darknet,
    "yolo": yolo,
    "fiftyone": fiftyone,
    "labelstudio": labelstudio,
    "labelme": labelme,
    "csv": csv_boxes,
    "via": via,
    "cvat": cvat,
    "createml": createml,
    "kitti": kitti,
    "visdrone": visdrone,
    "openimages": openimages,
    "huggingface": huggingface,
    "bdd100k": bdd100k,
    "folders": folders,
}


def evidence(place: Place) -> dict[str, Seen]:
    """Layout -> what speaks for it, of all that a place may be in."""
    seen: dict[str, Seen] = {}
    for name, module in FORMATS.items():
        if name == "folders" and any(found.sure for found in seen.values()):
            break  # folders of images are of that set
        found = module.evidence(place)
        if found is not None:
            seen[name] = found
    return seen


def detect_format(folder: str | Path) -> str:
    """The layout of a folder, or of the file given instead, by what its files hold.

    Raises InputError where it is none of ours, or where it may be several.
    """
    return _detected(_placed(folder))[1]


def _placed(folder: str | Path) -> Place:
    """The place of a folder or a file; of a YAML file the folder that it speaks of."""
    file = Path(folder)
    named = file.suffix.lower() in (".yaml", ".yml") and file.is_file()
    return Place(folder, yolo_yaml.root_of(file) if named else None)


def _detected(place: Place) -> tuple[Place, str]:
    """The place and its layout; of a folder that only one folder within is a set, that one."""
    found = evidence(place)
    sure = [name for name, seen in found.items() if seen.sure] or list(found)
    if len(sure) > 1 and not any(found[name].sure for name in sure):
        sure = [name for name in sure if name != "folders"]
    if len(sure) == 1:
        return place, sure[0]
    if sure:
        told = "; ".join(f"{name}: {found[name].what}" for name in sure)
        raise InputError(
            f"several layouts in one folder: {told}",
            file=place.given,
            hint=f"--format {' or '.join(sure)} says which",
        )
    raise InputError(
        f"holds no data set that is read ({', '.join(FORMATS)})",
        file=place.given,
        hint=others.hint(place) or "--format names the layout",
    )


def place_of(folder: str | Path, format: str | None = None) -> tuple[Place, ModuleType]:
    """The place and the module of its layout, the one named or the one found.

    Raises InputError for an unknown layout, or no folder.
    """
    if format is not None and format not in FORMATS:
        raise InputError(
            "no such layout", field="format", value=format, hint=nearest(format, FORMATS)
        )
    place = _placed(folder)
    if format is None:
        place, format = _detected(place)
    elif FORMATS[format].evidence(place) is None and format != "folders":
        found = evidence(place)
        hint = "; ".join(f"it looks like {name}: {seen.what}" for name, seen in found.items())
        raise InputError(f"holds nothing of the layout {format}", file=folder, hint=hint or None)
    return place, FORMATS[format]


def splits(folder: str | Path, format: str | None = None) -> list[str]:
    """The names of a data set's splits; empty where it has none."""
    place, module = place_of(folder, format)
    return module.splits(place)


def read(
    folders: str | Path | Sequence[str | Path],
    split: str | None = None,
    format: str | None = None,
) -> Table:
    """One table of one or several data sets; classes are merged by name.

    folders: a folder, or the file that describes a set (data.yaml, instances.json). split: a
    split's name, found in every folder; None: all images. format: one of FORMATS; None: found by
    looking. Raises InputError naming file, field and value for what is wrong.
    """
    many = [folders] if isinstance(folders, str | Path) else list(folders)
    if not many:
        raise InputError("no data set was given", field="data")
    return Table.join([_read_one(*place_of(folder, format), split) for folder in many])


def split_to_judge(
    folders: Sequence[str | Path], format: str | None = None
) -> tuple[str | None, str]:
    """(the split to judge by, what is to be said of it): test, or else val, where every folder has
    it. None: all images, and the second says loudly why, "" where a set has no splits at all."""
    known = [splits(folder, format) for folder in folders]
    for name in ("test", "val"):
        if all(name in names for names in known):
            return name, name
    names = list(dict.fromkeys(name for found in known for name in found))
    if not names:
        return None, ""
    told = f"neither test nor val is there: all images are judged ({', '.join(names)})"
    return None, f"{told}, those that were learned too; --split names one"


def read_splits(folder: str | Path, format: str | None = None) -> dict[str, Table]:
    """A table for each split of a set; one table named "" where it has none.

    VOC's lists may overlap (trainval), so its annotations are read once.
    """
    place, module = place_of(folder, format)
    names = module.splits(place)
    if not names:
        return {"": _read_one(place, module, None)}
    if module is not voc:
        return {name: _read_one(place, module, name) for name in names}
    table = _read_one(place, module, None)
    row = {id_: i for i, id_ in enumerate(table.ids)}
    found = {}
    for name in names:
        members = voc.members(place, name)
        for id_ in members:
            if id_ not in row:
                raise InputError(
                    "an image that has no annotation",
                    file=place.path(voc_files.list_files(place)[name][0]),
                    field="name",
                    value=id_,
                )
        found[name] = table.select([row[id_] for id_ in members])
    return found


def _read_one(place: Place, module: ModuleType, split: str | None) -> Table:
    known = module.splits(place)
    if split is not None and split not in known:
        split = _known_split(place, split, known)
    key = cache.key_of(place, module, split)
    table = cache.load(key, place.root) if key else None
    if table is None:
        builder = Builder()
        table = module.read(place, split, builder)
        if key and not builder.headers:
            cache.save(key, place.root, table)
    problem = unbelievable(table)
    if problem:
        raise InputError(
            problem, file=place.given, hint="`boxatlas data check` says which format they may be in"
        )
    if len(table) == 0:
        field = "split" if split is not None else None
        where = {} if field is None else {"field": field, "value": split}
        raise InputError("the data set holds no image", file=place.given, **where)
    return table


def _known_split(place: Place, split: str, known: list[str]) -> str:
    """The split that is meant: `valid` is val. Raises InputError where there is no such one."""
    if split_name(split) in known:
        return split_name(split)
    if known:
        raise InputError(
            "no such split",
            file=place.given,
            field="split",
            value=split,
            hint=nearest(split, known),
        )
    raise InputError(
        "this data set has no splits",
        file=place.given,
        field="split",
        value=split,
        hint="`boxatlas data split` makes them; without a split all images are meant",
    )
