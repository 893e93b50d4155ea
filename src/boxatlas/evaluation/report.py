"""The report of an evaluation: what `boxatlas eval --out` and `boxatlas demo` write."""

from __future__ import annotations

import contextlib
import csv
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from boxatlas._version import __version__
from boxatlas.data.table import Table
from boxatlas.drawing import draw
from boxatlas.errors import InputError
from boxatlas.evaluation import plots, voc
from boxatlas.evaluation.errors import PASSED, RIGHT, Mistakes, mistakes
from boxatlas.evaluation.found import flatten, truth_of
from boxatlas.evaluation.page import Picture, Section, picture, write_page
from boxatlas.images import read
from boxatlas.structures import Detections

if TYPE_CHECKING:
    from boxatlas.parts.base import Detector

_MATRIX_CLASSES = 30  # more are not readable as one picture
_LOOK = 0.3  # the score shown at, where a class has no better one
_SMALL = 480  # px, to which smaller pictures are enlarged
_WHITE = (255, 255, 255)


def write_report(
    path: str | Path,
    document: dict[str, Any],
    detections: Sequence[Detections],
    table: Table,
    detector: Detector | None = None,
    *,
    title: str | None = None,
    lead: Sequence[str] = (),
    history: str | Path | None = None,
    pictures: int = 12,
    first: Sequence[Section] = (),
) -> None:
    """Write the page of an evaluation.

    document: what `evaluate` returned, with "fps" and "speed" where they were measured. history: a
    run's metrics.csv, for its curves. lead: paragraphs at the top. pictures: how many, half of them
    evenly spread over the data, half those with most mistakes. first: sections before the others.
    """
    judged = mistakes(detections, table, iou=document["iou"])
    name = document.get("model") or (detector.name if detector is not None else "detector")
    data = ", ".join(document.get("data") or ())
    where = f"{data} ({document['split']})" if document.get("split") else data
    sections = [
        *first,
        *_pictures(document, detections, table, judged, pictures),
        _classes(document),
        _curves(document, detections, table),
        _coco(document),
        _mistakes(document, judged, table),
        *_diagnosis(document),
        *_speed(document),
        *_history(history),
        _conditions(document, detector),
    ]
    write_page(
        path,
        title or f"{name}: evaluation",
        f"{where + ': ' if where else ''}{document['images']} images, {document['objects']} objects"
        + (f" ({document['ignored']} more ignored)" if document["ignored"] else ""),
        sections,
        numbers=_numbers(document),
        lead=lead,
        notes=document.get("notes") or (),
    )


def _numbers(document: dict[str, Any]) -> list[tuple[str, Any]]:
    coco = document["coco"]
    numbers = [
        (f"mAP@{document['iou']:g} (VOC12)", document["voc12"]),
        ("AP (COCO)", coco["AP"]),
        ("AP75", coco["AP75"]),
        ("precision", document["precision"]),
        ("recall", document["recall"]),
    ]
    if "coco_masks" in document:
        numbers.append(("mask AP (COCO)", document["coco_masks"]["AP"]))
    if document.get("fps") is not None:
        numbers.append(("FPS at batch 1", document["fps"]))
    return numbers


def _classes(document: dict[str, Any]) -> Section:
    rows = [
        {
            "class": name,
            "objects": c["objects"],
            "AP (VOC12)": c["voc12"],
            "AP (VOC07)": c["voc07"],
            "AP (COCO)": c["coco"],
            "precision": c["precision"],
            "recall": c["recall"],
            "F1": c["f1"],
            "at score": c["score"],
        }
        for name, c in document["classes"].items()
    ]
    where = "where F1 is best" if document["score"] is None else f"at score {document['score']:g}"
    return Section(
        "Classes", f"Precision and recall are those {where}, at IoU {document['iou']:g}.", rows=rows
    )


def _curves(document: dict[str, Any], detections: Sequence[Detections], table: Table) -> Section:
    found, _ = flatten(detections, table)
    curve = voc.curves(found, truth_of(table), len(table.classes), document["iou"])
    most_objects = np.argsort(-curve.positives, kind="stable")
    drawn = {table.classes[k]: curve.of(k)[:2] for k in most_objects.tolist() if curve.positives[k]}
    return Section("Precision and recall", plots=[plots.precision_recall(drawn)])


def _coco(document: dict[str, Any]) -> Section:
    kinds = {"boxes": document["coco"]}
    if "coco_masks" in document:
        kinds["masks"] = document["coco_masks"]
    rows = [{"": n, **{kind: v[n] for kind, v in kinds.items()}} for n in document["coco"]]
    text = "AP is the mean over overlaps 0.5 to 0.95; sizes are areas below 32², to 96², above."
    return Section("COCO's numbers", text, rows=rows)


def _diagnosis(document: dict[str, Any]) -> list[Section]:
    """Whether scores can be believed, and which labels are likely wrong."""
    known = document.get("diagnosis")
    if not known or not document["detections"]:
        return []
    calibration = known["calibration"]
    bins = [b for b in calibration["bins"] if b["count"]]
    curve = ([b["avg_confidence"] for b in bins], [b["avg_accuracy"] for b in bins])
    drawn = {"score = share": ([0.0, 1.0], [0.0, 1.0]), "this detector": curve}
    sections = [
        Section(
            "Can scores be believed",
            f"The share of detections that are right, by score: {calibration['ece']:.3f} apart on "
            "average (expected calibration error).",
            plots=[plots.lines(drawn, "score", "share that is right")],
        )
    ]
    if known["label_errors"]:
        said = "Images whose labels a confident detection contradicts: the first to look at."
        sections.append(Section("Labels that may be wrong", said, rows=known["label_errors"]))
    return sections


def _mistakes(document: dict[str, Any], judged: Mistakes, table: Table) -> Section:
    drawn = [plots.bars(judged.lost, "AP gained if this alone were right")]
    if len(table.classes) <= _MATRIX_CLASSES:
        drawn.append(plots.matrix(judged.confusion, table.classes))
    counts = judged.counts()
    rows = [{"kind": k, "how many": counts[k], "AP lost": judged.lost[k]} for k in counts]
    return Section(
        "Mistakes",
        "What is wrong with the detections that are not right (TIDE): fixing one kind would raise "
        f"AP at IoU {judged.iou:g} by so much. The numbers count every detection down to the "
        "lowest score (an object is missed where none has it); the matrix, its last row and "
        f"column too, only those of score {judged.score:g} and more; recall above is at the score "
        "said there.",
        plots=drawn,
        rows=rows,
    )


def _speed(document: dict[str, Any]) -> list[Section]:
    speed = document.get("speed")
    if not speed:
        return []
    rows = [{"part": part, "median ms": ms} for part, ms in speed["parts_ms"].items()]
    text = (
        f"{speed['device']}, {speed['threads']} threads, one image at a time, {speed['images']} "
        f"timed. FPS counts network and postprocess (box decoding, suppression): half of the "
        f"images between {speed['fps_between'][0]:.1f} and {speed['fps_between'][1]:.1f}; with "
        f"reading and preprocessing it is {speed['fps_whole']:.1f}."
    )
    return [Section("Speed", text, rows=rows)]


def _history(file: str | Path | None) -> list[Section]:
    """Losses and mAP over the iterations of a run, from its metrics.csv."""
    if file is None or not Path(file).is_file():
        return []
    with open(file, newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    stages = list(dict.fromkeys(row.get("phase", "") for row in rows))
    losses: dict[str, plots.Curve] = {}
    scores: dict[str, plots.Curve] = {}
    for stage in stages:
        mine = [row for row in rows if row.get("phase", "") == stage]
        before = f"{stage}: " if len(stages) > 1 else ""
        read_ = [row for row in mine if row.get("loss")]
        for name in rows[0]:
            if name not in _NOT_LOSSES and any(row.get(name) for row in read_):
                losses[before + name] = _column(read_, name)
        judged = [row for row in mine if row.get("mAP")]
        if judged:
            scores |= {
                f"{before}{name}": _column(judged, key)
                for name, key in (("mAP", "mAP"), ("COCO AP", "coco/AP"))
            }
    drawn = []
    if losses:
        drawn.append(plots.lines(losses, "iteration", "loss"))
    if scores:
        drawn.append(plots.lines(scores, "iteration", "AP on the validation images"))
    return [Section("Training", plots=drawn)] if drawn else []


_NOT_LOSSES = frozenset(
    {
        "phase",
        "iteration",
        "epoch",
        "images",
        "seconds",
        "memory_mb",
        "lr",
        "images_per_second",
        "gradient_norm",
    }
)


def _column(rows: Sequence[dict[str, str]], name: str) -> plots.Curve:
    pairs = [(float(row["iteration"]), float(row[name])) for row in rows if row.get(name)]
    return [x for x, _ in pairs], [y for _, y in pairs]


def _conditions(document: dict[str, Any], detector: Detector | None) -> Section:
    rows = [
        ("boxatlas", __version__),
        ("torch", torch.__version__),
        ("Python", platform.python_version()),
        ("system", platform.platform()),
    ]
    for name in ("date", "command", "weights", "checkpoint"):
        if document.get(name):
            rows.insert(0, (name, str(document[name])))
    if detector is not None:
        options = ", ".join(f"{k}={v}" for k, v in detector.options.items())
        rows.insert(0, ("model", detector.name + (f" ({options})" if options else "")))
    return Section("Made with", rows=[{"what": a, "value": b} for a, b in rows])


# -- pictures -------------------------------------------------------------------------------------


def _pictures(
    document: dict[str, Any],
    detections: Sequence[Detections],
    table: Table,
    judged: Mistakes,
    count: int,
) -> list[Section]:
    if count < 1 or not len(table):
        return []
    limits = np.array(
        [c["score"] if c["score"] is not None else _LOOK for c in document["classes"].values()]
    )
    wrong = (judged.kind != RIGHT) & (judged.kind != PASSED)
    wrong &= judged.found.scores >= limits[judged.found.label]
    many = np.bincount(judged.found.image[wrong], minlength=len(table))
    many = many + np.bincount(judged.truth.image[judged.missed], minlength=len(table))
    spread = np.unique(np.linspace(0, len(table) - 1, min(len(table), (count + 1) // 2)).round())
    worst = [i for i in np.argsort(-many, kind="stable").tolist() if many[i]][: count // 2]
    shown = "Detections in the colours of their classes, labelled objects in white."
    sections = [
        Section(
            "Pictures",
            shown,
            pictures=_opened(
                [(i, "") for i in spread.astype(int).tolist()], detections, table, limits
            ),
        )
    ]
    if worst:
        sections.append(
            Section(
                "Pictures with most mistakes",
                pictures=_opened(
                    [(i, f"{many[i]} mistakes") for i in worst], detections, table, limits
                ),
            )
        )
    return sections


def _opened(
    chosen: Sequence[tuple[int, str]],
    detections: Sequence[Detections],
    table: Table,
    limits: np.ndarray,
) -> list[Picture]:
    """Those that can still be read; one that cannot costs the page nothing else."""
    pictures = []
    for i, said in chosen:
        with contextlib.suppress(InputError):
            pictures.append(_one(detections[i], table, i, limits, said))
    return pictures


def _one(found: Detections, table: Table, i: int, limits: np.ndarray, said: str = "") -> Picture:
    """The image with its objects in white and its detections above their class's score."""
    place = {name: k for k, name in enumerate(table.classes)}
    names = found.classes or table.classes
    labels = [place.get(names[k], -1) for k in found.labels.tolist()]
    keep = [
        k
        for k, (label, score) in enumerate(zip(labels, found.scores.tolist(), strict=True))
        if label >= 0 and score >= limits[label]
    ]
    objects = table.objects(i)
    pixels = read(table.paths[i])
    times = max(1, _SMALL // max(pixels.shape[:2]))  # small pictures have no room for names
    pixels = pixels.repeat(times, 0).repeat(times, 1)
    image = draw(
        pixels,
        table.boxes[objects] * times,
        [""] * len(table.labels[objects]),
        table.labels[objects].tolist(),
        outline=_WHITE,
    )
    image = draw(
        np.array(image),
        found.boxes[keep].numpy() * times,
        [table.classes[labels[k]] for k in keep],
        [labels[k] for k in keep],
        [float(found.scores[k]) for k in keep],
    )
    caption = table.name(i) + (f": {said}" if said else "")
    return picture(image, caption)
