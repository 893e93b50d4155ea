"""Winograd's method is a convolution: against torch's, in float64, over every shape of map."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from boxatlas.ops import winograd


def convolved(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.conv2d(x.double(), weight.double(), bias.double(), padding=1)


def agrees(found: Tensor, wanted: Tensor) -> bool:
    return bool((found - wanted).abs().max() <= 1e-4 * wanted.abs().max().clamp(min=1))


def test_a_filter_of_one_weight_shifts_the_map() -> None:
    """A 1 in the middle copies, a 1 at the left takes what lies left, zero outside of the map."""
    x = torch.arange(1.0, 31.0).view(1, 1, 5, 6)
    weight = torch.zeros(2, 1, 3, 3)
    weight[0, 0, 1, 1], weight[1, 0, 1, 0] = 1.0, 1.0
    found = winograd.convolve(x, winograd.transformed(weight), torch.tensor([0.0, 10.0]))
    torch.testing.assert_close(found[0, 0], x[0, 0], atol=1e-4, rtol=0)
    left = torch.cat([torch.zeros(5, 1), x[0, 0, :, :-1]], 1)
    torch.testing.assert_close(found[0, 1], left + 10, atol=1e-4, rtol=0)


@settings(deadline=None, max_examples=40)
@given(
    shape=st.tuples(*(st.integers(1, high) for high in (3, 5, 14, 14))),
    filters=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
def test_equals_the_convolution(shape: tuple[int, ...], filters: int, seed: int) -> None:
    noise = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=noise)
    weight = torch.randn(filters, shape[1], 3, 3, generator=noise)
    bias = torch.randn(filters, generator=noise)
    found = winograd.convolve(x, winograd.transformed(weight), bias)
    assert agrees(found, convolved(x, weight, bias))


@pytest.mark.parametrize(("low", "high"), [(0.0, math.inf), (0.0, 6.0)])
def test_activations_are_clamps(low: float, high: float) -> None:
    x, weight, bias = torch.randn(1, 8, 9, 7) * 4, torch.randn(8, 8, 3, 3), torch.randn(8)
    found = winograd.convolve(x, winograd.transformed(weight), bias, low, high)
    assert found.min() == low
    assert agrees(found, convolved(x, weight, bias).clamp(low, high))


def test_many_blocks_and_threads_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias = torch.randn(2, 6, 33, 21), torch.randn(7, 6, 3, 3), torch.randn(7)
    whole = winograd.convolve(x, winograd.transformed(weight), bias)
    monkeypatch.setattr(winograd, "_BLOCK", 20)  # of 108
    assert winograd.tiles(x.shape) == 108
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        blocks = winograd.convolve(x, winograd.transformed(weight), bias)
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(blocks, whole, atol=1e-4, rtol=1e-5)


def test_the_error_is_small_at_the_width_of_real_networks() -> None:
    """256 channels: within 3e-5 of the largest value, as the module says about 1e-5."""
    noise = torch.Generator().manual_seed(0)
    x = torch.randn(1, 256, 16, 16, generator=noise)
    weight, bias = torch.randn(256, 256, 3, 3, generator=noise), torch.zeros(256)
    found = winograd.convolve(x, winograd.transformed(weight), bias)
    wanted = convolved(x, weight, bias)
    assert (found - wanted).abs().max() < 3e-5 * wanted.abs().max()
