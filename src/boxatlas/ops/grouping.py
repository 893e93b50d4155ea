"""Regions, how alike two of them are, and their merging into one hierarchy.

Uijlings et al., IJCV 2013, sections 3.1 and 3.2.
Shape letters: C channels, H height, W width, N regions, F = C * (25 + 8 * 10) histogram bins,
M = N - 1 merges.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from boxatlas.ops.compiled import compiled
from boxatlas.ops.felzenszwalb import filter_columns, filter_rows, gaussian

COLOUR_BINS = 25
TEXTURE_BINS = 10
TEXTURE_SIGMA = 1.0
TEXTURE_RANGE = 43.0
SIMILARITIES = {"colour": 1, "texture": 2, "size": 4, "fill": 8}
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

    def __len__(self) -> int:
        return len(self.sizes)


@dataclass(frozen=True)
class Hierarchy:
    """N regions grown into one; the N + M regions are numbered in the order they came to be.

    boxes [N + M, 4] int32 xyxy; sizes [N + M]; merges [M, 2]: which two became region N + i;
    similarity [M]: how alike those two were; labels [H, W]: the first N regions. colour_space, k
    and similarities name the strategy.
    """

    colour_space: str
    k: float
    similarities: tuple[str, ...]
    labels: NDArray[np.int32]
    boxes: NDArray[np.int32]
    sizes: NDArray[np.int32]
    merges: NDArray[np.int32]
    similarity: NDArray[np.float32]

    def mask(self, region: int) -> NDArray[np.bool_]:
        """[H, W]: the pixels of a region, found by undoing its merges."""
        first = len(self.sizes) - len(self.merges)
        parts, open_ = [], [region]
        while open_:
            r = open_.pop()
            if r < first:
                parts.append(r)
            else:
                open_.extend(self.merges[r - first].tolist())
        return np.isin(self.labels, parts)


def bits(similarities: Collection[str]) -> int:
    """The switches of `merge` and `similarity` for a set of names in SIMILARITIES."""
    return sum(SIMILARITIES[name] for name in set(similarities))


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
    starts, adjacent = _neighbours(labels, count)
    split = channels * colour_bins
    return Regions(
        np.ascontiguousarray(histograms[:, :split]), np.ascontiguousarray(histograms[:, split:]),
        boxes, sizes, starts, adjacent,
    )  # fmt: skip


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
def _neighbours(labels, count):
    """Regions that touch at a side or a corner: (starts [N + 1], adjacent), each pair both ways."""
    height, width = labels.shape
    touching = np.empty((1024, 2), np.int32)
    many = 0
    ends = np.zeros(count + 1, np.int64)
    for y in range(height):
        for x in range(width):
            a = labels[y, x]
            for d in range(4):
                yy, xx = y + (d > 0), x + (1 if d == 0 else d - 2)
                if yy < height and 0 <= xx < width and labels[yy, xx] != a:
                    b = labels[yy, xx]
                    if many and touching[many - 1, 0] == a and touching[many - 1, 1] == b:
                        continue
                    if many == len(touching):
                        larger = np.empty((2 * many, 2), np.int32)
                        larger[:many] = touching
                        touching = larger
                    touching[many, 0], touching[many, 1] = a, b
                    many += 1
                    ends[a + 1] += 1
                    ends[b + 1] += 1
    for i in range(count):
        ends[i + 1] += ends[i]
    found, at = np.empty(2 * many, np.int32), ends.copy()
    for i in range(many):
        a, b = touching[i]
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


@_FAST
def _overlap(first, second):
    """Histogram intersection."""
    total = np.float32(0.0)
    for i in range(len(first)):
        total += min(first[i], second[i])
    return total


@_FAST
def _alike(colour, texture, boxes, sizes, a, b, area, switches):
    """The sum of the chosen similarities of regions a and b, each in 0..1 (equations 2 to 5)."""
    total = np.float32(0.0)
    if switches & 1:
        total += _overlap(colour[a], colour[b])
    if switches & 2:
        total += _overlap(texture[a], texture[b])
    both = np.float32(sizes[a] + sizes[b])
    if switches & 4:
        total += np.float32(1.0) - both / area
    if switches & 8:
        width = max(boxes[a, 2], boxes[b, 2]) - min(boxes[a, 0], boxes[b, 0])
        height = max(boxes[a, 3], boxes[b, 3]) - min(boxes[a, 1], boxes[b, 1])
        total += np.float32(1.0) - (np.float32(width) * np.float32(height) - both) / area
    return total


@_FAST
def _similarity_of_pairs(colour, texture, boxes, sizes, pairs, area, switches, out):
    for i in range(len(pairs)):
        out[i] = _alike(colour, texture, boxes, sizes, pairs[i, 0], pairs[i, 1], area, switches)


def similarity(
    regions: Regions, pairs: NDArray[np.integer], similarities: Collection[str]
) -> NDArray[np.float32]:
    """The sum of the named similarities for pairs [P, 2] of regions, neighbours or not: [P]."""
    out = np.empty(len(pairs), np.float32)
    area = np.float32(regions.sizes.sum())
    _similarity_of_pairs(
        regions.colour, regions.texture, regions.boxes, regions.sizes, pairs.astype(np.int64), area,
        bits(similarities), out,
    )  # fmt: skip
    return out


@_FAST
def _absorb(colour, texture, boxes, sizes, a, b):
    """Region a becomes the union of a and b: histograms weighted by size, the tight box."""
    total = sizes[a] + sizes[b]
    part_a, part_b = np.float32(sizes[a] / total), np.float32(sizes[b] / total)
    for i in range(colour.shape[1]):
        colour[a, i] = colour[a, i] * part_a + colour[b, i] * part_b
    for i in range(texture.shape[1]):
        texture[a, i] = texture[a, i] * part_a + texture[b, i] * part_b
    sizes[a] = total
    for i in range(2):
        boxes[a, i] = min(boxes[a, i], boxes[b, i])
        boxes[a, i + 2] = max(boxes[a, i + 2], boxes[b, i + 2])


def union(regions: Regions, a: int, b: int) -> Regions:
    """The regions with a grown by b, which stays as it was: what one merge does."""
    colour, texture = regions.colour.copy(), regions.texture.copy()
    boxes, sizes = regions.boxes.copy(), regions.sizes.copy()
    _absorb(colour, texture, boxes, sizes, a, b)
    return Regions(colour, texture, boxes, sizes, regions.starts, regions.adjacent)


@compiled
def _before(values, first, second):
    """Whether candidate `first` is merged before `second`: more alike, or as alike and older."""
    if values[first] != values[second]:
        return values[first] > values[second]
    return first < second


@compiled
def _push(heap, used, values, item):
    at = used
    while at > 0:
        up = (at - 1) >> 1
        if not _before(values, item, heap[up]):
            break
        heap[at] = heap[up]
        at = up
    heap[at] = item


@compiled
def _pop(heap, used, values):
    """The best item; `used` counts it."""
    best, item = heap[0], heap[used - 1]
    at, last = 0, used - 1
    while True:
        down = 2 * at + 1
        if down >= last:
            break
        if down + 1 < last and _before(values, heap[down + 1], heap[down]):
            down += 1
        if not _before(values, heap[down], item):
            break
        heap[at] = heap[down]
        at = down
    heap[at] = item
    return best


@compiled
def _grown(array, used):
    """`array`, or twice as much room where it is full."""
    if used < len(array):
        return array
    larger = np.empty(2 * len(array), array.dtype)
    larger[: len(array)] = array
    return larger


def group(
    regions: Regions, similarities: Collection[str]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]:
    """Merge the most alike neighbours until one region is left (algorithm 1).

    -> (boxes [N + M, 4], sizes [N + M], merges [M, 2], similarity [M]). Of pairs that are exactly
    as alike, the one compared first is merged first.
    """
    return _group(
        regions.colour.copy(), regions.texture.copy(), regions.boxes.copy(), regions.sizes.copy(),
        regions.starts, regions.adjacent, bits(similarities),
    )  # fmt: skip


@_FAST
def _group(colour, texture, boxes, sizes, starts, adjacent, switches):
    """A merged region keeps the row of one of its two; `name` and `row` translate.

    A region's neighbours are a linked list, so that a union's is two joined; names in it that have
    merged since are looked up, and those met twice unlinked, when it is next walked.
    """
    count = len(sizes)
    total, area = 2 * count - 1, np.float32(sizes.sum())
    all_boxes, all_sizes = np.empty((total, 4), np.int32), np.empty(total, np.int32)
    all_boxes[:count], all_sizes[:count] = boxes, sizes
    merges, alike = np.empty((count - 1, 2), np.int32), np.empty(count - 1, np.float32)
    row = np.empty(total, np.int32)
    into = np.full(total, -1, np.int32)  # the region that a region went into
    head, tail = np.full(total, -1, np.int32), np.full(total, -1, np.int32)
    after = np.full(len(adjacent), -1, np.int32)
    target = adjacent.copy()
    room = max(16, 2 * len(adjacent))
    first, second = np.empty(room, np.int32), np.empty(room, np.int32)
    values, heap = np.empty(room, np.float32), np.empty(room, np.int64)
    made = used = 0
    for a in range(count):
        row[a] = a
        if starts[a] < starts[a + 1]:
            head[a], tail[a] = starts[a], starts[a + 1] - 1
        for e in range(starts[a], starts[a + 1]):
            after[e] = e + 1 if e + 1 < starts[a + 1] else -1
            b = adjacent[e]
            if a < b:
                first[made], second[made] = a, b
                values[made] = _alike(colour, texture, boxes, sizes, a, b, area, switches)
                _push(heap, used, values, made)
                made, used = made + 1, used + 1
    seen = np.full(total, -1, np.int32)
    new = count
    while used > 0 and new < total:
        best = _pop(heap, used, values)
        used -= 1
        a, b = first[best], second[best]
        if into[a] >= 0 or into[b] >= 0:
            continue
        merges[new - count, 0], merges[new - count, 1], alike[new - count] = a, b, values[best]
        into[a], into[b], row[new] = new, new, row[a]
        _absorb(colour, texture, boxes, sizes, row[a], row[b])
        all_boxes[new], all_sizes[new] = boxes[row[a]], sizes[row[a]]
        after[tail[a]] = head[b]
        head[new], tail[new] = head[a], tail[b]
        e, before = head[new], -1
        while e >= 0:
            t = target[e]
            while into[t] >= 0:
                if into[into[t]] >= 0:
                    into[t] = into[into[t]]
                t = into[t]
            if t == new or seen[t] == new:
                if before < 0:
                    head[new] = after[e]
                else:
                    after[before] = after[e]
            else:
                seen[t], target[e], before = new, t, e
                first, second = _grown(first, made), _grown(second, made)
                values, heap = _grown(values, made), _grown(heap, used)
                first[made], second[made] = new, t
                values[made] = _alike(
                    colour, texture, boxes, sizes, row[new], row[t], area, switches
                )
                _push(heap, used, values, made)
                made, used = made + 1, used + 1
            e = after[e]
        tail[new] = before
        new += 1
    return all_boxes, all_sizes, merges, alike
