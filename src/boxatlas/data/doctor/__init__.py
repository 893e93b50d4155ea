"""The data doctor: every flaw of a data set, with the file, the place and what to do.

Public: check, Report, Flaw, KINDS; repaired copies are made by `repair.repair`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from boxatlas.data.doctor.entries import check_entries
from boxatlas.data.doctor.flaws import KINDS, Flaw, counted
from boxatlas.data.doctor.objects import check_objects
from boxatlas.data.doctor.pictures import (
    Picture,
    by_group,
    examine,
    groups_of,
    same_files,
    similar,
)
from boxatlas.data.doctor.reading import Part, parts_of
from boxatlas.data.doctor.sets import (
    apart,
    check_classes,
    check_coverage,
    check_splits,
    check_texts,
    few,
    memberships,
    strength,
)
from boxatlas.data.formats import FORMATS, evidence
from boxatlas.data.formats.places import Place, Seen, suffix_of

Each = Callable[[Iterable[Any], int], Iterable[Any]]


@dataclass(frozen=True)
class Report:
    """What was looked at and what was found; parts are the readings, for `repair`.

    seen: layout -> what speaks for it, of the one that was taken and of the others. unused: suffix
    -> how many files nothing was read from.
    """

    place: Place
    module: ModuleType
    seen: dict[str, Seen]
    unused: dict[str, int]
    images: int
    objects: int
    splits: dict[str, int]
    flaws: list[Flaw]
    parts: list[Part]

    @property
    def folder(self) -> Path:
        return self.place.root

    @property
    def layout(self) -> str:
        return next(name for name, module in FORMATS.items() if module is self.module)

    @property
    def notes(self) -> list[str]:
        """What the reader passed over, since it is no object."""
        return list(dict.fromkeys(note for part in self.parts for note in part.table.notes))

    @property
    def errors(self) -> list[Flaw]:
        return [flaw for flaw in self.flaws if flaw.level == "error"]

    @property
    def counts(self) -> dict[str, int]:
        """Kind -> how many things it concerns, errors first."""
        return counted(self.flaws)


def check(
    folder: str | Path, format: str | None = None, *, images: bool = True, each: Each | None = None
) -> Report:
    """Every flaw of a data set in one of our layouts.

    images: decode the image files too, on all cores. each: wraps the iteration over them with its
    length, to show progress. Raises InputError where the folder holds no data set at all.
    """
    place, module, parts, flaws = parts_of(Path(folder), format)
    folder = place.root
    broken = {flaw.file for flaw in flaws if flaw.kind == "file_invalid"}
    flaws += (flaw for flaw in check_texts(place, module) if flaw.file not in broken)
    for part in parts:
        flaws += check_objects(part)
    if parts:
        flaws += check_splits(place, parts)
        flaws += check_coverage(place, parts, {flaw.file for flaw in flaws})
        flaws += check_classes(folder, parts)
        known = {(flaw.file, flaw.field) for flaw in flaws}
        flaws += (flaw for flaw in check_entries(parts) if (flaw.file, flaw.field) not in known)
    paths = list(dict.fromkeys(path for part in parts for path in part.table.paths))
    splits = memberships(place, parts)
    if images:
        pictures = examine(paths, (lambda found: each(found, len(paths))) if each else iter)
        seen = dict(zip(paths, pictures, strict=True))
        for part in parts:
            flaws += _pictures(part, seen)
        flaws += _twins(paths, pictures, splits, str(folder))
    return Report(
        place,
        module,
        evidence(place),
        _unused(place, module, paths),
        len(paths),
        sum(len(part.table.labels) for part in parts),
        {name: len(members) for name, members in splits.items()},
        flaws,
        parts,
    )


def _unused(place: Place, module: ModuleType, paths: list[str]) -> dict[str, int]:
    """Suffix -> files that are neither images of the set nor what describes it."""
    used = {str(path) for path in place.paths(module.annotation_names(place))} | set(paths)
    left = Counter(suffix_of(n) or n for n in place.files if str(place.root / n) not in used)
    return dict(left.most_common())


def _pictures(part: Part, seen: dict[str, Picture]) -> Iterable[Flaw]:
    """Image files that are broken, or other than their annotation says."""
    table = part.table
    for i, path in enumerate(table.paths):
        picture, stated = seen[path], tuple(table.sizes[i].tolist())
        if picture.flaw:
            yield Flaw(picture.flaw, path, "", picture.message, path, remedy="image")
            continue
        turned = (picture.size[1], picture.size[0]) if picture.turn >= 5 else picture.size
        where = part.file(i)
        if stated != picture.size and stated == turned:
            yield Flaw(
                "image_rotated",
                where,
                "size",
                f"states {_by(stated)}, but the image is "
                f"{_by(picture.size)} once its EXIF rotation ({picture.turn}) is applied",
                path,
                remedy="upright",
            )
        elif stated != picture.size:
            yield Flaw(
                "image_size",
                where,
                "size",
                f"states {_by(stated)}, but the image is {_by(picture.size)} (width x height)",
                path,
                remedy=picture.size,
            )
        elif picture.turn != 1:
            yield Flaw(
                "image_turned",
                path,
                "EXIF orientation",
                f"the image is turned by its EXIF "
                f"tag ({picture.turn}); boxes are read as of the upright image",
                path,
            )


def _by(size: Sequence[int]) -> str:
    return f"{size[1]} x {size[0]}"


def _twins(
    paths: list[str], pictures: list[Picture], splits: dict[str, list[str]], folder: str
) -> Iterable[Flaw]:
    """Images that are there twice, within a split or across."""
    split_of: dict[str, str] = {}
    for split in apart(list(splits)):
        for path in splits[split]:
            split_of.setdefault(path, split)
    for group in _groups(paths, same_files(pictures)):
        keeper = max(group, key=lambda path: strength(split_of.get(path, "train")))
        ours = split_of.get(keeper, "")
        for path in group:
            names = f"{Path(keeper).name} and {Path(path).name} are the same file"
            split = split_of.get(path, "")
            if split != ours and split and ours:
                yield Flaw(
                    "leak_same",
                    folder,
                    f"{split}, {ours}",
                    f"{names}, one in {ours}, one in {split}",
                    path,
                    remedy=(path, keeper, split, ours),
                )
            elif path != keeper:
                yield Flaw("image_same", folder, split, names, path)
    for group in _groups(paths, similar(pictures)):
        yield _alike(group, split_of, folder)


def _groups(paths: list[str], pairs: Iterable[tuple[int, int]]) -> Iterable[list[str]]:
    """Images that pairs link, however many, as one group."""
    for group in by_group(groups_of(len(paths), pairs)):
        if len(group) > 1:
            yield [paths[i] for i in group]


def _alike(group: list[str], split_of: dict[str, str], folder: str) -> Flaw:
    members: dict[str, list[str]] = defaultdict(list)
    for path in group:
        members[split_of.get(path, "")].append(Path(path).name)
    named = {split: names for split, names in members.items() if split}
    if len(named) > 1:
        told = "; ".join(f"in {split} {few(names)}" for split, names in named.items())
        return Flaw(
            "leak_near",
            folder,
            ", ".join(named),
            f"{len(group)} images show nearly the same: {told}",
            group[-1],
            len(group) - 1,
        )
    names = [Path(path).name for path in group]
    return Flaw(
        "image_near",
        folder,
        next(iter(named), ""),
        f"{len(group)} images show nearly the same: {few(names)}",
        group[-1],
        len(group) - 1,
    )


__all__ = ["KINDS", "Flaw", "Report", "check"]
