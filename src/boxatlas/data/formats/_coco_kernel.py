"""The compiled scan of `coco_rows`, apart so that numba is imported only where it pays.

The text ends with a zero, at which every loop stops. A position of -1 says: not of the usual shape.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from boxatlas.ops.compiled import compiled

Text = NDArray[np.uint8]


@compiled
def _past_space(text: Text, p: int) -> int:
    while text[p] == 32 or text[p] == 10 or text[p] == 13 or text[p] == 9:
        p += 1
    return p


@compiled
def _number(text: Text, p: int) -> tuple[float, int, int]:
    """-> a number without exponent, its digits as a whole number, and where it ends."""
    negative = text[p] == 45
    p += negative
    first, whole, digits, point, scale = p, 0, 0, False, 1.0
    while 48 <= text[p] <= 57 or (text[p] == 46 and not point and p > first):
        if text[p] == 46:
            point = True
        else:
            whole = whole * 10 + (text[p] - 48)
            digits += 1
            if point:
                scale *= 10.0
        p += 1
        if digits > 18:  # more do not fit a whole number of 64 bits
            return 0.0, 0, -1
    leading = text[first] == 48 and 48 <= text[first + 1] <= 57
    if digits == 0 or leading or text[p - 1] == 46 or text[p] == 69 or text[p] == 101:
        return 0.0, 0, -1
    # A quotient of exact numbers is rounded once, as JSON's decimals are; with more than 15 digits
    # the last bit of a double may differ, which no float32 shows.
    value = whole / scale
    return (-value, -whole, p) if negative else (value, whole, p)


@compiled
def _whole(text: Text, p: int) -> tuple[int, int]:
    """-> an integer and where it ends."""
    start = p
    _, whole, p = _number(text, p)
    for i in range(start, p):
        if text[i] == 46:
            return 0, -1
    return whole, p


@compiled
def _box(text: Text, p: int, row: NDArray[np.float64]) -> int:
    if text[p] != 91:
        return -1
    for k in range(4):
        row[k], _, p = _number(text, _past_space(text, p + 1))
        if p < 0:
            return -1
        p = _past_space(text, p)
        if text[p] != (93 if k == 3 else 44):
            return -1
    return p + 1


@compiled
def _polygons(text: Text, p: int, values: NDArray[np.float32], at: int) -> tuple[int, int]:
    """A list of polygons as `data.masks` packs it, into `values` from `at` on; nothing for [].

    -> where it ends in `text` and in `values`.
    """
    if text[p] != 91:
        return -1, 0
    p = _past_space(text, p + 1)
    if text[p] == 93:
        return p + 1, at
    polygons, look = 0, p
    while text[look] == 91:
        polygons += 1
        while text[look] != 93 and text[look] != 0:
            look += 1
        if text[look] == 0:
            return -1, 0
        look = _past_space(text, look + 1)
        if text[look] == 44:
            look = _past_space(text, look + 1)
    if text[look] != 93 or at + 1 + polygons + (look - p) // 2 > len(values):
        return -1, 0
    values[at] = polygons
    out = at + 1 + polygons
    for k in range(polygons):
        start = out
        if text[p] != 91:
            return -1, 0
        while text[p] != 93:
            values[out], _, p = _number(text, _past_space(text, p + 1))
            if p < 0:
                return -1, 0
            out += 1
            p = _past_space(text, p)
            if text[p] != 44 and text[p] != 93:
                return -1, 0
        if (out - start) % 2:
            return -1, 0
        values[at + 1 + k] = out - start
        p = _past_space(text, p + 1)
        if text[p] != (93 if k == polygons - 1 else 44):
            return -1, 0
        p = _past_space(text, p + 1) if text[p] == 44 else p + 1
    return p, out


@compiled
def _is(text: Text, start: int, stop: int, name: Text) -> bool:
    if stop - start != len(name):
        return False
    same = True
    for k in range(len(name)):
        same &= text[start + k] == name[k]
    return same


@compiled
def rows(
    text: Text,
    at: int,
    names: tuple[Text, ...],
    whole: NDArray[np.int64],
    real: NDArray[np.float64],
    masks: NDArray[np.float32],
    ends: NDArray[np.int64],
) -> tuple[int, int]:
    """Annotations from `at` on, as long as each is of the usual shape and another object follows.

    names: of id, image_id, category_id, iscrowd, bbox, area, segmentation. Fills, for each, whole
    [n, 4] (the first four), real [n, 5] (box, area or NaN) and ends [n] (of its mask in `masks`).
    -> how many there are and where the next object begins.
    """
    count, filled = 0, 0
    while count < len(ends):
        p, seen, out = at, 0, filled
        real[count, 4] = np.nan
        whole[count, 3] = 0
        while text[p] == (44 if seen else 123):  # {"name": value, ...
            start = _past_space(text, p + 1)
            if text[start] != 34:
                return count, at
            start += 1
            stop = start
            while text[stop] != 34 and text[stop] != 92 and text[stop] != 0:
                stop += 1
            p = _past_space(text, stop + 1)
            if text[stop] != 34 or text[p] != 58:
                return count, at
            p = _past_space(text, p + 1)
            field = 0
            while field < 7 and not _is(text, start, stop, names[field]):
                field += 1
            if field == 7 or seen & (1 << field):
                return count, at
            seen |= 1 << field
            if field < 4:
                whole[count, field], p = _whole(text, p)
            elif field == 4:
                p = _box(text, p, real[count])
            elif field == 5:
                real[count, 4], _, p = _number(text, p)
            else:
                p, out = _polygons(text, p, masks, filled)
            if p < 0:
                return count, at
            p = _past_space(text, p)
        if text[p] != 125 or seen & 23 != 23 or not 0 <= whole[count, 3] <= 1:
            return count, at
        p = _past_space(text, p + 1)
        if text[p] != 44:
            return count, at
        p = _past_space(text, p + 1)
        if text[p] != 123:
            return count, at
        filled, at = out, p
        ends[count] = filled
        count += 1
    return count, at
