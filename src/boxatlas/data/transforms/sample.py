"""One image with its objects, and the one warp that turns a view of it into a network input.

Zoom-out, crop, resize and mirror are all "look at this rectangle of the source": they are composed
as a View, and pixels are touched once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from boxatlas.data.masks import moved
from boxatlas.data.table import Mask
from boxatlas.data.transforms.colour import NO_DISTORTION, Distortion, painted
from boxatlas.images import Preprocess
from boxatlas.structures import Frame

Pixels = NDArray[np.uint8]


@dataclass
class Sample:
    """pixels uint8 [H, W, 3]; boxes float32 [m, 4] in its pixels; labels, ignore [m]; masks [m] or
    None; proposals float32 [p, 4] or None."""

    pixels: Pixels
    boxes: NDArray[np.float32]
    labels: NDArray[np.int32]
    ignore: NDArray[np.bool_]
    masks: list[Mask] | None = None
    proposals: NDArray[np.float32] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height, width."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def keep(self, rows: NDArray[np.bool_]) -> Sample:
        """With only these objects."""
        masks = self.masks
        if masks is not None:
            masks = [m for m, fits in zip(masks, rows, strict=True) if fits]
        return replace(
            self,
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            ignore=self.ignore[rows],
            masks=masks,
        )


@dataclass(frozen=True)
class View:
    """The rectangle of the source that becomes the input (it may reach beyond the source), and
    whether it is mirrored. resample is Pillow's filter; None: the preprocess's own resize."""

    box: tuple[float, float, float, float]
    mirror: bool = False
    resample: Image.Resampling | None = None
    fill: tuple[float, float, float] = (123.0, 117.0, 104.0)  # RGB, what lies beyond the source
    distortion: Distortion = NO_DISTORTION  # of the source's pixels, not of the fill

    @classmethod
    def whole(cls, sample: Sample, mirror: bool = False) -> View:
        height, width = sample.size
        return cls((0.0, 0.0, float(width), float(height)), mirror)


def rendered(sample: Sample, view: View, preprocess: Preprocess) -> tuple[Tensor, Frame, Sample]:
    """-> (network input [3, h, w], its Frame, the objects in input pixels).

    The Frame is that of the view as if it were an image of its own. Objects are clipped to the
    view; those of which nothing is left are gone.
    """
    x1, y1, x2, y2 = view.box
    width, height = x2 - x1, y2 - y1
    frame = preprocess.frame(max(1, round(height)), max(1, round(width)))
    content_h, content_w = frame.content
    image = _pixels(sample, view, (content_h, content_w), preprocess)
    tensor = preprocess.placed(image, frame)
    scale = (content_w / width, content_h / height)
    return tensor, frame, _objects(sample, view, frame, scale, tensor.shape[-2:])


def _objects(
    sample: Sample, view: View, frame: Frame, scale: tuple[float, float], size: torch.Size
) -> Sample:
    x1, y1, x2, y2 = view.box
    content_w = frame.content[1]
    left, top = frame.offset

    def move(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        limit = np.array([x2 - x1, y2 - y1] * 2)
        seen = (boxes - np.array([x1, y1] * 2)).clip(0, limit) * np.array([*scale, *scale])
        if view.mirror:
            seen[:, [0, 2]] = content_w - seen[:, [2, 0]]
        return (seen + np.array([left, top] * 2)).astype(np.float32)

    boxes = move(sample.boxes)
    masks = sample.masks
    if masks is not None:
        sx = -scale[0] if view.mirror else scale[0]
        shift_x = left + (content_w + x1 * scale[0] if view.mirror else -x1 * scale[0])
        to = (shift_x, top - y1 * scale[1])
        masks = [moved(m, (sx, scale[1]), to, (int(size[0]), int(size[1]))) for m in masks]
    proposals = None if sample.proposals is None else move(sample.proposals)
    out = replace(sample, boxes=boxes, masks=masks, proposals=proposals)
    left_over = np.all(boxes[:, 2:] > boxes[:, :2], axis=1)
    return out if left_over.all() else out.keep(left_over)


def _pixels(sample: Sample, view: View, content: tuple[int, int], preprocess: Preprocess) -> Tensor:
    """The view as normalised [3, *content]."""
    height, width = content
    x1, y1, x2, y2 = view.box
    source_h, source_w = sample.size
    whole = view.box == (0.0, 0.0, float(source_w), float(source_h))
    if whole and view.resample is None and view.distortion == NO_DISTORTION:
        # Nothing but what detection does: to the bit what detection sees.
        image = preprocess.resized(_channels(sample.pixels, preprocess).float()[None], content)[0]
        return preprocess.normalised(image.flip(-1) if view.mirror else image)
    # Whole pixels of the input that the source covers, and the part of the source under them.
    per_x, per_y = (x2 - x1) / width, (y2 - y1) / height
    left, right = _span(-x1 / per_x, (source_w - x1) / per_x, width)
    top, bottom = _span(-y1 / per_y, (source_h - y1) / per_y, height)
    part = (
        *_within(x1 + left * per_x, x1 + right * per_x, source_w),
        *_within(y1 + top * per_y, y1 + bottom * per_y, source_h),
    )
    part = (part[0], part[2], part[1], part[3])
    resample = Image.Resampling.BILINEAR if view.resample is None else view.resample
    small = Image.fromarray(sample.pixels).resize(
        (right - left, bottom - top), resample, part, reducing_gap=2.0
    )
    return painted(
        np.asarray(small), (top, left), content, view.fill, view.mirror, view.distortion, preprocess
    )


def _span(low: float, high: float, size: int) -> tuple[int, int]:
    """At least one whole pixel of 0..size between low and high."""
    first = min(max(round(low), 0), size - 1)
    return first, min(max(round(high), first + 1), size)


def _within(low: float, high: float, size: int) -> tuple[float, float]:
    """At least a pixel of the source's 0..size."""
    low = min(max(low, 0.0), size - 1.0)
    return low, max(min(high, float(size)), low + 1.0)


def _channels(pixels: Pixels, preprocess: Preprocess) -> Tensor:
    order = [2, 1, 0] if preprocess.channels == "bgr" else [0, 1, 2]
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)[order]))
