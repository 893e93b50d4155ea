"""PASCAL VOC's metric: recall and precision curves and average precision, for all classes at once.

As the development kit has it: the detections of a class in falling order of score each look at the
object of that class that they overlap most, even if another has it already; at the threshold or
above the first one is right and every later one wrong; who overlaps a difficult object most is
passed over. Detections of equal score keep the order in which they were given.
Shape letters: D detections, T objects, K classes, N images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from boxatlas.evaluation.found import Bools, Floats, Found, Ints, Truth

_PAIRS = 500_000  # most overlaps held at once
_LEVELS = {
    11: np.arange(0.0, 1.1, 0.1),  # VOC2007's recalls, in the kit's own rounding
    101: np.linspace(0.0, 1.0, 101),  # COCO's
}


@dataclass(frozen=True)
class Curves:
    """The detections sorted by class and then best first, and what became of each.

    order [D] rows of Found; label, score, right, passed [D] (passed over: neither right nor wrong);
    start [K + 1]: class k has the rows start[k] to start[k + 1]; positives [K]: objects that count;
    recall, precision [D]: after each detection of its class, NaN where a class has no object.
    """

    order: Ints
    label: Ints
    score: Floats
    right: Bools
    passed: Bools
    start: Ints
    positives: NDArray[Any]
    recall: Floats
    precision: Floats

    def of(self, k: int) -> tuple[Floats, Floats, Floats]:
        """(recall, precision, score) of class k after each of its detections."""
        part = slice(int(self.start[k]), int(self.start[k + 1]))
        return self.recall[part], self.precision[part], self.score[part]


def overlaps(a: Floats, b: Floats, width_offset: float = 0.0) -> Floats:
    """IoU of rows of boxes [..., 4] xyxy, pair by pair.

    width_offset 1: corners are inclusive pixels. Boxes that have no area together overlap by 0.
    """
    shared = intersections(a, b, width_offset)
    union = areas(a, width_offset) + areas(b, width_offset) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def intersections(a: Floats, b: Floats, width_offset: float = 0.0) -> Floats:
    """The area that rows of boxes share, pair by pair."""
    wide = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0]) + width_offset
    high = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1]) + width_offset
    return np.maximum(wide, 0.0) * np.maximum(high, 0.0)


def areas(boxes: Floats, width_offset: float = 0.0) -> Floats:
    """The area of boxes [..., 4]."""
    wide = boxes[..., 2] - boxes[..., 0] + width_offset
    return wide * (boxes[..., 3] - boxes[..., 1] + width_offset)


def pairs(key: Ints, truth_key: Ints) -> Iterator[tuple[Ints, Ints, Ints]]:
    """Every (row, object) of equal key, in chunks: (rows, where each begins, objects).

    A row of `rows` has the objects from its beginning to the next one's, in their order.
    """
    by_key = np.argsort(truth_key, kind="stable")
    first = np.searchsorted(truth_key[by_key], key, "left")
    count = np.searchsorted(truth_key[by_key], key, "right") - first
    rows = np.flatnonzero(count)
    total = np.cumsum(count[rows])
    begin = 0
    while begin < len(rows):
        before = total[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(total, before + _PAIRS, "right")))
        part = rows[begin:end]
        sizes = count[part]
        starts = np.cumsum(sizes) - sizes
        inner = np.arange(int(sizes.sum())) - np.repeat(starts, sizes)
        yield part, starts, by_key[np.repeat(first[part], sizes) + inner]
        begin = end


def keys(found: Found, truth: Truth) -> tuple[Ints, Ints]:
    """One number for each image and class, of detections and of objects."""
    kinds = int(max(found.label.max(initial=0), truth.label.max(initial=0))) + 1
    return found.image * kinds + found.label, truth.image * kinds + truth.label


def best_overlaps(
    found: Found,
    truth: Truth,
    width_offset: float = 0.0,
    *,
    among: Literal["own class", "other classes"] = "own class",
) -> tuple[Floats, Ints]:
    """Of each detection: its largest IoU with an object of its image, and which one [D].

    The first object where several are equal; IoU 0 and -1 where there is none.
    """
    own = among == "own class"
    key, truth_key = keys(found, truth) if own else (found.image, truth.image)
    best, which = np.zeros(len(found)), np.full(len(found), -1, np.int64)
    for rows, starts, objects in pairs(key, truth_key):
        sizes = np.diff(np.append(starts, len(objects)))
        each = np.repeat(rows, sizes)
        iou = overlaps(found.boxes[each], truth.boxes[objects], width_offset)
        if not own:
            iou[found.label[each] == truth.label[objects]] = -1.0
        best[rows] = np.maximum.reduceat(iou, starts)
        place = np.arange(len(iou))
        at_best = np.where(iou == np.repeat(best[rows], sizes), place, len(iou))
        which[rows] = objects[np.minimum.reduceat(at_best, starts)]
    none = best < 0
    best[none], which[none] = 0.0, -1
    return best, which


def curves(
    found: Found,
    truth: Truth,
    classes: int,
    iou: float = 0.5,
    *,
    width_offset: float = 0.0,
    inclusive: bool = True,
    best: tuple[Floats, Ints] | None = None,
) -> Curves:
    """Recall and precision of each of `classes` classes.

    iou: an overlap of at least this is a match; not inclusive: only one above it, as some programs
    have it. best: what `best_overlaps` gave, where several thresholds are tried.
    """
    overlap, which = best_overlaps(found, truth, width_offset) if best is None else best
    order = np.lexsort((-found.scores, found.label))  # stable: ties keep their order
    label, overlap, which = found.label[order], overlap[order], which[order]
    hit = (overlap >= iou if inclusive else overlap > iou) & (which >= 0)
    ignored = np.append(truth.ignore, False)[which]
    passed = hit & ignored
    claim = np.flatnonzero(hit & ~ignored)
    _, first = np.unique(which[claim], return_index=True)
    right = np.zeros(len(order), bool)
    right[claim[first]] = True
    positives = np.bincount(truth.label[~truth.ignore], minlength=classes).astype(np.int64)
    return curves_of(order, label, found.scores[order], right, passed, positives)


def curves_of(
    order: Ints,
    label: Ints,
    score: Floats,
    right: Bools,
    passed: Bools,
    positives: NDArray[Any],
    weight: Floats | None = None,
) -> Curves:
    """Recall and precision of detections already judged, sorted by class and then best first.

    weight [D]: how often each counts.
    """
    start = np.searchsorted(label, np.arange(len(positives) + 1)).astype(np.int64)
    true = _running(right, start, label, weight)
    false = _running(~right & ~passed, start, label, weight)
    recall = true / np.where(positives, positives, np.nan)[label]
    precision = true / np.maximum(true + false, np.finfo(np.float64).eps)
    return Curves(order, label, score, right, passed, start, positives, recall, precision)


def _running(flags: Bools, start: Ints, label: Ints, weight: Floats | None) -> Floats:
    """How many flags are set so far within the class, [D]."""
    counted = flags.astype(np.float64) if weight is None else flags * weight
    total = np.concatenate([[0.0], np.cumsum(counted)])
    return total[1:] - total[start[label]]


def _envelope(values: Floats, start: Ints) -> Floats:
    """The largest value from each place to the end of its class: precision made monotonic."""
    out = np.empty_like(values)
    for begin, end in pairwise(start.tolist()):
        out[begin:end] = np.maximum.accumulate(values[begin:end][::-1])[::-1]
    return out


def average_precision(curve: Curves, points: int | Floats | None = None) -> Floats:
    """AP of each class [K], NaN where it has no object.

    points None: the area under the monotonic curve (VOC2010 on); 11 or 101: the mean of its values
    at so many recalls (VOC2007, COCO), or at these.
    """
    classes = len(curve.positives)
    top = _envelope(curve.precision, curve.start)
    out = np.zeros(classes)
    if points is None:
        before = np.concatenate([[0.0], curve.recall[:-1]])
        filled = curve.start[:-1][np.diff(curve.start) > 0]
        before[filled] = 0.0
        gain = np.nan_to_num(curve.recall) - np.nan_to_num(before)
        np.add.at(out, curve.label, gain * top)
    else:
        levels = _LEVELS[points] if isinstance(points, int) else points
        for k in np.flatnonzero(curve.positives):
            part = slice(curve.start[k], curve.start[k + 1])
            place = np.searchsorted(
                curve.recall[part], levels
            )  # recall rises: the first to reach it
            out[k] = (np.append(top[part], 0.0)[place] / len(levels)).sum()
    out[curve.positives == 0] = np.nan
    return out


def interval(
    found: Found,
    truth: Truth,
    classes: int,
    images: int,
    iou: float = 0.5,
    *,
    points: int | None = None,
    rounds: int = 200,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[float, float] | None:
    """Where mAP would lie with other images of the same kind: a bootstrap over the images.

    Each round draws as many images as there are, with repetition; an image drawn twice counts
    twice. None where there is no object.
    """
    curve = curves(found, truth, classes, iou)
    image = found.image[curve.order]
    counted = np.flatnonzero(~truth.ignore)
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(rounds):
        times = np.bincount(rng.integers(0, images, images), minlength=images).astype(np.float64)
        positives = np.bincount(truth.label[counted], times[truth.image[counted]], classes)
        if not positives.any():
            continue
        drawn = curves_of(
            curve.order,
            curve.label,
            curve.score,
            curve.right,
            curve.passed,
            positives,
            times[image],
        )
        means.append(float(np.nanmean(average_precision(drawn, points))))
    if not means:
        return None
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Point:
    """One place on a class's curve: at this score and above."""

    score: float | None
    precision: float | None
    recall: float | None
    f1: float | None


def operating_points(curve: Curves, score: float | None = None) -> list[Point]:
    """Of each class: where F1 is best, or what holds at `score`. None where nothing is defined."""
    return [
        _point(*curve.of(k), score) if objects else Point(score, None, None, None)
        for k, objects in enumerate(curve.positives.tolist())
    ]


def _point(recall: Floats, precision: Floats, scores: Floats, at: float | None) -> Point:
    if len(recall) == 0:
        return Point(at, None, 0.0, 0.0)
    f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(np.float64).tiny)
    if at is None:
        last_of_tie = np.append(scores[1:] != scores[:-1], True)
        place = int(np.argmax(np.where(last_of_tie, f1, -1.0)))
    else:
        place = int(np.searchsorted(-scores, -at, "right")) - 1
        if place < 0:
            return Point(at, None, 0.0, 0.0)
    chosen = float(scores[place]) if at is None else at
    return Point(chosen, float(precision[place]), float(recall[place]), float(f1[place]))
