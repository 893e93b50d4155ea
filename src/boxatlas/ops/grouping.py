"""How alike two regions are, and the merging of regions into one hierarchy.

Uijlings et al., IJCV 2013, sections 3.1 and 3.2.
Shape letters: H height, W width, N regions, M = N - 1 merges.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from boxatlas.ops.compiled import compiled
from boxatlas.ops.regions import Regions

SIMILARITIES = {"colour": 1, "texture": 2, "size": 4, "fill": 8}
_FAST = partial(compiled, fastmath={"contract", "reassoc", "nsz"})


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


@_FAST
def _overlap(first, second):
    """Histogram intersection."""
    total = np.float32(0.0)
    for i in range(len(first)):
        total += min(first[i], second[i])
    return total


@_FAST
def _alike(colour, texture, boxes, sizes, a, b, area, switches, row):
    """The sum of the chosen similarities of regions a and b, each in 0..1 (equations 2 to 5).

    `row` says in which row of colour and texture a region's histograms are.
    """
    total = np.float32(0.0)
    if switches & 1:
        total += _overlap(colour[row[a]], colour[row[b]])
    if switches & 2:
        total += _overlap(texture[row[a]], texture[row[b]])
    both = np.float32(sizes[a] + sizes[b])
    if switches & 4:
        total += np.float32(1.0) - both / area
    if switches & 8:
        width = max(boxes[a, 2], boxes[b, 2]) - min(boxes[a, 0], boxes[b, 0])
        height = max(boxes[a, 3], boxes[b, 3]) - min(boxes[a, 1], boxes[b, 1])
        total += np.float32(1.0) - (np.float32(width) * np.float32(height) - both) / area
    return total


@_FAST
def _unite(colour, texture, boxes, sizes, a, b, new, row):
    """Region `new` becomes the union of a and b; its histograms take the place of a's.

    Histograms are means weighted by size (section 3.2), the box is the tight one around both.
    """
    total = sizes[a] + sizes[b]
    part_a, part_b = np.float32(sizes[a] / total), np.float32(sizes[b] / total)
    ra, rb = row[a], row[b]
    for i in range(colour.shape[1]):
        colour[ra, i] = colour[ra, i] * part_a + colour[rb, i] * part_b
    for i in range(texture.shape[1]):
        texture[ra, i] = texture[ra, i] * part_a + texture[rb, i] * part_b
    sizes[new] = total
    for i in range(2):
        boxes[new, i] = min(boxes[a, i], boxes[b, i])
        boxes[new, i + 2] = max(boxes[a, i + 2], boxes[b, i + 2])


@_FAST
def _of_pairs(colour, texture, boxes, sizes, pairs, area, switches, row, out):
    for i in range(len(pairs)):
        out[i] = _alike(
            colour, texture, boxes, sizes, pairs[i, 0], pairs[i, 1], area, switches, row
        )


def similarity(
    regions: Regions, pairs: NDArray[np.integer], similarities: Collection[str]
) -> NDArray[np.float32]:
    """The sum of the named similarities for pairs [P, 2] of regions, neighbours or not: [P]."""
    out, row = np.empty(len(pairs), np.float32), np.arange(len(regions), dtype=np.int32)
    _of_pairs(
        regions.colour,
        regions.texture,
        regions.boxes,
        regions.sizes,
        pairs.astype(np.int64),
        np.float32(regions.area),
        bits(similarities),
        row,
        out,
    )
    return out


def union(regions: Regions, a: int, b: int) -> Regions:
    """The regions with a grown by b, which stays as it was: what one merge does."""
    colour, texture = regions.colour.copy(), regions.texture.copy()
    boxes, sizes = regions.boxes.copy(), regions.sizes.copy()
    row = np.arange(len(regions), dtype=np.int32)
    _unite(colour, texture, boxes, sizes, np.int32(a), np.int32(b), a, row)
    return replace(regions, colour=colour, texture=texture, boxes=boxes, sizes=sizes)


_UNIT = 1 << 30  # a candidate's key: its similarity in these units, then its age, both exact


@compiled
def _push(heap, used, value, age):
    """Candidates come out the most alike first, of equals the oldest; -> how many are held."""
    key = (np.int64(max(value, np.float32(0.0)) * _UNIT) << 30) | (_UNIT - 1 - age)
    at = used
    while at > 0 and key > heap[(at - 1) >> 1]:
        heap[at] = heap[(at - 1) >> 1]
        at = (at - 1) >> 1
    heap[at] = key
    return used + 1


@compiled
def _pop(heap, used):
    """-> (the first candidate's age, its similarity)."""
    best, key = heap[0], heap[used - 1]
    at, down = 0, 1
    while down < used:
        if down + 1 < used and heap[down + 1] > heap[down]:
            down += 1
        if heap[down] <= key:
            break
        heap[at] = heap[down]
        at, down = down, 2 * down + 1
    heap[at] = key
    return _UNIT - 1 - (best & (_UNIT - 1)), np.float32((best >> 30) / _UNIT)


def group(
    regions: Regions, similarities: Collection[str]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]:
    """Merge the most alike neighbours until one region is left (algorithm 1).

    -> (boxes [N + M, 4], sizes [N + M], merges [M, 2], similarity [M]). Of pairs that are exactly
    as alike, the one compared first is merged first.
    """
    count, room = len(regions), max(16, 4 * len(regions.adjacent))
    merges, alike = np.empty((count - 1, 2), np.int32), np.empty(count - 1, np.float32)
    while True:
        boxes, sizes = np.empty((2 * count - 1, 4), np.int32), np.empty(2 * count - 1, np.int32)
        boxes[:count], sizes[:count] = regions.boxes, regions.sizes
        described = regions.colour.copy(), regions.texture.copy(), boxes, sizes
        pairs, heap = np.empty((room, 2), np.int32), np.empty(room, np.int64)
        done = _group(
            *described,
            regions.starts,
            regions.adjacent,
            np.float32(regions.area),
            bits(similarities),
            pairs,
            heap,
            merges,
            alike,
        )
        if done:
            return boxes, sizes, merges, alike
        room *= 2  # a region that borders on very many: rare enough to begin again


@_FAST
def _group(
    colour, texture, boxes, sizes, starts, adjacent, area, switches, pairs, heap, merges, alike
):
    """-> whether there was room for all candidates.

    Histograms of a union take the row of one of its two. A region's neighbours are a linked list,
    so that a union's is two joined; names in it that have merged since are looked up, and those met
    twice unlinked, when it is next walked.
    """
    total = len(sizes)
    count = (total + 1) // 2
    row = np.arange(total).astype(np.int32)
    into = np.full(total, -1, np.int32)  # the region that a region went into
    head, tail = np.full(total, -1, np.int32), np.full(total, -1, np.int32)
    after, target = np.full(len(adjacent), -1, np.int32), adjacent.copy()
    seen = np.full(total, -1, np.int32)
    made = used = 0
    # Each round puts a region's pairs with its neighbours among the candidates: first those of the
    # regions there are, then those of each union.
    for new in range(total):
        if new >= count:
            while True:
                best, value = _pop(heap, used)
                used -= 1
                a, b = pairs[best, 0], pairs[best, 1]
                if into[a] < 0 and into[b] < 0:
                    break
            merge = new - count
            merges[merge, 0], merges[merge, 1], alike[merge] = a, b, value
            into[a], into[b], row[new] = new, new, row[a]
            _unite(colour, texture, boxes, sizes, a, b, new, row)
            after[tail[a]] = head[b]
            head[new], tail[new] = head[a], tail[b]
        elif starts[new] < starts[new + 1]:
            head[new], tail[new] = starts[new], starts[new + 1] - 1
            for e in range(starts[new], starts[new + 1] - 1):
                after[e] = e + 1
        e, before = head[new], np.int32(-1)
        while e >= 0:
            t = target[e]
            while into[t] >= 0:
                t = into[t]
            if t == new or seen[t] == new:
                if before < 0:
                    head[new] = after[e]
                else:
                    after[before] = after[e]
            else:
                seen[t], target[e], before = new, t, e
                if new >= count or t < new:
                    if made == len(heap):
                        return False
                    value = _alike(colour, texture, boxes, sizes, new, t, area, switches, row)
                    pairs[made, 0], pairs[made, 1] = new, t
                    used = _push(heap, used, value, made)
                    made += 1
            e = after[e]
        tail[new] = before
    return True
