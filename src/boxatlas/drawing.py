"""Boxes, masks and names drawn on a picture."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from boxatlas.errors import InputError
from boxatlas.files import write_with

_GOLDEN = 0.61803398875  # hues this far apart stay apart however many there are
_TONES = ((0.75, 0.95), (0.9, 0.55), (0.4, 0.95), (0.55, 0.72))  # saturation, value
_MASK_SHARE = 0.45


def colour(label: int) -> tuple[int, int, int]:
    """The colour of a class: the same in every picture."""
    hue = (0.58 + label * _GOLDEN) % 1.0
    # Hues come near again after 8, 13 and 21 classes: by then another tone has its turn.
    r, g, b = colorsys.hsv_to_rgb(hue, *_TONES[label // 8 % len(_TONES)])
    return round(r * 255), round(g * 255), round(b * 255)


def draw(
    pixels: NDArray[np.uint8],
    boxes: NDArray[Any],
    names: Sequence[str],
    labels: Sequence[int],
    scores: Sequence[float] | None = None,
    masks: NDArray[np.bool_] | None = None,
    *,
    outline: tuple[int, int, int] | None = None,
) -> Image.Image:
    """A copy of the pixels [H, W, 3], as `images.read` gives them, with the objects marked.

    boxes [N, 4] xyxy in its pixels; names, labels, scores, one per box; masks [N, H, W]; outline:
    one colour for all boxes instead of the classes' own.
    """
    colours = [outline or colour(label) for label in labels]
    if masks is not None and len(masks):
        pixels = _with_masks(pixels, masks, colours)
    picture = Image.fromarray(pixels)
    pen = ImageDraw.Draw(picture)
    width = max(2, round(min(picture.size) / 200))
    font = _font(max(11, round(min(picture.size) / 32)))
    worst_first = range(len(boxes))[::-1]  # so that the best is on top
    for i in worst_first:
        x1, y1, x2, y2 = (float(v) for v in boxes[i])
        pen.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colours[i], width=width)
    for i in worst_first:
        text = names[i] if scores is None else f"{names[i]} {scores[i]:.2f}"
        if not text:
            continue
        _label(pen, picture.size, (float(boxes[i][0]), float(boxes[i][1])), text, colours[i], font)
    return picture


def save_picture(picture: Image.Image, path: str | Path) -> None:
    """Write a picture in the format of the path's suffix. Raises InputError where that is none or
    the file cannot be written."""
    kind = Image.registered_extensions().get(Path(path).suffix.lower())
    if kind not in Image.SAVE:
        raise InputError("the suffix is of no picture format", file=path, hint="use .jpg or .png")
    options = {"quality": 90} if kind in ("JPEG", "WEBP") else {}
    write_with(path, lambda temporary: picture.save(temporary, kind, **options))


def _with_masks(
    pixels: NDArray[np.uint8], masks: NDArray[np.bool_], colours: Sequence[tuple[int, int, int]]
) -> NDArray[np.uint8]:
    out = pixels.copy()
    for i in range(len(masks))[::-1]:
        inside = masks[i].astype(bool)
        tint = np.array(colours[i], np.float32) * _MASK_SHARE
        out[inside] = (out[inside] * (1 - _MASK_SHARE) + tint).astype(np.uint8)
    return out


def _label(
    pen: ImageDraw.ImageDraw,
    size: tuple[int, int],
    corner: tuple[float, float],
    text: str,
    fill: tuple[int, int, int],
    font: Any,
) -> None:
    """A line of text on a patch above the box, or inside where there is no room above."""
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    wide, high = right - left + 4, bottom - top + 4
    x = min(max(0.0, corner[0]), max(0.0, size[0] - wide))
    y = corner[1] - high if corner[1] >= high else max(0.0, corner[1])
    pen.rectangle((x, y, x + wide, y + high), fill=fill)
    bright = 0.299 * fill[0] + 0.587 * fill[1] + 0.114 * fill[2] > 140
    pen.text((x + 2 - left, y + 2 - top), text, fill="black" if bright else "white", font=font)


@lru_cache(maxsize=8)
def _font(size: int) -> Any:
    return ImageFont.load_default(size)
