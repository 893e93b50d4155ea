"""COCO's metric: average precision and recall over ten overlaps, three sizes and three budgets.

The matching is a library's (hotcoco, or faster-coco-eval as a second opinion); here stand what it
is given and the summary of what it answers. An object that is to be ignored is given as a crowd.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from boxatlas.data.table import Table
from boxatlas.errors import InputError
from boxatlas.evaluation.found import Floats, Found, flatten
from boxatlas.ops.rle import packed
from boxatlas.structures import Detections

Backend = Literal["hotcoco", "faster-coco-eval", "pycocotools"]
NUMBERS = (
    "AP",
    "AP50",
    "AP75",
    "AP_small",
    "AP_medium",
    "AP_large",
    "AR1",
    "AR10",
    "AR100",
    "AR_small",
    "AR_medium",
    "AR_large",
)
_AREAS = {
    "all": (0.0, 1e10),
    "small": (0.0, 1024.0),
    "medium": (1024.0, 9216.0),
    "large": (9216.0, 1e10),
}


@dataclass(frozen=True)
class Rules:
    """What COCO's evaluation leaves open; the defaults are the official ones."""

    kind: Literal["bbox", "segm"] = "bbox"
    by_class: bool = True
    ious: tuple[float, ...] = tuple(np.linspace(0.5, 0.95, 10).tolist())
    recalls: tuple[float, ...] = tuple(np.linspace(0, 1, 101).tolist())
    budgets: tuple[int, ...] = (1, 10, 100)
    areas: Mapping[str, tuple[float, float]] = field(default_factory=lambda: dict(_AREAS))


@dataclass(frozen=True)
class Accumulated:
    """precision [ious, recalls, K, areas, budgets], recall [ious, K, areas, budgets]; -1 where
    there is no object. K is 1 where classes do not count."""

    rules: Rules
    precision: Floats
    recall: Floats

    def mean(
        self,
        what: Literal["AP", "AR"],
        *,
        iou: float | None = None,
        area: str = "all",
        budget: int | None = None,
    ) -> float | None:
        """The mean over what is not given (budget: the largest); None where there is no object."""
        values = self._part(what, iou, area, budget)
        values = values[values > -1]
        return float(values.mean()) if values.size else None

    def per_class(self, what: Literal["AP", "AR"] = "AP", **which: Any) -> list[float | None]:
        """The same for each class."""
        values = self._part(what, which.get("iou"), which.get("area", "all"), which.get("budget"))
        values = np.moveaxis(values, -1, 0).reshape(values.shape[-1], -1)
        return [float(v[v > -1].mean()) if (v > -1).any() else None for v in values]

    def _part(self, what: str, iou: float | None, area: str, budget: int | None) -> Floats:
        """[ious, recalls, K] or [ious, K]."""
        rules = self.rules
        values = self.precision if what == "AP" else self.recall
        if area not in rules.areas:
            return np.full((1, values.shape[-3]), -1.0)
        place = list(rules.areas).index(area)
        wanted = rules.budgets[-1] if budget is None else budget
        if wanted not in rules.budgets:
            return np.full((1, values.shape[-3]), -1.0)
        values = values[..., place, rules.budgets.index(wanted)]
        if iou is not None:
            values = values[np.isclose(rules.ious, iou)]
        return values

    def numbers(self, overall_budget: int | None = None) -> dict[str, float | None]:
        """The twelve, by name. overall_budget: detections an image for AP, where not the largest.

        AR1, AR10 and AR100 are those of the three budgets, whatever these are.
        """
        ar = {
            f"AR{n}": self.mean("AR", budget=b)
            for n, b in zip((1, 10, 100), self.rules.budgets, strict=False)
        }
        sizes = ("small", "medium", "large")
        return {
            "AP": self.mean("AP", budget=overall_budget),
            "AP50": self.mean("AP", iou=0.5),
            "AP75": self.mean("AP", iou=0.75),
            **{f"AP_{size}": self.mean("AP", area=size) for size in sizes},
            **ar,
            **{f"AR_{size}": self.mean("AR", area=size) for size in sizes},
        }


def ids_of(table: Table) -> tuple[list[int], list[int]]:
    """(image ids [N], category ids [K]) as the data's own COCO file has them, else from 1."""
    images: list[Any] = list(table.ids)
    if not _numbers_apart(images):
        images = list(range(1, len(table) + 1))
    kinds: list[Any] = list(table.category_ids or ())
    if len(kinds) != len(table.classes) or not _numbers_apart(kinds):
        kinds = list(range(1, len(table.classes) + 1))
    return images, kinds


def _numbers_apart(ids: list[Any]) -> bool:
    return all(type(i) is int for i in ids) and len(set(ids)) == len(ids)


def ground_truth(
    table: Table, *, masks: bool = False, ids: tuple[list[int], list[int]] | None = None
) -> dict[str, Any]:
    """A table as COCO's dictionary, annotation ids from 1: one of id 0 counts as unmatched.

    Areas are those that the data states. ids: of images and categories, as `ids_of` gives them; by
    default image i has the id i + 1, class k the id k + 1.
    """
    image_ids, kinds = ids or (range(1, len(table) + 1), range(1, len(table.classes) + 1))
    sides = table.boxes.astype(np.float64)
    boxes = np.concatenate([sides[:, :2], sides[:, 2:] - sides[:, :2]], 1).tolist()
    areas = table.object_areas.astype(np.float64).tolist()
    labels, crowd = table.labels.tolist(), table.ignore.astype(int).tolist()
    images = table.image_of.tolist()
    annotations = []
    for k in range(len(labels)):
        row = {
            "id": k + 1,
            "image_id": image_ids[images[k]],
            "category_id": kinds[labels[k]],
            "bbox": boxes[k],
            "area": areas[k],
            "iscrowd": crowd[k],
        }
        if masks:
            outline = None if table.masks is None else table.masks[k]
            row["segmentation"] = [] if outline is None else outline
        annotations.append(row)
    return {
        "images": [
            {"id": image_ids[i], "file_name": table.name(i), "height": int(h), "width": int(w)}
            for i, (h, w) in enumerate(table.sizes.tolist())
        ],
        "annotations": annotations,
        "categories": [{"id": id_, "name": n} for id_, n in zip(kinds, table.classes, strict=True)],
    }


def files(
    detections: Sequence[Detections], table: Table
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(the objects judged, the results) as COCO's JSON files have them, with the same ids in both,
    so that any program that knows them can judge again."""
    ids = ids_of(table)
    found, _ = flatten(detections, table)
    sides = found.boxes.copy()
    sides[:, 2:] -= sides[:, :2]
    rows: list[dict[str, Any]] = [
        {"image_id": ids[0][i], "category_id": ids[1][k], "bbox": box, "score": score}
        for i, k, box, score in zip(
            found.image.tolist(),
            found.label.tolist(),
            sides.tolist(),
            found.scores.tolist(),
            strict=True,
        )
    ]
    for row, outline in zip(rows, found.outlines or (), strict=False):
        row["segmentation"] = packed(outline)
    return ground_truth(table, masks=table.masks is not None, ids=ids), rows


def results(found: Found, *, masks: bool = False) -> NDArray[np.float64] | list[dict[str, Any]]:
    """Detections for the evaluator: rows image, x, y, w, h, score, class; or masks without boxes.

    A mask's area is its own only where no box stands beside it.
    """
    if not masks:
        rows = np.zeros((len(found), 7))
        rows[:, 0], rows[:, 5], rows[:, 6] = found.image + 1, found.scores, found.label + 1
        rows[:, 1:3] = found.boxes[:, :2]
        rows[:, 3:5] = found.boxes[:, 2:] - found.boxes[:, :2]
        return rows
    if found.outlines is None:
        raise InputError("the detections hold no masks", field="masks")
    parts = zip(
        found.image.tolist(),
        found.label.tolist(),
        found.outlines,
        found.scores.tolist(),
        strict=True,
    )
    return [
        {"image_id": i + 1, "category_id": k + 1, "segmentation": outline, "score": score}
        for i, k, outline, score in parts
    ]


def accumulate(
    truth: dict[str, Any],
    detections: NDArray[np.float64] | Sequence[dict[str, Any]],
    rules: Rules | None = None,
    backend: Backend = "hotcoco",
) -> Accumulated:
    """Run COCO's evaluation: `truth` as its JSON has it, `detections` as its result rows."""
    rules = rules or Rules()
    evaluator = evaluator_of(truth, detections, rules, backend)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints as it goes
        evaluator.evaluate()
        evaluator.accumulate()
    return Accumulated(
        rules,
        np.asarray(evaluator.eval["precision"], np.float64),
        np.asarray(evaluator.eval["recall"], np.float64),
    )


def evaluator_of(
    truth: dict[str, Any], detections: Any, rules: Rules, backend: Backend = "hotcoco"
) -> Any:
    """The library's evaluator, ready to run: the one place that knows the libraries apart."""
    coco, evaluate = _library(backend)
    if backend != "hotcoco" and rules.kind == "segm":
        detections = _compressed(detections)
    with contextlib.redirect_stdout(io.StringIO()):
        known = coco()
        known.dataset = truth
        known.createIndex()
        if backend == "pycocotools" and not len(detections):  # it cannot load an empty list
            claimed = coco()
            claimed.dataset = {**truth, "annotations": []}
            claimed.createIndex()
        else:
            claimed = known.loadRes(detections)
        evaluator = evaluate(known, claimed, rules.kind)
    params = evaluator.params
    params.useCats = rules.by_class if backend == "hotcoco" else int(rules.by_class)
    params.maxDets = list(rules.budgets)
    params.areaRng = [list(map(float, r)) for r in rules.areas.values()]
    params.areaRngLbl = list(rules.areas)
    params.iouThrs = list(rules.ious) if backend == "hotcoco" else np.array(rules.ious)
    params.recThrs = list(rules.recalls) if backend == "hotcoco" else np.array(rules.recalls)
    return evaluator


def _compressed(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run lengths as the other programs want them of detections."""
    from hotcoco import mask

    out = []
    for row in rows:
        outline = row["segmentation"]
        if isinstance(outline, dict) and isinstance(outline["counts"], list):
            row = {**row, "segmentation": mask.frPyObjects(outline, *outline["size"])}
        out.append(row)
    return out


def _library(backend: Backend) -> tuple[Any, Any]:
    if backend == "hotcoco":
        import hotcoco

        return hotcoco.COCO, hotcoco.COCOeval
    try:
        if backend == "faster-coco-eval":
            import faster_coco_eval  # pyright: ignore[reportMissingImports]

            return faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster
        if backend == "pycocotools":
            from pycocotools.coco import COCO  # pyright: ignore[reportMissingImports]
            from pycocotools.cocoeval import COCOeval  # pyright: ignore[reportMissingImports]

            return COCO, COCOeval
    except ImportError:
        raise InputError(
            "is not installed", field="backend", value=backend, hint=f"pip install {backend}"
        ) from None
    raise InputError(
        "no such backend",
        field="backend",
        value=backend,
        hint="hotcoco, faster-coco-eval or pycocotools",
    )
