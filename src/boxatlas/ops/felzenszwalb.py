"""Efficient graph-based segmentation. Felzenszwalb & Huttenlocher, IJCV 2004.

Pixels are nodes, each joined to its eight neighbours by an edge as heavy as their colours differ.
From the lightest edge on, two components become one where the edge is no heavier than either's
internal difference plus k / size; then what is smaller than `min_size` joins a neighbour.
Shape letters: C channels, H height, W width, E edges.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from boxatlas.ops.compiled import compiled

_DIGIT = 11  # bits sorted in one pass; two passes make a key
_FAST = partial(compiled, fastmath={"contract", "reassoc", "nsz"})


def felzenszwalb(
    image: NDArray[np.generic], k: float = 100.0, sigma: float = 0.8, min_size: int | None = None
) -> NDArray[np.int32]:
    """Segments of an image: labels int32 [H, W], numbered from 0 in the order of the pixels.

    image: [H, W] or [H, W, C] of any number type, as it is. k is the scale in the units of the
    image's values: larger k, larger segments. sigma: the Gaussian that smooths each channel first.
    min_size: pixels that a segment has at least; k, rounded, if not given.
    """
    planes = np.atleast_3d(image).transpose(2, 0, 1)
    return Graph(planes, sigma).segment(k, min_size)[0]


class Graph:
    """The edges of an image, lightest first: made once, segmented with as many k as asked for.

    planes: [C, H, W].
    """

    def __init__(self, planes: NDArray[np.generic], sigma: float = 0.8) -> None:
        self.shape = planes.shape[1], planes.shape[2]
        smooth = smoothed(planes, sigma)
        weights = np.empty((4, *self.shape), np.float32)
        heaviest = _weigh(smooth, weights)
        # Fixed-point keys, as fine as float32 is near the heaviest edge, sort in two passes.
        self.unit = np.float32(max(heaviest, 1e-20) / ((1 << 2 * _DIGIT) - 1))
        self.keys, self.edges = _sort(weights, self.unit)

    def segment(self, k: float, min_size: int | None = None) -> tuple[NDArray[np.int32], int]:
        """-> (labels [H, W], how many there are)."""
        height, width = self.shape
        smallest = round(k) if min_size is None else min_size
        labels = np.empty((height, width), np.int32)
        count = _merge(self.keys, self.edges, self.unit, np.float32(k), smallest, labels)
        return labels, count


def smoothed(planes: NDArray[np.generic], sigma: float) -> NDArray[np.float32]:
    """Each channel of [C, H, W] under a Gaussian cut off at 4 sigma, mirrored at the border."""
    planes = np.ascontiguousarray(planes, np.float32)
    if sigma <= 0:
        return planes
    kernel = gaussian(sigma)
    turned = np.empty_like(planes)
    filter_rows(planes, kernel, turned)
    out = np.empty_like(planes)
    filter_columns(turned, kernel, out)
    return out


def gaussian(sigma: float) -> NDArray[np.float32]:
    reach = np.arange(-int(4 * sigma + 0.5), int(4 * sigma + 0.5) + 1)
    kernel = np.exp(-0.5 * (reach / sigma) ** 2)
    return (kernel / kernel.sum()).astype(np.float32)


@_FAST
def filter_rows(planes, kernel, out):
    """Correlate along x; the image is mirrored about its edge (... b a | a b ...)."""
    channels, height, width = planes.shape
    reach = len(kernel) // 2
    padded = np.empty(width + 2 * reach, np.float32)
    for c in range(channels):
        for y in range(height):
            for x in range(-reach, width + reach):
                at = x % (2 * width)
                padded[x + reach] = planes[c, y, min(at, 2 * width - 1 - at)]
            row = out[c, y]
            row[:] = 0
            for i in range(len(kernel)):
                weight = kernel[i]
                for x in range(width):
                    row[x] += weight * padded[x + i]


@_FAST
def filter_columns(planes, kernel, out):
    """Correlate along y, mirrored likewise."""
    channels, height, width = planes.shape
    reach = len(kernel) // 2
    for c in range(channels):
        for y in range(height):
            row = out[c, y]
            row[:] = 0
            for i in range(len(kernel)):
                at = (y + i - reach) % (2 * height)
                source = planes[c, min(at, 2 * height - 1 - at)]
                weight = kernel[i]
                for x in range(width):
                    row[x] += weight * source[x]


@_FAST
def _weigh(planes, weights):
    """weights [4, H, W]: to the right, down, down right, down left; -1 where there is no edge.

    -> the heaviest.
    """
    channels, height, width = planes.shape
    heaviest = np.float32(0.0)
    for d in range(4):
        dy, dx = (0, 1) if d == 0 else (1, d - 1) if d < 3 else (1, -1)
        first, last = max(0, -dx), width - max(0, dx)
        for y in range(height):
            row = weights[d, y]
            if y + dy >= height:
                row[:] = -1
                continue
            row[:] = 0
            for c in range(channels):
                here, there = planes[c, y], planes[c, y + dy]
                for x in range(first, last):
                    step = here[x] - there[x + dx]
                    row[x] += step * step
            for x in range(first, last):
                row[x] = np.sqrt(row[x])
                heaviest = max(heaviest, row[x])
            row[:first] = -1
            row[last:] = -1
    return heaviest


@compiled
def _sort(weights, unit):
    """-> (keys [E] uint32 ascending, edges [E] int32 = 4 * pixel + direction). A radix sort."""
    height, width = weights.shape[1], weights.shape[2]
    pixels = height * width
    flat = weights.reshape(4, pixels)
    mask = np.uint32((1 << _DIGIT) - 1)
    low, high = np.zeros(mask + 1, np.int64), np.zeros(mask + 1, np.int64)
    scale = np.float32(1.0) / unit
    most = np.float32((1 << 2 * _DIGIT) - 1)
    keys = np.empty((4, pixels), np.uint32)
    count = 0
    for d in range(4):
        for p in range(pixels):
            keys[d, p] = np.uint32(
                max(min(flat[d, p] * scale + np.float32(0.5), most), np.float32(0.0))
            )
    for d in range(4):
        for p in range(pixels):
            if flat[d, p] >= 0:
                low[keys[d, p] & mask] += 1
                high[keys[d, p] >> _DIGIT] += 1
                count += 1
    at_low = at_high = 0
    for i in range(mask + 1):
        low[i], at_low = at_low, at_low + low[i]
        high[i], at_high = at_high, at_high + high[i]
    half_keys, half_edges = np.empty(count, np.uint32), np.empty(count, np.int32)
    for d in range(4):
        for p in range(pixels):
            if flat[d, p] >= 0:
                digit = keys[d, p] & mask
                half_keys[low[digit]] = keys[d, p]
                half_edges[low[digit]] = 4 * p + d
                low[digit] += 1
    sorted_keys, edges = np.empty(count, np.uint32), np.empty(count, np.int32)
    for i in range(count):
        digit = half_keys[i] >> _DIGIT
        sorted_keys[high[digit]] = half_keys[i]
        edges[high[digit]] = half_edges[i]
        high[digit] += 1
    return sorted_keys, edges


@compiled
def _root(parent, node):
    """The root holds minus its component's size; the path to it is halved on the way."""
    up = parent[node]
    while up >= 0:
        above = parent[up]
        if above < 0:
            return up
        parent[node] = above
        node, up = above, parent[above]
    return node


@compiled
def _join(parent, a, b):
    """Hang the smaller component on the larger; -> the root."""
    if parent[a] > parent[b]:
        a, b = b, a
    parent[a] += parent[b]
    parent[b] = a
    return a


@compiled
def _merge(keys, edges, unit, k, min_size, labels):
    """Run over the sorted edges and write labels [H, W]; -> how many components are left."""
    height, width = labels.shape
    pixels = height * width
    steps = np.array([1, width, width + 1, width - 1], np.int32)
    parent = np.full(pixels, -1, np.int32)
    limit = np.full(pixels, k, np.float32)  # internal difference + k / size
    kept = np.empty((len(edges), 2), np.int32)  # components that an edge did not join
    rejected = 0
    for i in range(len(edges)):
        pixel = edges[i] >> 2
        other = pixel + steps[edges[i] & 3]
        if parent[pixel] == parent[other] and parent[pixel] >= 0:
            continue  # most edges end here
        a, b = _root(parent, pixel), _root(parent, other)
        if a == b:
            continue
        weight = keys[i] * unit
        if weight <= limit[a] and weight <= limit[b]:
            a = _join(parent, a, b)
            limit[a] = weight - k / parent[a]
        else:
            kept[rejected, 0], kept[rejected, 1] = a, b
            rejected += 1
    for i in range(rejected):
        a, b = _root(parent, kept[i, 0]), _root(parent, kept[i, 1])
        if a != b and (-parent[a] < min_size or -parent[b] < min_size):
            _join(parent, a, b)
    count = 0
    number = np.full(pixels, -1, np.int32)
    flat = labels.reshape(pixels)
    for p in range(pixels):
        root = _root(parent, np.int32(p))
        if number[root] < 0:
            number[root] = count
            count += 1
        flat[p] = number[root]
    return count
