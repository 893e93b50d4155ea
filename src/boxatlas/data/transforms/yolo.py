"""The augmentation of the YOLO family, in the three forms that Darknet has had.

"crop_jitter" (arXiv 1506.02640, section 2.2; 1612.08242): each side of the image moves in or out by
up to `jitter` of it and the result is stretched to the input. "place_scale" (2017, YOLOv3's paper):
the image, its aspect ratio changed, lies at 0.25 to 2 times the input's size somewhere on grey.
"place_noscale" (since August 2018): the same at the input's own size. Then colours change in HSV,
and half of the images are mirrored. Images are float [3, H, W] in 0..1 here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from boxatlas.data.masks import moved
from boxatlas.data.transforms.sample import Sample
from boxatlas.images import Preprocess
from boxatlas.options import Fraction, Options, Positive
from boxatlas.structures import Frame

Affine = tuple[float, float, float, float]  # scale x, scale y, offset x, offset y: source -> input


class YoloAugmentation(Options):
    """Ranges; the defaults are YOLOv2's. saturation and exposure: factors up to that, or 1 / it."""

    form: Literal["crop_jitter", "place_scale", "place_noscale"] = "crop_jitter"
    jitter: float = Field(0.2, ge=0, lt=1)
    hue: Fraction = 0.1
    saturation: Positive = 1.5
    exposure: Positive = 1.5
    flip: Fraction = 0.5
    fill: Fraction = 0.5

    def __call__(
        self, sample: Sample, preprocess: Preprocess, rng: np.random.Generator
    ) -> tuple[Tensor, Frame, Sample]:
        height, width = preprocess.size
        pixels = torch.from_numpy(np.ascontiguousarray(sample.pixels.transpose(2, 0, 1)))
        if self.form == "crop_jitter":
            image, affine = self._cropped(pixels, (height, width), rng)
        else:
            image, affine = self._placed(pixels, (height, width), rng)
        image = distort(
            image,
            rng.uniform(-self.hue, self.hue),
            _factor(self.saturation, rng),
            _factor(self.exposure, rng),
        )
        mirror = bool(rng.random() < self.flip)
        image = image.flip(-1) if mirror else image
        if preprocess.channels == "bgr":
            image = image.flip(0)
        frame = Frame((height, width), (height, width))
        objects = transformed(sample, affine, mirror, (height, width))
        return preprocess.normalised(image * 255.0), frame, objects

    def _cropped(
        self, pixels: Tensor, size: tuple[int, int], rng: np.random.Generator
    ) -> tuple[Tensor, Affine]:
        rows, columns = pixels.shape[1:]
        dx, dy = int(columns * self.jitter), int(rows * self.jitter)
        left, right = (int(v) for v in rng.uniform(-dx, dx, 2))
        top, bottom = (int(v) for v in rng.uniform(-dy, dy, 2))
        wide, high = max(columns - left - right, 1), max(rows - top - bottom, 1)
        image = crop(pixels, left, top, wide, high).float() / 255.0
        sx, sy = size[1] / wide, size[0] / high
        return resize(image, size), (sx, sy, -left * sx, -top * sy)

    def _placed(
        self, pixels: Tensor, size: tuple[int, int], rng: np.random.Generator
    ) -> tuple[Tensor, Affine]:
        rows, columns = pixels.shape[1:]
        change = rng.uniform(-self.jitter, self.jitter, 2)
        aspect = columns * (1 + change[0]) / (rows * (1 + change[1]))
        scale = rng.uniform(0.25, 2.0) if self.form == "place_scale" else 1.0
        if aspect < 1:
            high = max(int(scale * size[0]), 1)
            wide = max(int(high * aspect), 1)
        else:
            wide = max(int(scale * size[1]), 1)
            high = max(int(wide / aspect), 1)
        dx = int(_between(0.0, size[1] - wide, rng))
        dy = int(_between(0.0, size[0] - high, rng))
        image = place(pixels.float() / 255.0, (high, wide), dx, dy, size, self.fill)
        return image, (wide / columns, high / rows, float(dx), float(dy))


def _between(a: float, b: float, rng: np.random.Generator) -> float:
    return float(rng.uniform(min(a, b), max(a, b)))


def _factor(most: float, rng: np.random.Generator) -> float:
    """Between 1 and `most`, or one over that, evenly."""
    value = _between(1.0, most, rng)
    return value if rng.random() < 0.5 else 1 / value


def transformed(sample: Sample, affine: Affine, mirror: bool, size: tuple[int, int]) -> Sample:
    """The objects in an input of `size` (height, width), cut to it; what is left of none goes."""
    sx, sy, ox, oy = affine
    height, width = size
    if mirror:
        sx, ox = -sx, width - ox
    least = 0.001 * np.array([width, height])

    def move(boxes: np.ndarray) -> np.ndarray:
        out = boxes * np.array([sx, sy] * 2) + np.array([ox, oy] * 2)
        if mirror:
            out = out[:, [2, 1, 0, 3]]
        return out.clip(0, np.array([width, height] * 2)).astype(np.float32)

    boxes = move(sample.boxes)
    masks = sample.masks
    if masks is not None:
        masks = [moved(mask, (sx, sy), (ox, oy), size) for mask in masks]
    proposals = None if sample.proposals is None else move(sample.proposals)
    out = replace(sample, boxes=boxes, masks=masks, proposals=proposals)
    seen = np.all(boxes[:, 2:] - boxes[:, :2] > least, axis=1)
    return out if seen.all() else out.keep(seen)


# -- Darknet's image operations -------------------------------------------------------------------


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """[3, H, W] float -> [3, *size], bilinear, corner pixels on corner pixels."""
    return F.interpolate(image[None], size, mode="bilinear", align_corners=True)[0]


def crop(image: Tensor, dx: int, dy: int, width: int, height: int) -> Tensor:
    """The rectangle from (dx, dy); beyond the image its edge pixels are repeated."""
    rows = (torch.arange(height) + dy).clamp(0, image.shape[1] - 1)
    columns = (torch.arange(width) + dx).clamp(0, image.shape[2] - 1)
    return image[:, rows][:, :, columns]


def place(
    image: Tensor,
    size: tuple[int, int],
    dx: int,
    dy: int,
    canvas: tuple[int, int],
    fill: float = 0.5,
) -> Tensor:
    """`image` at `size` (height, width) with its corner at (dx, dy) of a canvas [3, *canvas].

    Bilinear without a half-pixel shift; beyond the last row and column lies black, as in Darknet.
    """
    out = image.new_full((3, *canvas), fill)
    top, bottom = max(dy, 0), min(dy + size[0], canvas[0])
    left, right = max(dx, 0), min(dx + size[1], canvas[1])
    if top >= bottom or left >= right:
        return out
    padded = F.pad(image, (0, 1, 0, 1))
    y = torch.arange(top - dy, bottom - dy) / size[0] * image.shape[1]
    x = torch.arange(left - dx, right - dx) / size[1] * image.shape[2]
    row, column = y.long(), x.long()
    wy, wx = (y - row)[:, None], x - column
    rows = padded[:, row] * (1 - wy) + padded[:, row + 1] * wy
    out[:, top:bottom, left:right] = rows[..., column] * (1 - wx) + rows[..., column + 1] * wx
    return out


def distort(image: Tensor, hue: float, saturation: float, exposure: float) -> Tensor:
    """[3, H, W] in 0..1: hue shifted (the circle is 1), saturation and value multiplied."""
    value, top = image.max(0)
    spread = value - image.amin(0)
    safe = spread.clamp(min=1e-12)
    red, green, blue = image
    sector = torch.where(
        top == 0,
        (green - blue) / safe,
        torch.where(top == 1, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    sector = torch.where(spread > 0, sector, 0.0) + 6 * hue
    chroma = spread * (saturation * exposure)  # saturation is spread / value
    value = value * exposure
    offset = torch.tensor([5.0, 3.0, 1.0])[:, None, None]
    k = (sector + offset) % 6
    fade = torch.minimum(k, 4 - k).clamp(0, 1)
    return (value - chroma * fade).clamp(0, 1)
