"""A labelled data set in memory: one table of flat arrays, whatever layout it came from.

Shape letters: N images, T objects. Boxes are xyxy in continuous pixels of the upright image.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from boxatlas.data.extras import Extras, joined
from boxatlas.data.masks import Mask, Masks, taken
from boxatlas.errors import InputError, nearest


@dataclass(frozen=True)
class Row:
    """One image of a table: its file, id, size (height, width), and its objects' arrays [m]."""

    path: str
    id: str | int
    size: tuple[int, int]
    boxes: NDArray[np.float32] = field(repr=False)
    labels: NDArray[np.int32] = field(repr=False)
    names: list[str]
    ignore: NDArray[np.bool_] = field(repr=False)
    masks: list[Mask] | None = field(repr=False)

    def __iter__(self) -> Iterator[Any]:
        """path, boxes, labels: `for path, boxes, labels in table`."""
        return iter((self.path, self.boxes, self.labels))


@dataclass(frozen=True)
class Table:
    """Images and their objects. table[i] is one image, table[a:b] and table[mask] are tables.

    classes: names, indexed by labels. paths [N]: image files. ids [N]: the layout's own. sizes
    int32 [N, 2]: height, width. offsets int64 [N + 1]: image i holds the objects offsets[i] to
    offsets[i + 1]. boxes float32 [T, 4], labels int32 [T] (0..K-1), ignore bool [T] (VOC difficult,
    COCO crowd). masks [T] (polygons or RLE, packed) or None. areas float32 [T]: of the objects
    themselves (COCO's), None: of their boxes. truncated bool [T]: VOC's flag, None where nothing
    states it. image_label int32 [N]: a class known of an image without a box, else -1.
    category_ids [K]: what the layout's file calls the classes, None: nothing but their names.
    notes: what a reader passed over, for the log. extras: what else the files say, None: nothing.
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
    truncated: NDArray[np.bool_] | None = None
    category_ids: tuple[int | str, ...] | None = None
    extras: Extras | None = None

    def __post_init__(self) -> None:
        if len(self.image_label) != len(self.paths):
            object.__setattr__(self, "image_label", np.full(len(self.paths), -1, np.int32))
        if self.masks is not None and not isinstance(self.masks, Masks):
            object.__setattr__(self, "masks", Masks.packed(self.masks))

    @classmethod
    def of(cls, source: Any, classes: Sequence[str] | None = None) -> Table:
        """A table of one of these; boxes are x1, y1, x2, y2 in pixels of the upright image.

        - a pandas DataFrame, a row an object: `path`, `class` and four corners in columns of the
          names that CSV files have (also `width`, `height`, `ignore`); a row without class and
          corners is an image without objects;
        - dictionaries, an image each: `path`, `boxes` [m, 4], `labels` [m], and if known `ignore`,
          `height`, `width`;
        - a data set as torchvision has them: its CocoDetection and VOCDetection, or any that gives
          (image, target) with `boxes` and `labels`, if target has `path` or the image its file.

        Labels are names, or numbers into `classes`. Raises InputError naming row and field.
        """
        from boxatlas.data.sources import found_in

        found = found_in(source, classes)
        return cls(
            found.classes,
            found.paths,
            [Path(path).stem for path in found.paths],
            found.sizes,
            np.concatenate([[0], np.cumsum(found.counts)]).astype(np.int64),
            found.boxes,
            found.labels,
            found.ignore,
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __repr__(self) -> str:
        few = ", ".join(self.classes[:6]) + (", ..." if len(self.classes) > 6 else "")
        masks = "" if self.masks is None else ", masks"
        names = f"{len(self.classes)} classes: {few}" if self.classes else "no classes"
        return f"Table({len(self)} images, {len(self.labels)} objects{masks}, {names})"

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice | Sequence[int] | NDArray[Any]) -> Table: ...
    def __getitem__(self, index: int | slice | Sequence[int] | NDArray[Any]) -> Row | Table:
        if isinstance(index, slice):
            return self.select(np.arange(len(self))[index])
        if not isinstance(index, int | np.integer):
            return self.select(index)
        i = range(len(self))[int(index)]  # raises IndexError; counts from the end where negative
        part = self.objects(i)
        labels = self.labels[part]
        height, width = self.sizes[i].tolist()
        return Row(
            self.paths[i],
            self.ids[i],
            (height, width),
            self.boxes[part],
            labels,
            [self.classes[label] for label in labels],
            self.ignore[part],
            None if self.masks is None else list(self.masks[part]),
        )

    def __iter__(self) -> Iterator[Row]:
        return (self[i] for i in range(len(self)))

    def __add__(self, other: Table) -> Table:
        return Table.join([self, other])

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
        found = self._rows(rows)
        return replace(
            found,
            paths=[self.paths[i] for i in index],
            ids=[self.ids[i] for i in index],
            sizes=self.sizes[index],
            offsets=offsets,
            image_label=self.image_label[index],
            extras=None if found.extras is None else found.extras.of_images(index.tolist()),
        )

    def where(self, keep: NDArray[np.bool_]) -> Table:
        """The same images with only the objects of the mask `keep` [T]."""
        counts = np.bincount(self.image_of[keep], minlength=len(self))
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return replace(self._rows(np.flatnonzero(keep)), offsets=offsets)

    def filter(self, keep: Callable[[Row], bool]) -> Table:
        """The table of the images for which `keep(row)` is true."""
        return self.select(np.array([keep(row) for row in self], bool))

    def to_coco(self, root: str | Path | None = None) -> dict[str, Any]:
        """The table as COCO's document; file names are relative to `root`, if one is given."""
        from boxatlas.data.coco_document import document_of

        names = [p if root is None else os.path.relpath(p, root) for p in self.paths]
        names = [name.replace(os.sep, "/") for name in names]
        return document_of(self, names, list(range(len(self))))

    def to_dataframe(self) -> Any:
        """A pandas DataFrame, a row an object: path, width, height, class, x1, y1, x2, y2, ignore.

        An image without objects has a row without class and box. Raises InputError where pandas is
        not installed.
        """
        from boxatlas.data.dataframe import dataframe_of

        return dataframe_of(self)

    def _rows(self, rows: NDArray[np.int64]) -> Table:
        """These objects' columns; whose they are is left to the caller."""
        return replace(
            self,
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            ignore=self.ignore[rows],
            masks=None if self.masks is None else taken(self.masks, rows),
            areas=None if self.areas is None else self.areas[rows],
            truncated=None if self.truncated is None else self.truncated[rows],
            extras=None if self.extras is None else self.extras.of_objects(rows.tolist()),
        )

    def of_classes(self, classes: Iterable[str]) -> Table:
        """Only objects of these classes, relabelled in this order; images stay."""
        names = tuple(classes)
        for name in names:
            if name not in self.classes:
                raise InputError(
                    "no such class in the data",
                    field="class",
                    value=name,
                    hint=nearest(name, self.classes),
                )
        new = np.full(len(self.classes) + 1, -1, np.int32)
        for i, name in enumerate(names):
            new[self.classes.index(name)] = i
        kept = self.where(new[self.labels] >= 0)
        return replace(
            kept,
            classes=names,
            labels=new[kept.labels],
            image_label=new[self.image_label],
            category_ids=_ids_of(names, [self]),
        )

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
                raise InputError(
                    "the data holds a class that the model does not know",
                    field="class",
                    value=name,
                    hint=nearest(name, names),
                )
        return replace(
            self,
            classes=names,
            labels=new[self.labels],
            image_label=new[self.image_label],
            category_ids=_ids_of(names, [self]),
        )

    @classmethod
    def join(cls, tables: Sequence[Table]) -> Table:
        """One table of several; classes are merged by name, in the order they first appear."""
        if len(tables) == 1:
            return tables[0]
        names = tuple(dict.fromkeys(name for table in tables for name in table.classes))
        parts = [table.relabelled(names) for table in tables]
        masks: Masks | None = None
        if any(part.masks is not None for part in parts):
            masks = Masks.joined(
                [Masks.packed([None] * len(p.boxes) if p.masks is None else p.masks) for p in parts]
            )
        areas: NDArray[np.float32] | None = None
        if any(part.areas is not None for part in parts):
            areas = np.concatenate([p.object_areas for p in parts])
        truncated: NDArray[np.bool_] | None = None
        if any(part.truncated is not None for part in parts):
            truncated = np.concatenate(
                [
                    np.zeros(len(p.boxes), bool) if p.truncated is None else p.truncated
                    for p in parts
                ]
            )
        counts = np.concatenate([part.counts for part in parts])
        return cls(
            names,
            [path for part in parts for path in part.paths],
            [id_ for part in parts for id_ in part.ids],
            np.concatenate([p.sizes for p in parts]),
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            np.concatenate([p.boxes for p in parts]),
            np.concatenate([p.labels for p in parts]),
            np.concatenate([p.ignore for p in parts]),
            masks,
            areas,
            np.concatenate([p.image_label for p in parts]),
            tuple(note for part in parts for note in part.notes),
            truncated,
            _ids_of(names, tables),
            joined([(p.extras, len(p), len(p.boxes)) for p in parts]),
        )

    def without_empty_boxes(self) -> tuple[Table, int]:
        """For training: boxes of no area dropped, and how many they were.

        A box of one pixel is one too: that is what equal corners are in VOC's inclusive ones.
        """
        sides = self.boxes[:, 2:] - self.boxes[:, :2]
        fine = np.all(sides > 0, axis=1) & (sides.prod(1) > 1.001)
        dropped = int((~fine).sum())
        return (self.where(fine), dropped) if dropped else (self, 0)


def _ids_of(names: Sequence[str], tables: Sequence[Table]) -> tuple[int | str, ...] | None:
    """The category ids of these classes, where every one has one and no two the same."""
    known: dict[str, int | str] = {}
    for table in tables:
        for name, id_ in zip(table.classes, table.category_ids or (), strict=False):
            if known.setdefault(name, id_) != id_:
                return None
    ids = [known[name] for name in names if name in known]
    return tuple(ids) if len(set(ids)) == len(names) else None


def unbelievable(table: Table) -> str:
    """What cannot be true of boxes in pixels, "" where nothing is: that all lie within the first
    pixel of larger images, as fractions do, that most lie outside of theirs, or that nearly all
    reach beyond them."""
    boxes, total = table.boxes, len(table.boxes)
    if total < 3:
        return ""  # few boxes prove nothing
    if boxes.max() <= 1 and table.sizes.min() > 2 and (boxes != np.round(boxes)).any():
        return f"all {total} boxes lie within the first pixel: they are fractions, not pixels"
    limit = np.repeat(table.sizes[:, ::-1].astype(np.float32), table.counts, axis=0)
    if (boxes[:, 2:] <= limit).all() and boxes.min() >= 0:
        return ""
    known = (limit > 0).all(1)
    outside = known & ((boxes[:, :2] >= limit).any(1) | (boxes[:, 2:] <= 0).any(1))
    if 2 * outside.sum() > total:
        return f"{outside.sum()} of {total} boxes lie outside their images"
    beyond = int((known & (boxes[:, 2:] > 1.05 * limit + 1).any(1)).sum())
    most = beyond > max(9, 0.9 * total)
    return f"{beyond} of {total} boxes reach beyond their images" if most else ""
