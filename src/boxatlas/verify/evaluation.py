"""VOC's and COCO's metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from boxatlas.evaluation import coco, voc
from boxatlas.evaluation.found import Found, Truth
from boxatlas.verify.case import Case, UnsupportedError, expect

_POINTS = {"11point": 11, "allpoint": None}


def eval_voc(case: Case) -> dict[str, Any]:
    """Curves and average precision, one call for each class and threshold."""
    made = {name: _voc_call(case, call) for name, call in case.calls.items()}
    values: dict[str, Any] = {}
    for entry in case.outputs:
        field = entry["field"]
        if field == "mean_ap":
            aps = [_ap(made[name], entry["metric"]) for name in entry["calls"]]
            values[entry["name"]] = np.mean(aps)
        elif field == "ap":
            values[entry["name"]] = _ap(made[entry["call"]], entry["metric"])
        elif field in ("recall", "precision"):
            recall, precision, _ = made[entry["call"]].of(0)
            values[entry["name"]] = recall if field == "recall" else precision
        else:
            raise UnsupportedError(f"field {field}")
    return values


def _ap(curve: voc.Curves, metric: str) -> float:
    if metric not in _POINTS:
        raise UnsupportedError(f"metric {metric}")
    return float(voc.average_precision(curve, _POINTS[metric])[0])


def _voc_call(case: Case, call: Mapping[str, Any]) -> voc.Curves:
    """The curves of the class that the call is for."""
    params = {**case.params, **call["params"]}
    expect(
        params,
        difficult=("ignore", "count"),
        match=("best_overlap_even_if_taken",),
        iou_compare=("gt", "ge"),
    )
    inputs = case.arguments(call)
    objects: Mapping[str, Any] = inputs["annotations"]
    images = list(objects)
    columns = case.stored("detection_columns")
    columns = columns.split(", ") if isinstance(columns, str) else list(columns)
    rows = inputs["detections"].get(params["class"], [])
    corners = [columns.index(c) for c in ("xmin", "ymin", "xmax", "ymax")]
    found = Found(
        np.array([images.index(row[columns.index("image")]) for row in rows], np.int64),
        np.zeros(len(rows), np.int64),
        np.array([[row[i] for i in corners] for row in rows], np.float64).reshape(-1, 4),
        np.array([row[columns.index("score")] for row in rows], np.float64),
    )
    mine = [
        (i, one)
        for i, name in enumerate(images)
        for one in objects[name]
        if one["name"] == params["class"]
    ]
    counted = params["difficult"] == "count"
    truth = Truth(
        np.array([i for i, _ in mine], np.int64),
        np.zeros(len(mine), np.int64),
        np.array([one["bbox"] for _, one in mine], np.float64).reshape(-1, 4),
        np.array([bool(one["difficult"]) and not counted for _, one in mine], bool),
    )
    return voc.curves(
        found,
        truth,
        1,
        float(params["iou_threshold"]),
        width_offset=float(params["width_offset"]),
        inclusive=params["iou_compare"] == "ge",
    )


def eval_coco(case: Case) -> dict[str, Any]:
    """The twelve numbers and the arrays behind them, for boxes, masks and without classes."""
    made = {name: _coco_call(case, call) for name, call in case.calls.items()}
    values: dict[str, Any] = {}
    for entry in case.outputs:
        result, field = made[entry["call"]], entry["field"]
        if field in ("precision", "recall"):
            array = result.precision if field == "precision" else result.recall
            at = (entry.get("at") or {}).get("max_detections")
            values[entry["name"]] = (
                array if at is None else array[..., result.rules.budgets.index(at)]
            )
            continue
        # pycocotools asks for 100 detections an image in its first number whatever is set.
        numbers = result.numbers(overall_budget=100)
        if field not in numbers:
            raise UnsupportedError(f"field {field}")
        number = numbers[field]
        values[entry["name"]] = -1.0 if number is None else number
    return values


def _coco_call(case: Case, call: Mapping[str, Any]) -> coco.Accumulated:
    params = {**case.params, **call["params"]}
    expect(params, iou_type=("bbox", "segm"), width_offset=(0,))
    points = int(params["recall_points"])
    rules = coco.Rules(
        params["iou_type"],
        bool(params["use_categories"]),
        tuple(params["iou_thresholds"]),
        tuple(np.linspace(0, 1, points).tolist()),
        tuple(params["max_detections"]),
        {name: (low, high) for name, (low, high) in params["area_ranges"].items()},
    )
    inputs = case.arguments(call)
    return coco.accumulate(inputs["ground_truth"], inputs["detections"], rules)


CASES = {"eval_voc": eval_voc, "eval_coco": eval_coco}
