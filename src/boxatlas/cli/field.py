"""boxatlas field: every method trained alike, judged and compared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from boxatlas.cli.common import DeviceOption, JsonOption, emit, pick_device

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def about() -> None:
    """Train every method alike, judge it on the test images, and compare what came of it.

    \b
    boxatlas field plan
    boxatlas field train --data VOC20 --out runs/field --images 7500
    """


@app.command()
def plan(as_json: JsonOption = False) -> None:
    """List what the field trains, in the order of training, and with which rates.

    \b
    boxatlas field plan --json
    """
    from boxatlas.field.plan import ENTRIES, FAMILIES, options_of

    rows: list[dict[str, Any]] = [
        {
            "name": one.name,
            "model": one.model,
            "family": one.family,
            "start": one.start,
            "rate": FAMILIES[one.family].lr,
            "options": options_of(one),
            "note": one.note,
        }
        for one in ENTRIES
    ]
    shown = [{k: v for k, v in row.items() if k not in ("options", "note")} for row in rows]
    emit({"field": rows}, as_json, rows=shown, title=f"{len(rows)} methods")


@app.command()
def train(
    data: Annotated[Path, typer.Option("--data", help="The data set, such as voc20.")],
    out: Annotated[Path, typer.Option("--out", help="The folder of all runs; resumed if it is.")],
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME...", help="Entries; all if none.")
    ] = None,
    images: Annotated[
        int, typer.Option("--images", min=8, help="Train each on so many, as far as a stage.")
    ] = 7500,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Train the entries one after another up to a stage, going on from where they stand.

    Stopped by Ctrl-C, or killed, the same command goes on. A longer training goes on from a
    shorter one's.

    \b
    boxatlas field train --data VOC20 --out runs/field --images 7500
    boxatlas field train ssd fpn --data VOC20 --out runs/field --images 30000
    """
    from boxatlas.field.plan import ENTRIES, entry
    from boxatlas.field.training import train_entry

    chosen = [entry(name) for name in names] if names else list(ENTRIES)
    done = {}
    for one in chosen:
        done[one.name] = str(train_entry(one, data, images, out, pick_device(device)))
    emit({"images": images, "trained": done}, as_json, text="\n".join(done.values()))
