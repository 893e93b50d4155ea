"""The methods as a timeline and a tree, from the table of models; the tree of words."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass

import torch

from boxatlas import detectors
from boxatlas.figures.svg import FILLS, GREY, INK, LINES, PALE, Drawing
from boxatlas.registry import Method
from boxatlas.wordtree import WordTree

# What each method starts from: the one that its paper extends or answers.
FROM = {
    "fast_rcnn": "rcnn", "faster_rcnn": "fast_rcnn", "rfcn": "faster_rcnn", "fpn": "faster_rcnn",
    "mask_rcnn": "fpn", "cascade_rcnn": "fpn", "yolov2": "yolov1", "yolo9000": "yolov2",
    "yolov3": "yolov2", "dssd": "ssd", "fssd": "ssd", "dsod": "ssd", "refinedet": "ssd",
    "rfbnet": "ssd", "m2det": "ssd", "retinanet": "fpn",
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A method with its file's name and the month of its first version."""

    file: str
    method: Method

    @property
    def month(self) -> float:
        """Years, from the number that arXiv gave: 1512.02325 is December 2015."""
        year, month = int(self.method.arxiv[:2]), int(self.method.arxiv[2:4])
        return 2000 + year + (month - 1) / 12


def entries() -> list[Entry]:
    """All methods, oldest first."""
    found = []
    for module in pkgutil.iter_modules(detectors.__path__):
        method = importlib.import_module(f"boxatlas.detectors.{module.name}").METHOD
        found.append(Entry(module.name, method))

    def depth(file: str) -> int:
        return 1 + depth(FROM[file]) if file in FROM else 0

    return sorted(found, key=lambda one: (one.month, one.method.arxiv, depth(one.file)))


def timeline() -> str:
    """Down the page in time; one-stage methods right, two-stage methods left."""
    rows = entries()
    step = 46.0
    drawing = Drawing(80 + step * len(rows), "The methods in the order of their first versions")
    drawing.text(300, 32, "two stages", size=20, bold=True, anchor="end", fill=LINES[0])
    drawing.text(400, 32, "one stage", size=20, bold=True, fill=LINES[1])
    drawing.line([(350, 44), (350, 70 + step * len(rows))], stroke=GREY, width=3)
    year = 0
    for k, entry in enumerate(rows):
        y = 76 + step * k
        two = entry.method.family == "two-stage"
        colour = LINES[0] if two else LINES[1]
        if int(entry.month) != year:
            year = int(entry.month)
            drawing.text(20, y + 6, str(year), size=20, bold=True, fill=GREY)
            drawing.line([(20, y - 22), (620, y - 22)], stroke=PALE, width=2)
        drawing.dot(350, y, 8, fill=colour, data_method=entry.file, data_month=f"{entry.month:.2f}")
        x, anchor = (332, "end") if two else (368, "start")
        drawing.text(x, y + 7, entry.method.name, size=20, anchor=anchor, fill=INK)
    return str(drawing)


def taxonomy() -> str:
    """Each method below the one that it starts from."""
    names = {entry.file: entry.method for entry in entries()}
    roots = [file for file in names if file not in FROM]
    lines: list[tuple[str, int]] = []

    def walk(file: str, depth: int) -> None:
        lines.append((file, depth))
        for child in (f for f in names if FROM.get(f) == file):
            walk(child, depth + 1)

    for root in roots:
        walk(root, 0)
    step = 42.0
    drawing = Drawing(40 + step * len(lines), "Which method starts from which")
    at: dict[str, tuple[float, float]] = {}
    for k, (file, depth) in enumerate(lines):
        x, y = 24 + 74.0 * depth, 36 + step * k
        two = names[file].family == "two-stage"
        if file in FROM:
            px, py = at[FROM[file]]
            drawing.line([(px + 14, py + 12), (px + 14, y), (x - 4, y)], stroke=GREY)
        at[file] = (x, y)
        colour = 0 if two else 1
        name = names[file].name
        drawing.box(
            x,
            y - 17,
            26 + 11.2 * len(name),
            34,
            fill=FILLS[colour],
            stroke=LINES[colour],
            radius=6,
            dash="" if two else "7 4",
            data_method=file,
        )
        drawing.text(x + 12, y + 7, name, size=19)
    drawing.text(620, 36, "solid: two stages", size=18, anchor="end", fill=LINES[0])
    drawing.text(620, 62, "dashed: one stage", size=18, anchor="end", fill=LINES[1])
    return str(drawing)


WORDS = ("thing", "animal", "vehicle", "dog", "cat", "terrier", "hound", "car", "bus")
PARENTS = (-1, 0, 0, 1, 1, 3, 3, 2, 2)
LOGITS = (0.0, 1.6, 0.0, 1.4, 0.2, 0.2, 0.1, 0.5, 0.0)


def word_tree() -> str:
    """A small tree: conditional probabilities of each group, products down the path."""
    tree = WordTree(list(PARENTS), names=WORDS)
    conditional = tree.conditional(torch.tensor([LOGITS]))
    absolute = tree.absolute(conditional)[0]
    drawing = Drawing(540, "A tree of words: one softmax for each group of siblings")
    places = {0: (320, 50), 1: (190, 170), 2: (500, 170), 3: (110, 300), 4: (290, 300),
              5: (66, 430), 6: (196, 430), 7: (440, 300), 8: (568, 300)}  # fmt: skip
    way = set(tree.path(int(tree.decode(conditional, 0.5)[0])))
    for node, (x, y) in places.items():
        if PARENTS[node] >= 0:
            px, py = places[PARENTS[node]]
            chosen = node in way
            drawing.line(
                [(px, py + 34), (x, y - 26)],
                stroke=LINES[0] if chosen else GREY,
                width=4 if chosen else 1.5,
            )
    for node, (x, y) in places.items():
        fill = FILLS[0] if node in way else "#ffffff"
        drawing.box(
            x - 60,
            y - 26,
            120,
            60,
            fill=fill,
            stroke=LINES[0] if node in way else GREY,
            radius=8,
            width=3 if node in way else 1.5,
            data_word=WORDS[node],
            data_p=f"{absolute[node]:.3f}",
        )
        drawing.text(x, y - 3, WORDS[node], size=20, anchor="middle", bold=True)
        one = f"{float(conditional[0, node]):.2f}"
        words = f"{one} → {float(absolute[node]):.2f}"
        drawing.text(x, y + 24, words, size=18, anchor="middle")
    drawing.text(20, 505, "left: among its siblings; right: times all above it", size=19, fill=GREY)
    return str(drawing)
