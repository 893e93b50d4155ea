"""The compiled halves of `winograd`: tiles of a map into the transformed space, and back.

Channels last throughout: the inner loops run over channels, which lie side by side in memory.
Numba is loaded with this module.
"""

from __future__ import annotations

import numpy as np

from boxatlas.ops.compiled import compiled

_FAST = {"contract", "reassoc", "nsz"}


@compiled
def _place(tile, down, across):
    """(image, top row, left column) of a tile of 4 x 4 outputs."""
    image = tile // (down * across)
    rest = tile - image * down * across
    return image, 4 * (rest // across), 4 * (rest % across)


def _six_of_six(out, a, b, c, d, e, f):
    """B^T of six cells, channel by channel: out [6, C]."""
    o0, o1, o2, o3, o4, o5 = out[0], out[1], out[2], out[3], out[4], out[5]
    for k in range(len(a)):
        o0[k] = 4 * a[k] - 5 * c[k] + e[k]
        p, q = d[k] - 4 * b[k], e[k] - 4 * c[k]
        o1[k] = q + p
        o2[k] = q - p
        p, q = 2 * (d[k] - b[k]), e[k] - c[k]
        o3[k] = q + p
        o4[k] = q - p
        o5[k] = 4 * b[k] - 5 * d[k] + f[k]


_six = compiled(_six_of_six, fastmath=_FAST, error_model="numpy")


def _enter(v, x, first, down, across, start, stop):
    """B^T d B of each tile: x [B, H, W, C] -> v [36, tiles, C], tile `first + i` in row i."""
    height, width, channels = x.shape[1:]
    zero = np.zeros(channels, np.float32)
    half = np.empty((6, 6, channels), np.float32)
    for row in range(start, stop):
        image, top, left = _place(first + row, down, across)
        cells = x[image]
        for j in range(6):
            col, y = left - 1 + j, top - 1
            inside = 0 <= col < width
            a = cells[y, col] if inside and y >= 0 else zero
            b = cells[y + 1, col] if inside else zero
            c = cells[y + 2, col] if inside and y + 2 < height else zero
            d = cells[y + 3, col] if inside and y + 3 < height else zero
            e = cells[y + 4, col] if inside and y + 4 < height else zero
            f = cells[y + 5, col] if inside and y + 5 < height else zero
            _six(half[:, j], a, b, c, d, e, f)
        for i in range(6):
            a, b, c = half[i, 0], half[i, 1], half[i, 2]
            d, e, f = half[i, 3], half[i, 4], half[i, 5]
            _six(v[6 * i : 6 * i + 6, row], a, b, c, d, e, f)


def _leave(out, m, bias, low, high, first, down, across, start, stop):
    """A^T m A, the bias and a clamp to low..high: m [36, tiles, K] -> out [B, H, W, K]."""
    height, width, channels = out.shape[1:]
    half = np.empty((4, 6, channels), np.float32)
    spare = np.empty(channels, np.float32)  # takes what lies outside of the map
    for row in range(start, stop):
        image, top, left = _place(first + row, down, across)
        cells = out[image]
        for j in range(6):
            a, b, c = m[j, row], m[6 + j, row], m[12 + j, row]
            d, e, f = m[18 + j, row], m[24 + j, row], m[30 + j, row]
            h0, h1, h2, h3 = half[0, j], half[1, j], half[2, j], half[3, j]
            for k in range(channels):
                p, q = b[k] + c[k], b[k] - c[k]
                r, s = d[k] + e[k], d[k] - e[k]
                h0[k] = a[k] + p + r
                h1[k] = q + 2 * s
                h2[k] = p + 4 * r
                h3[k] = q + 8 * s + f[k]
        for i in range(min(4, height - top)):
            a, b, c = half[i, 0], half[i, 1], half[i, 2]
            d, e, f = half[i, 3], half[i, 4], half[i, 5]
            y = top + i
            o0 = cells[y, left]
            o1 = cells[y, left + 1] if left + 1 < width else spare
            o2 = cells[y, left + 2] if left + 2 < width else spare
            o3 = cells[y, left + 3] if left + 3 < width else spare
            for k in range(channels):
                p, q = b[k] + c[k] + bias[k], b[k] - c[k] + bias[k]
                r, s = d[k] + e[k], d[k] - e[k]
                o0[k] = min(max(a[k] + p + r, low), high)
                o1[k] = min(max(q + 2 * s, low), high)
                o2[k] = min(max(p + 4 * r, low), high)
                o3[k] = min(max(q + 8 * s + f[k], low), high)


enter = compiled(_enter, fastmath=_FAST, error_model="numpy")
leave = compiled(_leave, fastmath=_FAST, error_model="numpy")
