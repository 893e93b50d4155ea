"""boxatlas data view: a contact sheet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from boxatlas.cli.common import ForceOption, FormatOption, JsonOption, SeedOption, emit
from boxatlas.cli.data.common import (
    FolderArgument,
    SplitOption,
    chosen_splits,
    each_image_once,
    unused,
)


def command(
    folder: FolderArgument,
    out: Annotated[Path, typer.Option("--out", metavar="PNG", help="The picture to write.")] = Path(
        "sheet.png"
    ),
    split: SplitOption = None,
    count: Annotated[int, typer.Option("--count", min=1, max=400, help="How many images.")] = 16,
    columns: Annotated[int, typer.Option("--columns", min=1, help="How many side by side.")] = 4,
    classes: Annotated[
        list[str] | None, typer.Option("--class", help="Only images that show it. Again.")
    ] = None,
    augmented: Annotated[
        str | None,
        typer.Option("--augmented", metavar="KIND", help="As training sees them: ssd, yolo, flip."),
    ] = None,
    seed: SeedOption = 0,
    force: ForceOption = False,
    format: FormatOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw images with their boxes and masks on one sheet. Names in [ ] are ignored objects.

    \b
    boxatlas data view photos --out sheet.png
    boxatlas data view photos --class cat --count 9 --seed 3
    boxatlas data view photos --augmented ssd --out augmented.png
    """
    from boxatlas.data.transforms import augmentation
    from boxatlas.data.view import chosen, sheet
    from boxatlas.errors import InputError
    from boxatlas.files import write_with
    from boxatlas.progress import track

    unused(out, force)
    if augmented is not None:
        augmentation(augmented)  # says what there is, before anything is read
    table = each_image_once(chosen_splits(folder, split, format))
    images = chosen(table, count, seed, classes or ())
    if not images:
        raise InputError("no image shows that class", file=folder, value=", ".join(classes or ()))
    made = sheet(
        table,
        images,
        augmented=augmented,
        seed=seed,
        columns=columns,
        each=lambda rows: track(rows, "drawing", len(images)),
    )
    write_with(out, lambda temporary: made.save(temporary, format="png"))
    document = {"picture": str(out), "images": [table.paths[i] for i in images]}
    emit(document, as_json, text=f"{out}: {len(images)} of {len(table)} images")
