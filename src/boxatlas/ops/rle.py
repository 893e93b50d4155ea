"""Run lengths as COCO stores them: runs of 0 and 1 in turn, down the columns.

Public: encode, counts_of (either form -> numbers), packed (numbers -> COCO's text).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def counts_of(rle: dict[str, Any]) -> NDArray[np.int64]:
    """The run lengths, whichever form they are in. Raises ValueError for a text that is none."""
    counts = rle["counts"]
    if isinstance(counts, list | np.ndarray):
        return np.asarray(counts, np.int64)
    text = counts.encode("ascii") if isinstance(counts, str) else counts
    chars = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if not len(chars):
        return chars
    ends = np.flatnonzero((chars & 0x20) == 0)  # groups of five bits; the sixth: more follow
    lengths = np.diff(ends, prepend=-1)
    whole = len(ends) and ends[-1] == len(chars) - 1 and lengths.max() <= 7
    if not whole or chars.min() < 0 or chars.max() > 0x3F:
        raise ValueError("the run lengths are not as COCO writes them")
    starts = ends - lengths + 1
    places = np.arange(len(chars)) - np.repeat(starts, lengths)
    runs = np.add.reduceat((chars & 0x1F) << (5 * places), starts)  # the low bits come first
    runs -= np.where(chars[ends] & 0x10, np.int64(1) << (5 * lengths), 0)  # the last one's sign
    for first in (1, 2):  # from the fourth on, the difference to the run before the last
        runs[first::2] = runs[first::2].cumsum()
    return runs


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
