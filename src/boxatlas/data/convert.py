"""A data set in another layout: images copied, annotations written, what is lost said."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from boxatlas.data.doctor.sets import apart
from boxatlas.data.formats import FORMATS
from boxatlas.data.table import Table
from boxatlas.data.writing import WRITERS
from boxatlas.errors import InputError, nearest
from boxatlas.files import new_folder

Each = Callable[[Iterable[Any]], Iterable[Any]]


def convert(
    splits: Mapping[str, Table],
    out: str | Path,
    to: str,
    each: Each = iter,
    copy: Callable[[str, Path], None] | None = None,
) -> tuple[Table, list[str]]:
    """Write a set in layout `to`; returns what was written, and what the layout could not hold.

    The set appears at `out` when it is whole. copy: what copies an image, if not byte by byte.
    Raises InputError for an unknown layout, a folder in use, or an image that is missing.
    """
    out = Path(out)
    if to not in FORMATS:
        raise InputError("no such layout", field="--to", value=to, hint=nearest(to, WRITERS))
    if to not in WRITERS:
        hint = f"choose from: {', '.join(WRITERS)}"
        raise InputError("a layout that is read, not written", field="--to", value=to, hint=hint)
    chosen, notes = _chosen(splits, to)
    table, members = _united(chosen)
    names, renamed = _names(table)
    notes += [*dict.fromkeys(table.notes), *WRITERS[to].left_out(table)]
    notes += [*_besides(table, members, to), *renamed]
    jobs = [(split, i) for split, rows in members.items() for i in rows]
    with new_folder(out) as temporary:
        for split, i in each(jobs):
            place = temporary / WRITERS[to].image_folder(split) / names[i]
            (copy or _copy)(table.paths[i], place)
        try:
            WRITERS[to].write(table, temporary, names, members)
        except RecursionError:  # among what is kept as it was
            raise InputError("could not be written: nested too deep", file=out) from None
    return table, notes


def _chosen(splits: Mapping[str, Table], to: str) -> tuple[dict[str, Table], list[str]]:
    """The splits to write: where a layout gives each its folder, only those that do not overlap."""
    if set(splits) == {""}:
        return {"train": splits[""]}, ["splits: there are none; all images are written as train"]
    names = list(splits)
    if to != "voc" and apart(names) and set(apart(names)) != set(names):
        kept = apart(names)
        left = [name for name in names if name not in kept]
        note = f"splits: {', '.join(left)} overlap {', '.join(kept)} and are not written"
        lost = {p for n in left for p in splits[n].paths} - {
            p for n in kept for p in splits[n].paths
        }
        if lost:
            note += f"; {len(lost)} images are in none of those that are"
        return {name: splits[name] for name in kept}, [note]
    return dict(splits), []


def _united(splits: Mapping[str, Table]) -> tuple[Table, dict[str, list[int]]]:
    """One table with every image once, and which rows each split holds."""
    whole = Table.join(list(splits.values()))
    first: dict[str, int] = {}
    for i, path in enumerate(whole.paths):
        first.setdefault(path, i)
    row = {path: n for n, path in enumerate(first)}
    members = {name: [row[path] for path in table.paths] for name, table in splits.items()}
    return whole.select(np.array(list(first.values()), np.int64)), members


def _besides(table: Table, members: Mapping[str, list[int]], to: str) -> list[str]:
    """What the files say besides the table's columns and the new ones will not."""
    extras = table.extras
    if extras is None:
        return []
    if extras.layout != to:
        return [f"what only {extras.layout} files say: {', '.join(extras.names)}"]
    differing = dict.fromkeys(n for rows in members.values() for n in extras.differing(rows))
    if not differing:
        return []
    return [f"{', '.join(differing)}: not the same in the files that are joined; the first is kept"]


def _names(table: Table) -> tuple[list[str], list[str]]:
    """A file name for each image, no two alike without their suffix either."""
    taken: set[str] = set()
    names, renamed = [], []
    for path in table.paths:
        stem, suffix = os.path.splitext(os.path.basename(path))
        name, n = stem, 1
        while name.lower() in taken:  # some file systems do not tell A from a
            n += 1
            name = f"{stem}_{n}"
        taken.add(name.lower())
        names.append(name + suffix)
        if name != stem:
            renamed.append(f"{stem}{suffix} -> {name}{suffix}")
    few = ", ".join(renamed[:3]) + (", ..." if len(renamed) > 3 else "")
    return names, [f"names: {len(renamed)} images are renamed: {few}"] if renamed else []


def _copy(path: str, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copyfile(path, to)
    except FileNotFoundError:
        raise InputError("no such file", file=path) from None
