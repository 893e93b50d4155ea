"""What kind of mistakes a detector makes, and what each kind costs (TIDE, Bolya et al. 2020).

A detection that is not right is, in this order: badly placed (an object of its class overlaps it,
but too little), of the wrong class (an object of another class overlaps it enough), a duplicate (of
an object that a better detection has), background (nothing overlaps it), or both badly placed and
of the wrong class. An object that no detection has, nor would have were it better placed or of the
right class, is missed. What a kind costs is the AP that would be gained if it alone were put right.

The numbers are those of the authors' program (tidecv 1.0.1), but for: classes that the data does
not have (there their AP is 0, here they do not count), more than 100 detections of an image (there
the best 100 of all classes, here of each), ignored objects (there a detection on one that is badly
placed or wrongly classed can still be put right), equal scores (there the order may change when
something is put right), and objects that a detection overlaps equally (there the first is taken,
here the last, as COCO's evaluation does).
Shape letters: D detections, T objects, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from boxatlas.data.table import Table
from boxatlas.evaluation import voc
from boxatlas.evaluation.found import Bools, Found, Ints, Truth, flatten, truth_of
from boxatlas.structures import Detections

RIGHT, PASSED, CLASS, PLACE, BOTH, DUPLICATE, BACKGROUND = range(7)
KINDS = {
    "classification": CLASS,
    "localisation": PLACE,
    "both": BOTH,
    "duplicate": DUPLICATE,
    "background": BACKGROUND,
}
_MOST = 100  # detections of a class in an image, as COCO counts
_LEVELS = np.arange(101) / 100  # the recalls at which precision is read; COCO's differ in last bits


@dataclass(frozen=True)
class Mistakes:
    """kind [D]: RIGHT, PASSED (over an ignored object) or a mistake; object [D]: the one meant, or
    -1; missed [T]; found: the detections judged; ap: at the overlap `iou`; lost: kind -> the AP
    that fixing it gains, and of all false positives and all false negatives; confusion
    [K + 1, K + 1]: object's class by detection's, the last row and column: no object, missed."""

    found: Found
    truth: Truth
    kind: Ints
    object: Ints
    missed: Bools
    ap: float | None
    lost: dict[str, float | None]
    confusion: Ints
    iou: float
    background_iou: float
    score: float = 0.25  # detections of at least this stand in the matrix

    def counts(self) -> dict[str, int]:
        """How many there are of each kind."""
        made = {name: int((self.kind == kind).sum()) for name, kind in KINDS.items()}
        return {**made, "missed": int(self.missed.sum())}

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "ap": self.ap,
            "lost_ap": self.lost,
            "counts": self.counts(),
            "iou": self.iou,
            "background_iou": self.background_iou,
            "confusion_score": self.score,
            "confusion": self.confusion.tolist(),
        }


def mistakes(
    detections: Sequence[Detections],
    table: Table,
    *,
    iou: float = 0.5,
    background_iou: float = 0.1,
    score: float = 0.25,
) -> Mistakes:
    """The kinds of mistakes of detections, one per image of the table.

    iou: what a match needs; background_iou: below it nothing is overlapped. score: the confusion
    matrix holds detections of at least this.
    """
    found, _ = flatten(detections, table)
    truth = truth_of(table)
    rank = _rank(found)
    found, rank = found.select(rank < _MOST), rank[rank < _MOST]
    owner, passed = greedy(found, truth, rank, iou)
    kind, meant = _kinds(found, truth, owner, passed, iou, background_iou)
    claimed = np.zeros(len(truth), bool)
    claimed[owner[owner >= 0]] = True
    reachable = np.zeros(len(truth), bool)
    reachable[meant[(kind == CLASS) | (kind == PLACE)]] = True
    missed = ~claimed & ~reachable & ~truth.ignore
    judged = Mistakes(
        found,
        truth,
        kind,
        meant,
        missed,
        None,
        {},
        np.zeros(0, np.int64),
        iou,
        background_iou,
        score,
    )
    classes = len(table.classes)
    ap, lost = _lost(judged, claimed, classes)
    return replace(
        judged, ap=ap, lost=lost, confusion=_confusion(found, truth, classes, iou, score)
    )


def _rank(found: Found) -> Ints:
    """Each detection's place among those of its image and class, best first."""
    key = found.image * (int(found.label.max(initial=0)) + 1) + found.label
    order = np.lexsort((-found.scores, key))
    starts = np.flatnonzero(np.diff(key[order], prepend=-1))
    sizes = np.diff(np.append(starts, len(key)))
    rank = np.empty(len(key), np.int64)
    rank[order] = np.arange(len(key)) - np.repeat(starts, sizes)
    return rank


def greedy(found: Found, truth: Truth, rank: Ints, iou: float) -> tuple[Ints, Bools]:
    """COCO's matching: best first, each detection takes the free object that it overlaps most.

    rank [D]: the order within image and class. Returns the object of each detection (-1: none) and
    which detections without one lie on an ignored object, by their own area.
    """
    rows, objects, ious = _near(found, truth, iou)
    owner = np.full(len(found), -1, np.int64)
    taken = np.zeros(len(truth), bool)
    order = np.lexsort((objects, ious, rows, rank[rows]))  # by rank; a detection's best is last
    rows, objects = rows[order], objects[order]
    ends = np.searchsorted(rank[rows], np.arange(int(rank.max(initial=-1)) + 2))
    for k in range(len(ends) - 1):  # the k-th of every image and class at once
        part = slice(int(ends[k]), int(ends[k + 1]))
        free = ~taken[objects[part]]
        row, object_ = rows[part][free], objects[part][free]
        last = np.append(row[1:] != row[:-1], True)[: len(row)]
        owner[row[last]] = object_[last]
        taken[object_[last]] = True
    return owner, _on_ignored(found, truth, iou) & (owner < 0)


def _near(found: Found, truth: Truth, iou: float) -> tuple[Ints, Ints, Any]:
    """(detection, object, IoU) of one image and class, at `iou` or above, ignored ones apart."""
    rows, objects, ious = [], [], []
    for part, starts, of in voc.pairs(*voc.keys(found, truth)):
        each = np.repeat(part, np.diff(np.append(starts, len(of))))
        overlap = voc.overlaps(found.boxes[each], truth.boxes[of])
        keep = (overlap >= iou) & ~truth.ignore[of]
        rows.append(each[keep])
        objects.append(of[keep])
        ious.append(overlap[keep])
    if not rows:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    return np.concatenate(rows), np.concatenate(objects), np.concatenate(ious)


def _on_ignored(found: Found, truth: Truth, iou: float) -> Bools:
    out = np.zeros(len(found), bool)
    if not truth.ignore.any():
        return out
    areas = voc.areas(found.boxes)
    for part, starts, of in voc.pairs(*voc.keys(found, truth)):
        each = np.repeat(part, np.diff(np.append(starts, len(of))))
        shared = voc.intersections(found.boxes[each], truth.boxes[of])
        on = truth.ignore[of] & (shared >= iou * areas[each]) & (shared > 0)
        out[each[on]] = True
    return out


def _kinds(
    found: Found, truth: Truth, owner: Ints, passed: Bools, iou: float, background: float
) -> tuple[Ints, Ints]:
    """(kind [D], the object meant [D])."""
    counted = np.flatnonzero(~truth.ignore)
    kept = Truth(
        truth.image[counted], truth.label[counted], truth.boxes[counted], truth.ignore[counted]
    )
    own, own_object = voc.best_overlaps(found, kept)
    other, other_object = voc.best_overlaps(found, kept, among="other classes")
    numbers = np.append(counted, -1)  # back to all objects; -1 stays
    kind = np.select(
        [
            owner >= 0,
            passed,
            (own >= background) & (own <= iou),
            other >= iou,
            own >= iou,
            np.maximum(own, other) <= background,
        ],
        [RIGHT, PASSED, PLACE, CLASS, DUPLICATE, BACKGROUND],
        BOTH,
    ).astype(np.int64)
    meant = np.select(
        [kind == RIGHT, (kind == PLACE) | (kind == DUPLICATE), kind == CLASS],
        [owner, numbers[own_object], numbers[other_object]],
        -1,
    )
    return kind, meant


def _lost(
    judged: Mistakes, claimed: Bools, classes: int
) -> tuple[float | None, dict[str, float | None]]:
    """The AP, and what each kind takes from it."""
    found, truth, kind = judged.found, judged.truth, judged.kind
    counted = ~truth.ignore
    objects = np.bincount(truth.label[counted], minlength=classes)
    keep = kind != PASSED

    def ap(label: Ints, right: Bools, kept: Bools, positives: Ints) -> float | None:
        """The mean over the classes that the data has. One whose objects are all taken away drops
        out, as the original has it, unless detections of it stay: then its AP is 0."""
        rows = np.flatnonzero(kept)
        rows = rows[np.lexsort((-found.scores[rows], label[rows]))]
        curve = voc.curves_of(
            rows, label[rows], found.scores[rows], right[rows], np.zeros(len(rows), bool), positives
        )
        detected = np.bincount(label[rows], minlength=classes)
        counts = (objects > 0) & ((positives > 0) | (detected > 0))
        values = np.nan_to_num(voc.average_precision(curve, _LEVELS))[counts]
        return float(values.mean()) if len(values) else None

    right = kind == RIGHT
    base = ap(found.label, right, keep, objects)
    mendable = _mendable(judged, claimed)
    gains: dict[str, float | None] = {}
    for name, one in KINDS.items():
        label, mended, kept = found.label, right, keep & (kind != one)
        if one in (CLASS, PLACE):
            chosen = mendable & (kind == one)
            mended, kept = right | chosen, kept | chosen
            label = np.where(chosen, truth.label[judged.object], label)
        gains[name] = ap(label, mended, kept, objects)
    for name, gone in (("missed", judged.missed), ("false negatives", counted & ~claimed)):
        fewer = objects - np.bincount(truth.label[gone], minlength=classes)
        gains[name] = ap(found.label, right, keep, fewer)
    gains["false positives"] = ap(found.label, right, right, objects)
    return base, {
        name: None if base is None or value is None else _gain(name, value - base)
        for name, value in gains.items()
    }


def _gain(name: str, gain: float) -> float:
    """What a kind costs is never below 0; what all false ones cost may be."""
    return gain if name.startswith("false") else max(gain, 0.0)


def _mendable(judged: Mistakes, claimed: Bools) -> Bools:
    """Of the badly placed and wrongly classed ones about an object that nobody has, the best: put
    right, it would be right, and the others would be duplicates."""
    rows = np.flatnonzero((judged.kind == CLASS) | (judged.kind == PLACE))
    rows = rows[~claimed[judged.object[rows]]]
    rows = rows[np.argsort(-judged.found.scores[rows], kind="stable")]
    _, first = np.unique(judged.object[rows], return_index=True)
    out = np.zeros(len(judged.found), bool)
    out[rows[first]] = True
    return out


def _confusion(found: Found, truth: Truth, classes: int, iou: float, score: float) -> Ints:
    """Objects and detections of at least `score` matched whatever their class, best first."""
    found = found.select(found.scores >= score)
    blind = Found(found.image, np.zeros_like(found.label), found.boxes, found.scores)
    objects = Truth(truth.image, np.zeros_like(truth.label), truth.boxes, truth.ignore)
    owner, passed = greedy(blind, objects, _rank(blind), iou)
    out = np.zeros((classes + 1, classes + 1), np.int64)
    row = np.where(owner >= 0, np.append(truth.label, classes)[owner], classes)
    np.add.at(out, (row[~passed], found.label[~passed]), 1)
    alone = ~truth.ignore
    alone[owner[owner >= 0]] = False
    out[:classes, classes] += np.bincount(truth.label[alone], minlength=classes)
    return out
