"""A labelled data set in memory: one table of flat arrays, whatever layout it came from.

Shape letters: N images, T objects. Boxes are xyxy in continuous pixels of the upright image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxatlas.data.masks import Mask, Masks, taken
from boxatlas.errors import InputError, nearest


@dataclass(frozen=True)
class Table:
    """Images and their objects.

    classes: names, indexed by labels. paths [N]: image files. ids [N]: the layout's own. sizes
    int32 [N, 2]: height, width. offsets int64 [N + 1]: image i holds the objects offsets[i] to
    offsets[i + 1]. boxes float32 [T, 4], labels int32 [T] (0..K-1), ignore bool [T] (VOC difficult,
    COCO crowd). masks [T] (polygons or RLE, packed) or None. areas float32 [T]: of the objects
    themselves (COCO's), None: of their boxes. image_label int32 [N]: a class known of an image
    without a box, else -1. notes: what a reader passed over, for the log.
    """

    classes: tuple[str, ...]
    paths: list[str]
    ids: list[str | int]
    sizes: NDArray[np.int32]
    offsets: NDArray[np.int64]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int32]
    ignore: NDArray[np.bool_]
    masks: Sequence[Mask] | None = None
    areas: NDArray[np.float32] | None = None
    image_label: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.image_label) != len(self.paths):
            object.__setattr__(self, "image_label", np.full(len(self.paths), -1, np.int32))
        if self.masks is not None and not isinstance(self.masks, Masks):
            object.__setattr__(self, "masks", Masks.packed(self.masks))

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def counts(self) -> NDArray[np.int64]:
        """[N]: objects of each image."""
        return np.diff(self.offsets)

    @property
    def image_of(self) -> NDArray[np.int64]:
        """[T]: the image each object is in."""
        return np.repeat(np.arange(len(self)), self.counts)

    @property
    def object_areas(self) -> NDArray[np.float32]:
        """[T]: the area of each object, or of its box where none is stated."""
        if self.areas is not None:
            return self.areas
        return (self.boxes[:, 2:] - self.boxes[:, :2]).prod(1)

    def objects(self, i: int) -> slice:
        """Where image i's objects lie in boxes, labels, ignore and masks."""
        return slice(int(self.offsets[i]), int(self.offsets[i + 1]))

    def name(self, i: int) -> str:
        """Image i's file name without folder and suffix."""
        return Path(self.paths[i]).stem

    def select(self, images: Sequence[int] | NDArray[Any]) -> Table:
        """The table of these images (indices, or a mask [N]), in this order."""
        index = np.asarray(images)
        index = np.flatnonzero(index) if index.dtype == bool else index.astype(np.int64)
        counts = self.counts[index]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        rows = np.repeat(self.offsets[index] - offsets[:-1], counts) + np.arange(offsets[-1])
        return replace(
            self, paths=[self.paths[i] for i in index], ids=[self.ids[i] for i in index],
            sizes=self.sizes[index], offsets=offsets, boxes=self.boxes[rows],
            labels=self.labels[rows], ignore=self.ignore[rows],
            masks=None if self.masks is None else taken(self.masks, rows),
            areas=None if self.areas is None else self.areas[rows],
            image_label=self.image_label[index],
        )  # fmt: skip

    def where(self, keep: NDArray[np.bool_]) -> Table:
        """The same images with only the objects of the mask `keep` [T]."""
        counts = np.zeros(len(self), np.int64)
        np.add.at(counts, self.image_of[keep], 1)
        rows = np.flatnonzero(keep)
        return replace(
            self, offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            boxes=self.boxes[rows], labels=self.labels[rows], ignore=self.ignore[rows],
            masks=None if self.masks is None else taken(self.masks, rows),
            areas=None if self.areas is None else self.areas[rows],
        )  # fmt: skip

    def of_classes(self, classes: Iterable[str]) -> Table:
        """Only objects of these classes, relabelled in this order; images stay."""
        names = tuple(classes)
        for name in names:
            if name not in self.classes:
                raise InputError("no such class in the data", field="class", value=name,
                                 hint=nearest(name, self.classes))  # fmt: skip
        new = np.full(len(self.classes) + 1, -1, np.int32)
        for i, name in enumerate(names):
            new[self.classes.index(name)] = i
        kept = self.where(new[self.labels] >= 0)
        return replace(kept, classes=names, labels=new[kept.labels],
                       image_label=new[self.image_label])  # fmt: skip

    def relabelled(self, classes: Sequence[str]) -> Table:
        """The same objects with labels that index `classes`, which must hold every class used."""
        names = tuple(classes)
        if names == self.classes:
            return self
        used = set(self.labels.tolist()) | set(self.image_label[self.image_label >= 0].tolist())
        new = np.full(len(self.classes) + 1, -1, np.int32)
        for i, name in enumerate(self.classes):
            if name in names:
                new[i] = names.index(name)
            elif i in used:
                raise InputError("the data holds a class that the model does not know",
                                 field="class", value=name, hint=nearest(name, names))  # fmt: skip
        return replace(self, classes=names, labels=new[self.labels],
                       image_label=new[self.image_label])  # fmt: skip

    @classmethod
    def join(cls, tables: Sequence[Table]) -> Table:
        """One table of several; classes are merged by name, in the order they first appear."""
        if len(tables) == 1:
            return tables[0]
        names = tuple(dict.fromkeys(name for table in tables for name in table.classes))
        parts = [table.relabelled(names) for table in tables]
        masks: Masks | None = None
        if any(part.masks is not None for part in parts):
            masks = Masks.joined([
                Masks.packed([None] * len(p.boxes) if p.masks is None else p.masks) for p in parts
            ])  # fmt: skip
        areas: NDArray[np.float32] | None = None
        if any(part.areas is not None for part in parts):
            areas = np.concatenate([p.object_areas for p in parts])
        counts = np.concatenate([part.counts for part in parts])
        return cls(
            names,
            [path for part in parts for path in part.paths],
            [id_ for part in parts for id_ in part.ids],
            np.concatenate([p.sizes for p in parts]),
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            np.concatenate([p.boxes for p in parts]), np.concatenate([p.labels for p in parts]),
            np.concatenate([p.ignore for p in parts]), masks, areas,
            np.concatenate([p.image_label for p in parts]),
            tuple(note for part in parts for note in part.notes),
        )  # fmt: skip

    def without_empty_boxes(self) -> tuple[Table, int]:
        """For training: boxes of no area dropped, and how many they were.

        A box of one pixel is one too: that is what equal corners are in VOC's inclusive ones.
        """
        sides = self.boxes[:, 2:] - self.boxes[:, :2]
        fine = np.all(sides > 0, axis=1) & (sides.prod(1) > 1.001)
        dropped = int((~fine).sum())
        return (self.where(fine), dropped) if dropped else (self, 0)
