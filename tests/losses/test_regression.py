"""Box losses: worked by hand, against torchvision's, and by finite differences."""

from __future__ import annotations

import pytest
import torch
import torchvision

from boxatlas.losses.regression import giou_loss, smooth_l1


def some_boxes(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 20
    size = 1 + torch.rand(count, 2, generator=generator, dtype=torch.float64) * 15
    return torch.cat([corner, corner + size], 1)


def test_smooth_l1_by_hand():
    # |d| = 0.2 < 0.5: d^2 / (2 * 0.5); |d| = 3: 3 - 0.25. Beta 0 is the L1 loss.
    guess, truth = torch.tensor([1.2, 4.0]), torch.tensor([1.0, 1.0])
    assert smooth_l1(guess, truth, 0.5).item() == pytest.approx(0.04 + 2.75)
    assert smooth_l1(guess, truth, 0.0).item() == pytest.approx(3.2)


@pytest.mark.parametrize(
    ("box", "loss"),
    [
        ([0.0, 0, 10, 10], 0.0),  # the same
        ([0.0, 0, 10, 5], 0.5),  # inside: IoU 1/2, the hull is the union
        ([20.0, 0, 30, 10], 1 + 1 / 3),  # apart: IoU 0, a third of the hull is empty
        ([5.0, 5, 15, 15], 1 - 25 / 175 + 50 / 225),  # corners over each other
    ],
)
def test_giou_by_hand(box, loss):
    found = giou_loss(torch.tensor([box]), torch.tensor([[0.0, 0, 10, 10]]), "none")
    assert found.tolist() == pytest.approx([loss], abs=1e-6)


def test_giou_is_torchvisions():
    a, b = some_boxes(50, 0), some_boxes(50, 1)
    want = torchvision.ops.generalized_box_iou_loss(a, b, "none")
    torch.testing.assert_close(giou_loss(a, b, "none"), want)
    torch.testing.assert_close(giou_loss(a, b), want.sum())
    torch.testing.assert_close(giou_loss(a, b, "mean"), want.mean())


def test_gradients_are_those_of_finite_differences():
    a, b = some_boxes(8, 2).requires_grad_(), some_boxes(8, 3)
    assert torch.autograd.gradcheck(lambda x: giou_loss(x, b), (a,))
    assert torch.autograd.gradcheck(lambda x: smooth_l1(x, b, 0.11), (a,))


def test_no_boxes_lose_nothing():
    none = torch.zeros(0, 4)
    assert giou_loss(none, none).item() == 0
    assert smooth_l1(none, none).item() == 0
