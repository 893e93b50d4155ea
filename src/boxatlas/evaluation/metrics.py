"""All numbers of an evaluation in one dictionary, ready for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from boxatlas.data.table import Table
from boxatlas.errors import InputError, nearest
from boxatlas.evaluation import coco, voc
from boxatlas.evaluation.found import Found, flatten, truth_of
from boxatlas.structures import Detections

Metric = Literal["voc07", "voc12", "coco"]
METRICS = ("voc07", "voc12", "coco")


def evaluate(
    detections: Sequence[Detections],
    table: Table,
    metric: Metric = "voc12",
    *,
    score: float | None = None,
    iou: float = 0.5,
    backend: coco.Backend = "hotcoco",
) -> dict[str, Any]:
    """How good the detections are, one Detections per image of the table, in its order.

    metric says which number is "mAP" and "per_class": voc07 (11 points), voc12 (area under the
    curve), both at one overlap `iou`, or coco (mean over overlaps 0.5 to 0.95). All three are
    computed whichever it is. Classes are compared by name.

    score: give precision and recall at this score; None: where F1 is best, class by class.
    Returns mAP and per_class {name: AP, None where the data has no such object}; voc07, voc12; coco
    and, where there are masks, coco_masks: the twelve numbers; classes {name: AP in all three,
    precision, recall, F1, at which score, objects, detections}; precision, recall, f1: means over
    classes; images, objects, ignored, detections; notes.
    Raises InputError for an unknown metric or detections that are not of these images.
    """
    if metric not in METRICS:
        raise InputError(
            "no such metric", field="metric", value=metric, hint=nearest(metric, METRICS)
        )
    found, strange = flatten(detections, table)
    truth = truth_of(table)
    curve = voc.curves(found, truth, len(table.classes), iou)
    by_metric = {
        "voc07": _plain(voc.average_precision(curve, 11)),
        "voc12": _plain(voc.average_precision(curve)),
    }
    boxes = coco.accumulate(coco.ground_truth(table), coco.results(found), backend=backend)
    by_metric["coco"] = boxes.per_class()
    classes = _classes(table.classes, by_metric, curve, score)
    means = {kind: _mean(values) for kind, values in by_metric.items()}
    document: dict[str, Any] = {
        "metric": metric,
        "mAP": boxes.mean("AP") if metric == "coco" else means[metric],
        "per_class": dict(zip(table.classes, by_metric[metric], strict=True)),
        "voc07": means["voc07"],
        "voc12": means["voc12"],
        "iou": iou,
        "coco": boxes.numbers(),
        **{
            kind: _mean([c[kind] for c in classes.values()])
            for kind in ("precision", "recall", "f1")
        },
        "score": score,
        "classes": classes,
        "images": len(table),
        "objects": int((~truth.ignore).sum()),
        "ignored": int(truth.ignore.sum()),
        "detections": len(found),
    }
    masks = masks_of(found, table, backend)
    if masks is not None:
        document["coco_masks"] = masks.numbers()
    document["notes"] = _notes(strange, found, table)
    return document


def _classes(
    names: Sequence[str],
    by_metric: dict[str, list[float | None]],
    curve: voc.Curves,
    score: float | None,
) -> dict[str, dict[str, Any]]:
    """What is known of each class."""
    points = voc.operating_points(curve, score)
    return {
        name: {
            **{kind: values[k] for kind, values in by_metric.items()},
            "precision": point.precision,
            "recall": point.recall,
            "f1": point.f1,
            "score": point.score,
            "objects": int(curve.positives[k]),
            "detections": int(curve.start[k + 1] - curve.start[k]),
        }
        for k, (name, point) in enumerate(zip(names, points, strict=True))
    }


def interval(
    detections: Sequence[Detections], table: Table, metric: Metric = "voc12", *, iou: float = 0.5
) -> tuple[float, float] | None:
    """The 95 % interval of a VOC mAP, by a bootstrap over the images; None where there is none.

    A small test set says little: with 60 images it is some 0.1 wide.
    """
    if metric == "coco":
        return None
    found, _ = flatten(detections, table)
    points = 11 if metric == "voc07" else None
    return voc.interval(found, truth_of(table), len(table.classes), len(table), iou, points=points)


def masks_of(found: Found, table: Table, backend: coco.Backend) -> coco.Accumulated | None:
    """COCO's evaluation of the masks, where both sides have them."""
    if table.masks is None or found.outlines is None:
        return None
    return coco.accumulate(
        coco.ground_truth(table, masks=True),
        coco.results(found, masks=True),
        coco.Rules("segm"),
        backend,
    )


def _plain(values: Any) -> list[float | None]:
    return [None if np.isnan(v) else float(v) for v in values]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def _notes(strange: int, found: Found, table: Table) -> list[str]:
    notes = []
    if strange:
        notes.append(f"{strange} detections are of classes that the data does not have: left out")
    if not len(found):
        notes.append("nothing was detected")
    unseen = [
        name
        for name, count in zip(
            table.classes,
            np.bincount(table.labels[~table.ignore], minlength=len(table.classes)).tolist(),
            strict=True,
        )
        if not count
    ]
    if unseen:
        notes.append(
            f"the data has no object of {', '.join(unseen[:8])}"
            f"{' ...' if len(unseen) > 8 else ''}: no AP, not in the mean"
        )
    return notes
