"""Default boxes: the tables of sizes, ratios and steps that SSD and the methods after it share.

A table has one entry for each map, fine to coarse; sizes and steps are pixels of the input. What is
a method's own stands in its file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar

from torch import Tensor

from boxatlas.boxes.anchors import DefaultBoxLevel, default_boxes
from boxatlas.errors import InputError
from boxatlas.options import NotNegative, Options, Positive, habit, idea, setting
from boxatlas.parts.dense import Grid

T = TypeVar("T")
Step = float | tuple[float, float]  # pixels between centres, or (vertical, horizontal)
Steps = Callable[[Sequence[Grid], tuple[int, int]], list[Step]]  # (grids, input) -> of each map
Ratios = list[tuple[float, ...]]  # of each map
Sizes = tuple[list[float], list[float | None]]  # (min sizes, max sizes) of each map
Tables = Literal["voc", "coco", "lite"]


class DefaultBoxChoices(Options):
    """The default boxes of every map where a method's tables are not wanted, and how they lie."""

    min_sizes: tuple[Positive, ...] | None = setting(
        None, "pixels, the side of each map's smaller square; null: the method's table"
    )
    max_sizes: tuple[Positive | None, ...] | None = setting(
        None,
        "pixels, from which each map's larger square is made, its member null where it has none; "
        "null: the method's table",
    )
    ratios: tuple[tuple[Positive, ...], ...] | None = setting(
        None, "each map's aspect ratios, r for r:1 and 1:r; null: the method's table"
    )
    steps: tuple[Positive, ...] | None = setting(
        None, "pixels between the centres of each map; null: the method's table"
    )
    offset: NotNegative | tuple[NotNegative, ...] = habit(
        0.5, "the first default box's centre, for all maps or for each"
    )
    offset_unit: Literal["steps", "pixels"] = habit("steps", "unit of that first centre (offset)")
    cell_order: Literal["ssd", "ratio"] = habit(
        "ssd",
        "order of the default boxes in a cell: SSD's, or the larger square and then by rising "
        "ratio",
    )
    clip_boxes: Literal["none", "each", "size"] = habit(
        "none", "default boxes are cut to the input: not, in centre and size, or in size alone"
    )
    truncate_sizes: bool = habit(False, "sizes of default boxes lose their fractions, as in Caffe")


class TableChoices(Options):
    """Which of SSD's tables of sizes the default boxes have."""

    boxes: Tables = setting("voc", "published table of sizes; lite: SSDlite's")

    def idle(self) -> dict[str, str]:
        assert isinstance(self, DefaultBoxChoices)
        given = self.min_sizes is not None and self.max_sizes is not None
        why = {"boxes": "the options min_sizes and max_sizes give the sizes"} if given else {}
        return super().idle() | why


class FirstMapChoices(Options):
    """SSD's default boxes on the finest map, where most of the boxes are."""

    boxes_on_first_map: Literal[4, 6] = idea(
        4, "SSD, section 3.1: default boxes in a cell of the first map"
    )

    def idle(self) -> dict[str, str]:
        assert isinstance(self, DefaultBoxChoices)
        given = self.ratios is not None
        why = {"boxes_on_first_map": "the option ratios gives the boxes"} if given else {}
        return super().idle() | why


def option_or_table(values: Sequence[T] | None, table: Sequence[T], field: str) -> list[T]:
    """An option that has one value for each map, or the method's table where it is not given.

    Raises InputError naming the option where its length is not the table's.
    """
    if values is None:
        return list(table)
    if len(values) != len(table):
        raise InputError(f"needs one for each of the {len(table)} maps", field=field, value=values)
    return list(values)


def even_steps(grids: Sequence[Grid], image: tuple[int, int]) -> list[Step]:
    """Pixels between centres: input / map."""
    return [(image[0] / rows, image[1] / columns) for rows, columns in grids]


class DefaultBoxes:
    """The default boxes of every map: a method's tables, or what the options say instead.

    ratios: of each map, as used; sizes, steps: the method's tables. Raises InputError where an
    option has not a value for each map, and where a larger square would not be larger.
    """

    def __init__(
        self, config: DefaultBoxChoices, ratios: Ratios, sizes: Sizes, steps: Steps = even_steps
    ) -> None:
        self.config, self.ratios, self.default_steps = config, ratios, steps
        self.min_sizes = option_or_table(config.min_sizes, sizes[0], "min_sizes")
        # A map's largest size is by rule the next one's smallest: given sizes move it along.
        follows = config.min_sizes is not None and None not in sizes[1]
        upper = [*self.min_sizes[1:], sizes[1][-1]] if follows else sizes[1]
        self.max_sizes = option_or_table(config.max_sizes, upper, "max_sizes")
        blamed = ("max_sizes", config.max_sizes)
        if config.max_sizes is None:
            blamed = ("min_sizes", config.min_sizes)
        for low, high in zip(self.min_sizes, self.max_sizes, strict=True):
            if high is not None and high < low:
                problem = f"the larger square of a map would come of {high:g} and {low:g}"
                raise InputError(problem, field=blamed[0], value=blamed[1])
        option_or_table(config.steps, [0.0] * len(ratios), "steps")
        self.offsets = [config.offset] * len(ratios)
        if isinstance(config.offset, tuple):
            self.offsets = option_or_table(config.offset, self.offsets, "offset")

    @property
    def per_cell(self) -> list[int]:
        """Boxes in a cell of each map: the squares and two for each ratio."""
        rows = zip(self.max_sizes, self.ratios, strict=True)
        return [1 + (high is not None) + 2 * len(ratios) for high, ratios in rows]

    def make(self, grids: Sequence[Grid], image: tuple[int, int]) -> Tensor:
        """[A, 4] xyxy in pixels of an input of `image` (height, width) with maps of these grids."""
        config = self.config
        steps = config.steps or self.default_steps(grids, image)
        parts = (grids, steps, self.min_sizes, self.max_sizes, self.ratios, self.offsets)
        levels = [DefaultBoxLevel(*part) for part in zip(*parts, strict=True)]
        if config.cell_order == "ratio":
            levels = [by_ratio(level, config.truncate_sizes) for level in levels]
        in_pixels = config.offset_unit == "pixels"
        return default_boxes(
            levels,
            image,
            clip=config.clip_boxes,
            truncate_sizes=config.truncate_sizes,
            centre="offset + index * step" if in_pixels else "(index + offset) * step",
        )


def ssd_sizes(boxes: Tables, input: tuple[int, int], levels: int) -> Sizes:
    """(min sizes, max sizes) of each map: SSD's equation 4 as the scripts round it.

    The first map has a size of its own; the others run to 90 % of the input in whole percents, and
    each map's max size is the next one's min. Raises InputError for SSDlite's table, which is not
    of that form.
    """
    if boxes == "lite":
        raise InputError("only an SSD has this table", field="boxes", value=boxes, hint="voc, coco")
    side = min(input)
    large = side >= 512
    starts = {"voc": (7, 15) if large else (10, 20), "coco": (4, 10) if large else (7, 15)}
    return rising_sizes(*starts[boxes], 90, side, levels)


def rising_sizes(first: int, start: int, end: int, side: int, levels: int) -> Sizes:
    """`first` percent of the input's side, then from `start` to `end` in whole equal steps."""
    step = (end - start) // max(1, levels - 2)
    lows = [first, *(start + step * i for i in range(levels - 1))]
    return percents([*lows, start + step * (levels - 1)], side)


def percents(edges: Sequence[float], side: float) -> Sizes:
    """(min sizes, max sizes) between edges in percent of the input's side."""
    pixels = [percent * side / 100 for percent in edges]
    return pixels[:-1], list(pixels[1:])


def ssd_ratios(
    given: Sequence[tuple[float, ...]] | None, levels: int, boxes_on_first_map: int
) -> Ratios:
    """The aspect ratios of each map: 2 and 3, but 2 alone on the finest and the two coarsest."""
    rows: Ratios = [(2.0, 3.0) if i < levels - 2 else (2.0,) for i in range(levels)]
    rows[0] = (2.0,) if boxes_on_first_map == 4 else (2.0, 3.0)
    return option_or_table(given, rows, "ratios")


def ssd_steps(grids: Sequence[Grid], image: tuple[int, int]) -> list[Step]:
    """As `even_steps`, except SSD300's, which the scripts give by hand."""
    if image == (300, 300) and [g[0] for g in grids][:5] == [38, 19, 10, 5, 3] and len(grids) == 6:
        return [8, 16, 32, 64, 100, 300]
    return even_steps(grids, image)


def by_ratio(level: DefaultBoxLevel, truncate_sizes: bool) -> DefaultBoxLevel:
    """The same boxes of a cell: the second square, then by width / height."""
    shapes = level.cell(truncate_sizes)
    second = shapes[1:2] if level.max_size is not None else []
    rest = [s for s in shapes if s not in second]
    return replace(level, shapes=(*second, *sorted(rest, key=lambda s: s[0] / s[1])))


def ssd_boxes(
    config: Any, levels: int, sizes: Sizes | None = None, steps: Steps = ssd_steps
) -> DefaultBoxes:
    """SSD's tables for so many maps. config: of `TableChoices` and `FirstMapChoices` too."""
    ratios = ssd_ratios(config.ratios, levels, config.boxes_on_first_map)
    return DefaultBoxes(
        config, ratios, sizes or ssd_sizes(config.boxes, config.shape, levels), steps
    )
