"""Run lengths as COCO stores them: runs of 0 and 1 in turn, down the columns."""

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
