"""The features of all boxes of the training images, described once and kept on disk.

Shape letters: N images, R boxes of an image, D width of a feature.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from boxatlas.parts.base import Track
from boxatlas.parts.fits.feature_cache import FeatureCache
from boxatlas.parts.fits.labelled_boxes import ImageLoader, LabelledBoxes
from boxatlas.structures import Batch

Describe = Callable[[Batch, list[Tensor]], Sequence[Tensor]]


def described(
    loader: ImageLoader,
    folder: Path,
    track: Track,
    labelled: LabelledBoxes,
    width: int,
    describe: Describe,
) -> FeatureCache:
    """The features [R, width] of every image's boxes, in a cache of the folder.

    describe: (a batch, its images' boxes [R, 4] in input pixels) -> their features, image by image.
    A fit that was stopped resumes at the batch where it was.
    """
    cache = FeatureCache(folder, labelled.counts.tolist(), width)
    start = cache.done // loader.batch_size
    cache.done = start * loader.batch_size  # whole batches
    shown = track(range(start, len(loader)), cache.announced())
    for _, batch in zip(shown, loader.epoch(0, start=start), strict=True):
        boxes = [
            torch.from_numpy(labelled.boxes[cache.of(cache.done + i)]) for i in range(len(batch))
        ]
        for features in describe(batch, boxes):
            cache.add(features.cpu().half().numpy())
    cache.commit()
    return cache
