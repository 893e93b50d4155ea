"""Detections and objects of a whole data set as flat arrays, which the metrics work on.

Shape letters: N images, D detections, T objects, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from boxatlas.data.table import Table
from boxatlas.errors import InputError
from boxatlas.structures import RLE, Detections

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Found:
    """image [D], label [D], boxes [D, 4] xyxy and scores [D] in float64; outlines: masks as RLE."""

    image: Ints
    label: Ints
    boxes: Floats
    scores: Floats
    outlines: list[RLE] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def select(self, rows: Any) -> Found:
        """These detections, by mask or index."""
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        outlines = None if self.outlines is None else [self.outlines[i] for i in rows.tolist()]
        return Found(
            self.image[rows], self.label[rows], self.boxes[rows], self.scores[rows], outlines
        )


@dataclass(frozen=True)
class Truth:
    """image [T], label [T], boxes [T, 4] in float64, ignore [T]: difficult or crowd."""

    image: Ints
    label: Ints
    boxes: Floats
    ignore: Bools

    def __len__(self) -> int:
        return len(self.label)


def truth_of(table: Table) -> Truth:
    """The objects of a table."""
    return Truth(
        table.image_of,
        table.labels.astype(np.int64),
        table.boxes.astype(np.float64),
        table.ignore.astype(bool),
    )


def flatten(detections: Sequence[Detections], table: Table) -> tuple[Found, int]:
    """Detections, one per image of the table, with labels that index the table's classes.

    Classes are matched by name. Returns also how many detections were of classes that the table
    does not have, and left out. Raises InputError where the number of images differs, no class name
    is shared, or a number is not finite.
    """
    if len(detections) != len(table):
        raise InputError(f"detections of {len(detections)} images, but the data has {len(table)}")
    counts = [len(one) for one in detections]
    image = np.repeat(np.arange(len(detections)), counts).astype(np.int64)
    label = _joined([one.labels for one in detections], np.int64)
    boxes = _joined([one.boxes for one in detections], np.float64).reshape(-1, 4)
    scores = _joined([one.scores for one in detections], np.float64)
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        bad = image[~(np.isfinite(boxes).all(1) & np.isfinite(scores))][0]
        raise InputError(
            "a detection is not a finite number",
            file=table.paths[int(bad)],
            field="boxes or scores",
        )
    outlines = _outlines(detections)
    found = Found(image, _relabelled(label, image, detections, table), boxes, scores, outlines)
    known = found.label >= 0
    if known.all():
        return found, 0
    return found.select(known), int((~known).sum())


def _joined(tensors: Sequence[torch.Tensor], kind: Any) -> NDArray[Any]:
    if not tensors:
        return np.zeros(0, kind)
    return torch.cat([t.reshape(-1) for t in tensors]).cpu().numpy().astype(kind)


def _relabelled(
    label: Ints, image: Ints, detections: Sequence[Detections], table: Table
) -> NDArray[np.int64]:
    """Labels of the detectors' classes -> of the table's, -1 where it has no such class."""
    names = {one.classes for one in detections}
    if names <= {(), table.classes}:
        if len(label) and int(label.max()) >= len(table.classes):
            raise InputError(
                "a detection's label is not one of the data's classes",
                field="labels",
                value=int(label.max()),
            )
        return label
    where = {name: i for i, name in enumerate(table.classes)}
    kinds = sorted(names)
    if not any(name in where for kind in kinds for name in kind):
        raise InputError(
            f"the detector and the data share no class: {', '.join(kinds[-1][:5])} ... against "
            f"{', '.join(table.classes[:5])} ...",
            field="classes",
        )
    new = np.full((len(kinds), max(len(k) for k in (*kinds, table.classes)) + 1), -1, np.int64)
    for row, kind in enumerate(kinds):
        for old, name in enumerate(kind or table.classes):
            new[row, old] = where.get(name, -1)
    row_of = np.array([kinds.index(one.classes) for one in detections], np.int64)
    return new[row_of[image], label]


def _outlines(detections: Sequence[Detections]) -> list[RLE] | None:
    """The masks of all detections as RLE; None where not every detection has one."""
    out: list[RLE] = []
    for one in detections:
        held = one.run_lengths()
        if held is not None:
            out.extend(held)
        elif len(one):
            return None
    return out or None
