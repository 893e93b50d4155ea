"""boxatlas data split: train, val and test of a set that has none."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from boxatlas.cli.common import FormatOption, JsonOption, SeedOption, emit
from boxatlas.cli.data.common import (
    FolderArgument,
    SplitOption,
    chosen_splits,
    each_image_once,
)

Out = Annotated[Path, typer.Argument(metavar="OUT", help="The new folder.")]
Parts = Annotated[
    str, typer.Option("--parts", metavar="NAME=SHARE,...", help="The splits and their shares.")
]
To = Annotated[
    str | None,
    typer.Option("--to", help="Another layout; else the same, or COCO's if that is not written."),
]
Together = Annotated[
    bool, typer.Option("--together/--no-together", help="Whether look-alikes share a split.")
]


def command(
    folder: FolderArgument,
    out: Out,
    parts: Parts = "train=0.8,val=0.1,test=0.1",
    split: SplitOption = None,
    to: To = None,
    together: Together = True,
    seed: SeedOption = 0,
    format: FormatOption = None,
    as_json: JsonOption = False,
) -> None:
    """Split a data set by the seed, each class in proportion, into a new folder.

    Images that are the same or nearly the same go into one split, so that none is judged by what
    it learned. Splits that are there are joined first, unless --split picks one.

    \b
    boxatlas data split photos photos_split
    boxatlas data split photos photos_split --parts train=0.7,test=0.3 --seed 1
    boxatlas data split VOC2007 tuned --split trainval --parts train=0.9,val=0.1
    """
    import numpy as np

    from boxatlas.data import detect_format
    from boxatlas.data.convert import convert
    from boxatlas.data.doctor.pictures import by_group, examine, groups_of, same_files, similar
    from boxatlas.data.split import parts_of, shares, stratified
    from boxatlas.data.writing import WRITERS
    from boxatlas.progress import track

    wanted = parts_of(parts)
    table = each_image_once(chosen_splits(folder, split, format))
    groups = np.arange(len(table))
    if together:
        pictures = examine(table.paths, lambda found: track(found, "looking at images", len(table)))
        groups = groups_of(len(table), [*same_files(pictures), *similar(pictures)])
    members = stratified(table, wanted, seed=seed, groups=groups)
    tables = {name: table.select(images) for name, images in members.items()}
    layout = to or format or detect_format(folder)
    layout = layout if to or layout in WRITERS else "coco"
    _, notes = convert(
        tables, out, layout, lambda found: track(found, "copying images", len(table))
    )
    rows = shares(table, members)
    kept = [[table.paths[i] for i in group] for group in by_group(groups) if len(group) > 1]
    document = {
        "folder": str(out),
        "layout": layout,
        "seed": seed,
        "splits": {n: len(m) for n, m in members.items()},
        "share of objects": rows,
        "kept together": kept,
        "left out": notes,
    }
    counts = ", ".join(f"{name} {len(images)}" for name, images in members.items())
    lines = [
        *(f"kept together: {', '.join(Path(p).name for p in group)}" for group in kept),
        *(f"not carried over: {note}" for note in notes),
        f"{out}: {counts} images in {layout} layout",
    ]
    emit(document, as_json, rows=rows, title="share of each class's objects", text="\n".join(lines))
