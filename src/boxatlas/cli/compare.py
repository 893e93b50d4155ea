"""boxatlas compare: published and measured, side by side."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from boxatlas.cli.common import (
    DeviceOption,
    ForceOption,
    FormatOption,
    JsonOption,
    SeedOption,
    emit,
    fresh,
    pick_device,
)

if TYPE_CHECKING:
    import torch

    from boxatlas.data import Table
    from boxatlas.evaluation.comparison import Compared


def command(
    what: Annotated[
        list[str] | None,
        typer.Argument(metavar="CKPT|RUN|MODEL...", help="What to measure; patterns of models."),
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option("--data", help="Labelled images that the AP of checkpoints is measured on."),
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="Which images; test or val if not given.")
    ] = None,
    metric: Annotated[
        str, typer.Option("--metric", help="What mAP is: voc07, voc12 or coco.")
    ] = "voc12",
    survey: Annotated[
        bool, typer.Option("--survey/--no-survey", help="The published comparison as well.")
    ] = True,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0, help="FPS is timed for about so long each.")
    ] = 3.0,
    out: Annotated[
        Path | None, typer.Option("--out", help="A folder for the page, plot, JSON and CSV.")
    ] = None,
    format: FormatOption = None,
    force: ForceOption = False,
    device: DeviceOption = "auto",
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Compare methods: backbone, input size, FPS and AP, as published and as measured here.

    Without arguments: the published table of the field. A checkpoint or run is measured on --data,
    a model without weights only timed. A row of the published table and a model measured at the
    same size share a line. The page says the command that makes it again.

    \b
    boxatlas compare
    boxatlas compare 'ssd300*' yolov3 --out speed
    boxatlas compare runs/ssd runs/fssd runs/yolov3 --data photos --split test --out compared
    """
    from boxatlas.cli.bench import expand
    from boxatlas.cli.eval import usual_split
    from boxatlas.errors import InputError, nearest
    from boxatlas.evaluation import METRICS
    from boxatlas.evaluation.comparison import (
        document_of,
        survey_rows,
        table_rows,
        write_comparison,
    )
    from boxatlas.progress import track

    if metric not in METRICS:
        raise InputError("no such metric", field="--metric", value=metric,
                         hint=nearest(metric, METRICS))  # fmt: skip
    if not what and not survey:
        raise InputError("there is nothing to compare", field="compare", hint="name some models")
    if out is not None and not force:
        fresh(out, False)
    table: Table | None = None
    chosen_split = split
    if data:
        from boxatlas.data import read

        chosen_split = split or usual_split(data, format)
        table = read(data, chosen_split, format)
    chosen = pick_device(device)
    conditions: dict[str, Any] = {
        "data": [str(d) for d in data or ()], "split": chosen_split if data else None,
        "metric": metric if data else None,
        "images": len(table) if table is not None else None,
    }  # fmt: skip
    rows = survey_rows() if survey else []
    if what:
        names = expand(what)
        for name in track(names, "comparing"):
            measured, machine = _measured(name, chosen, seed, seconds, table, metric)
            conditions |= machine
            _place(rows, measured)
    if out is not None:
        if force:
            fresh(out, True)
        write_comparison(out, rows, conditions, shlex.join(["boxatlas", *sys.argv[1:]]))
    text = _machine_text(conditions) + (f"report: {out / 'report.html'}" if out else "")
    emit(document_of(rows, conditions), as_json, rows=table_rows(rows), text=text)


def _measured(
    name: str, device: torch.device, seed: int, seconds: float, table: Table | None, metric: Any
) -> tuple[Compared, dict[str, Any]]:
    """(the row of a checkpoint or model, the machine it was timed on)."""
    from boxatlas.cli.bench import open_or_make
    from boxatlas.evaluation import evaluate, predict
    from boxatlas.evaluation.comparison import published_row
    from boxatlas.evaluation.sizes import size_of
    from boxatlas.evaluation.speed import made_images, measure

    detector, untrained = open_or_make(name, device, seed)
    row = published_row(detector.name)
    sources: list[Any] = list(table.paths[:16]) if table is not None else list(made_images())
    speed = measure(detector, sources, seconds=seconds, untrained=untrained)
    size = size_of(detector)
    row.input = f"{speed.input[0]}x{speed.input[1]}"
    own = detector.options.get("size")
    row.size = tuple(own) if isinstance(own, list) else own
    row.fps, row.latency_ms = speed.fps, speed.latency_ms
    row.parameters, row.multiply_adds = size.parameters, size.multiply_adds
    if not untrained:
        row.source = name
        if table is not None:
            numbers = evaluate(predict(detector, table), table, metric)
            row.ap, row.ap50 = numbers["coco"]["AP"], numbers["coco"]["AP50"]
            row.map = numbers["mAP"]
    return row, {"device": speed.device, "threads": speed.threads}


def _place(rows: list[Compared], new: Compared) -> None:
    """Into the published line of the same model and size, if one is free; else at the end."""
    for row in rows:
        if row.model == new.model and row.fps is None and row.size == new.size:
            for name in ("fps", "latency_ms", "ap", "ap50", "map", "parameters", "multiply_adds",
                         "source", "published_voc07", "input"):  # fmt: skip
                setattr(row, name, getattr(new, name))
            return
    rows.append(new)


def _machine_text(conditions: dict[str, Any]) -> str:
    if "device" not in conditions:
        return ""
    return f"here: {conditions['device']}, {conditions['threads']} threads\n"
