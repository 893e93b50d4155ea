"""What hotcoco says beside AP: whether scores can be believed, which labels are likely wrong, and
whether one detector is better than another on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from boxatlas.data.table import Table
from boxatlas.evaluation import coco
from boxatlas.evaluation.found import flatten
from boxatlas.structures import Detections

_LIKELY = 20  # label errors that are listed
_SURE = 0.5  # a detection's score from which its contradiction counts
_DRAWS = 1000  # of the bootstrap


def diagnosis(detections: Sequence[Detections], table: Table) -> dict[str, Any]:
    """For JSON. calibration: "ece", the mean distance of score and share that is right, "mce", the
    largest, and "bins"; label_errors: images whose labels a confident detection contradicts, with
    the kind of contradiction, the surest first."""
    evaluator = _evaluated(detections, table)
    measured = evaluator.calibration(n_bins=10, iou_threshold=0.5)
    found = evaluator.image_diagnostics(iou_thr=0.5, score_thr=_SURE)["label_errors"]
    likely = sorted(found, key=lambda error: -error["dt_score"])[:_LIKELY]
    return {
        "calibration": {key: measured[key] for key in ("ece", "mce", "bins", "num_detections")},
        "label_errors": [
            {
                "image": table.name(int(error["image_id"]) - 1),
                "kind": error["type"],
                "detected": error["dt_category"],
                "labelled": error.get("gt_category"),
                "score": error["dt_score"],
                "overlap": error["iou"],
            }
            for error in likely
        ],
    }


def paired(
    first: Sequence[Detections], second: Sequence[Detections], table: Table
) -> dict[str, Any]:
    """By how much the second detector's COCO AP exceeds the first's on the same images, with the
    95 % interval of a bootstrap over the images: where it holds 0, neither is proven better."""
    import hotcoco

    answer = hotcoco.compare(
        _evaluated(first, table), _evaluated(second, table), n_bootstrap=_DRAWS, seed=0
    )
    within = answer["ci"]["AP"]
    return {"AP": answer["deltas"]["AP"], "low": within["lower"], "high": within["upper"]}


def _evaluated(detections: Sequence[Detections], table: Table) -> Any:
    found, _ = flatten(detections, table)
    evaluator = coco.evaluator_of(coco.ground_truth(table), coco.results(found), coco.Rules())
    evaluator.evaluate()
    return evaluator
