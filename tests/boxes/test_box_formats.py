"""Formats, areas and overlaps against numbers worked by hand, and properties that must hold."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from boxatlas.boxes import formats

numbers = st.floats(-100, 100, width=32)
sides = st.floats(0, 80, width=32)


@st.composite
def boxes(draw, least: int = 1, most: int = 6) -> torch.Tensor:
    rows = draw(st.lists(st.tuples(numbers, numbers, sides, sides), min_size=least, max_size=most))
    xywh = torch.tensor(rows, dtype=torch.float64).reshape(-1, 4)
    return formats.xywh_to_xyxy(xywh)


def test_formats_by_hand():
    box = torch.tensor([10.0, 20.0, 30.0, 60.0])
    assert formats.xyxy_to_cxcywh(box).tolist() == [20, 40, 20, 40]
    assert formats.xyxy_to_xywh(box).tolist() == [10, 20, 20, 40]
    assert formats.area(box) == 800
    assert formats.area(box, inclusive=True) == 21 * 41


def test_iou_by_hand():
    # [0,0,4,4] and [2,2,6,6] share 2 x 2 = 4 of 16 + 16 - 4 = 28.
    a, b = (
        torch.tensor([[0.0, 0, 4, 4]]),
        torch.tensor([[2.0, 2, 6, 6], [4, 0, 8, 4], [0, 0, 4, 2]]),
    )
    torch.testing.assert_close(formats.pairwise_iou(a, b), torch.tensor([[4 / 28, 0, 0.5]]))
    # With inclusive corners: 5 x 5 boxes that share 3 x 3 = 9 of 41; the second pair touches in
    # one column of 5 pixels of 25 + 25 - 5 = 45.
    got = formats.pairwise_iou(a, b[:2], inclusive=True)
    torch.testing.assert_close(got, torch.tensor([[9 / 41, 5 / 45]]))
    # Half of the third box's partner: 8 of a's 16.
    torch.testing.assert_close(formats.pairwise_ioa(a, b), torch.tensor([[0.25, 0, 0.5]]))
    torch.testing.assert_close(formats.pairwise_ioa(b, a), torch.tensor([[0.25], [0], [1.0]]))


def test_empty_boxes_overlap_by_zero_not_nan():
    empty = torch.zeros(1, 4)
    assert formats.pairwise_iou(empty, empty).item() == 0
    assert formats.iou(empty, empty).item() == 0
    assert formats.pairwise_iou(torch.zeros(0, 4), torch.zeros(3, 4)).shape == (0, 3)


@given(boxes(), boxes())
def test_iou_is_symmetric_bounded_and_the_same_in_both_forms(a, b):
    pairs = formats.pairwise_iou(a, b)
    torch.testing.assert_close(pairs, formats.pairwise_iou(b, a).t())
    torch.testing.assert_close(pairs, formats.iou(a[:, None], b[None]))
    assert ((pairs >= 0) & (pairs <= 1)).all()


@given(boxes())
def test_formats_are_inverse(xyxy):
    torch.testing.assert_close(formats.cxcywh_to_xyxy(formats.xyxy_to_cxcywh(xyxy)), xyxy)
    torch.testing.assert_close(formats.xywh_to_xyxy(formats.xyxy_to_xywh(xyxy)), xyxy)


def test_chunks_change_nothing(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    a, b = (formats.xywh_to_xyxy(torch.rand(2, n, 4, generator=generator)) for n in (37, 11))
    whole = formats.pairwise_iou(a, b)
    monkeypatch.setattr(formats, "CPU_BUDGET", 50)
    torch.testing.assert_close(formats.pairwise_iou(a, b), whole, rtol=0, atol=0)


def test_clip_and_smallest_sides():
    box = torch.tensor([[-5.0, 3, 120, 90]])
    assert formats.clip(box, (80, 100)).tolist() == [[0, 3, 100, 80]]
    assert formats.clip(box, (80, 100), max_offset=-1).tolist() == [[0, 3, 99, 79]]
    thin = torch.tensor([[0.0, 0, 15, 15], [0, 0, 16, 16]])
    assert formats.large_enough(thin, 16).tolist() == [False, True]
    assert formats.large_enough(thin, 16, inclusive=True).tolist() == [True, True]


@pytest.mark.parametrize(
    ("side", "level"), [(10, 2), (112, 3), (223.9, 3), (224, 4), (448, 5), (2000, 5)]
)
def test_pyramid_level_of_fpn(side, level):
    # Equation 1: k = floor(4 + log2(sqrt(wh) / 224)), clipped to 2..5.
    box = torch.tensor([0.0, 0, side, side])
    assert formats.pyramid_level(box) == level


def test_an_empty_box_goes_to_the_finest_level():
    assert formats.pyramid_level(torch.zeros(4)) == 2


@settings(max_examples=20)
@given(boxes(2, 3), boxes(2, 3))
def test_gradient_of_iou(a, b):
    """The elementwise form is differentiable (away from the corners of min and max)."""
    a = (a + torch.tensor([0.0, 0, 1, 1]))[:2].requires_grad_()
    b = b[:2] + torch.tensor([0.3, 0.3, 1.7, 1.7])
    assert torch.isfinite(torch.autograd.grad(formats.iou(a, b).sum(), a)[0]).all()
