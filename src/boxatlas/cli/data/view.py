"""boxatlas data view: a contact sheet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from boxatlas.cli.common import ForceOption, FormatOption, JsonOption, SeedOption, emit
from boxatlas.cli.data.common import (
    FolderArgument,
    SplitOption,
    chosen_splits,
    each_image_once,
    unused,
)

if TYPE_CHECKING:
    from boxatlas.data.table import Table

OutOption = Annotated[Path, typer.Option("--out", metavar="PNG", help="The picture to write.")]
AugmentedOption = Annotated[
    str | None,
    typer.Option("--augmented", metavar="KIND", help="As training sees them: ssd, yolo, flip."),
]
AssignedOption = Annotated[
    str | None,
    typer.Option(
        "--assigned",
        metavar="MODEL",
        help="Draw which of a model's boxes learn for which object: a name or a checkpoint.",
    ),
]


def command(
    folder: FolderArgument,
    out: OutOption = Path("sheet.png"),
    split: SplitOption = None,
    count: Annotated[int, typer.Option("--count", min=1, max=400, help="How many images.")] = 16,
    columns: Annotated[int, typer.Option("--columns", min=1, help="How many side by side.")] = 4,
    classes: Annotated[
        list[str] | None, typer.Option("--class", help="Only images that show it. Again.")
    ] = None,
    augmented: AugmentedOption = None,
    assigned: AssignedOption = None,
    seed: SeedOption = 0,
    force: ForceOption = False,
    format: FormatOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw images with their boxes and masks on one sheet. Names in [ ] are ignored objects.

    --assigned: thick boxes are objects, thin ones the default boxes, anchors, cells or proposals
    that learn for the object of their colour and mark; crosses learn nothing. What follows a
    trained step (the RoIs of an RPN) means something with a checkpoint only.

    \b
    boxatlas data view photos --out sheet.png
    boxatlas data view photos --class cat --count 9 --seed 3
    boxatlas data view photos --augmented ssd --out augmented.png
    boxatlas data view photos --assigned ssd300_vgg16 --count 4 --out assigned.png
    """
    from boxatlas.data.transforms import augmentation
    from boxatlas.data.view import chosen, sheet
    from boxatlas.errors import InputError
    from boxatlas.files import write_with
    from boxatlas.progress import track

    unused(out, force)
    if augmented is not None and assigned is not None:
        problem = "boxes are assigned to images as they are"
        raise InputError(
            problem, field="--augmented", value=augmented, hint="leave one of them out"
        )
    if augmented is not None:
        augmentation(augmented)  # says what there is, before anything is read
    table = each_image_once(chosen_splits(folder, split, format))
    images = chosen(table, count, seed, classes or ())
    if not images:
        raise InputError("no image shows that class", file=folder, value=", ".join(classes or ()))
    if assigned is not None:
        document = _assigned(table, images, assigned, out, columns)
        emit({"picture": str(out), **document}, as_json, text=_lines(out, document["steps"]))
        return
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


def _assigned(
    table: Table, images: list[int], what: str, out: Path, columns: int
) -> dict[str, Any]:
    """Write the sheet of what the model's boxes learn; what was counted."""
    import torch

    from boxatlas.cli.common import open_detector
    from boxatlas.create import create_model
    from boxatlas.errors import InputError
    from boxatlas.figures.assigned import assigned_sheet
    from boxatlas.files import write_with
    from boxatlas.progress import track
    from boxatlas.zoo import list_models

    torch.manual_seed(0)  # an untrained network is the same one each time
    if what in list_models():
        detector = create_model(what, num_classes=max(1, len(table.classes)))
    else:
        detector = open_detector(what, torch.device("cpu"))
    if detector.engine != "torch":
        problem = "this file holds what a detector answers, not how it learns"
        raise InputError(problem, field="--assigned", value=what, hint="give the checkpoint")
    made, steps = assigned_sheet(
        detector,
        table,
        images,
        columns=columns,
        each=lambda rows: track(rows, "drawing", len(images)),
    )
    write_with(out, lambda temporary: made.save(temporary, format="png"))
    return {"model": what, "steps": steps}


def _lines(out: Path, steps: list[dict[str, Any]]) -> str:
    """One line for each image and step."""
    rows = [f"{out}: {len({one['image'] for one in steps})} images"]
    for one in steps:
        objects = ", ".join(str(n) for n in one["of_object"]) or "none"
        rows.append(
            f"  {Path(one['image']).name}  {one['step']}: {one['learn']} of {one['boxes']} learn "
            f"(by object: {objects}), {one['ignored']} ignored"
        )
    return "\n".join(rows)
