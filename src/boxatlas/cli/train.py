"""boxatlas train: a detector from a model's name or a recipe, and labelled images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from boxatlas.cli.common import DeviceOption, FormatOption, JsonOption, emit, pick_device

if TYPE_CHECKING:
    from boxatlas.training import Recipe
    from boxatlas.training.runs import Trained

NEEDS_ARGUMENTS = True


What = Annotated[
    str | None,
    typer.Argument(metavar="MODEL|RECIPE", help="A model's name, a recipe's, or a YAML file."),
]
Data = Annotated[
    list[Path] | None,
    typer.Option("--data", help="A folder in VOC, COCO or YOLO layout; may be given again."),
]
Out = Annotated[
    Path | None, typer.Option("--out", help="The run's folder; if not given, runs/MODEL-N.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A value of the recipe: epochs=12. Again."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run at --out.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="One batch, one iteration, one evaluation; no run.")
]
Show = Annotated[bool, typer.Option("--show", help="Print the recipe and stop.")]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Makes the run repeatable.")]


def command(
    what: What = None,
    data: Data = None,
    out: Out = None,
    settings: Settings = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    show: Show = False,
    format: FormatOption = None,
    device: DeviceOption = "auto",
    seed: Seed = None,
    as_json: JsonOption = False,
) -> None:
    """Train a detector.

    A model's name alone takes today's recommended recipe; `paper/NAME` the published one.
    Ctrl-C leaves a run that --resume continues; so does a crash.

    \b
    boxatlas train ssdlite320_efficientnet_lite0 --data photos
    boxatlas train paper/ssd300_vgg16_voc0712 --data VOC2007 --data VOC2012 --out runs/ssd
    boxatlas train recipe.yaml --data photos --set epochs=12 --set lr=0.002 --dry-run
    boxatlas train --resume --out runs/ssd
    torchrun --nproc-per-node 4 -m boxatlas train ssd300_vgg16 --data coco --out runs/coco
    """
    from boxatlas.errors import InputError
    from boxatlas.files import check_writable
    from boxatlas.training import train, try_out

    if what is None and not resume:
        raise InputError("give a model's name or a recipe", field="train", hint="see --help")
    if resume and out is None:
        raise InputError("say which run to resume", field="--resume", hint="--out RUN")
    given = (("--data", data), ("--format", format), ("--dry-run", dry_run), ("--show", show))
    changes = [name for name, value in given if value] + ["--seed"] * (seed is not None)
    if what is None and changes:  # a run is resumed by its own recipe
        raise InputError("needs the model or recipe named too", field=changes[0])
    if what is None and settings:  # the run's own recipe; what may not change is refused below
        what = str(Path(str(out)) / "recipe.yaml")
    recipe = None if what is None else _recipe(what, settings or [], data, format, seed)
    if show and recipe is not None:
        emit(recipe.model_dump(mode="json"), as_json, text=recipe.text().rstrip())
        return
    chosen = pick_device(device)
    if dry_run and recipe is not None:
        result = try_out(recipe, device=chosen)
        rows = [{"": k, "value": str(v)} for k, v in result.items()]
        emit(result, as_json, rows=rows, title="dry run: all went through")
        return
    folder = out or _unused(recipe.model if recipe else "run")
    check_writable(folder)
    trained = train(recipe, folder, device=chosen, resume=resume)
    if _first_process():
        emit(trained.document(), as_json, text=_summary(trained, folder))


def _summary(trained: Trained, folder: Path) -> str:
    score = trained.metrics.get("mAP")
    text = f"best: {trained.best}\nlast: {trained.last}\nlog:  {folder / 'metrics.csv'}"
    return text if score is None else f"{text}\nmAP:  {score:.4f}"


def _recipe(
    what: str, settings: list[str], data: list[Path] | None, format: str | None, seed: int | None
) -> Recipe:
    """The recipe of that name, changed by the options of the command line."""
    from boxatlas.training import find_recipe

    options = {"data": [str(d) for d in data] if data else None, "format": format, "seed": seed}
    return find_recipe(what, settings).changed({k: v for k, v in options.items() if v is not None})


def _unused(model: str) -> Path:
    """runs/MODEL-N with the first N that is free."""
    number = 1
    while (folder := Path("runs") / f"{model}-{number}").exists():
        number += 1
    return folder


def _first_process() -> bool:
    import os

    return os.environ.get("RANK", "0") == "0"
