"""boxatlas compare: published and measured, side by side."""

from __future__ import annotations

import shlex
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
    pick_device,
    reserve,
)

if TYPE_CHECKING:
    import torch

    from boxatlas.data import Table
    from boxatlas.evaluation.comparison import Compared
    from boxatlas.evaluation.speed import Speed
    from boxatlas.parts.base import Detector
    from boxatlas.structures import Detections


What = Annotated[
    list[str] | None,
    typer.Argument(metavar="CKPT|RUN|MODEL...", help="What to measure; patterns of models."),
]
Data = Annotated[
    list[Path] | None,
    typer.Option("--data", help="Labelled images that the AP of checkpoints is measured on."),
]
Split = Annotated[
    str | None, typer.Option("--split", help="Which images; test or val if not given.")
]
Metric = Annotated[str, typer.Option("--metric", help="What mAP is: voc07, voc12 or coco.")]
Survey = Annotated[
    bool, typer.Option("--survey/--no-survey", help="The published comparison as well.")
]
Field = Annotated[
    bool, typer.Option("--field", help="The field's results: every method trained alike.")
]
Seconds = Annotated[
    float, typer.Option("--seconds", min=0, max=3600, help="FPS is timed for about so long each.")
]
Out = Annotated[
    Path | None, typer.Option("--out", help="A folder for the page, plot, JSON and CSV.")
]


def command(
    context: typer.Context,
    what: What = None,
    data: Data = None,
    split: Split = None,
    metric: Metric = "voc12",
    survey: Survey = True,
    field: Field = False,
    seconds: Seconds = 3.0,
    out: Out = None,
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
    boxatlas compare --field --no-survey
    """
    from boxatlas.cli.eval import known_metric
    from boxatlas.errors import InputError
    from boxatlas.evaluation.comparison import (
        document_of,
        survey_rows,
        table_rows,
        write_comparison,
    )

    known_metric(metric)
    if not what and not survey and not field:
        raise InputError("there is nothing to compare", field="compare", hint="name some models")
    if field and data:
        hint = "name field/NAME to measure it on --data"
        raise InputError("the field was judged on images of its own", field="--field", hint=hint)
    if out is not None:
        reserve(out, force)
    table, conditions = _labelled(data or [], split, format, metric)
    rows = survey_rows() if survey else []
    chosen = pick_device(device)
    for row in _measured_in_groups(what or [], chosen, seed, seconds, table, metric, conditions):
        _place(rows, row)
    if field:
        rows += _field_rows(conditions)
    if out is not None:
        again = shlex.join(["boxatlas", *context.obj])
        write_comparison(out, rows, conditions, again)
    text = (
        _machine_text(conditions)
        + _paired_text(conditions)
        + (f"report: {out / 'report.html'}" if out else "")
    )
    emit(document_of(rows, conditions), as_json, rows=table_rows(rows), text=text)


def _measured_in_groups(
    what: list[str],
    device: torch.device,
    seed: int,
    seconds: float,
    table: Table | None,
    metric: str,
    conditions: dict[str, Any],
) -> list[Compared]:
    """The rows of what is named, as many at a time as are timed in turns. The machine, and the
    detectors' differences on the table's images, go into the conditions."""
    from boxatlas.cli.bench import TOGETHER, expand
    from boxatlas.progress import track

    seen: dict[str, list[Detections]] = {}
    rows: list[Compared] = []
    names = expand(what)
    groups = [names[i : i + TOGETHER] for i in range(0, len(names), TOGETHER)]
    for group in track(groups, "comparing"):
        measured, machine = _measured(group, device, seed, seconds, table, metric, seen)
        conditions |= machine
        rows += measured
    if table is not None and len(seen) > 1:
        conditions["paired"] = _pairs(seen, table)
    return rows


def _field_rows(conditions: dict[str, Any]) -> list[Compared]:
    """The stored results of the field; on what they were measured goes into the conditions."""
    from boxatlas.errors import InputError
    from boxatlas.field import report, results

    folder = results.home()
    speed = results.read_document(folder, "speed.json")
    conditions["field"] = "each method's longest training; mAP is VOC07's"
    conditions["data"] = ["the field's 2,298 test images of VOC"]
    if speed:
        conditions["field_timed_on"] = f"{speed['device']}, {speed['threads']} threads"
        conditions.setdefault("device", speed["device"])
        conditions.setdefault("threads", speed["threads"])
    known = results.read_results(folder)
    if not known:
        raise InputError("nothing of the field was judged yet", file=folder)
    return report.compared(known, speed)


def _labelled(
    data: list[Path], split: str | None, format: str | None, metric: str
) -> tuple[Table | None, dict[str, Any]]:
    """(the images to measure on, what is to be said of them)."""
    from boxatlas.cli.eval import usual_split
    from boxatlas.data import read

    if not data:
        return None, {}
    chosen = split or usual_split(data, format)
    table = read(data, chosen, format)
    return table, {
        "data": [str(d) for d in data],
        "split": chosen,
        "metric": metric,
        "images": len(table),
    }


def _measured(
    names: list[str],
    device: torch.device,
    seed: int,
    seconds: float,
    table: Table | None,
    metric: Any,
    seen: dict[str, list[Detections]],
) -> tuple[list[Compared], dict[str, Any]]:
    """(the rows of checkpoints and models, timed in turns; the machine). What they detect in the
    images goes into `seen`."""
    from boxatlas.cli.bench import open_or_make
    from boxatlas.evaluation import evaluate, predict
    from boxatlas.evaluation.speed import made_images, measure_together

    sources: list[Any] = list(table.paths[:16]) if table is not None else list(made_images())
    opened = [open_or_make(name, device, seed) for name in names]
    speeds = measure_together(opened, sources, seconds=seconds)
    rows = []
    for name, (detector, untrained), speed in zip(names, opened, speeds, strict=True):
        rows.append(_row(detector, speed))
        if not untrained:
            rows[-1].source = name
        if table is not None and not untrained:
            seen[name] = predict(detector, table)
            numbers = evaluate(seen[name], table, metric)
            rows[-1].ap, rows[-1].ap50 = numbers["coco"]["AP"], numbers["coco"]["AP50"]
            rows[-1].map = numbers["mAP"]
    return rows, {"device": speeds[0].device, "threads": speeds[0].threads}


def _row(detector: Detector, speed: Speed) -> Compared:
    from boxatlas.cli.bench import size_fields
    from boxatlas.evaluation.comparison import published_row

    row = published_row(detector.name)
    row.input = f"{speed.input[0]}x{speed.input[1]}"
    own = detector.options.get("size")
    row.size = tuple(own) if isinstance(own, list) else own
    row.fps, row.latency_ms = speed.fps, speed.latency_ms
    row.fps_between = speed.fps_between
    size = size_fields(detector)
    row.parameters, row.multiply_adds = size["parameters"], size["multiply_adds"]
    return row


def _pairs(seen: dict[str, list[Detections]], table: Table) -> list[dict[str, Any]]:
    """Each detector after the first against the first."""
    from boxatlas.evaluation.diagnosis import paired

    (base, reference), *others = seen.items()
    return [
        {"first": base, "second": name, **paired(reference, found, table)} for name, found in others
    ]


def _place(rows: list[Compared], new: Compared) -> None:
    """Into the published line of the same model and size, if one is free; else at the end."""
    for row in rows:
        if row.model == new.model and row.fps is None and row.size == new.size:
            for name in (
                "fps",
                "fps_between",
                "latency_ms",
                "ap",
                "ap50",
                "map",
                "parameters",
                "multiply_adds",
                "source",
                "published_voc07",
                "input",
            ):
                setattr(row, name, getattr(new, name))
            return
    rows.append(new)


def _paired_text(conditions: dict[str, Any]) -> str:
    return "".join(
        f"{pair['second']} against {pair['first']}: AP {100 * pair['AP']:+.1f}, 95 % interval "
        f"{100 * pair['low']:+.1f} to {100 * pair['high']:+.1f}\n"
        for pair in conditions.get("paired", ())
    )


def _machine_text(conditions: dict[str, Any]) -> str:
    if "device" not in conditions:
        return ""
    return f"here: {conditions['device']}, {conditions['threads']} threads\n"
