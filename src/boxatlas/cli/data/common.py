"""What the verbs of `boxatlas data` share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from boxatlas.errors import InputError, nearest
from boxatlas.files import check_writable, make_folder

if TYPE_CHECKING:
    from boxatlas.data import Table

FolderArgument = Annotated[
    Path, typer.Argument(metavar="DIR", help="A data set's folder, or its data.yaml or JSON.")
]
SplitOption = Annotated[
    str | None, typer.Option("--split", help="Only this split; if not given, all of them.")
]


def chosen_splits(folder: Path, split: str | None, format: str | None) -> dict[str, Table]:
    """The tables of a set's splits, or of one of them. Raises InputError for an unknown one."""
    from boxatlas.data import read, read_splits, splits

    if split is None:
        return read_splits(folder, format)
    known = splits(folder, format)
    if split not in known:
        raise InputError(
            "no such split", file=folder, field="--split", value=split, hint=nearest(split, known)
        )
    return {split: read(folder, split, format)}


def each_image_once(tables: dict[str, Table]) -> Table:
    """One table of all splits; an image that is in several (trainval) comes once."""
    from boxatlas.data import Table

    table = Table.join(list(tables.values()))
    first: dict[str, int] = {}
    for i, path in enumerate(table.paths):
        first.setdefault(path, i)
    return table.select(list(first.values()))


def unused(path: Path, force: bool) -> Path:
    """A file to write, in a folder that is there. Raises InputError where one is there already."""
    if path.exists() and not (force and path.is_file()):
        raise InputError("already exists", file=path, hint="pass another --out, or --force")
    check_writable(make_folder(path.parent))
    return path
