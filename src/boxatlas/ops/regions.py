"""What selective search knows of a region: its colours, texture, box, size and neighbours.

Uijlings et al., IJCV 2013, section 3.2.
Shape letters: C channels, H height, W width, N regions. A row of a region's histograms holds 25
bins of colour for each channel, then 10 bins of each of 8 directions of texture for each channel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from boxatlas.ops.compiled import compiled
from boxatlas.ops.felzenszwalb import filter_columns, filter_rows, gaussian

COLOUR_BINS = 25
TEXTURE_BINS = 10
TEXTURE_SIGMA = 1.0
TEXTURE_RANGE = 102.0  # 255 / sqrt(2 pi): what a step from black to white gives under sigma 1
_FAST = partial(compiled, fastmath={"contract", "reassoc", "nsz"})


@dataclass(frozen=True)
class Regions:
    """What is known of N regions of an image.

    colour [N, C * 25] and texture [N, C * 80]: histograms that each sum to 1, float32; boxes
    [N, 4] int32 xyxy, right and bottom edge outside; sizes [N] int32 in pixels; neighbours as
    rows: those of region i are adjacent[starts[i]:starts[i + 1]].
    """

    colour: NDArray[np.float32]
    texture: NDArray[np.float32]
    boxes: NDArray[np.int32]
    sizes: NDArray[np.int32]
    starts: NDArray[np.int64]
    adjacent: NDArray[np.int32]
    area: int  # of the image

    def __len__(self) -> int:
        return len(self.sizes)


def codes(
    planes: NDArray[np.uint8], colour_bins: int = COLOUR_BINS, texture_range: float = TEXTURE_RANGE
) -> NDArray[np.uint16]:
    """uint16 [H, W, 5 C]: which bins of a region's histogram row each pixel of [C, H, W] fills.

    Colour: the value in `colour_bins` equal bins of 0..255. Texture: Gaussian derivatives (sigma 1)
    in eight directions 45 degrees apart; of two opposite ones the positive is binned and the other
    is 0, which needs no code. The paper gives ten bins but not their range: 0..texture_range here.
    """
    channels, height, width = planes.shape
    values = planes.astype(np.float32)
    smooth = gaussian(TEXTURE_SIGMA)
    reach = np.arange(-(len(smooth) // 2), len(smooth) // 2 + 1, dtype=np.float32)
    slope = smooth * reach / (smooth * reach * reach).sum()  # of a ramp it gives the slope, exactly
    turned, along_x, along_y = (np.empty_like(values) for _ in range(3))
    filter_rows(values, slope, turned)
    filter_columns(turned, smooth, along_x)
    filter_rows(values, smooth, turned)
    filter_columns(turned, slope, along_y)
    out = np.empty((height, width, 5 * channels), np.uint16)
    _encode(planes, along_x, along_y, colour_bins, np.float32(TEXTURE_BINS / texture_range), out)
    return out


@_FAST
def _encode(planes, along_x, along_y, colour_bins, scale, out):
    channels, height, width = planes.shape
    diagonal = np.float32(np.sqrt(0.5))
    top = np.float32(TEXTURE_BINS - 1)
    for c in range(channels):
        base = channels * colour_bins + c * 8 * TEXTURE_BINS
        for y in range(height):
            for x in range(width):
                out[y, x, c] = c * colour_bins + (np.int32(planes[c, y, x]) * colour_bins >> 8)
                gx, gy = along_x[c, y, x] * scale, along_y[c, y, x] * scale
                at = channels + 4 * c
                for d in range(4):
                    if d == 0:
                        v = gx
                    elif d == 1:
                        v = (gx + gy) * diagonal
                    elif d == 2:
                        v = gy
                    else:
                        v = (gy - gx) * diagonal
                    side = 4 if v < 0 else 0  # the opposite direction
                    out[y, x, at + d] = (
                        base + (d + side) * TEXTURE_BINS + np.int32(min(abs(v), top))
                    )


def describe(
    planes_codes: NDArray[np.uint16],
    labels: NDArray[np.int32],
    count: int,
    colour_bins: int = COLOUR_BINS,
) -> Regions:
    """The regions of a segmentation: `codes` of the image, labels [H, W] of 0..count - 1."""
    channels = planes_codes.shape[2] // 5
    histograms, boxes, sizes = _measure(
        planes_codes, labels, count, channels, channels * colour_bins
    )
    pairs = np.empty((_boundary(labels, np.empty((0, 2), np.int32)), 2), np.int32)
    _boundary(labels, pairs)
    starts, adjacent = _neighbours(pairs, count)
    split = channels * colour_bins
    return Regions(
        np.ascontiguousarray(histograms[:, :split]),
        np.ascontiguousarray(histograms[:, split:]),
        boxes,
        sizes,
        starts,
        adjacent,
        labels.size,
    )


@_FAST
def _measure(codes, labels, count, channels, split):
    height, width = labels.shape
    bins = split + channels * 8 * TEXTURE_BINS
    held = np.zeros((count, bins), np.int32)
    boxes, sizes = np.zeros((count, 4), np.int32), np.zeros(count, np.int32)
    for y in range(height):
        for x in range(width):
            s = labels[y, x]
            box, row, code = boxes[s], held[s], codes[y, x]
            if sizes[s] == 0:
                box[0], box[1] = x, y
            sizes[s] += 1
            box[0] = min(box[0], x)
            box[2] = max(box[2], x + 1)
            box[3] = y + 1
            for i in range(5 * channels):
                row[code[i]] += 1
    histograms = np.empty((count, bins), np.float32)
    for s in range(count):
        # A direction's bin 0 lacks the pixels whose derivative pointed the other way.
        for start in range(split, bins, TEXTURE_BINS):
            held[s, start] += sizes[s] - held[s, start : start + TEXTURE_BINS].sum()
        colour = np.float32(1.0) / np.float32(channels * sizes[s])
        texture = colour / np.float32(8.0)
        for i in range(split):
            histograms[s, i] = held[s, i] * colour
        for i in range(split, bins):
            histograms[s, i] = held[s, i] * texture
    return histograms, boxes, sizes


@compiled
def _boundary(labels, pairs):
    """Write the two regions of every two unlike pixels that touch; -> how many there are.

    Every fourth pixel pair (right, down left, down, down right) is met once; `pairs` of no rows
    only counts.
    """
    height, width = labels.shape
    found = 0
    for y in range(height):
        for x in range(width):
            a = labels[y, x]
            for d in range(4):
                yy, xx = y + (d > 0), x + (1 if d == 0 else d - 2)
                if yy >= height or xx < 0 or xx >= width or labels[yy, xx] == a:
                    continue
                if len(pairs) > 0:
                    pairs[found, 0], pairs[found, 1] = a, labels[yy, xx]
                found += 1
    return found


@compiled
def _neighbours(pairs, count):
    """Pairs in any order and number -> (starts [N + 1], adjacent), each once and both ways."""
    ends = np.zeros(count + 1, np.int64)
    for i in range(len(pairs)):
        ends[pairs[i, 0] + 1] += 1
        ends[pairs[i, 1] + 1] += 1
    for i in range(count):
        ends[i + 1] += ends[i]
    found, at = np.empty(2 * len(pairs), np.int32), ends.copy()
    for i in range(len(pairs)):
        a, b = pairs[i, 0], pairs[i, 1]
        found[at[a]], found[at[b]] = b, a
        at[a] += 1
        at[b] += 1
    seen, starts, kept = np.full(count, -1, np.int32), np.zeros(count + 1, np.int64), 0
    for i in range(count):
        for e in range(ends[i], ends[i + 1]):
            if seen[found[e]] != i:
                seen[found[e]] = i
                found[kept] = found[e]
                kept += 1
        starts[i + 1] = kept
    return starts, found[:kept].copy()
