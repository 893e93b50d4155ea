"""The compiled inner loop of NMS, apart so that numba is imported only where it pays."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, error_model="numpy", nogil=True)
def suppress_sorted(planes, ends, cut, limit):  # pragma: no cover (compiled)
    """Which boxes stay: planes [4, N] lie group after group, best first; ends [G] close groups.

    The same arithmetic as torchvision's CPU kernel, in the precision of `planes`. The inner loop
    has no branch, so that the compiler can use vector instructions.
    """
    x1, y1, x2, y2 = planes[0], planes[1], planes[2], planes[3]
    area = (x2 - x1) * (y2 - y1)
    zero = area.dtype.type(0)
    gone = np.zeros(len(x1), np.bool_)
    stays = np.zeros(len(x1), np.bool_)
    start = 0
    for end in ends:
        kept = 0
        for i in range(start, end):
            if gone[i]:
                continue
            stays[i] = True
            kept += 1
            if kept == limit:
                break
            ax1, ay1, ax2, ay2, own = x1[i], y1[i], x2[i], y2[i], area[i]
            for j in range(i + 1, end):
                width = max(zero, min(ax2, x2[j]) - max(ax1, x1[j]))
                height = max(zero, min(ay2, y2[j]) - max(ay1, y1[j]))
                shared = width * height
                gone[j] |= shared / (own + area[j] - shared) > cut
        start = end
    return stays
