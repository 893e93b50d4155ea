"""Suppression and average precision, step by step, by the library's own functions."""

from __future__ import annotations

import numpy as np
import torch

from boxatlas.boxes.formats import pairwise_iou
from boxatlas.boxes.nms import nms
from boxatlas.evaluation.voc import average_precision, curves_of
from boxatlas.figures.svg import FILLS, GREY, INK, LINES, Drawing, Plot

# Five answers on two objects: boxes and scores.
BOXES = (
    (40, 60, 200, 260),
    (60, 50, 215, 250),
    (30, 80, 190, 275),
    (150, 90, 300, 280),
    (170, 80, 310, 270),
)
SCORES = (0.9, 0.8, 0.6, 0.75, 0.5)
# Where each one's name stands: right corner or left, above or below, which way it grows.
_LABELS = ((0, 1, "start"), (1, 1, "end"), (0, 0, "start"), (0, 0, "start"), (1, 0, "end"))
# Ten answers, best first: right or wrong; five objects.
RIGHT = (True, True, False, True, False, False, True, False, False, True)
OBJECTS = 6


def suppression(threshold: float = 0.5) -> str:
    """Before and after: what goes, whom it overlaps, by how much."""
    boxes, scores = torch.tensor(BOXES, dtype=torch.float32), torch.tensor(SCORES)
    kept = nms(boxes, scores, threshold).tolist()
    iou = pairwise_iou(boxes, boxes)
    drawing = Drawing(510, f"Suppression at an IoU of {threshold:g}")
    for k, (title, shown) in enumerate((("before", range(len(BOXES))), ("after", kept))):
        left = 320 * k
        drawing.text(left + 20, 30, title, size=21, bold=True)
        for i in shown:
            x1, y1, x2, y2 = (v * 0.95 for v in BOXES[i])
            drawing.box(
                left + x1,
                y1 + 10,
                x2 - x1,
                y2 - y1,
                stroke=LINES[i],
                width=3 + 2 * (i in kept),
                dash="" if i in kept else "7 5",
                data_kept=i in kept,
            )
        for i in shown:
            x1, y1, x2, y2 = (v * 0.95 for v in BOXES[i])
            across, up, anchor = _LABELS[i]
            x, foot = left + (x1, x2)[across], y1 + 2 if up else y2 + 30
            words = f"{'ABCDE'[i]} {SCORES[i]:g}"
            drawing.text(
                x, foot, words, size=19, fill=LINES[i], bold=True, anchor=anchor, halo=True
            )
    top = 330.0
    order = scores.argsort(descending=True).tolist()
    stays: list[int] = []
    for row, i in enumerate(order):
        worst = max(stays, key=lambda j: float(iou[i, j]), default=None)
        over = 0.0 if worst is None else float(iou[i, worst])
        if worst is None:
            words = "the best of all: stays"
        elif over > threshold:
            words = f"IoU {over:.2f} with {'ABCDE'[worst]}: goes"
        else:
            words = f"IoU {over:.2f} at most, with {'ABCDE'[worst]}: stays"
        if worst is None or over <= threshold:
            stays.append(i)
        drawing.text(
            20, top + 40 * row, f"{'ABCDE'[i]}  {SCORES[i]:.2f}", size=20, bold=True, fill=LINES[i]
        )
        drawing.text(130, top + 40 * row, words, size=20)
    assert sorted(stays) == sorted(kept)
    return str(drawing)


def measured() -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """(recall, precision after each answer, AP by each rule)."""
    count = len(RIGHT)
    right = np.array(RIGHT)
    curve = curves_of(
        np.arange(count),
        np.zeros(count, np.int64),
        np.linspace(0.9, 0.1, count),
        right,
        np.zeros(count, bool),
        np.array([OBJECTS]),
    )
    rules = {"11 points (VOC 2007)": 11, "area (VOC 2010 on)": None, "101 points (COCO)": 101}
    return (
        curve.recall,
        curve.precision,
        {name: float(average_precision(curve, rule)[0]) for name, rule in rules.items()},
    )


def precision_recall(kind: str = "11") -> str:
    """kind: 11 (points), area, 101."""
    recall, precision, values = measured()
    name = {"11": "11 points (VOC 2007)", "area": "area (VOC 2010 on)", "101": "101 points (COCO)"}
    title = f"AP by {name[kind]}: {values[name[kind]]:.4f}"
    drawing = Drawing(440, title)
    drawing.text(20, 30, title, size=21, bold=True, data_ap=f"{values[name[kind]]:.4f}")
    plot = Plot(
        drawing,
        (80, 70, 530, 300),
        (0.0, 1.0),
        (0.0, 1.05),
        labels=("recall", "precision"),
        ticks=((0, 0.2, 0.4, 0.6, 0.8, 1), (0, 0.5, 1)),
    )
    top = np.maximum.accumulate(precision[::-1])[::-1]
    if kind == "area":
        edges = np.concatenate([[0.0], recall])
        for k, level in enumerate(top):
            if edges[k + 1] > edges[k]:
                (x1, y1), (x2, y2) = plot.at(edges[k], level), plot.at(edges[k + 1], 0)
                drawing.box(x1, y1, x2 - x1, y2 - y1, fill=FILLS[2], stroke=LINES[2], width=1)
    else:
        points = np.linspace(0, 1, int(kind))
        for at in points:
            reach = recall >= at - 1e-12
            level = float(top[reach].max()) if reach.any() else 0.0
            x, y = plot.at(float(at), level)
            foot = plot.at(float(at), 0)[1]
            drawing.line([(x, foot), (x, y)], stroke=LINES[2], width=2 if kind == "11" else 1)
            drawing.dot(x, y, 6 if kind == "11" else 2.5, fill=LINES[2])
    plot.curve([0.0, *recall.tolist()], [1.0, *precision.tolist()], 0)
    for r, p, ok in zip(recall, precision, RIGHT, strict=True):
        x, y = plot.at(float(r), float(p))
        drawing.dot(x, y, 7, fill=LINES[0] if ok else "white", stroke=LINES[0], stroke_width=2)
    return str(drawing)


def ranked() -> str:
    """The ten answers as a table: right or wrong, recall, precision."""
    recall, precision, _ = measured()
    drawing = Drawing(70 + 34 * len(RIGHT), "Ten answers, best first, of six objects")
    for x, words in ((20, "answer"), (150, "right?"), (270, "recall"), (430, "precision")):
        drawing.text(x, 32, words, size=20, bold=True)
    found = 0
    for k, ok in enumerate(RIGHT):
        found += ok
        y = 66 + 34 * k
        drawing.text(20, y, str(k + 1), size=20)
        drawing.text(150, y, "✓" if ok else "–", size=20, fill=INK if ok else GREY, bold=ok)
        drawing.text(270, y, f"{found}/{OBJECTS} = {recall[k]:.2f}", size=20)
        drawing.text(430, y, f"{found}/{k + 1} = {precision[k]:.2f}", size=20)
    return str(drawing)
