"""SSD's augmentation. Liu et al. 2015, arXiv 1512.02325, sections 2.2 and 3.6; the authors' code.

In the published order: photometric distortion, zoom-out, a crop of a least overlap, resize, mirror.
The distortion is pixel by pixel and what zoom-out adds is not distorted, so it is applied after the
warp, to the source's pixels alone: the same distribution at a fraction of the cost.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, field_validator
from torch import Tensor

from boxatlas.data.transforms.colour import Distortion
from boxatlas.data.transforms.sample import Sample, View, rendered
from boxatlas.images import Preprocess
from boxatlas.options import AtLeastOne, Fraction, NotNegative, Options, Positive
from boxatlas.structures import Frame

_FILTERS = (
    Image.Resampling.BILINEAR,
    Image.Resampling.BOX,
    Image.Resampling.NEAREST,
    Image.Resampling.BICUBIC,
    Image.Resampling.LANCZOS,
)
Box = tuple[float, float, float, float]
Level = Annotated[float, Field(ge=0, le=255)]
Side = Annotated[float, Field(gt=0, le=1)]


class SSDAugmentation(Options):
    """Probabilities and ranges; the defaults are the paper's.

    overlaps: the least IoU of a crop with some object (any) or with every object (all).
    """

    distort: Fraction = 0.5  # probability of each of brightness, contrast, saturation, hue
    brightness: Level = 32.0
    contrast: tuple[NotNegative, NotNegative] = (0.5, 1.5)
    saturation: tuple[NotNegative, NotNegative] = (0.5, 1.5)
    hue: float = Field(18.0, ge=0, le=180)  # of 180
    zoom_out: Fraction = 0.5
    zoom_ratio: float = Field(4.0, ge=1)
    fill: tuple[Level, Level, Level] = (123.0, 117.0, 104.0)  # RGB
    crop: bool = True
    overlaps: tuple[Fraction, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    constraint: Literal["any", "all"] = "any"
    trials: AtLeastOne = 50
    scale: tuple[Side, Side] = (0.3, 1.0)
    ratio: tuple[Positive, Positive] = (0.5, 2.0)
    random_filter: bool = True
    mirror: Fraction = 0.5

    @field_validator("contrast", "saturation", "scale", "ratio")
    @classmethod
    def _rises(cls, pair: tuple[float, float]) -> tuple[float, float]:
        if pair[0] > pair[1]:
            raise ValueError("must be the least, then the most")
        return pair

    def __call__(
        self, sample: Sample, preprocess: Preprocess, rng: np.random.Generator
    ) -> tuple[Tensor, Frame, Sample]:
        distortion = self.distortion(rng)
        view = self.expanded(sample, rng)
        if self.crop:
            view = self.cropped(view, sample.boxes, rng)
        keep = centres_inside(sample.boxes, view)
        resample = _FILTERS[rng.integers(len(_FILTERS))] if self.random_filter else None
        mirror = bool(rng.random() < self.mirror)
        seen = sample if keep.all() else sample.keep(keep)
        return rendered(seen, View(view, mirror, resample, self.fill, distortion), preprocess)

    def distortion(self, rng: np.random.Generator) -> Distortion:
        """What is drawn for one image: each change with its own chance, contrast first or last."""
        chance = rng.random(4) < self.distort
        add = rng.uniform(-self.brightness, self.brightness) if chance[0] else 0.0
        contrast = rng.uniform(*self.contrast) if chance[1] else 1.0
        saturation = rng.uniform(*self.saturation) if chance[2] else 1.0
        hue = rng.uniform(-self.hue, self.hue) / 180 if chance[3] else 0.0
        if rng.random() < 0.5:
            return Distortion(add, contrast, saturation, hue)
        return Distortion(add, 1.0, saturation, hue, contrast)

    def expanded(self, sample: Sample, rng: np.random.Generator) -> Box:
        """Zoom-out: the source placed at random in a canvas of up to `zoom_ratio` its sides."""
        height, width = sample.size
        if rng.random() >= self.zoom_out:
            return (0.0, 0.0, float(width), float(height))
        ratio = rng.uniform(1.0, self.zoom_ratio)
        x, y = rng.uniform(0, width * (ratio - 1)), rng.uniform(0, height * (ratio - 1))
        return (-x, -y, width * ratio - x, height * ratio - y)

    def cropped(self, view: Box, boxes: NDArray[np.float32], rng: np.random.Generator) -> Box:
        """One of the samplers' crops, drawn evenly among those that were found.

        The samplers: the whole view, one for each overlap, and a crop of any overlap; each takes
        the first of its trials that fits.
        """
        limits = np.array([*self.overlaps, 0.0])
        crops = self.trial_crops(len(limits) * self.trials, rng).reshape(
            len(limits), self.trials, 4
        )
        width, height = view[2] - view[0], view[3] - view[1]
        seen = (boxes - np.array([view[0], view[1]] * 2)) / np.array([width, height] * 2)
        seen = seen.clip(0, 1)
        fits = np.ones(crops.shape[:2], bool)
        fits[:-1] = False
        if len(seen):
            overlap = _iou(crops[:-1], seen)  # [samplers, trials, objects]
            reach = overlap.min(-1) if self.constraint == "all" else overlap.max(-1)
            fits[:-1] = reach >= limits[:-1, None]
        found = np.flatnonzero(fits.any(1))
        choice = rng.integers(len(found) + 1)
        if choice == 0:
            return view
        sampler = found[choice - 1]
        x1, y1, x2, y2 = crops[sampler, fits[sampler].argmax()].tolist()
        return (
            view[0] + x1 * width,
            view[1] + y1 * height,
            view[0] + x2 * width,
            view[1] + y2 * height,
        )

    def trial_crops(self, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """[count, 4] random crops of the unit square: a scale, a ratio that fits it, a place."""
        scale = rng.uniform(*self.scale, count)
        low = np.maximum(self.ratio[0], scale**2)
        ratio = low + rng.random(count) * (np.minimum(self.ratio[1], 1 / scale**2) - low)
        width, height = scale * np.sqrt(ratio), scale / np.sqrt(ratio)
        x, y = rng.random(count) * (1 - width), rng.random(count) * (1 - height)
        return np.stack([x, y, x + width, y + height], -1)


def centres_inside(boxes: NDArray[np.float32], view: Box) -> NDArray[np.bool_]:
    """[m] bool: the object's centre lies in the view."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    return np.all((centre >= view[:2]) & (centre <= view[2:]), axis=1)


def _iou(crops: NDArray[np.float64], boxes: NDArray[np.floating]) -> NDArray[np.floating]:
    """[..., 4] against [m, 4] -> [..., m]."""
    low = np.maximum(crops[..., None, :2], boxes[:, :2])
    high = np.minimum(crops[..., None, 2:], boxes[:, 2:])
    shared = (high - low).clip(0).prod(-1)
    area = (crops[..., 2:] - crops[..., :2]).prod(-1)[..., None]
    union = area + (boxes[:, 2:] - boxes[:, :2]).prod(-1) - shared
    return shared / np.maximum(union, 1e-12)
