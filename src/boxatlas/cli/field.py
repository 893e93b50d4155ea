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


Data = Annotated[Path, typer.Option("--data", help="The data set, such as voc20.")]
Out = Annotated[Path, typer.Option("--out", help="The folder of all runs; gone on with if it is.")]
Folder = Annotated[
    Path, typer.Option("--field", help="The distribution's folder, with its results.")
]
Names = Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="Entries; all if none.")]


@app.command()
def train(
    data: Data,
    out: Out,
    names: Names = None,
    images: Annotated[
        int, typer.Option("--images", min=8, help="Train each on so many; then judge it.")
    ] = 7500,
    field: Folder = Path("field"),
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Train entries one after another, pack and judge each, and keep what was measured.

    Stopped by Ctrl-C, or killed, the same command goes on. A longer training goes on from a shorter
    one's. One that was judged is passed over. Results go to FIELD/results/NAME.json.

    \b
    boxatlas field train --data VOC20 --out runs/field --images 7500
    boxatlas field train ssd fpn --data VOC20 --out runs/field --images 30000
    """
    from boxatlas.field import judging, results
    from boxatlas.field.plan import ENTRIES, entry
    from boxatlas.field.training import train_entry

    chosen = [entry(name) for name in names] if names else list(ENTRIES)
    done, rows = {}, []
    for one in chosen:
        if not results.has(field / "results", one.name, images):
            trained = train_entry(one, data, images, out, pick_device(device))
            judged = judging.judge(one, trained, data, images, out)
            done[one.name] = judged
            results.add(field / "results", one.name, judging.about(one), judged)
            rows.append(
                {
                    "name": one.name,
                    "images": images,
                    "mAP@0.5": judged["voc07"],
                    "COCO AP": judged["coco"]["AP"],
                    "MB": judged["bytes"] / 1e6,
                }
            )
    emit({"judged": done}, as_json, rows=rows)


@app.command()
def publish(out: Out, field: Folder = Path("field"), as_json: JsonOption = False) -> None:
    """Put the judged files into the distribution's folder, each with its card.

    \b
    boxatlas field publish --out runs/field
    """
    from boxatlas.field.judging import publish as written

    files = written(out, field / "results", field / "boxatlas_field")
    emit({"files": [str(f) for f in files]}, as_json, text="\n".join(map(str, files)))


@app.command()
def pairs(data: Data, out: Out, field: Folder = Path("field"), as_json: JsonOption = False) -> None:
    """Compare neighbours of the ranking on the same images, with an interval of the difference.

    \b
    boxatlas field pairs --data VOC20 --out runs/field
    """
    from boxatlas.field import judging, results

    document = judging.pairs(out, data, field / "results")
    results.write(field / "results" / "pairs.json", document)
    emit(document, as_json, rows=document["pairs"])
