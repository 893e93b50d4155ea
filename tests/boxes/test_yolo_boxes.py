"""Cells, priors and the numbers of a prediction."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from boxatlas.boxes.yolo import Objects, PriorCoder, cell_of, shape_iou


def test_a_cell_with_numbers_by_hand():
    """YOLOv2, section 2: sigmoid(0) = 0.5 lies in the cell's middle, exp(0) is the prior."""
    coder = PriorCoder("cell")
    raw = torch.tensor([[0.0, 0.0, 0.0, math.log(2), 0.0, 7.0]])
    numbers = coder.activate(raw, 1)
    assert numbers[0].tolist() == pytest.approx([0.5, 0.5, 0.0, math.log(2), 0.5, 7.0])
    box = coder.decode(numbers, torch.tensor([[3, 1]]), torch.tensor([[2.0, 1.0]]), (4, 8))
    # column 3 of 8, row 1 of 4; 2 of 8 cells wide, 2 * 1 of 4 high
    assert box[0].tolist() == pytest.approx([3.5 / 8, 1.5 / 4, 2 / 8, 2 / 4])


def test_the_way_of_the_region_proposal_network_by_hand():
    box = PriorCoder("prior").decode(
        torch.tensor([[1.0, -0.5, 0.0, 0.0]]),
        torch.tensor([[0, 0]]),
        torch.tensor([[2.0, 4.0]]),
        (8, 8),
    )
    assert box[0].tolist() == pytest.approx([(0.5 + 2) / 8, (0.5 - 2) / 8, 2 / 8, 4 / 8])


@given(
    x=st.floats(0.0, 0.9375),
    y=st.floats(0.0, 0.9375),
    w=st.floats(0.01, 1),
    h=st.floats(0.01, 1),
    location=st.sampled_from(["cell", "linear", "prior"]),
)
def test_decoding_undoes_encoding(x: float, y: float, w: float, h: float, location: str):
    coder, grid = PriorCoder(location), (5, 9)  # pyright: ignore[reportArgumentType]
    boxes = torch.tensor([[x, y, w, h]])
    row, column = cell_of(boxes, grid)
    cell, prior = torch.stack([column, row], -1), torch.tensor([[1.3, 0.7]])
    back = coder.decode(coder.encode(boxes, cell, prior, grid), cell, prior, grid)
    assert torch.allclose(back, boxes, atol=1e-5)


def test_a_centre_on_a_border_belongs_to_the_cell_that_float32_rounds_to():
    """0.9 * 40 is 36 in float32, but 35.9999990 in exact arithmetic on the stored 0.9."""
    row, column = cell_of(torch.tensor([[0.9, 0.9, 0.1, 0.1]]), (40, 40))
    assert (row.item(), column.item()) == (36, 36)


def test_the_overlap_of_shapes_by_hand():
    # 2 x 1 within 2 x 2: half; 4 x 1 across 1 x 4: 1 of 7
    a, b = torch.tensor([[2.0, 1.0], [4.0, 1.0]]), torch.tensor([[2.0, 2.0], [1.0, 4.0]])
    assert shape_iou(a, b).tolist() == pytest.approx([0.5, 1 / 7])


def test_small_objects_and_those_outside_are_not_learned():
    boxes = torch.tensor([[[10.0, 10, 30, 30], [5, 5, 5.05, 9], [90, 90, 130, 130]]])
    truth = Objects.of_pixels(
        boxes,
        torch.zeros(1, 3, dtype=torch.int64),
        torch.ones(1, 3, dtype=torch.bool),
        (100, 100),
        0.001,
    )
    assert truth.valid.tolist() == [[True, False, False]]
    assert truth.boxes[0, 0].tolist() == pytest.approx([0.2, 0.2, 0.2, 0.2])
