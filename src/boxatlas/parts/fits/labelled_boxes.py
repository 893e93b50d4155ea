"""The boxes of every training image with what they overlap, as R-CNN's fits need them.

Shape letters: N images, T boxes of all images, K classes, M objects, R boxes of an image.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boxatlas.archives import read_npz
from boxatlas.boxes.formats import pairwise_iou
from boxatlas.errors import parsing
from boxatlas.files import write_with
from boxatlas.parts.base import Track
from boxatlas.structures import Batch


class ImageLoader(Protocol):
    """Batches of `batch_size` images; epoch 0 has every image in order, from batch `start` on."""

    @property
    def batch_size(self) -> int: ...
    def __len__(self) -> int: ...
    def epoch(self, epoch: int, start: int = 0) -> Iterable[Batch]: ...


@dataclass(frozen=True)
class LabelledBoxes:
    """Objects and proposals of N images, image after image.

    counts [N]; boxes [T, 4] in input pixels; own [T]: the class of a box that is itself an object
    not to ignore, else -1; overlaps [T, K]: largest IoU with an object of the class, those marked
    ignore among them; best [T]: largest IoU with an object not to ignore; nearest [T, 4], label
    [T]: that object's box and class (-1 where best is 0).
    """

    counts: NDArray[np.int64]
    boxes: NDArray[np.float32]
    own: NDArray[np.int64]
    overlaps: NDArray[np.float32]
    best: NDArray[np.float32]
    nearest: NDArray[np.float32]
    label: NDArray[np.int64]

    @classmethod
    def of(cls, loader: ImageLoader, folder: Path, classes: int, track: Track) -> Self:
        """The boxes of a loader's epoch 0, every image once, in order; kept in the folder."""
        file = folder / "windows.npz"
        names = [f.name for f in fields(cls)]
        if file.is_file():
            held = read_npz(file)
            with parsing(file, "not the boxes of this run"):
                return cls(**{name: held[name] for name in names})
        parts: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
        batches = zip(track(range(len(loader)), "overlaps"), loader.epoch(0), strict=True)
        for _, batch in batches:
            for name, value in zip(names, _measured(batch, classes), strict=True):
                parts[name].append(value.cpu().numpy())
        whole = cls(**{name: np.concatenate(values) for name, values in parts.items()})

        def save(temporary: Path) -> None:
            with open(temporary, "wb") as stream:
                np.savez(stream, **{name: getattr(whole, name) for name in names})

        write_with(file, save)
        return whole

    def close(self, iou: float) -> Self:
        """Only the boxes that overlap an object not to ignore by more than `iou`."""
        keep = self.best > iou
        image = np.repeat(np.arange(len(self.counts)), self.counts)
        counts = np.bincount(image[keep], minlength=len(self.counts))
        rows = {f.name: getattr(self, f.name)[keep] for f in fields(self) if f.name != "counts"}
        return type(self)(counts, **rows)


def _measured(batch: Batch, classes: int) -> tuple[Tensor, ...]:
    """The fields of LabelledBoxes for one batch's images."""
    targets = batch.targets
    counts = targets.valid & ~targets.ignore
    boxes, valid = targets.boxes, counts
    own = torch.where(counts, targets.labels, -1)
    if batch.proposals is not None and batch.valid is not None:
        boxes = torch.cat([boxes, batch.proposals], 1)
        valid = torch.cat([valid, batch.valid], 1)
        own = torch.cat([own, torch.full_like(batch.valid, -1, dtype=own.dtype)], 1)
    size, rows = boxes.shape[:2]
    overlaps = boxes.new_zeros(size, rows, classes)
    best, nearest = boxes.new_zeros(size, rows), torch.zeros_like(boxes)
    label = torch.full_like(own, -1)
    if targets.boxes.shape[1]:
        iou = pairwise_iou(boxes, targets.boxes) * targets.valid[:, None]  # [B, R, M]
        column = targets.labels.clamp(min=0)[:, None].expand_as(iou)
        overlaps.scatter_reduce_(2, column, iou, "amax")
        best, at = (iou * counts[:, None]).max(2)
        nearest = targets.boxes.gather(1, at[..., None].expand(-1, -1, 4))
        label = torch.where(best > 0, targets.labels.gather(1, at), -1)
    kept = (x[valid] for x in (boxes, own, overlaps, best, nearest, label))
    return valid.sum(1), *kept
