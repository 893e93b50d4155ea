"""Run lengths as COCO stores them: runs of 0 and 1 in turn, down the columns.

Public: encode, counts_of (either form -> numbers), packed (numbers -> COCO's text).
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


def encode(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """The RLE of [height, width] bool, counts as a list."""
    flat = np.asarray(mask, bool).T.reshape(-1)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    edges = np.concatenate([[0], edges, [len(flat)]])
    runs = np.diff(edges).tolist()
    if len(flat) and flat[0]:
        runs.insert(0, 0)
    return {"size": [int(mask.shape[0]), int(mask.shape[1])], "counts": runs}


def packed(rle: dict[str, Any]) -> dict[str, Any]:
    """The same RLE with its counts as text, which COCO's tools read in files of results."""
    if isinstance(rle["counts"], str):
        return rle
    runs = counts_of(rle)
    runs = np.concatenate([runs[:3], runs[3:] - runs[1:-2]])
    text = []
    for value in runs.tolist():
        more = True
        while more:
            low = value & 0x1F
            value >>= 5  # keeps the sign
            more = value != (-1 if low & 0x10 else 0)
            text.append(chr((low | 0x20 if more else low) + 48))
    return {"size": list(rle["size"]), "counts": "".join(text)}
