"""boxatlas field: every method trained alike, judged and compared."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from boxatlas.cli.common import (
    DeviceOption,
    ForceOption,
    JsonOption,
    emit,
    pick_device,
    reserve_file,
)

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def about() -> None:
    """Train every method alike, judge it on the test images, and compare what came of it.

    \b
    boxatlas field plan
    boxatlas field train --data VOC20 --out runs/field --images 7500
    boxatlas field table
    boxatlas field page --out field.html
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
Stored = Annotated[
    Path | None,
    typer.Option("--field", help="The distribution's folder; the installed one if not given."),
]
Names = Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="Entries; all if none.")]


@app.command()
def train(
    data: Data,
    out: Out,
    names: Names = None,
    images: Annotated[
        list[int] | None,
        typer.Option("--images", min=8, help="Train on so many, then judge; again. 7500 if none."),
    ] = None,
    field: Folder = Path("field"),
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Train entries one after another, pack and judge each, and keep what was measured.

    Stopped by Ctrl-C, or killed, the same command goes on. A longer training goes on from a shorter
    one's. One that was judged is passed over. Results go to FIELD/results/NAME.json. Of several
    lengths, all entries are trained on the shortest first; where each is twice the one before, it
    is known which methods were not finished.

    \b
    boxatlas field train --data VOC20 --out runs/field --images 7500
    boxatlas field train ssd fpn --data VOC20 --out runs/field --images 15000 --images 30000
    """
    from itertools import product

    from boxatlas.field import judging, results
    from boxatlas.field.plan import ENTRIES, entry
    from boxatlas.field.training import train_entry

    chosen = [entry(name) for name in names] if names else list(ENTRIES)
    judging.check_data(data)
    where, done, rows = pick_device(device), [], []
    for length, one in product(sorted(set(images or [7500])), chosen):
        if results.has(field / "results", one.name, length):
            continue
        trained = train_entry(one, data, length, out, where)
        judged = judging.judge(one, trained, data, length, out, where)
        results.add(field / "results", one.name, judging.about(one), judged)
        done.append({"name": one.name, **judged})
        rows.append(
            {
                "name": one.name,
                "images": length,
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
    """Bootstrap each AP, and the difference of neighbours in the order, over the test images.

    Stopped, it goes on: what is known of the same files is not computed again.

    \b
    boxatlas field pairs --data VOC20 --out runs/field
    """
    from boxatlas.field import report, results
    from boxatlas.field.sureness import sure

    document: dict[str, Any] = {"intervals": {}, "pairs": []}
    for document in _said(sure(out, data, field / "results"), "bootstraps"):
        results.write(field / "results" / "pairs.json", document)
    emit(document, as_json, rows=report.differences(document))


@app.command()
def speed(
    data: Data,
    out: Out,
    field: Folder = Path("field"),
    seconds: Annotated[
        float, typer.Option("--seconds", min=0, max=3600, help="Each is timed for about so long.")
    ] = 10.0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Time the judged files in turns, on test images, and keep it with the results.

    \b
    boxatlas field speed --data VOC20 --out runs/field
    """
    from boxatlas.data import read
    from boxatlas.field import results
    from boxatlas.field.timing import time_methods

    known = results.read_results(field / "results")
    sources = list(read(data, "test").paths[:32])
    document = time_methods(known, out, sources, seconds=seconds, device=pick_device(device))
    results.write(field / "results" / "speed.json", document)
    rows = [_timed(name, one) for name, one in document["methods"].items()]
    emit(document, as_json, rows=rows, text=f"{document['device']}, {document['threads']} threads")


@app.command()
def survey(
    field: Folder = Path("field"),
    seconds: Annotated[
        float, typer.Option("--seconds", min=0, max=3600, help="Each is timed for about so long.")
    ] = 3.0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Time the 22 networks of the published comparison here, and keep it with the results.

    Random weights, 80 classes; five images each at least, so that it takes some twenty minutes on
    one core. Stopped, the same command goes on with those that are missing.

    \b
    boxatlas field survey
    """
    from boxatlas.evaluation.survey import SURVEY
    from boxatlas.field import results
    from boxatlas.field.document import survey_table
    from boxatlas.field.timing import time_survey

    path = field / "results" / "survey.json"
    document = results.read_document(field / "results", path.name)
    left = len(SURVEY) - len(document.get("rows", {}))
    timed = time_survey(document, seconds=seconds, device=pick_device(device))
    for document in _said(timed, "timing", left):
        results.write(path, document)
    emit(document, as_json, rows=survey_table(document))


@app.command()
def table(
    field: Stored = None,
    images: Annotated[
        int | None, typer.Option("--images", min=1, help="Trained on; the most if not given.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print the methods after equally many images, best COCO AP first.

    \b
    boxatlas field table
    boxatlas field table --images 7500 --json
    """
    from boxatlas.errors import InputError
    from boxatlas.field import document, report

    known, timed, compared, _ = document.stored(_results(field))
    stages = report.stages(known)
    chosen = images or max(stages, default=0)
    if chosen not in stages:
        judged = ", ".join(map(str, stages)) or "nothing"
        raise InputError("was not judged", field="--images", value=chosen, hint=f"was: {judged}")
    rows = report.table(known, chosen, timed, compared)
    said = f"after {chosen:,} images; AP in percent; ?: half of it was not judged"
    emit({"field": rows}, as_json, rows=report.shown(rows), text=said)


@app.command()
def document(
    field: Stored = None,
    docs: Annotated[Path, typer.Option("--docs", help="The folder of the documents.")] = Path(
        "docs"
    ),
    as_json: JsonOption = False,
) -> None:
    """Make docs/field.md and its plots from the stored results.

    \b
    boxatlas field document
    """
    from boxatlas.field.document import write_document

    files = [str(file) for file in write_document(_results(field), docs)]
    emit({"files": files}, as_json, text="\n".join(files))


@app.command()
def page(
    out: Annotated[Path, typer.Option("--out", help="The page, such as field.html.")],
    field: Stored = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Photos of its test images, with what each finds.")
    ] = None,
    photos: Annotated[int, typer.Option("--photos", min=1, max=50, help="How many.")] = 6,
    force: ForceOption = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Write one page: tables, plots, and with --data the same photos through all methods.

    The weights are those of `field/NAME`: installed, or published in a clone.

    \b
    boxatlas field page --out field.html
    boxatlas field page --out field.html --data VOC20 --photos 8
    """
    from boxatlas.data import read
    from boxatlas.field.page import write_report
    from boxatlas.weights.field import field_file, field_names

    reserve_file(out, force)
    images = None if data is None else read(data, "test")
    files = {name.removeprefix("field/"): field_file(name) for name in field_names()}
    write_report(out, _results(field), files, images, photos, pick_device(device))
    emit({"page": str(out)}, as_json, text=str(out))


def _results(field: Path | None) -> Path:
    """The folder of stored results: of --field, else the installed one or this clone's."""
    from boxatlas.errors import InputError
    from boxatlas.field.results import home

    if field is None:
        return home()
    if not (field / "results").is_dir():
        raise InputError("has no folder results", file=field, field="--field")
    return field / "results"


def _said(documents: Iterator[dict[str, Any]], what: str, total: int | None = None) -> Any:
    from boxatlas.progress import track

    return track(documents, what, total)


def _timed(name: str, one: dict[str, Any]) -> dict[str, Any]:
    return {
        "method": name,
        "FPS": one["fps"],
        "between": "{:.3g}-{:.3g}".format(*one["fps_between"]),
        "ms": one["latency_ms"],
        "p95": one["latency_p95_ms"],
        "MB": one["peak_memory_mb"],
    }
