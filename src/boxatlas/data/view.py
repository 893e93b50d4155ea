"""Contact sheets: images with their boxes and masks, as they are or as training sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from boxatlas.data.masks import Mask, decode
from boxatlas.data.table import Table
from boxatlas.data.transforms import Sample, augmentation
from boxatlas.drawing import draw
from boxatlas.images import Preprocess, read

_CELL = (320, 320)  # the most that an image takes up, height and width
_CAPTION, _GAP = 18, 8
_PAPER, _INK = (250, 250, 250), (60, 60, 60)
Picture = Image.Image


def sheet(
    table: Table,
    images: Sequence[int],
    *,
    augmented: str | None = None,
    seed: int = 0,
    columns: int = 4,
    each: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Picture:
    """The images with these numbers, their objects drawn in.

    augmented: the kind of augmentation to show them after, at 300 x 300. Ignored objects
    (difficult, crowd) have brackets around their names. Raises InputError for an image that cannot
    be read.
    """
    cells = []
    for i in each(images):
        row = table[i]
        sample = Sample(read(row.path), row.boxes, row.labels, row.ignore, row.masks)
        if augmented is not None:
            sample = _augmented(sample, augmented, np.random.default_rng([seed, i]))
        cells.append((_cell(sample, table.classes), Path(row.path).name))
    return pasted(cells, columns)


def _augmented(sample: Sample, kind: str, rng: np.random.Generator) -> Sample:
    preprocess = Preprocess(size=(300, 300), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    image, _, objects = augmentation(kind)(sample, preprocess, rng)
    objects.pixels = preprocess.pixels(image)
    return objects


def _cell(sample: Sample, classes: Sequence[str]) -> Picture:
    height, width = sample.size
    ratio = min(_CELL[0] / height, _CELL[1] / width)
    size = (max(1, round(height * ratio)), max(1, round(width * ratio)))
    small = Image.fromarray(sample.pixels).resize(
        (size[1], size[0]), Image.Resampling.BILINEAR, reducing_gap=2.0
    )
    scale = np.array([size[1] / width, size[0] / height] * 2)
    names = [str(classes[label]) for label in sample.labels.tolist()]
    names = [f"[{n}]" if g else n for n, g in zip(names, sample.ignore.tolist(), strict=True)]
    masks = None
    if sample.masks is not None and any(mask is not None for mask in sample.masks):
        masks = np.stack([bitmap(mask, sample.size, size) for mask in sample.masks])
    return draw(np.array(small), sample.boxes * scale, names, sample.labels.tolist(), None, masks)


def bitmap(mask: Mask, source: tuple[int, int], size: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask of an image of `source` (height, width) as [*size] bool."""
    if mask is None:
        return np.zeros(size, bool)
    if isinstance(mask, list):
        from boxatlas.ops.masks import rasterise

        sy, sx = size[0] / source[0], size[1] / source[1]
        scaled = [[v * (sy if k % 2 else sx) for k, v in enumerate(p)] for p in mask if len(p) >= 6]
        return rasterise(scaled, size) if scaled else np.zeros(size, bool)
    whole = decode(mask)
    rows = (np.arange(size[0]) * whole.shape[0]) // size[0]
    columns = (np.arange(size[1]) * whole.shape[1]) // size[1]
    return whole[rows][:, columns]


def pasted(cells: Sequence[tuple[Picture, str]], columns: int) -> Picture:
    """Cells in rows, each row as high as its highest image, captions below."""
    columns = max(1, min(columns, len(cells)))
    rows = [cells[k : k + columns] for k in range(0, len(cells), columns)]
    heights = [max(picture.height for picture, _ in row) + _CAPTION + _GAP for row in rows]
    width = columns * (_CELL[1] + _GAP) + _GAP
    paper = Image.new("RGB", (width, sum(heights) + _GAP), _PAPER)
    pen, font = ImageDraw.Draw(paper), ImageFont.load_default(12)
    top = _GAP
    for row, height in zip(rows, heights, strict=True):
        for n, (picture, name) in enumerate(row):
            left = _GAP + n * (_CELL[1] + _GAP)
            x = left + (_CELL[1] - picture.width) // 2
            paper.paste(picture, (x, top))
            pen.text(
                (left + _CELL[1] // 2, top + height - _CAPTION - _GAP + 2),
                _cut(name),
                fill=_INK,
                font=font,
                anchor="ma",
            )
        top += height
    return paper


def _cut(name: str, most: int = 44) -> str:
    return name if len(name) <= most else f"...{name[3 - most :]}"


def chosen(table: Table, count: int, seed: int, classes: Sequence[str] = ()) -> list[int]:
    """Numbers of up to `count` images drawn by the seed, of those that show one of the classes."""
    shown = np.ones(len(table), bool)
    if classes:
        shown = table.of_classes(classes).counts > 0
    index: NDArray[Any] = np.flatnonzero(shown)
    return sorted(np.random.default_rng(seed).permutation(index)[:count].tolist())
