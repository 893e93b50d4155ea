"""Instance masks as COCO stores them: polygons and run lengths.

An RLE is {"size": [height, width], "counts": ...}: runs of 0 and 1 in turn, down the columns; the
counts are a list, or COCO's compressed string.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from boxatlas.ops.rle import counts_of, encode

Mask = Any  # polygons (a list of x, y, x, y, ... lists), an RLE dict, or None
_NONE, _POLYGONS, _STRING, _COUNTS = range(4)


class Masks(Sequence[Mask]):
    """The masks of many objects in one block of bytes, which forked workers share.

    masks[k] is object k's polygons, RLE or None again; polygons are held as float32.
    """

    def __init__(
        self, data: NDArray[np.uint8], offsets: NDArray[np.int64], kinds: NDArray[np.uint8]
    ) -> None:
        self.data, self.offsets, self.kinds = data, offsets, kinds

    @classmethod
    def packed(cls, masks: Iterable[Mask]) -> Masks:
        """Raises ValueError or TypeError for what is no mask."""
        if isinstance(masks, Masks):
            return masks
        packer = Packer()
        for mask in masks:
            packer.add(mask)
        return packer.masks()

    @classmethod
    def joined(cls, parts: Sequence[Masks]) -> Masks:
        sizes = np.concatenate([np.diff(part.offsets) for part in parts])
        return cls(
            np.concatenate([part.data for part in parts]),
            np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
            np.concatenate([part.kinds for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.kinds)

    @overload
    def __getitem__(self, index: int) -> Mask: ...
    @overload
    def __getitem__(self, index: slice) -> list[Mask]: ...
    def __getitem__(self, index: int | slice) -> Mask:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        block = self.data[self.offsets[index] : self.offsets[index + 1]]
        kind = self.kinds[index]
        if kind == _NONE:
            return None
        if kind == _POLYGONS:
            values = block.view(np.float32)
            count = int(values[0])
            ends = np.cumsum(values[1 : count + 1].astype(np.int64))
            return [part.tolist() for part in np.split(values[count + 1 :], ends[:-1])]
        size = block[:8].view(np.int32).tolist()
        if kind == _STRING:
            return {"size": size, "counts": block[8:].tobytes().decode("ascii")}
        return {"size": size, "counts": block[8:].view(np.int32).tolist()}

    def take(self, rows: NDArray[np.int64]) -> Masks:
        """The masks of these objects, in this order."""
        sizes = np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        if len(rows) == len(self) and np.array_equal(rows, np.arange(len(self))):
            return self
        data = np.empty(offsets[-1], np.uint8)
        for k, row in enumerate(rows.tolist()):
            data[offsets[k] : offsets[k + 1]] = self.data[self.offsets[row] : self.offsets[row + 1]]
        return Masks(data, offsets, self.kinds[rows])


def taken(masks: Sequence[Mask], rows: NDArray[np.int64]) -> Masks:
    return Masks.packed(masks).take(rows)


class Packer:
    """Collects masks one by one."""

    def __init__(self) -> None:
        self.data, self.sizes, self.kinds = bytearray(), array("q"), bytearray()
        self.any = False

    def add(self, mask: Mask) -> None:
        """Raises ValueError or TypeError, before anything is added, for what is no mask."""
        kind, block = _block(mask)
        self.data += block
        self.sizes.append(len(block))
        self.kinds.append(kind)
        self.any |= kind != _NONE

    def add_many(self, polygons: NDArray[np.float32], sizes: NDArray[np.int64]) -> None:
        """Masks that are packed already, of these many bytes each (0: no mask)."""
        self.data += polygons.tobytes()
        self.sizes.frombytes(sizes.astype(np.int64).tobytes())
        self.kinds += np.where(sizes > 0, _POLYGONS, _NONE).astype(np.uint8).tobytes()
        self.any |= len(polygons) > 0

    def masks(self) -> Masks:
        offsets = np.concatenate([[0], np.cumsum(np.asarray(self.sizes, np.int64))])
        return Masks(
            np.frombuffer(self.data, np.uint8),
            offsets.astype(np.int64),
            np.frombuffer(self.kinds, np.uint8),
        )


def _block(mask: Mask) -> tuple[int, bytes]:
    if mask is None:
        return _NONE, b""
    if isinstance(mask, list):
        values = array("f", [len(mask), *(len(polygon) for polygon in mask)])
        for polygon in mask:
            if len(polygon) % 2 or isinstance(polygon, str):
                raise ValueError("a polygon is x, y, x, y, ...")
            values.extend(polygon)
        total = sum(values)
        if not total - total == 0:  # NaN or infinity among them
            raise ValueError("a polygon holds what is no finite number")
        return _POLYGONS, values.tobytes()
    if not isinstance(mask, dict) or len(mask.get("size", ())) != 2 or "counts" not in mask:
        raise ValueError("a mask is a list of polygons, or an RLE of `size` and `counts`")
    size, counts = array("i", mask["size"]), mask["counts"]
    numbers = array("i", counts) if isinstance(counts, list) else None  # refuses fractions
    _runs(mask)
    if numbers is not None:
        return _COUNTS, (size + numbers).tobytes()
    text = counts.encode("ascii") if isinstance(counts, str) else bytes(counts)
    return _STRING, size.tobytes() + text


def decode(rle: dict[str, Any]) -> NDArray[np.bool_]:
    """[height, width] bool."""
    height, width = (int(v) for v in rle["size"])
    runs = _runs(rle)
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


def extent(mask: Mask) -> NDArray[np.float64] | None:
    """The box around a mask, x1, y1, x2, y2; None where it is empty.

    Raises ValueError for broken run lengths.
    """
    if mask is None:
        return None
    if isinstance(mask, list):
        points = [np.asarray(p, np.float64).reshape(-1, 2) for p in mask if len(p) >= 6]
        if not points:
            return None
        points = np.concatenate(points)
        return np.concatenate([points.min(0), points.max(0)])
    rows, columns = np.nonzero(decode(mask))
    if len(rows) == 0:
        return None
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float64)


def _runs(rle: dict[str, Any]) -> NDArray[np.int64]:
    """The run lengths. Raises ValueError where they are not those of a mask of its size."""
    height, width = (int(v) for v in rle["size"])
    runs = counts_of(rle)
    if int(runs.sum()) != height * width or (runs < 0).any():
        raise ValueError(f"the runs cover {int(runs.sum())} of {height * width} pixels")
    return runs


def moved(
    mask: Any,
    scale: tuple[float, float],
    shift: tuple[float, float],
    size: tuple[int, int],
) -> Any:
    """A mask of the source in an input of `size` (height, width), (x, y) -> (x, y) * scale + shift.

    A negative scale mirrors. Polygons stay polygons, run lengths stay run lengths.
    """
    if mask is None:
        return None
    if isinstance(mask, list):
        return [
            [v * scale[k % 2] + shift[k % 2] for k, v in enumerate(polygon)] for polygon in mask
        ]
    bitmap = decode(mask)
    rows = np.floor((np.arange(size[0]) + 0.5 - shift[1]) / scale[1]).astype(np.int64)
    columns = np.floor((np.arange(size[1]) + 0.5 - shift[0]) / scale[0]).astype(np.int64)
    inside = ((rows >= 0) & (rows < bitmap.shape[0]))[:, None] & (
        (columns >= 0) & (columns < bitmap.shape[1])
    )
    picked = bitmap[rows.clip(0, bitmap.shape[0] - 1)][:, columns.clip(0, bitmap.shape[1] - 1)]
    return encode(picked & inside)
