"""boxatlas eval: how good a detector is on labelled images."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from boxatlas.cli.common import (
    DeviceOption,
    EngineOption,
    ForceOption,
    FormatOption,
    JsonOption,
    emit,
    open_detector,
    pick_device,
    refuse,
    reserve,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from boxatlas.data import Table
    from boxatlas.data.proposals import Proposals
    from boxatlas.evaluation.test_time import Views
    from boxatlas.parts.base import Detector
    from boxatlas.structures import Detections

NEEDS_ARGUMENTS = True
_FEW = 2000  # images whose mAP gets an interval
_OF_DETECTORS = ("metric", "iou", "score", "speed", "batch", "workers", "scales", "flip", "merge")


Data = Annotated[
    list[Path],
    typer.Option("--data", help="A folder in VOC, COCO or YOLO layout; may be given again."),
]
What = Annotated[
    str | None,
    typer.Argument(metavar="CKPT|MODEL|bundled", help="Checkpoint, run folder or model."),
]
ProposalFiles = Annotated[
    list[str] | None,
    typer.Option(
        "--proposals",
        metavar="FILE|CKPT",
        help="Proposals to measure, again for others beside them; to CKPT, what it is given.",
    ),
]
Split = Annotated[
    str | None, typer.Option("--split", help="Which images; test or val if not given.")
]
MetricName = Annotated[str, typer.Option("--metric", help="What mAP is: voc07, voc12 or coco.")]
Overlap = Annotated[
    float, typer.Option("--iou", min=0, max=1, help="The overlap of voc07 and voc12.")
]
AtScore = Annotated[
    float | None,
    typer.Option(
        "--score", min=0, max=1, help="Precision and recall at this score, not at the best F1."
    ),
]
Out = Annotated[
    Path | None, typer.Option("--out", help="A folder for the report, numbers and detections.")
]
SpeedToo = Annotated[bool, typer.Option("--speed/--no-speed", help="Measure FPS too.")]
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch", min=1, help="Images at once; 8 on a GPU, 1 on a CPU or if sizes differ."
    ),
]
Workers = Annotated[int, typer.Option("--workers", min=0, help="Decoding processes.")]
Scales = Annotated[
    str | None,
    typer.Option("--scales", metavar="0.75,1,1.5", help="Look at each image at these sizes too."),
]
FlipToo = Annotated[bool, typer.Option("--flip", help="Look at each image mirrored too.")]
MergeRule = Annotated[
    str, typer.Option("--merge", help="Boxes of several looks: vote, nms or soft.")
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Only the first N images.")]


def command(
    context: typer.Context,
    data: Data,
    what: What = None,
    proposals: ProposalFiles = None,
    split: Split = None,
    metric: MetricName = "voc12",
    iou: Overlap = 0.5,
    score: AtScore = None,
    out: Out = None,
    speed: SpeedToo = True,
    batch: BatchSize = None,
    workers: Workers = 0,
    limit: Limit = None,
    scales: Scales = None,
    flip: FlipToo = False,
    merge: MergeRule = "vote",
    format: FormatOption = None,
    force: ForceOption = False,
    device: DeviceOption = "auto",
    engine: EngineOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a detector: AP per class, mAP, the COCO numbers, precision, recall, FPS, mistakes.

    All three metrics are computed whichever is chosen; --metric says which one is called mAP.
    Every detection down to the method's own low threshold counts: --score changes no AP.

    \b
    boxatlas eval runs/ssd --data photos --split test
    boxatlas eval best.safetensors --data VOC2007 --metric voc07 --out report
    boxatlas eval bundled --data coco --split val --metric coco --json
    boxatlas eval runs/refinedet --data photos --scales 0.75,1,1.5 --flip
    boxatlas eval --proposals VOC2007/proposals.npz --proposals runs/faster_rcnn --data VOC2007
    """
    from boxatlas.evaluation import evaluate
    from boxatlas.evaluation.test_time import parse

    if what is None:
        refuse(context, _OF_DETECTORS, "proposals alone are measured, no detector")
        _measure_proposals(proposals or [], data, split, format, limit, out, force, device, as_json)
        return
    known_metric(metric)
    views = parse(scales, flip, merge)
    if out is not None:
        reserve(out, force)
    table, chosen = _images(data, split, format, limit)
    detector = open_detector(what, pick_device(device), engine)
    boxes = _proposals_for(detector, proposals, data, table)
    start = time.perf_counter()
    found = _found(detector, table, views, workers, batch, boxes)
    about = {"model": detector.name, "checkpoint": what, "data": [str(d) for d in data]}
    seconds = time.perf_counter() - start
    numbers = evaluate(found, table, metric, score=score, iou=iou)  # type: ignore[arg-type]
    document: dict[str, Any] = {**about, "split": chosen, "seconds": seconds, **numbers}
    document |= _conditions(detector, context.obj)
    _add_more(document, found, table, detector if speed else None)
    if out is not None:
        _write(out, document, found, table, detector, _history(what))
    _print(document, out, as_json)


def known_metric(name: str) -> None:
    """Raise InputError where --metric is none."""
    from boxatlas.errors import InputError, nearest
    from boxatlas.evaluation import METRICS

    if name not in METRICS:
        raise InputError(
            "no such metric", field="--metric", value=name, hint=nearest(name, METRICS)
        )


def _images(
    folders: list[Path], split: str | None, format: str | None, limit: int | None
) -> tuple[Table, str | None]:
    """(the images, of which split)."""
    from boxatlas.data import read

    chosen = split or usual_split(folders, format)
    table = read(folders, chosen, format)
    return (table if limit is None else table.select(range(min(limit, len(table)))), chosen)


def _print(document: dict[str, Any], out: Path | None, as_json: bool) -> None:
    from boxatlas.progress import console

    for note in document["notes"]:
        console().print(f"note: {note}", markup=False)
    emit(document, as_json, rows=_rows(document), title=_title(document), text=_text(document, out))


def _proposals_for(
    detector: Detector, files: list[str] | None, folders: list[Path], table: Table
) -> Proposals | None:
    """The proposals that a detector takes: of --proposals, or beside the data."""
    from boxatlas.data.proposals import beside, for_images

    chosen = files or (beside(folders) if detector.takes_proposals else [])
    most = detector.takes_proposals or None
    return for_images(chosen, [table], most, own=not files) if chosen else None


def _measure_proposals(
    sources: list[str],
    folders: list[Path],
    split: str | None,
    format: str | None,
    limit: int | None,
    out: Path | None,
    force: bool,
    device: str,
    as_json: bool,
) -> None:
    """How good proposals are, without a detector on top: a table, JSON, a plot."""
    from boxatlas.data.proposals import read_proposals
    from boxatlas.errors import InputError
    from boxatlas.evaluation.proposals import measure_each, plot
    from boxatlas.files import write_text

    if not sources:
        raise InputError("give a detector, or --proposals", field="eval", hint="see --help")
    if out is not None:
        reserve(out, force)
    table, chosen = _images(folders, split, format, limit)
    opened: dict[str, Any] = {
        source: read_proposals(source)
        if Path(source).suffix.lower() in (".npz", ".mat", ".pkl", ".pickle")
        else open_detector(source, pick_device(device))
        for source in sources
    }
    measured = measure_each(opened, table)
    document = {
        "data": [str(d) for d in folders],
        "split": chosen,
        "proposals": {name: one.document() for name, one in measured.items()},
    }
    if out is not None:
        write_text(out / "proposals.json", json.dumps(document, indent=1) + "\n")
        plot(measured, out / "proposals.png")
    several = len(measured) > 1
    rows = [
        {**({"of": name} if several else {}), **row}
        for name, one in measured.items()
        for row in one.rows()
    ]
    best = {name: one.document()["per_class"] for name, one in measured.items()}
    lines = ["MABO per class, all proposals:"] + [
        f"  {label}: "
        + ", ".join("-" if b[label] is None else f"{b[label]:.3f}" for b in best.values())
        for label in table.classes
    ]
    if out is not None:
        lines.append(f"plot: {out / 'proposals.png'}")
    emit(
        document,
        as_json,
        rows=rows,
        text="\n".join(lines),
        title=f"Proposals on {len(table)} images: " + ", ".join(measured),
    )


def usual_split(folders: list[Path], format: str | None) -> str | None:
    """test, or else val, where every folder has it; None = all images, which is said aloud."""
    from boxatlas.data import split_to_judge
    from boxatlas.progress import console

    name, said = split_to_judge(folders, format)
    if name is None and said:
        console().print(f"warning: {said}", style="yellow", markup=False)
    return name


def _found(
    detector: Detector,
    table: Table,
    views: Views,
    workers: int,
    batch: int | None,
    proposals: Mapping[str, Any] | None,
) -> list[Detections]:
    from boxatlas.evaluation import predict
    from boxatlas.evaluation.test_time import predict_views

    options: dict[str, Any] = {"workers": workers, "batch_size": batch, "proposals": proposals}
    if views.single:
        return predict(detector, table, **options)
    return predict_views(detector, table, views, **options)


def _add_more(
    document: dict[str, Any], found: list[Detections], table: Table, timed: Detector | None
) -> None:
    """How sure mAP is, the kinds of mistakes, and the speed of the detector, if one is given."""
    from boxatlas.evaluation import interval
    from boxatlas.evaluation.diagnosis import diagnosis
    from boxatlas.evaluation.errors import mistakes
    from boxatlas.evaluation.speed import measure

    iou = document["iou"]
    if len(table) <= _FEW:
        document["interval"] = interval(found, table, document["metric"], iou=iou)
    document["errors"] = mistakes(found, table, iou=iou).document()
    document["diagnosis"] = diagnosis(found, table)
    if timed is not None:
        measured = measure(timed, table.paths[:16], seconds=3.0)
        document["fps"] = measured.fps
        document["speed"] = measured.document()


def _write(
    out: Path,
    document: dict[str, Any],
    found: list[Detections],
    table: Table,
    detector: Detector,
    history: Path | None,
) -> None:
    """The numbers first: they are kept whatever becomes of the page."""
    from boxatlas.errors import InputError, parsing
    from boxatlas.evaluation import coco
    from boxatlas.evaluation.report import write_report
    from boxatlas.files import write_text

    write_text(out / "metrics.json", json.dumps(document, indent=1) + "\n")
    write_text(out / "per_class.csv", _csv(document["classes"]))
    objects, rows = coco.files(found, table)
    write_text(out / "objects.json", json.dumps(objects) + "\n")
    write_text(out / "detections.json", json.dumps(rows) + "\n")
    try:
        with parsing(out / "report.html", "the page could not be made"):
            write_report(out / "report.html", document, found, table, detector, history=history)
    except InputError as error:
        document["notes"].append(str(error))


def _conditions(detector: Detector, arguments: list[str]) -> dict[str, Any]:
    """What made the numbers: the command, when, and a checksum of the weights."""
    import hashlib
    import shlex
    from datetime import UTC, datetime

    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(detector.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return {
        "command": shlex.join(["boxatlas", *map(str, arguments or ())]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "weights": f"sha256 {digest.hexdigest()[:16]}",
    }


def _history(what: str) -> Path | None:
    """metrics.csv of the run that a checkpoint, or the run's folder, belongs to."""
    path = Path(what)
    found = (path if path.is_dir() else path.parent) / "metrics.csv"
    return found if path.exists() and found.is_file() else None


def _csv(classes: dict[str, dict[str, Any]]) -> str:
    import csv
    import io

    from boxatlas.errors import cell

    out = io.StringIO()
    names = ["class", *next(iter(classes.values()), {})]
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({"class": cell(name), **values} for name, values in classes.items())
    return out.getvalue()


def _rows(document: dict[str, Any]) -> list[dict[str, Any]]:
    metric = document["metric"]
    return [
        {
            "class": name,
            "objects": c["objects"],
            f"AP ({metric})": c[metric],
            "precision": c["precision"],
            "recall": c["recall"],
            "F1": c["f1"],
            "at score": c["score"],
        }
        for name, c in document["classes"].items()
    ]


def _title(document: dict[str, Any]) -> str:
    where = ", ".join(document["data"]) + (f" ({document['split']})" if document["split"] else "")
    return f"{document['model']} on {where}: {document['images']} images"


def _text(document: dict[str, Any], out: Path | None) -> str:
    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:.4f}"

    numbers = document["coco"]
    between = document.get("interval")
    lines = [
        f"mAP {shown(document['mAP'])} ({document['metric']}"
        + (f" at IoU {document['iou']:g})" if document["metric"] != "coco" else ")")
        + (f", other images of the kind: {between[0]:.3f} to {between[1]:.3f}" if between else ""),
        f"voc07 {shown(document['voc07'])}, voc12 {shown(document['voc12'])}",
        "coco  " + ", ".join(f"{name} {shown(numbers[name])}" for name in list(numbers)[:6]),
        "      " + ", ".join(f"{name} {shown(numbers[name])}" for name in list(numbers)[6:]),
    ]
    if "coco_masks" in document:
        masks = document["coco_masks"]
        lines.append("masks " + ", ".join(f"{n} {shown(masks[n])}" for n in list(masks)[:6]))
    calibration, likely = (
        document["diagnosis"]["calibration"],
        document["diagnosis"]["label_errors"],
    )
    lines.append(
        f"scores {calibration['ece']:.3f} from the share that is right"
        + (f"; {len(likely)} labels may be wrong (--json or --out lists them)" if likely else "")
    )
    lost = document["errors"]["lost_ap"]
    lines.append("lost  " + ", ".join(f"{kind} {shown(value)}" for kind, value in lost.items()))
    if "fps" in document:
        parts = document["speed"]["parts_ms"]
        lines.append(
            f"FPS   {document['fps']:.1f} at batch 1, half of the images between "
            "{:.1f} and {:.1f} (".format(*document["speed"]["fps_between"])
            + ", ".join(f"{name} {ms:.1f} ms" for name, ms in parts.items())
            + ")"
        )
    if out is not None:
        lines.append(f"report: {out / 'report.html'}")
    return "\n".join(lines)
