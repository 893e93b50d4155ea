"""How good proposals are: recall by their number and by IoU, average recall, MABO.

Uijlings et al., IJCV 2013, section 5.1 (average best overlap and its mean over classes); Hosang,
Benenson, Dollar, Schiele, PAMI 2016 (recall and average recall).
Shape letters: N images, T objects, K classes, C counts, S IoU thresholds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from boxatlas.data import Table
from boxatlas.data.proposals import Proposals
from boxatlas.errors import InputError

if TYPE_CHECKING:
    from boxatlas.parts.base import Detector

COUNTS = (1, 3, 10, 30, 100, 300, 500, 1000, 2000, 10000)
THRESHOLDS = tuple(round(0.5 + 0.05 * i, 2) for i in range(11))

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """What a set of proposals is worth, at its first `counts` proposals of each image.

    best [C, T]: each object's best overlap, an object being one that is not marked ignore; recall
    [C, S]: the share of objects met at each of `thresholds`; average_recall [C]: recall averaged
    over IoU 0.5 to 1; abo [C, K]: average best overlap of a class, NaN without objects; mabo [C]:
    its mean over the classes that have some. proposals: their mean number in an image.
    """

    classes: tuple[str, ...]
    counts: tuple[int, ...]
    thresholds: tuple[float, ...]
    labels: NDArray[np.int64]
    best: Floats
    images: int
    proposals: float

    @property
    def recall(self) -> Floats:
        if not self.best.shape[1]:
            return np.full((len(self.counts), len(self.thresholds)), np.nan)
        # Overlaps are float32 sums: one of exactly 0.5 must not miss by its last bit.
        floor = np.asarray(self.thresholds) - 1e-6
        return (self.best[:, None] >= floor[:, None]).mean(-1)

    @property
    def average_recall(self) -> Floats:
        """Twice the area under recall over IoU from 0.5 to 1, which is 1 at most and exact."""
        if not self.best.shape[1]:
            return np.full(len(self.counts), np.nan)
        return 2 * np.maximum(self.best - 0.5, 0).mean(-1)

    @property
    def abo(self) -> Floats:
        total = np.zeros((len(self.counts), len(self.classes)))
        for row, best in zip(total, self.best, strict=True):
            np.add.at(row, self.labels, best)
        held = np.bincount(self.labels, minlength=len(self.classes))
        return np.where(held > 0, total / np.maximum(held, 1), np.nan)

    @property
    def mabo(self) -> Floats:
        held = np.bincount(self.labels, minlength=len(self.classes)) > 0
        return self.abo[:, held].mean(-1) if held.any() else np.full(len(self.counts), np.nan)

    def document(self) -> dict[str, Any]:
        """All of it as JSON values; what cannot be said is null."""
        per_class = self.abo[-1]
        return {
            "images": self.images,
            "objects": int(self.best.shape[1]),
            "proposals_per_image": self.proposals,
            "counts": list(self.counts),
            "thresholds": list(self.thresholds),
            "recall": _plain(self.recall),
            "average_recall": _plain(self.average_recall),
            "mabo": _plain(self.mabo),
            "per_class": dict(zip(self.classes, _plain(per_class), strict=True)),
        }

    def rows(self) -> list[dict[str, Any]]:
        """The table for people: a row for each number of proposals."""
        shown = [i for i, t in enumerate(self.thresholds) if t in (0.5, 0.7, 0.9)]
        return [
            {
                "proposals": count,
                **{f"recall@{self.thresholds[i]:g}": float(recall[i]) for i in shown},
                "average recall": float(average),
                "MABO": float(mabo),
            }
            for count, recall, average, mabo in zip(
                self.counts, self.recall, self.average_recall, self.mabo, strict=True
            )
        ]


def measure(
    proposals: Sequence[NDArray[np.floating]] | Mapping[str, NDArray[np.floating]],
    table: Table,
    *,
    counts: Sequence[int] = COUNTS,
    thresholds: Sequence[float] = THRESHOLDS,
) -> Measured:
    """Measure proposals, best first: boxes [P, 4] of each image in the table's order, or by path.

    An object counts as met by the proposal that overlaps it most, whatever else that one meets.
    Objects marked ignore are not asked for. Raises InputError for a number of lists that differs.
    """
    rows = (
        [proposals[path] for path in table.paths] if isinstance(proposals, Mapping) else proposals
    )
    if len(rows) != len(table):
        raise InputError(f"proposals of {len(rows)} images for {len(table)} images")
    asked = ~table.ignore
    best = np.zeros((len(counts), int(asked.sum())))
    done = 0
    for i, boxes in enumerate(rows):
        part = table.objects(i)
        objects = table.boxes[part][asked[part]].astype(np.float64)
        if len(objects) and len(boxes):
            best[:, done : done + len(objects)] = _best(np.asarray(boxes), objects, counts)
        done += len(objects)
    mean = float(np.mean([len(b) for b in rows])) if len(rows) else 0.0
    return Measured(
        table.classes,
        tuple(counts),
        tuple(thresholds),
        table.labels[asked].astype(np.int64),
        best,
        len(table),
        mean,
    )


def _best(
    boxes: NDArray[np.floating], objects: NDArray[np.floating], counts: Sequence[int]
) -> Floats:
    """[C, m]: each object's best overlap among the first `counts` boxes."""
    boxes = boxes[: max(counts)].astype(np.float64)
    low = np.maximum(boxes[:, None, :2], objects[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], objects[None, :, 2:])
    shared = (high - low).clip(min=0).prod(-1)
    area, own = (boxes[:, 2:] - boxes[:, :2]).prod(-1), (objects[:, 2:] - objects[:, :2]).prod(-1)
    union = area[:, None] + own[None] - shared
    overlap = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    running = np.maximum.accumulate(overlap, axis=0)
    return running[np.minimum(np.asarray(counts), len(boxes)) - 1]


def _plain(values: Floats) -> Any:
    return [
        _plain(v) if isinstance(v, np.ndarray) else (float(v) if np.isfinite(v) else None)
        for v in values
    ]


def measure_each(
    sources: Mapping[str, Proposals | Detector], table: Table, most: int = 1000
) -> dict[str, Measured]:
    """Measure the proposals of files and of detectors' RPNs on the table's images, by name.

    most: of an image, by a detector.
    """
    from boxatlas.progress import track
    from boxatlas.proposing import ImageProposals, by_detector

    measured: dict[str, Measured] = {}
    for name, source in sources.items():
        if isinstance(source, Proposals):
            source.check(table)
            measured[name] = measure(source, table)
            continue
        made = by_detector(source, [Path(path) for path in table.paths], most)
        boxes = []
        for one in track(made, "proposing", len(table)):
            if not isinstance(one, ImageProposals):
                raise one
            boxes.append(one.boxes)
        measured[name] = measure(boxes, table)
    return measured


def plot(measured: Mapping[str, Measured], path: str | Path) -> None:
    """Recall by number (at IoU 0.5 and 0.7), by IoU (all proposals), and average recall, side by
    side for each named set, as a picture (the suffix says which kind)."""
    from matplotlib.figure import Figure

    from boxatlas.files import write_with

    figure = Figure(figsize=(13, 4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for i, (source, one) in enumerate(measured.items()):
        name, colour = "/".join(Path(source).parts[-2:])[-32:], f"C{i}"
        for level, style in ((0.5, "-"), (0.7, "--")):
            if level in one.thresholds:
                at = one.thresholds.index(level)
                left.plot(
                    one.counts, one.recall[:, at], style, color=colour, label=f"{name}, IoU {level}"
                )
        middle.plot(
            one.thresholds,
            one.recall[-1],
            color=colour,
            label=f"{name} ({one.proposals:.0f} an image)",
        )
        right.plot(one.counts, one.average_recall, color=colour, label=f"{name}, average recall")
        right.plot(one.counts, one.mabo, ":", color=colour, label=f"{name}, MABO")
    for axis, x in ((left, "proposals of an image"), (middle, "IoU"), (right, left.get_xlabel())):
        axis.set(xlabel=x or "proposals of an image", ylim=(0, 1))
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    left.set(ylabel="recall", xscale="log")
    right.set(xscale="log")
    kind = Path(path).suffix.lstrip(".") or "png"
    write_with(path, lambda temporary: figure.savefig(temporary, format=kind, dpi=120))
