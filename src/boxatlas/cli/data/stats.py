"""boxatlas data stats: what is in a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from boxatlas.cli.common import ForceOption, FormatOption, JsonOption, emit
from boxatlas.cli.data.common import FolderArgument, SplitOption, chosen_splits, unused


def command(
    folder: FolderArgument,
    split: SplitOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="PNG", help="Write a page of histograms.")
    ] = None,
    force: ForceOption = False,
    format: FormatOption = None,
    as_json: JsonOption = False,
) -> None:
    """Count images and objects: by class, split, size, shape and number an image.

    \b
    boxatlas data stats photos
    boxatlas data stats photos --split train --out stats.png
    boxatlas data stats photos --json
    """
    from boxatlas.data.statistics import class_rows, picture, statistics, summary_rows

    if out is not None:
        unused(out, force)
    tables = chosen_splits(folder, split, format)
    stats = statistics(tables)
    if not as_json:
        emit(None, False, rows=class_rows(stats), title="objects")
        emit(None, False, rows=summary_rows(stats))
    if out is not None:
        picture(tables, out)
    document = {"folder": str(folder), "splits": stats, "picture": out and str(out)}
    emit(document, as_json, text=f"{out}: histograms" if out else None)
