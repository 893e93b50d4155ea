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
from boxatlas.data.formats import voc, voc_files, yolo, yolo_labels, yolo_yaml
from boxatlas.data.formats.building import decoded, leaves, lines_of, read_text
from boxatlas.data.formats.places import Place
from boxatlas.errors import InputError

_APART = re.compile(r"^(train|val|valid|validation|test|minival)(20\d\d)?$")
_IMBALANCE = 50.0
_LARGE = 1 << 26  # bytes; larger files are looked at by their reader alone


def memberships(place: Place, parts: Sequence[Part]) -> dict[str, list[str]]:
    """Split -> its image paths; VOC's lists over one reading, else each part is a split."""
    found: dict[str, list[str]] = {}
    for part in parts:
        if part.module is not voc:
            if part.split is not None:
                found[part.split] = list(part.table.paths)
            continue
        path_of = dict(zip(part.table.ids, part.table.paths, strict=True))
        for split in voc.splits(place):
            names = dict.fromkeys(voc.members(place, split))
            found[split] = [path_of[name] for name in names if name in path_of]
    return found


def apart(splits: Sequence[str]) -> list[str]:
    """The splits that must not share images: train, val and test, not trainval or subsets."""
    return [name for name in splits if _APART.match(name)]


def strength(split: str) -> int:
    """What is judged keeps an image that leaked: the split with the larger number."""
    named = {"train": 0, "val": 1, "test": 2}
    return next((n for name, n in named.items() if split.startswith(name)), 1)


def check_splits(place: Place, parts: Sequence[Part]) -> Iterator[Flaw]:
    """Empty splits, shared images, lines that lead nowhere."""
    found, folder = memberships(place, parts), place.root
    for split, paths in found.items():
        if not paths:
            yield Flaw("split_empty", str(folder), split, f"the split {split} holds no image")
    names = apart(list(found))
    for n, first in enumerate(names):
        for second in names[n + 1 :]:
            for path in sorted(set(found[first]) & set(found[second])):
                yield Flaw(
                    "split_shared",
                    str(folder),
                    f"{first}, {second}",
                    f"{Path(path).name} is in {first} and in {second}",
                    path,
                    remedy=(first, second),
                )
    if parts and parts[0].module is voc:
        yield from _lists(place, parts[0])
    if parts and parts[0].module is yolo:
        yield from _image_lists(place)


def _image_lists(place: Place) -> Iterator[Flaw]:
    """Lines of YOLO's lists that are there again."""
    roots, _ = yolo_yaml.roots(place, yolo_yaml.describe(place, known))
    for file in sorted({root for found in roots.values() for root in found if root.is_file()}):
        seen: set[str] = set()
        for n, line in enumerate(read_text(file).split("\n"), 1):
            name = line.strip().removeprefix("./")
            if name in seen:
                yield Flaw(
                    "split_twice", str(file), f"line {n}", f"{name} is listed already", number=n
                )
            seen |= {name} - {""}


def known(error: InputError) -> None:
    """What is wrong was told by the reader."""


def _lists(place: Place, part: Part) -> Iterator[Flaw]:
    """VOC's lists against its annotations."""
    there = {voc_files.id_of(name) for name in voc_files.xml_files(place)}
    listed: set[str] = set()
    for names in voc_files.list_files(place).values():
        for name in names:
            file = str(place.path(name))
            seen = Counter(
                voc_files.member(line, place, name) for line in lines_of(place.path(name))
            )
            listed |= set(seen)
            yield from _listed(file, seen, there)
    if listed:
        lost = [str(id_) for id_ in part.table.ids if id_ not in listed]
        if lost:
            yield Flaw(
                "split_none",
                str(place.path(voc_files.xml_files(place)[0]).parent),
                "",
                f"{len(lost)} annotations are in no split: {few(lost)}",
                count=len(lost),
            )


def _listed(file: str, seen: Counter[str], there: set[str]) -> Iterator[Flaw]:
    for name, times in seen.items():
        if times > 1:
            yield Flaw("split_twice", file, name, f"{name} is listed {times} times", remedy="line")
        if leaves(name):
            yield Flaw("path_leaves", file, name, f"{name} leads out of the folder", remedy="line")
        elif name not in there:
            yield Flaw("split_unknown", file, name, f"{name} has no annotation", remedy="line")


def few(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def check_coverage(place: Place, parts: Sequence[Part], told: set[str]) -> Iterator[Flaw]:
    """Images without annotation, annotations without image, images without objects.

    told: files that are known to be broken.
    """
    module, folder = parts[0].module, place.root
    used = {path for part in parts for path in part.table.paths}
    images = {stem: place.path(name) for stem, name in place.by_stem.items()}
    told = used | told
    lost = {name: path for name, path in sorted(images.items()) if str(path) not in told}
    if module is yolo:
        lost, apart_from = _without_labels(place, lost)
        if apart_from:
            yield Flaw(
                "split_none",
                str(folder),
                "",
                f"{len(apart_from)} images with labels are in no split: {few(apart_from)}",
                count=len(apart_from),
            )
    for name, path in lost.items():
        yield Flaw("image_unannotated", str(path), "", f"{name} has no annotation", str(path))
    if module in (voc, yolo):
        yield from _ambiguous(place, used)
    empty = [
        p
        for part in parts
        for p, n in zip(part.table.paths, part.table.counts, strict=True)
        if n == 0
    ]
    if module is yolo:
        missing = [
            p
            for part in parts
            for p, file in zip(part.table.paths, part.builder.files, strict=True)
            if not Path(file).is_file()
        ]
        yield from _label_files(place, missing)
        gone = set(missing)
        empty = [p for p in empty if p not in gone]
    if empty:
        yield Flaw(
            "image_empty",
            str(folder),
            "",
            f"{len(empty)} images have no object: {few([Path(p).name for p in empty])}",
            count=len(empty),
        )


def _without_labels(place: Place, images: dict[str, Path]) -> tuple[dict[str, Path], list[str]]:
    """(those that have no label file, names of the others)."""
    labelled = {
        name for name, path in images.items() if yolo_labels.label_of(place, path).is_file()
    }
    return {n: p for n, p in images.items() if n not in labelled}, sorted(labelled)


def _label_files(place: Place, missing: list[str]) -> Iterator[Flaw]:
    """Images without a label file, and label files without an image."""
    folder = place.root
    if missing:
        yield Flaw(
            "label_missing",
            str(folder),
            "",
            f"{len(missing)} images have no label file: {few([Path(p).name for p in missing])}",
            count=len(missing),
        )
    labels = {str(yolo_labels.label_of(place, name)) for name in place.images}
    names = yolo_yaml.names_file(place, known)
    for file in place.paths(yolo.annotation_names(place)):
        if file.parent == folder or file == names or file.suffix != ".txt":
            continue
        if str(file) not in labels:
            yield Flaw(
                "image_missing", str(file), "", "no image belongs to this label file", remedy="file"
            )


def _ambiguous(place: Place, used: set[str]) -> Iterator[Flaw]:
    """Images that differ by their suffix alone."""
    first: dict[Path, Path] = {}
    for path in map(place.path, place.images):
        other = first.setdefault(path.with_suffix(""), path)
        if other != path and not used.isdisjoint((str(path), str(other))):
            yield Flaw(
                "image_ambiguous",
                str(path),
                "",
                f"{other.name} lies beside it: the annotation may be of either",
                str(path),
            )


def check_classes(folder: Path, parts: Sequence[Part]) -> Iterator[Flaw]:
    """Classes without objects, and very uneven ones; over all splits."""
    total: Counter[str] = Counter()
    for part in parts:
        counts = np.bincount(part.table.labels, minlength=len(part.table.classes))
        for name, n in zip(part.table.classes, counts.tolist(), strict=True):
            total[name] += n
    unused = [name for name, n in total.items() if n == 0]
    if unused:
        yield Flaw(
            "class_unused",
            str(folder),
            "",
            f"{len(unused)} classes have no object: {few(unused, 20)}",
            count=len(unused),
        )
    used = [(n, name) for name, n in total.items() if n]
    if used and max(used)[0] > _IMBALANCE * min(used)[0]:
        most, least = max(used), min(used)
        yield Flaw(
            "class_imbalance",
            str(folder),
            "",
            f"{most[1]} has {most[0]} objects, {least[1]} has {least[0]}",
        )


def check_texts(place: Place, module: ModuleType) -> Iterator[Flaw]:
    """Encodings, line ends, and paths of another machine, of the files that describe a set."""
    folder, windows, foreign = place.root, [], []
    for path in place.paths(module.annotation_names(place)):
        try:
            data = path.read_bytes() if path.stat().st_size < _LARGE else b""
        except OSError:
            continue  # told by the reader
        if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
            yield Flaw(
                "file_encoding", str(path), "", "begins with a byte order mark", remedy="text"
            )
        try:
            data.decode("utf-8")
        except UnicodeDecodeError as error:
            yield Flaw(
                "file_encoding",
                str(path),
                f"byte {error.start}",
                f"is not UTF-8; read as {decoded(data)[1]}",
                remedy="text",
            )
        bare = data.replace(b"\r\n", b"")
        if b"\r" in bare and path.suffix == ".txt":
            yield Flaw(
                "file_line_ends",
                str(path),
                "",
                "lines end with a carriage return alone, "
                "so that the file is one line to other programs",
                remedy="text",
            )
        if b"\r\n" in data:
            windows.append(path)
        if module is voc and path.suffix == ".xml":
            text, _ = decoded(data)
            foreign += _other_names(text)
            yield from _other_file(path, text)
    if windows:
        yield Flaw(
            "file_line_ends",
            str(folder),
            "",
            f"{len(windows)} files have Windows line ends: {few([p.name for p in windows])}",
            count=len(windows),
        )
    if foreign:
        yield Flaw(
            "path_foreign",
            str(folder),
            "path",
            f"{len(foreign)} files name a path of another machine, such as {foreign[0]}",
            count=len(foreign),
        )


def _other_names(text: str) -> list[str]:
    """What <path> says, where no such file is there."""
    found = re.search(r"<path>\s*([^<]+?)\s*</path>", text)
    return [] if found is None or os.path.isfile(found[1]) else [found[1]]


def _other_file(path: Path, text: str) -> Iterator[Flaw]:
    found = re.search(r"<filename>\s*([^<]+?)\s*</filename>", text)
    name = found[1] if found else ""
    if name and Path(name.replace("\\", "/")).stem not in (path.stem, path.name):
        yield Flaw(
            "file_name", str(path), "filename", f"names {name}; its image is found by its own name"
        )
