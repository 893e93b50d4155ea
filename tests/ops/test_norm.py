"""L2Norm: the four places of epsilon, worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from boxatlas.ops.norm import L2Norm

# Channels 3 and 4: length 5.
X = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)
LENGTH = {
    "inside_root": math.sqrt(25 + 11),
    "added_to_root": 5 + 11,
    "norm_clamped_below": 11,
    "clamp_sum_of_squares": 5,
}


@pytest.mark.parametrize("place", LENGTH)
def test_epsilon_by_hand(place):
    norm = L2Norm(2, scale=20, eps=11.0, eps_place=place)
    want = 20 * X / LENGTH[place]
    torch.testing.assert_close(norm(X), want)


@pytest.mark.parametrize("place", LENGTH)
def test_a_position_of_zeros_has_a_finite_gradient(place):
    x = torch.zeros(1, 4, 2, 2, requires_grad=True)
    norm = L2Norm(4, eps_place=place)
    norm(x).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(norm.weight.grad).all()


@pytest.mark.parametrize("place", LENGTH)
def test_gradient(place):
    norm = L2Norm(3, eps=1e-3, eps_place=place).double()
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(norm, (x.requires_grad_(),))


def test_each_channel_has_its_own_factor():
    norm = L2Norm(2)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 10.0]))
    torch.testing.assert_close(norm(X).flatten(), torch.tensor([0.6, 8.0]))
