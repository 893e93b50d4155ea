"""Which boxes learn for which object: default boxes, anchors, priors, cells and RoIs on a picture.

Public: batch_of, draw_assigned, counted, assigned_sheet. What is drawn is `Detector.assigned`,
which matches as the loss does. An object has a colour and a mark (circle, square, ...), so that the
picture can be read in grey too; a cross marks a box that is ignored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from boxatlas.boxes.matching import IGNORED, Assigned
from boxatlas.data.table import Table
from boxatlas.data.view import pasted
from boxatlas.errors import InputError
from boxatlas.images import read
from boxatlas.parts.base import Detector
from boxatlas.structures import Batch, Targets

Colour = tuple[int, int, int]
# Of these any two that stand side by side differ in lightness as well as in hue.
COLOURS: tuple[Colour, ...] = (
    (0, 90, 181),
    (220, 50, 32),
    (0, 128, 96),
    (130, 60, 160),
    (190, 110, 0),
    (60, 60, 60),
    (200, 30, 120),
    (95, 115, 0),
)
_SMOOTH = 2  # drawn so much larger and made small again
_PALE = 0.4  # of white over the picture, so that lines stand out
_MARK_SIDES = (0, 4, 3, -4, 5, 6, -3, 8)  # corners of a mark; 0: a circle; below 0: turned


def batch_of(
    detector: Detector,
    pictures: Sequence[NDArray[np.uint8]],
    boxes: Sequence[NDArray[Any]],
    ignore: Sequence[NDArray[Any]] | None = None,
) -> Batch:
    """Pictures [H, W, 3] with their objects' boxes [M, 4] as a batch for the detector.

    All objects have label 0: which box learns for which object does not ask for the class.
    """
    images, frames = detector.preprocess.batch_of_pixels(pictures)
    moved = [
        frame.apply(torch.from_numpy(np.asarray(rows, np.float32).reshape(-1, 4)))
        for frame, rows in zip(frames, boxes, strict=True)
    ]
    aside = None if ignore is None else [torch.from_numpy(np.asarray(g, bool)) for g in ignore]
    labels = [torch.zeros(len(rows), dtype=torch.int64) for rows in moved]
    return Batch(images, list(frames), Targets.collate(moved, labels, aside)).to(detector.device)


def counted(step: Assigned, image: int = 0) -> str:
    """One line: "default boxes: 23 of 8,732 learn for an object, 4 are ignored"."""
    index = step.index[image]
    learn, aside = int((index >= 0).sum()), int((index == IGNORED).sum())
    rest = f", {aside:,} {'is' if aside == 1 else 'are'} ignored" if aside else ""
    return f"{step.name}: {learn:,} of {len(index):,} learn for an object{rest}"


def draw_assigned(
    pixels: NDArray[np.uint8], step: Assigned, objects: Tensor, image: int = 0, side: int = 320
) -> Image.Image:
    """One step on one input [H, W, 3]; objects [M, 4] in its pixels; side: of the picture, at most.

    Thick lines are the objects, numbered; thin ones the boxes that learn for the object of their
    colour, with its mark at their centre; crosses are centres of boxes that are ignored.
    """
    height, width = pixels.shape[:2]
    scale = side * _SMOOTH / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    white = Image.new("RGB", size, "white")
    paper = Image.blend(Image.fromarray(pixels).resize(size), white, _PALE)
    pen = ImageDraw.Draw(paper)
    boxes = (step.boxes if step.boxes.dim() == 2 else step.boxes[image]).cpu() * scale
    index = step.index[image].cpu()
    crosses = _centres(boxes[index == IGNORED])
    for x, y in sorted({(round(x), round(y)) for x, y in crosses.tolist()}):
        _cross(pen, x, y, 2.0 * _SMOOTH)
    learning = (index >= 0).nonzero().flatten().tolist()
    for row in learning:
        pen.rectangle(
            _sorted(boxes[row].tolist()), outline=colour_of(int(index[row])), width=_SMOOTH
        )
    for row in learning:
        x, y = _centres(boxes[row]).tolist()
        _mark(pen, x, y, int(index[row]), 3.5 * _SMOOTH)
    _objects(pen, objects.cpu() * scale, size)
    return paper.resize((max(1, size[0] // _SMOOTH), max(1, size[1] // _SMOOTH)))


def colour_of(item: int) -> Colour:
    """The colour of an object by its number in the picture."""
    return COLOURS[item % len(COLOURS)]


def assigned_sheet(
    detector: Detector,
    table: Table,
    images: Sequence[int],
    *,
    columns: int = 4,
    each: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> tuple[Image.Image, list[dict[str, Any]]]:
    """(a sheet with a picture for each image and step, what was counted).

    Raises InputError for an image that cannot be read.
    """
    cells, rows = [], []
    detector.eval()
    for i in each(images):
        row = table[i]
        batch = batch_of(detector, [read(row.path)], [row.boxes], [row.ignore])
        objects = batch.targets.boxes[0]
        pixels = detector.preprocess.pixels(batch.images[0])
        for step in detector.assigned(batch):
            name = Path(row.path).name
            picture = draw_assigned(pixels, step, objects)
            index = step.index[0]
            learn, aside = int((index >= 0).sum()), int((index == IGNORED).sum())
            cells.append((picture, f"{name} {step.name}: {learn} of {len(index)}"))
            rows.append(
                {
                    "image": table.paths[i],
                    "step": step.name,
                    "boxes": len(index),
                    "learn": learn,
                    "ignored": aside,
                    "of_object": [int((index == m).sum()) for m in range(len(objects))],
                }
            )
    if not cells:
        raise InputError("there is no image to draw")
    return pasted(cells, columns), rows


def _sorted(box: Sequence[float]) -> tuple[float, float, float, float]:
    """A box that PIL accepts: one turned inside out by an untrained network is a line."""
    x1, y1, x2, y2 = box
    return x1, y1, max(x1, x2), max(y1, y2)


def _centres(boxes: Tensor) -> Tensor:
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def _cross(pen: ImageDraw.ImageDraw, x: float, y: float, r: float) -> None:
    for slope in (1, -1):
        pen.line((x - r, y - slope * r, x + r, y + slope * r), fill=(90, 90, 90), width=_SMOOTH)


def _mark(pen: ImageDraw.ImageDraw, x: float, y: float, item: int, r: float) -> None:
    """An object's mark: filled in its colour, with a white rim."""
    corners, fill = _MARK_SIDES[item % len(_MARK_SIDES)], colour_of(item)
    if not corners:
        pen.ellipse((x - r, y - r, x + r, y + r), fill=fill, outline="white", width=1)
        return
    count, turn = abs(corners), math.pi / 2
    if corners in (4, -3):
        turn += math.pi / count
    angles = [turn + 2 * math.pi * k / count for k in range(count)]
    points = [(x + 1.25 * r * math.cos(a), y - 1.25 * r * math.sin(a)) for a in angles]
    pen.polygon(points, fill=fill, outline="white")


def _objects(pen: ImageDraw.ImageDraw, objects: Tensor, size: tuple[int, int]) -> None:
    font = ImageFont.load_default(13 * _SMOOTH)
    for m, box in enumerate(objects.tolist()):
        if box[2] <= box[0] or box[3] <= box[1]:
            continue  # padding
        pen.rectangle(_sorted(box), outline="white", width=5 * _SMOOTH)
        pen.rectangle(_sorted(box), outline=colour_of(m), width=3 * _SMOOTH)
        text = str(m + 1)
        wide = pen.textlength(text, font=font) + 8 * _SMOOTH
        x = min(max(0.0, box[0]), size[0] - wide)
        y = min(max(0.0, box[1]), size[1] - 17.0 * _SMOOTH)
        pen.rectangle((x, y, x + wide, y + 16 * _SMOOTH), fill=colour_of(m))
        pen.text((x + 4 * _SMOOTH, y), text, fill="white", font=font)
