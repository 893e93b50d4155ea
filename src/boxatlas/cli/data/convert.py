"""boxatlas data convert: a data set in another layout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from boxatlas.cli.common import FormatOption, JsonOption, emit
from boxatlas.cli.data.common import FolderArgument


def command(
    folder: FolderArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The new folder.")],
    to: Annotated[
        str, typer.Option("--to", help="The layout, such as coco, voc, yolo, labelme or csv.")
    ],
    format: FormatOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a data set in another layout, images included, and say what that cannot hold.

    \b
    boxatlas data convert photos photos_coco --to coco
    boxatlas data convert photos photos_fiftyone --to fiftyone
    """
    from boxatlas.data import read_splits
    from boxatlas.data.convert import convert
    from boxatlas.progress import track

    tables = read_splits(folder, format)
    jobs = sum(len(table) for table in tables.values())
    table, notes = convert(tables, out, to, lambda found: track(found, "copying images", jobs))
    document = {
        "folder": str(out),
        "layout": to,
        "images": len(table),
        "objects": len(table.labels),
        "left out": notes,
    }
    lines = [f"not carried over: {note}" for note in notes]
    lines.append(f"{out}: {len(table)} images, {len(table.labels)} objects in {to} layout")
    emit(document, as_json, text="\n".join(lines))
