"""Selective search: a few thousand boxes of an image, likely to hold whatever objects it has.

Uijlings, van de Sande, Gevers, Smeulders: Selective Search for Object Recognition, IJCV 2013.

    boxes = selective_search(rgb_uint8, mode="fast")         # [N, 4] xyxy, best first
    trees = hierarchies(rgb_uint8, mode="single")            # every region and what it grew from

Shape letters: H height, W width, N boxes, S strategies.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from typing import Any, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveFloat

from boxatlas.errors import InputError, nearest
from boxatlas.images import Source, read
from boxatlas.ops.colour_spaces import COLOUR_SPACES, convert
from boxatlas.ops.felzenszwalb import Graph
from boxatlas.ops.grouping import SIMILARITIES, Hierarchy, group
from boxatlas.ops.regions import codes, describe
from boxatlas.options import Options, habit, idea, setting

T = TypeVar("T")
R = TypeVar("R")

_ALL = ("colour", "texture", "size", "fill")
_SETS: dict[str, tuple[tuple[str, ...], tuple[tuple[str, ...], ...], tuple[float, ...]]] = {
    # mode: colour spaces, sets of similarities, k
    "single": (("HSV",), (_ALL,), (100,)),
    "fast": (("HSV", "Lab"), (_ALL, _ALL[1:]), (50, 100)),
    "quality": (
        ("HSV", "Lab", "rgI", "H", "I"),
        (_ALL, _ALL[1:], ("fill",), ("size",)),
        (50, 100, 150, 300),
    ),
}


class SelectiveSearch(Options):
    """What selective search does; colour_spaces, similarities and k default to the mode's."""

    mode: Literal["single", "fast", "quality"] = idea("fast", "table 5: 1, 8 or 80 hierarchies")
    colour_spaces: tuple[str, ...] | None = idea(
        None, "table 1 and table 3: colour spaces", min_length=1
    )
    similarities: tuple[tuple[str, ...], ...] | None = idea(
        None, "table 3: sets of similarities", min_length=1
    )
    k: tuple[PositiveFloat, ...] | None = idea(
        None, "table 3: thresholds of the first segmentation", min_length=1
    )
    sigma: float = idea(0.8, "section 3.1: smoothing before the segmentation", ge=0)
    min_size: int | None = habit(None, "smallest first region in pixels; k if not given", ge=1)
    rank: Literal["random", "position", "none"] = idea(
        "random",
        "section 4.3: position in the hierarchy times a random number, the position "
        "alone, or the hierarchies one after the other",
    )
    resize_width: int | None = setting(
        500, "wider images are reduced to it first, as R-CNN does; None keeps every size", ge=8
    )
    min_box_side: float = setting(0, "narrower or lower boxes are dropped; R-CNN: 20", ge=0)
    max_boxes: int | None = setting(None, "how many of the best ranked are kept", ge=1)

    @classmethod
    def of(cls, given: Mapping[str, Any] | None = None, /, **own: Any) -> Self:
        """As Options.of; names of colour spaces and similarities are checked here too."""
        config = super().of(given, **own)
        for space in config.spaces:
            _known(space, COLOUR_SPACES, "colour_spaces")
        for name in (name for chosen in config.sets for name in chosen or ("",)):
            _known(name, SIMILARITIES, "similarities")
        return config

    @property
    def spaces(self) -> tuple[str, ...]:
        return _SETS[self.mode][0] if self.colour_spaces is None else self.colour_spaces

    @property
    def sets(self) -> tuple[tuple[str, ...], ...]:
        return _SETS[self.mode][1] if self.similarities is None else self.similarities

    @property
    def ks(self) -> tuple[float, ...]:
        return _SETS[self.mode][2] if self.k is None else self.k


def _known(name: str, choices: Iterable[str], field: str) -> None:
    if name not in choices:
        raise InputError("no such name", field=field, value=name, hint=nearest(name, choices))


def selective_search(
    image: Source, mode: str = "fast", *, seed: int = 0, threads: int | None = None, **options: Any
) -> NDArray[np.float32]:
    """Boxes [N, 4] float32 xyxy in the image's pixels, best first, none twice.

    image: whatever `images.read` opens, arrays as RGB. mode: "single" (1 hierarchy), "fast" (8) or
    "quality" (80). options: the fields of SelectiveSearch. The same seed gives the same order; only
    the order depends on it, unless max_boxes cuts it. threads: None takes all cores.
    Raises InputError for an image that cannot be read, for an option that does not exist and for a
    value that none can have.
    """
    config = SelectiveSearch.of(mode=mode, **options)
    return ranked(hierarchies(image, config, threads=threads), config, seed)


def hierarchies(
    image: Source,
    config: SelectiveSearch | None = None,
    *,
    threads: int | None = None,
    **options: Any,
) -> list[Hierarchy]:
    """Every region of every strategy: one Hierarchy for each colour space, k and similarity set.

    Its labels are those of the image as it was segmented, after resize_width; its boxes are
    in pixels of the whole image.
    """
    config = SelectiveSearch.of(**options) if config is None else config
    pixels = read(image)
    small = _reduced(pixels, config.resize_width)

    def prepare(space: str) -> tuple[str, Graph, NDArray[np.uint16]]:
        planes = convert(small, space)
        return space, Graph(planes, config.sigma), codes(planes)

    def grow(work: tuple[tuple[str, Graph, NDArray[np.uint16]], float]) -> list[Hierarchy]:
        (space, graph, coded), k = work
        labels, count = graph.segment(k, config.min_size)
        regions = describe(coded, labels, count)
        return [
            Hierarchy(space, k, chosen, labels, *group(regions, chosen)) for chosen in config.sets
        ]

    prepared = _side_by_side(prepare, config.spaces, threads)
    trees = [
        t for some in _side_by_side(grow, list(product(prepared, config.ks)), threads) for t in some
    ]
    if small.shape == pixels.shape:
        return trees
    scale = np.array([pixels.shape[1] / small.shape[1], pixels.shape[0] / small.shape[0]] * 2)
    return [replace(t, boxes=(t.boxes * scale).astype(np.float32)) for t in trees]


def ranked(
    trees: Sequence[Hierarchy], config: SelectiveSearch, seed: int = 0
) -> NDArray[np.float32]:
    """The boxes of all hierarchies as one list [N, 4], best first, the first of equals kept.

    Section 4.3: region i of a hierarchy, 1 being the whole image, counts i times a random number.
    """
    if seed < 0:
        raise InputError("cannot be negative", field="seed", value=seed)
    boxes = np.concatenate([t.boxes[::-1] for t in trees]).astype(np.float32)
    position = np.concatenate([np.arange(1.0, len(t.boxes) + 1) for t in trees])
    if config.rank == "random":
        position *= np.random.default_rng(seed).random(len(position))
    if config.rank != "none":
        boxes = boxes[np.argsort(position, kind="stable")]
    sides = boxes[:, 2:] - boxes[:, :2]
    boxes = boxes[(sides >= config.min_box_side).all(axis=1)]
    _, first = np.unique(boxes, axis=0, return_index=True)
    return boxes[np.sort(first)][: config.max_boxes]


def selective_search_many(
    images: Iterable[Source],
    mode: str = "fast",
    *,
    seed: int = 0,
    threads: int | None = None,
    **options: Any,
) -> Iterator[NDArray[np.float32]]:
    """`selective_search` of each image in turn, several images at a time (threads: None = cores).

    Each image is ranked with the same seed, so that its boxes do not depend on its neighbours.
    """
    config = SelectiveSearch.of(mode=mode, **options)
    yield from in_order(
        lambda image: ranked(hierarchies(image, config, threads=1), config, seed), images, threads
    )


def _reduced(pixels: NDArray[np.uint8], width: int | None) -> NDArray[np.uint8]:
    if width is None or pixels.shape[1] <= width:
        return pixels
    from PIL import Image

    height = max(1, round(pixels.shape[0] * width / pixels.shape[1]))
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _side_by_side(work: Callable[[T], R], items: Sequence[T], threads: int | None) -> list[R]:
    threads = cores() if threads is None else threads
    return list(in_order(work, items, min(threads, len(items))))


def in_order(work: Callable[[T], R], items: Iterable[T], threads: int | None) -> Iterator[R]:
    """work(item) of each item in turn, a few ahead of the caller in threads; None = all cores."""
    threads = cores() if threads is None else threads
    if threads < 1:
        raise InputError("must be 1 or more", field="threads", value=threads)
    if threads == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="boxatlas") as pool:
        ahead: deque[Future[R]] = deque()
        try:
            for item in items:
                ahead.append(pool.submit(work, item))
                if len(ahead) > 2 * threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()
