"""boxatlas ablate: what one idea of a paper does to the numbers."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from boxatlas.cli.common import (
    DeviceOption,
    FormatOption,
    JsonOption,
    SeedOption,
    emit,
    pick_device,
)
from boxatlas.errors import InputError

if TYPE_CHECKING:
    from boxatlas.training import Recipe

NEEDS_ARGUMENTS = True
_MARK = "ablation.json"


def command(
    what: Annotated[
        str, typer.Argument(metavar="MODEL|RECIPE", help="A model's name, a recipe's, or a file.")
    ],
    switch: Annotated[
        list[str],
        typer.Option(
            "--switch", metavar="NAME=A,B,...", help="An idea or setting and its values; again."
        ),
    ],
    data: Annotated[list[Path], typer.Option("--data", help="A folder of labelled images; again.")],
    out: Annotated[Path, typer.Option("--out", help="The folder of the runs.")] = Path("ablation"),
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A value of the recipe: epochs=4. Again."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the grid at --out.")] = False,
    format: FormatOption = None,
    device: DeviceOption = "auto",
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Train a small grid over a method's ideas and print what each does to AP and FPS.

    All runs share recipe, seed and data, and are judged as training judges: on val, or on a tenth
    of the training images. `boxatlas explain MODEL` lists its ideas and settings. Differences of a
    few tenths of a percent on a small set are noise: repeat with another --seed before believing.

    \b
    boxatlas ablate ssd300_vgg16 --switch l2norm=true,false --data photos --set epochs=10
    boxatlas ablate ssd300_vgg16 --switch negatives=1,3 --switch ratio_3=true,false --data photos
    """
    from boxatlas.training import find_recipe, train

    grid = parse_grid(switch)
    recipes: list[tuple[dict[str, str], Recipe]] = []
    for values in combinations(grid):
        chosen = [f"model.{name}={value}" for name, value in values.items()]
        recipe = find_recipe(what, [*(settings or ()), *chosen])
        given = {"data": [str(d) for d in data], "format": format, "seed": seed}
        recipes.append((values, recipe.changed({k: v for k, v in given.items() if v is not None})))
    for folder in data:
        if not folder.exists():
            raise InputError("no such folder", file=folder, field="--data")
    _settle(out, resume, what, grid)
    found: list[dict[str, Any]] = []
    for values, recipe in recipes:
        folder = out / folder_name(values)
        trained = train(recipe, folder, device=pick_device(device), resume=folder.exists())
        found.append(_row(values, trained.best, trained.document()))
        _time(found)
        _write(out, found)
    emit(
        {"model": recipes[0][1].model, "rows": found},
        as_json,
        rows=[_shown(r) for r in found],
        text=f"runs: {out}",
    )


def parse_grid(switches: list[str]) -> dict[str, list[str]]:
    """NAME=A,B,... -> name: values. Raises InputError for what is not of that form."""
    grid: dict[str, list[str]] = {}
    for text in switches:
        name, equals, values = text.partition("=")
        # A comma within brackets belongs to a value.
        parts = [v.strip() for v in re.split(r",(?![^\[({]*[\])}])", values) if v.strip()]
        if not equals or not name or not parts:
            raise InputError("is not NAME=A,B,...", field="--switch", value=text)
        if name in grid:
            raise InputError("is given twice", field="--switch", value=name)
        grid[name.removeprefix("model.")] = parts
    return grid


def combinations(grid: dict[str, list[str]]) -> list[dict[str, str]]:
    """Every choice of one value for each name."""
    return [dict(zip(grid, chosen, strict=True)) for chosen in itertools.product(*grid.values())]


def folder_name(values: dict[str, str]) -> str:
    """negatives=3_l2norm=true, with what a file system dislikes replaced."""
    text = "_".join(f"{name}={value}" for name, value in values.items())
    return "".join(c if c.isalnum() or c in "=_.-" else "-" for c in text)


def _settle(out: Path, resume: bool, what: str, grid: dict[str, list[str]]) -> None:
    """Accept an empty folder, or one holding the same grid, to resume it."""
    from boxatlas.files import write_text

    mark = out / _MARK
    asked = {"what": what, "grid": grid}
    if out.exists() and (out.is_file() or any(out.iterdir())):
        if not resume:
            raise InputError("already exists", file=out, hint="--resume, or another --out")
        held = json.loads(mark.read_text(encoding="utf-8")) if mark.is_file() else None
        if held != asked:
            raise InputError("holds another grid, or none", file=out, hint="pass another --out")
    write_text(mark, json.dumps(asked) + "\n")


def _row(values: dict[str, str], best: Path, document: dict[str, Any]) -> dict[str, Any]:
    """What a run reached."""
    from boxatlas.evaluation.sizes import size_of
    from boxatlas.weights import load

    size = size_of(load(best))
    metrics = document["metrics"]
    coco = metrics.get("coco") or {}
    return {
        "switches": values,
        "mAP": metrics.get("mAP"),
        "metric": metrics.get("metric"),
        "coco_AP": coco.get("AP"),
        "parameters": size.parameters,
        "multiply_adds": size.multiply_adds,
        "iterations": document["iterations"],
        "seconds": document["seconds"],
        "run": document["run"],
        "checkpoint": str(best),
    }


def _time(rows: list[dict[str, Any]]) -> None:
    """Put FPS into every row; all are timed anew, in turns, so that they can be compared."""
    from boxatlas.evaluation.speed import made_images, measure_together
    from boxatlas.weights import load

    detectors = ((load(row["checkpoint"]), False) for row in rows)
    for row, speed in zip(
        rows, measure_together(detectors, made_images(), seconds=1.0), strict=True
    ):
        row["fps"], row["fps_between"] = speed.fps, speed.fps_between


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    adds = row["multiply_adds"]
    return {
        **row["switches"],
        f"mAP ({row['metric']})": row["mAP"],
        "COCO AP": row["coco_AP"],
        "FPS": row["fps"],
        "between": "{:.3g}-{:.3g}".format(*row["fps_between"]),
        "Mparam": row["parameters"] / 1e6,
        "GMAC": None if adds is None else adds / 1e9,
        "seconds": row["seconds"],
    }


def _write(out: Path, rows: list[dict[str, Any]]) -> None:
    from boxatlas.files import write_text

    write_text(out / "results.json", json.dumps(rows, indent=1) + "\n")
    text = io.StringIO()
    shown = [_shown(row) for row in rows]
    writer = csv.DictWriter(text, list(shown[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(shown)
    write_text(out / "results.csv", text.getvalue())
