"""Made tables and detections for the tests of the metrics."""

from __future__ import annotations

import numpy as np
import torch

from boxatlas.data import Table
from boxatlas.structures import Detections

CLASSES = ("cat", "dog", "person")


def table(
    boxes: list[list[list[float]]],
    labels: list[list[int]],
    ignore: list[list[bool]] | None = None,
    classes: tuple[str, ...] = CLASSES,
    size: tuple[int, int] = (200, 200),
) -> Table:
    """Images without files, one list of objects each."""
    counts = [len(one) for one in labels]
    flat = [box for one in boxes for box in one]
    return Table(
        classes,
        [f"{i}.jpg" for i in range(len(labels))],
        list(range(len(labels))),
        np.array([size] * len(labels), np.int32).reshape(-1, 2),
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        np.array(flat, np.float32).reshape(-1, 4),
        np.array([k for one in labels for k in one], np.int32),
        np.array([v for one in ignore for v in one], bool)
        if ignore
        else np.zeros(sum(counts), bool),
    )


def found(
    boxes: list[list[float]],
    scores: list[float],
    labels: list[int],
    classes: tuple[str, ...] = CLASSES,
    size: tuple[int, int] = (200, 200),
) -> Detections:
    return Detections(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(scores, dtype=torch.float32),
        torch.tensor(labels, dtype=torch.int64),
        classes,
        size,
    )


def nothing(classes: tuple[str, ...] = CLASSES) -> Detections:
    return found([], [], [], classes)


def random_case(
    seed: int, images: int = 12, classes: int = 3, *, ignored: float = 0.15, ties: bool = False
) -> tuple[Table, list[Detections]]:
    """Objects, and detections that are near them, far from them, doubled and of wrong classes."""
    rng = np.random.default_rng(seed)
    names = tuple(f"c{k}" for k in range(classes))
    boxes, labels, ignore, made = [], [], [], []
    for _ in range(images):
        count = int(rng.integers(0, 6))
        low = rng.uniform(0, 140, (count, 2))
        objects = np.concatenate([low, low + rng.uniform(4, 60, (count, 2))], 1).round(1)
        kinds = rng.integers(0, classes, count)
        boxes.append(objects.tolist())
        labels.append(kinds.tolist())
        ignore.append((rng.random(count) < ignored).tolist())
        near = np.repeat(objects, 2, 0) + rng.normal(0, 6, (2 * count, 4))
        far = rng.uniform(0, 100, (3, 4))
        far[:, 2:] += far[:, :2]
        all_ = np.concatenate([near, far])
        all_[:, 2:] = np.maximum(all_[:, 2:], all_[:, :2] + 1)
        kinds = np.concatenate([np.repeat(kinds, 2), rng.integers(0, classes, 3)])
        wrong = rng.random(len(kinds)) < 0.2
        kinds[wrong] = rng.integers(0, classes, int(wrong.sum()))
        scores = rng.random(len(kinds)).round(1 if ties else 9)
        made.append(found(all_.tolist(), scores.tolist(), kinds.tolist(), names))
    return table(boxes, labels, ignore, names), made
