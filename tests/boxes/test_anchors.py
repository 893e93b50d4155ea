"""Anchors that the papers and their programs print."""

from __future__ import annotations

import math

import torch

from boxatlas.boxes.anchors import (
    DefaultBoxLevel,
    cell_anchors,
    default_boxes,
    grid_anchors,
    pyramid_anchors,
)


def test_faster_rcnn_prints_these_nine():
    """The table in the comments of the first release."""
    want = [
        [-84, -40, 99, 55], [-176, -88, 191, 103], [-360, -184, 375, 199],
        [-56, -56, 71, 71], [-120, -120, 135, 135], [-248, -248, 263, 263],
        [-36, -80, 51, 95], [-80, -168, 95, 183], [-168, -344, 183, 359],
    ]  # fmt: skip
    got = cell_anchors([128, 256, 512], [0.5, 1, 2], rounded=True, base_size=16)
    assert got.tolist() == want


def test_exact_and_rounded_about_zero():
    # 32^2 at h/w 0.5: w = 32 sqrt(2) = 45.25, h = 22.63; half of it rounds to 23 and 11.
    exact = cell_anchors([32], [0.5])
    half = 16 * math.sqrt(2)
    torch.testing.assert_close(exact, torch.tensor([[-half, -half / 2, half, half / 2]]))
    assert cell_anchors([32], [0.5], rounded=True).tolist() == [[-23, -11, 23, 11]]


def test_order_within_a_cell():
    ratio_first = cell_anchors([8, 16], [1, 4])
    size_first = cell_anchors([8, 16], [1, 4], order="size,ratio")
    assert size_first.tolist() == ratio_first[[0, 2, 1, 3]].tolist()
    assert ratio_first[2].tolist() == [-2, -8, 2, 8]  # area 64, four times as high as wide


def test_grid_runs_row_column_anchor():
    cell = torch.tensor([[0.0, 0, 1, 1], [0, 0, 2, 2]])
    got = grid_anchors(cell, (2, 3), (10.0, 100.0))
    assert got.shape == (12, 4)
    assert got[:3].tolist() == [[0, 0, 1, 1], [0, 0, 2, 2], [100, 0, 101, 1]]
    assert got[6].tolist() == [0, 10, 1, 11]
    assert grid_anchors(cell, (1, 1), 16, offset=0.5)[0].tolist() == [8, 8, 9, 9]
    both = pyramid_anchors([cell, cell[:1]], [(2, 3), (1, 1)], [(10.0, 100.0), 32.0])
    assert both.tolist() == got.tolist() + cell[:1].tolist()


def test_a_cell_of_default_boxes():
    """SSD, section 2.2: two squares, then each ratio and its flip at the smaller size."""
    level = DefaultBoxLevel((1, 1), 300, 30, 60, (2,))
    low, middle = 30.0, math.sqrt(30 * 60)
    long, short = 30 * math.sqrt(2), 30 / math.sqrt(2)
    want = [(low, low), (middle, middle), (long, short), (short, long)]
    assert level.cell() == want
    wide = default_boxes([level], (300, 300), form="cxcywh")
    torch.testing.assert_close(wide, torch.tensor([(150, 150, *shape) for shape in want]))


def test_sizes_lose_their_fraction_only_when_asked():
    level = DefaultBoxLevel((1, 1), 512, 35.84, 76.8)
    assert level.cell()[0] == (35.84, 35.84)
    assert level.cell(truncate_sizes=True) == [(35, 35), (math.sqrt(35 * 76),) * 2]


def test_clip_units_and_centres():
    level = DefaultBoxLevel((1, 2), 100, 300)  # centres (50, 50), (150, 50) of a 200 x 100 input
    image = (100, 200)
    none = default_boxes([level], image)
    assert none.tolist() == [[-100, -100, 200, 200], [0, -100, 300, 200]]
    size = default_boxes([level], image, clip="size")
    assert size.tolist() == [[-50, 0, 150, 100], [50, 0, 250, 100]]
    each = default_boxes([level], image, clip="each", form="cxcywh", unit="relative")
    assert each.tolist() == [[0.25, 0.5, 1, 1], [0.75, 0.5, 1, 1]]
    start = default_boxes([level], image, form="cxcywh", centre="offset + index * step")
    assert start[:, :2].tolist() == [[0.5, 0.5], [100.5, 0.5]]


def test_ssd300_has_8732_boxes():
    grids, kinds = (38, 19, 10, 5, 3, 1), ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))
    levels = [
        DefaultBoxLevel((g, g), 300 / g, 30, 60, k) for g, k in zip(grids, kinds, strict=True)
    ]
    assert len(default_boxes(levels, (300, 300))) == 8732
