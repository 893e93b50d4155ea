"""Box regression against numbers worked by hand; decoding undoes encoding."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from boxatlas.boxes.coders import CLAMP, DeltaCoder

place = st.floats(-50, 400, width=32)
side = st.floats(1, 300, width=32)


@st.composite
def box(draw) -> torch.Tensor:
    x, y, w, h = (draw(s) for s in (place, place, side, side))
    return torch.tensor([[x, y, x + w, y + h]], dtype=torch.float64)


def test_encoding_by_hand():
    # Anchor: centre (20, 30), 20 x 40. Box: centre (30, 40), 40 x 20.
    anchor, target = torch.tensor([[10.0, 10, 30, 50]]), torch.tensor([[10.0, 30, 50, 50]])
    want = torch.tensor([[10 / 20, 10 / 40, math.log(2), math.log(0.5)]])
    torch.testing.assert_close(DeltaCoder().encode(target, anchor), want)
    ssd = DeltaCoder.from_variances((0.1, 0.1, 0.2, 0.2))
    torch.testing.assert_close(
        ssd.encode(target, anchor), want / torch.tensor([0.1, 0.1, 0.2, 0.2])
    )


def test_inclusive_encoding_by_hand():
    # Pixels 0..9 are 10 wide about 5 (4.5 between the corner pixels); pixels 10..29 are 20 wide.
    anchor, target = torch.tensor([[0.0, 0, 9, 9]]), torch.tensor([[10.0, 10, 29, 29]])
    want = torch.tensor([[1.5, 1.5, math.log(2), math.log(2)]])
    torch.testing.assert_close(DeltaCoder(inclusive=True).encode(target, anchor), want)
    exact = DeltaCoder(inclusive=True, inclusive_centre=True)
    torch.testing.assert_close(exact.encode(target, anchor), want)


def test_inclusive_decoding_of_nothing():
    """The first programs end one pixel too far; the two later forms are exact."""
    anchor, zero = torch.tensor([[0.0, 0, 9, 9]]), torch.zeros(1, 4)
    assert DeltaCoder(inclusive=True).decode(zero, anchor).tolist() == [[0, 0, 10, 10]]
    for options in ({"inclusive_centre": True}, {"end_offset": -1.0}):
        assert DeltaCoder(inclusive=True, **options).decode(zero, anchor).tolist() == [[0, 0, 9, 9]]


def test_clamp():
    anchor, huge = torch.tensor([[0.0, 0, 16, 16]]), torch.tensor([[0.0, 0, 99, -99]])
    got = DeltaCoder(clamp=CLAMP).decode(huge, anchor)
    torch.testing.assert_close(got[0, 2] - got[0, 0], torch.tensor(1000.0), rtol=1e-5, atol=0)
    assert got[0, 3] - got[0, 1] < 1e-30
    both = DeltaCoder(clamp=CLAMP, clamp_below=True).decode(huge, anchor)
    torch.testing.assert_close(both[0, 3] - both[0, 1], torch.tensor(0.256), rtol=1e-4, atol=0)


def test_deltas_of_classes_broadcast():
    anchors, deltas = torch.rand(5, 4).cumsum(1), torch.randn(5, 3, 4)
    got = DeltaCoder().decode(deltas, anchors[:, None])
    for c in range(3):
        torch.testing.assert_close(got[:, c], DeltaCoder().decode(deltas[:, c], anchors))


@pytest.mark.parametrize(
    "coder",
    [
        DeltaCoder(),
        DeltaCoder((10.0, 10.0, 5.0, 5.0)),
        DeltaCoder(inclusive=True, inclusive_centre=True),
        DeltaCoder((10.0, 10.0, 5.0, 5.0), inclusive=True, end_offset=-1.0),
    ],
)
@given(target=box(), anchor=box())
def test_decoding_undoes_encoding(coder, target, anchor):
    torch.testing.assert_close(
        coder.decode(coder.encode(target, anchor), anchor), target, rtol=1e-9, atol=1e-8
    )


def test_gradients():
    anchors = torch.tensor([[0.0, 0, 10, 20], [5, 5, 9, 9]], dtype=torch.float64)
    deltas = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    coder = DeltaCoder((10.0, 10.0, 5.0, 5.0))
    assert torch.autograd.gradcheck(lambda d: coder.decode(d, anchors), (deltas.requires_grad_(),))
