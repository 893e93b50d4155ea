"""Boxes on a picture: default boxes and anchors, who learns, selective search step by step.

The picture is a scene made in code (`boxatlas.scenes`).
"""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

import boxatlas
from boxatlas import ops, scenes
from boxatlas.boxes.matching import Assigned
from boxatlas.figures.assigned import COLOURS, batch_of, counted, draw_assigned
from boxatlas.figures.svg import GREY, LINES, WIDTH, Drawing
from boxatlas.ops.grouping import Hierarchy
from boxatlas.parts.base import Detector
from boxatlas.parts.dense import DenseDetector
from boxatlas.parts.region.detector import RegionDetector

SEED, SIZE = 11, (300, 400)
_TOP = 66.0  # of a picture below two lines of words


@lru_cache(maxsize=1)
def scene() -> scenes.Scene:
    return scenes.make(SEED, SIZE)


def png(picture: Image.Image) -> bytes:
    held = io.BytesIO()
    picture.quantize(128).save(held, "PNG", optimize=True)
    return held.getvalue()


@lru_cache(maxsize=4)
def built(model: str, **options: Any) -> Detector:
    """A model with untrained weights, the same ones each time."""
    torch.manual_seed(0)
    own = {"pretrained": False, "num_classes": 20, **options}
    return boxatlas.create_model(model, **own).eval()


def anchors(model: str, level: int = 2) -> str:
    """The boxes of one cell of one map on the picture, and their shapes in pixels.

    level: the map, from fine to coarse.
    """
    detector = built(model)
    batch = batch_of(detector, [scene().image], [scene().boxes])
    boxes, grids, per_cell = _levels(detector, batch.images)
    start = sum(g[0] * g[1] * k for g, k in zip(grids[:level], per_cell[:level], strict=True))
    rows, columns = grids[level]
    middle = (rows // 2) * columns + columns // 2
    own = boxes[start + middle * per_cell[level] :][: per_cell[level]]
    pixels = detector.preprocess.pixels(batch.images[0])
    return _on_picture(model, pixels, own, (rows, columns), len(boxes))


def _levels(
    detector: Detector, images: torch.Tensor
) -> tuple[torch.Tensor, list[tuple[int, int]], list[int]]:
    """(all boxes [A, 4], rows and columns of each map, boxes of a cell of each map)."""
    with torch.no_grad():
        if isinstance(detector, RegionDetector):
            assert detector.rpn is not None
            maps = detector.rpn_maps(detector.features(images))
            boxes = detector.rpn.anchors(maps, (images.shape[-2], images.shape[-1]))
        else:
            assert isinstance(detector, DenseDetector)
            maps = detector.features(images)
            boxes = detector.anchors(maps, images)
    grids = [(int(m.shape[-2]), int(m.shape[-1])) for m in maps]
    head = getattr(detector, "head", None)
    held = getattr(head, "boxes", None)
    cells = sum(r * c for r, c in grids)
    return boxes, grids, list(held) if held else [len(boxes) // cells] * len(grids)


def _on_picture(
    model: str, pixels: np.ndarray, own: torch.Tensor, grid: tuple[int, int], total: int
) -> str:
    height, width = pixels.shape[:2]
    scale = (WIDTH - 20) / width
    drawing = Drawing(
        height * scale + _TOP + 68 + 28 * -(-len(own) // 3), f"The boxes of one cell of {model}"
    )
    drawing.text(10, 26, model, size=20, bold=True)
    words = f"a map of {grid[0]} × {grid[1]} cells, {len(own)} boxes in each"
    drawing.text(10, 52, words, size=19)
    pale = Image.blend(Image.fromarray(pixels), Image.new("RGB", (width, height), "white"), 0.45)
    drawing.picture(10, _TOP, width * scale, height * scale, png(pale))
    for r in range(grid[0] + 1):
        y = _TOP + height * scale * r / grid[0]
        drawing.line([(10, y), (10 + width * scale, y)], stroke="#ffffff", width=1)
    for c in range(grid[1] + 1):
        x = 10 + width * scale * c / grid[1]
        drawing.line([(x, _TOP), (x, _TOP + height * scale)], stroke="#ffffff", width=1)
    foot = _TOP + height * scale + 34
    for k, box in enumerate(own.tolist()):
        x1, y1, x2, y2 = box
        shape = f"{x2 - x1:.0f}×{y2 - y1:.0f}"
        drawing.box(
            10 + x1 * scale,
            _TOP + y1 * scale,
            (x2 - x1) * scale,
            (y2 - y1) * scale,
            stroke=LINES[k % 6],
            width=3,
            dash=("", "10 5", "3 4")[k // 3 % 3],
            data_box=shape,
        )
        drawing.text(
            10 + 210 * (k % 3), foot + 28 * (k // 3), shape, size=20, bold=True, fill=LINES[k % 6]
        )
    last = foot + 28 * -(-len(own) // 3) + 6
    drawing.text(10, last, f"{total:,} boxes on all maps", size=19, fill=GREY, data_total=total)
    return str(drawing)


def steps(model: str, **options: Any) -> tuple[np.ndarray, torch.Tensor, list[Assigned]]:
    """(the input's pixels, the objects in it, who learns)."""
    detector = built(model, **options)
    batch = batch_of(detector, [scene().image], [scene().boxes])
    pixels = detector.preprocess.pixels(batch.images[0])
    return pixels, batch.targets.boxes[0], detector.assigned(batch)


def assigned(model: str, only: str = "", **options: Any) -> list[tuple[bytes, str]]:
    """Pictures (PNG, what they show) of who learns; only: steps whose name begins so."""
    pixels, objects, rows = steps(model, **options)
    return [
        (png(draw_assigned(pixels, step, objects, side=560)), counted(step))
        for step in rows
        if step.name.startswith(only)
    ]


def cascade() -> list[tuple[bytes, str]]:
    """The same proposals of selective search at the thresholds of a cascade's stages."""
    detector = built("cascade_rcnn320_efficientnet_lite0_fpn", mode="integral")
    batch = batch_of(detector, [scene().image], [scene().boxes])
    boxes = torch.from_numpy(ops.selective_search(scene().image, mode="fast")).float()
    batch.proposals = batch.frames[0].apply(boxes)[None]
    batch.valid = torch.ones(1, len(boxes), dtype=torch.bool)
    pixels = detector.preprocess.pixels(batch.images[0])
    rows = [step for step in detector.assigned(batch) if step.name.startswith("RoIs")]
    objects = batch.targets.boxes[0]
    return [(png(draw_assigned(pixels, s, objects, side=560)), counted(s)) for s in rows]


# -- selective search -----------------------------------------------------------------------------


def search(counts: tuple[int, ...] = (200, 40, 12, 4)) -> list[tuple[bytes, str]]:
    """The regions of one hierarchy when so many are left, with their boxes."""
    tree = ops.hierarchies(scene().image, mode="single")[0]
    first = int(tree.labels.max()) + 1
    out = []
    for count in (first, *(c for c in counts if c < first)):
        owner = _regions(tree, first, first - count)
        out.append((png(_painted(owner, tree.boxes, count)), f"{count} regions"))
    return out


def _regions(tree: Hierarchy, first: int, merges: int) -> np.ndarray:
    """[H, W]: which region each pixel belongs to after so many merges."""
    owner = np.arange(first + merges)
    for k in range(merges):
        a, b = tree.merges[k][:2]
        owner[owner == a] = first + k
        owner[owner == b] = first + k
    return owner[tree.labels]


def _painted(owner: np.ndarray, boxes: np.ndarray, count: int) -> Image.Image:
    """Regions in their mean colour, with the boxes of the larger ones where they are few."""
    image = scene().image[: owner.shape[0], : owner.shape[1]].astype(np.float64)
    names, inverse = np.unique(owner, return_inverse=True)
    inverse = inverse.reshape(-1)
    size = np.bincount(inverse)
    mean = np.stack([np.bincount(inverse, image[..., c].ravel()) / size for c in range(3)], 1)
    painted = mean[inverse].reshape(image.shape).astype(np.uint8)
    edge = np.zeros(owner.shape, bool)
    edge[:, 1:] |= owner[:, 1:] != owner[:, :-1]
    edge[1:] |= owner[1:] != owner[:-1]
    painted[edge] = 255
    picture = Image.fromarray(painted).resize((560, 560 * owner.shape[0] // owner.shape[1]))
    if count <= 40:
        pen, ratio = ImageDraw.Draw(picture), 560 / owner.shape[1]
        for k, name in enumerate(names.tolist()):
            x1, y1, x2, y2 = (float(v) * ratio for v in boxes[name])
            pen.rectangle((x1, y1, x2 - 1, y2 - 1), outline=COLOURS[k % 6], width=3)
    return picture
