"""Instance masks as COCO stores them: polygons and run lengths.

An RLE is {"size": [height, width], "counts": ...}: runs of 0 and 1 in turn, down the columns; the
counts are a list, or COCO's compressed string.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def counts_of(rle: dict[str, Any]) -> NDArray[np.int64]:
    """The run lengths, whichever form they are in."""
    counts = rle["counts"]
    if isinstance(counts, list | np.ndarray):
        return np.asarray(counts, np.int64)
    data = counts.encode("ascii") if isinstance(counts, str) else counts
    runs: list[int] = []
    position = 0
    while position < len(data):
        value, shift, more = 0, 0, True
        while more:  # groups of five bits, low first; the sixth bit says that more follow
            char = data[position] - 48
            value |= (char & 0x1F) << (5 * shift)
            more = bool(char & 0x20)
            position, shift = position + 1, shift + 1
            if not more and char & 0x10:
                value |= -1 << (5 * shift)
        if len(runs) > 2:  # from the third on, the difference to the run before the last
            value += runs[-2]
        runs.append(value)
    return np.asarray(runs, np.int64)


def decode(rle: dict[str, Any]) -> NDArray[np.bool_]:
    """[height, width] bool."""
    height, width = (int(v) for v in rle["size"])
    counts = counts_of(rle)
    if int(counts.sum()) != height * width or (counts < 0).any():
        raise ValueError(f"the runs cover {int(counts.sum())} of {height * width} pixels")
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(width, height).T


def encode(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """The RLE of [height, width] bool, counts as a list."""
    flat = np.asarray(mask, bool).T.reshape(-1)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    edges = np.concatenate([[0], edges, [len(flat)]])
    runs = np.diff(edges).tolist()
    if len(flat) and flat[0]:
        runs.insert(0, 0)
    return {"size": [int(mask.shape[0]), int(mask.shape[1])], "counts": runs}


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
