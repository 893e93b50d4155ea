"""The mask loss and hard example mining, by hand and by finite differences."""

from __future__ import annotations

import math

import pytest
import torch

from boxatlas.losses.masks import mask_loss
from boxatlas.losses.ohem import hardest


def test_a_mask_learns_its_own_map_by_binary_cross_entropy() -> None:
    """Cells of logit 0 and ln 3 where the target is 1 and 0: -(ln 1/2 + ln 1/4) / 2 a cell."""
    logits = torch.full((1, 3, 1, 2), 9.0)
    logits[0, 1] = torch.tensor([[0.0, math.log(3)]])
    targets = torch.tensor([[[1.0, 0.0]]])
    value = mask_loss(logits.requires_grad_(), targets, torch.tensor([1]))
    assert math.isclose(value.item(), (math.log(2) + math.log(4)) / 2, rel_tol=1e-6)
    value.backward()
    assert logits.grad is not None
    assert logits.grad[0, [0, 2]].eq(0).all()  # the other classes' maps learn nothing
    assert torch.allclose(logits.grad[0, 1], torch.tensor([[-0.5, 0.75]]) / 2)


def test_a_softmax_over_classes_competes_in_every_cell() -> None:
    """Three maps of equal logits: ln 3 in each cell, inside the object and outside of it."""
    logits, targets = torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4)
    targets[:, :2] = 1
    value = mask_loss(logits.requires_grad_(), targets, torch.tensor([1, 2]), "softmax")
    assert math.isclose(value.item(), math.log(3), rel_tol=1e-6)
    value.backward()
    assert logits.grad is not None
    assert (logits.grad[0, 1, :2] < 0).all()
    assert (logits.grad[0, 0, 2:] < 0).all()  # map 0 is the background's


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
def test_gradients_by_finite_differences(kind) -> None:
    torch.manual_seed(0)
    targets, column = torch.rand(3, 2, 2, dtype=torch.float64).round(), torch.tensor([1, 0, 2])
    logits = torch.randn(3, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: mask_loss(x, targets, column, kind), (logits,))


def test_no_mask_costs_nothing() -> None:
    logits = torch.zeros(0, 3, 4, 4, requires_grad=True)
    value = mask_loss(logits, torch.zeros(0, 4, 4), torch.zeros(0, dtype=torch.int64))
    value.backward()
    assert value.item() == 0


def test_the_hardest_are_those_of_largest_loss_that_may_be_kept() -> None:
    losses = torch.tensor([[0.1, 5.0, 3.0, 9.0], [1.0, 2.0, 0.5, 4.0]])
    valid = torch.tensor([[True, True, True, False], [True, True, True, True]])
    assert hardest(losses, valid, 2).tolist() == [[1, 2], [3, 1]]
    assert hardest(losses, valid, 9).shape == (2, 4)
