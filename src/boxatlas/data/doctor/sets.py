"""What can be wrong with a set as a whole: its files, splits, ids and classes."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from boxatlas.data.doctor.flaws import Flaw
from boxatlas.data.doctor.reading import Part
from boxatlas.data.formats import coco, voc, yolo
from boxatlas.data.formats.building import decoded, leaves
from boxatlas.data.formats.json_stream import members
from boxatlas.errors import InputError

_APART = re.compile(r"^(train|val|valid|validation|test|minival)(20\d\d)?$")
_IMBALANCE = 50.0
_LARGE = 1 << 26  # bytes; larger files are looked at by their reader alone


def memberships(folder: Path, parts: Sequence[Part]) -> dict[str, list[str]]:
    """Split -> its image paths; VOC's lists over one reading, else each part is a split."""
    found: dict[str, list[str]] = {}
    for part in parts:
        if part.module is not voc:
            if part.split is not None:
                found[part.split] = list(part.table.paths)
            continue
        path_of = dict(zip(part.table.ids, part.table.paths, strict=True))
        for split in voc.splits(folder):
            names = dict.fromkeys(voc.members(folder, split))
            found[split] = [path_of[name] for name in names if name in path_of]
    return found


def apart(splits: Sequence[str]) -> list[str]:
    """The splits that must not share images: train, val and test, not trainval or subsets."""
    return [name for name in splits if _APART.match(name)]


def check_splits(folder: Path, parts: Sequence[Part]) -> Iterator[Flaw]:
    """Empty splits, shared images, lines that lead nowhere."""
    found = memberships(folder, parts)
    for split, paths in found.items():
        if not paths:
            yield Flaw("split_empty", str(folder), split, f"the split {split} holds no image")
    names = apart(list(found))
    for n, first in enumerate(names):
        for second in names[n + 1 :]:
            for path in sorted(set(found[first]) & set(found[second])):
                yield Flaw("split_shared", str(folder), f"{first}, {second}",
                           f"{Path(path).name} is in {first} and in {second}", path,
                           remedy=(first, second))  # fmt: skip
    if parts and parts[0].module is voc:
        yield from _lists(folder, parts[0])


def _lists(folder: Path, part: Part) -> Iterator[Flaw]:
    """VOC's lists against its annotations."""
    annotations = folder / "Annotations"
    listed: set[str] = set()
    for split in voc.splits(folder):
        file = str(folder / "ImageSets" / "Main" / f"{split}.txt")
        seen = Counter(voc.members(folder, split))
        listed |= set(seen)
        for name, times in seen.items():
            if times > 1:
                yield Flaw("split_twice", file, name, f"{name} is listed {times} times")
            if leaves(name):
                yield Flaw("path_leaves", file, name, "a path that leaves the folder")
            elif not os.path.isfile(annotations / f"{name}.xml"):  # False for what is no name
                yield Flaw("split_unknown", file, name, f"{name} has no annotation")
    if listed:
        lost = [str(id_) for id_ in part.table.ids if id_ not in listed]
        if lost:
            yield Flaw("split_none", str(annotations), "", f"{len(lost)} annotations are in no "
                       f"split: {_few(lost)}", count=len(lost))  # fmt: skip


def _few(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def check_coverage(folder: Path, parts: Sequence[Part], told: set[str]) -> Iterator[Flaw]:
    """Images without annotation, annotations without image, images without objects.

    told: files that are known to be broken.
    """
    module = parts[0].module
    used = {path for part in parts for path in part.table.paths}
    for name, path in sorted(module.images_of(folder).items()):
        if str(path) not in used | told:
            yield Flaw("image_unannotated", str(path), "", f"{name} has no annotation", str(path))
    empty = [p for part in parts for p, n in zip(part.table.paths, part.table.counts, strict=True)
             if n == 0]  # fmt: skip
    if module is yolo:
        labels = {str(yolo.label_of(path)) for path in module.images_of(folder).values()}
        missing = [p for part in parts for p, file in zip(part.table.paths, part.builder.files,
                   strict=True) if not Path(file).is_file()]  # fmt: skip
        if missing:
            yield Flaw("label_missing", str(folder), "", f"{len(missing)} images have no label "
                       f"file: {_few([Path(p).name for p in missing])}",
                       count=len(missing))  # fmt: skip
        for file in module.annotation_files(folder):
            if file.parent != folder and file.suffix == ".txt" and str(file) not in labels:
                yield Flaw("image_missing", str(file), "", "no image belongs to this label file",
                           remedy="file")  # fmt: skip
        empty = [p for p in empty if p not in set(missing)]
    if empty:
        yield Flaw("image_empty", str(folder), "", f"{len(empty)} images have no object: "
                   f"{_few([Path(p).name for p in empty])}", count=len(empty))  # fmt: skip


def check_classes(folder: Path, parts: Sequence[Part]) -> Iterator[Flaw]:
    """Classes without objects, and very uneven ones; over all splits."""
    total: Counter[str] = Counter()
    for part in parts:
        counts = np.bincount(part.table.labels, minlength=len(part.table.classes))
        for name, n in zip(part.table.classes, counts.tolist(), strict=True):
            total[name] += n
    unused = [name for name, n in total.items() if n == 0]
    if unused:
        yield Flaw("class_unused", str(folder), "", f"{len(unused)} classes have no object: "
                   f"{_few(unused, 20)}", count=len(unused))  # fmt: skip
    used = [(n, name) for name, n in total.items() if n]
    if used and max(used)[0] > _IMBALANCE * min(used)[0]:
        most, least = max(used), min(used)
        yield Flaw("class_imbalance", str(folder), "", f"{most[1]} has {most[0]} objects, "
                   f"{least[1]} has {least[0]}")  # fmt: skip


def check_ids(parts: Sequence[Part]) -> Iterator[Flaw]:
    """COCO's ids: gaps between the categories', annotations of id 0 or none."""
    for part in parts:
        if part.module is not coco:
            continue
        file = Path(part.file(0)) if len(part.table) else None
        ids = [i for i in part.table.category_ids or () if isinstance(i, int)]
        if file is None:
            continue
        if ids and sorted(ids) != list(range(min(ids), min(ids) + len(ids))):
            yield Flaw("id_gaps", str(file), "categories",
                       f"{len(ids)} categories have ids from {min(ids)} to {max(ids)}")  # fmt: skip
        yield from _annotation_ids(file)


def _annotation_ids(file: Path) -> Iterator[Flaw]:
    nameless = 0
    try:
        for key, i, value in members(file):
            if key == "annotations" and i is not None and i >= 0 and isinstance(value, dict):
                if value.get("id") == 0:
                    yield Flaw("annotation_id_zero", str(file), f"annotations[{i}].id",
                               "id 0 counts as unmatched in COCO's own evaluator", number=i,
                               remedy="renumber")  # fmt: skip
                nameless += not isinstance(value.get("id"), int | str)
    except InputError:
        return  # told already by the reader
    if nameless:
        message = f"{nameless} annotations have no id"
        yield Flaw("annotation_invalid", str(file), "annotations", message, count=nameless,
                   remedy="renumber")  # fmt: skip


def check_texts(folder: Path, module: ModuleType) -> Iterator[Flaw]:
    """Encodings, line ends, and paths of another machine, of the files that describe a set."""
    windows, foreign = [], []
    for path in module.annotation_files(folder):
        try:
            data = path.read_bytes() if path.stat().st_size < _LARGE else b""
        except OSError:
            continue  # told by the reader
        if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
            yield Flaw("file_encoding", str(path), "", "begins with a byte order mark",
                       remedy="text")  # fmt: skip
        try:
            data.decode("utf-8")
        except UnicodeDecodeError as error:
            yield Flaw("file_encoding", str(path), f"byte {error.start}",
                       f"is not UTF-8; read as {decoded(data)[1]}", remedy="text")  # fmt: skip
        bare = data.replace(b"\r\n", b"")
        if b"\r" in bare and path.suffix == ".txt":
            yield Flaw("file_line_ends", str(path), "", "lines end with a carriage return alone, "
                       "so that the file is one line", remedy="text")  # fmt: skip
        if b"\r\n" in data:
            windows.append(path)
        if module is voc and path.suffix == ".xml":
            text, _ = decoded(data)
            foreign += _other_names(text)
            yield from _other_file(path, text)
    if windows:
        yield Flaw("file_line_ends", str(folder), "", f"{len(windows)} files have Windows line "
                   f"ends: {_few([p.name for p in windows])}", count=len(windows))  # fmt: skip
    if foreign:
        yield Flaw("path_foreign", str(folder), "path", f"{len(foreign)} files name a path of "
                   f"another machine, such as {foreign[0]}", count=len(foreign))  # fmt: skip


def _other_names(text: str) -> list[str]:
    """What <path> says, where no such file is there."""
    found = re.search(r"<path>\s*([^<]+?)\s*</path>", text)
    return [] if found is None or os.path.isfile(found[1]) else [found[1]]


def _other_file(path: Path, text: str) -> Iterator[Flaw]:
    found = re.search(r"<filename>\s*([^<]+?)\s*</filename>", text)
    name = found[1] if found else ""
    if name and Path(name.replace("\\", "/")).stem not in (path.stem, path.name):
        yield Flaw("file_name", str(path), "filename",
                   f"names {name}; its image is found by its own name")  # fmt: skip
