"""The focal loss against its formula, torchvision's and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
import torchvision

from boxatlas.losses import focal as module
from boxatlas.losses.focal import focal_loss, focal_star_loss

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(3, 50, 7, generator=GENERATOR) * 3
MASK = torch.rand(3, 50, 7, generator=GENERATOR) < 0.05


def test_by_hand():
    # Positive, p = 0.9: 0.25 * 0.1^2 * -log 0.9. Negative, p = 0.2: 0.75 * 0.2^2 * -log 0.8.
    logits = torch.tensor([[math.log(9), math.log(0.25)]], requires_grad=True)
    positive = (torch.tensor([0]), torch.tensor([0]))
    want = 0.25 * 0.01 * -math.log(0.9) + 0.75 * 0.04 * -math.log(0.8)
    assert focal_loss(logits, positive).item() == pytest.approx(want, rel=1e-5)
    # gamma 0 without alpha is the binary cross-entropy, whose gradient is p - y.
    plain = focal_loss(logits, positive, alpha=None, gamma=0)
    assert plain.item() == pytest.approx(-math.log(0.9) - math.log(0.8), rel=1e-5)
    plain.backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[-0.1, 0.2]]))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("alpha", [0.25, 0.75, -1])
def test_the_same_as_torchvision(gamma, alpha, monkeypatch):
    monkeypatch.setattr(module, "budget", lambda _: 8 * 7 * 11)  # parts that do not divide evenly
    ours, theirs = (LOGITS.clone().requires_grad_() for _ in range(2))
    got = focal_loss(ours, MASK, alpha=alpha, gamma=gamma)
    want = torchvision.ops.sigmoid_focal_loss(theirs, MASK.float(), alpha, gamma, "sum")
    torch.testing.assert_close(got, want)
    (got * 0.5).backward()
    (want * 0.5).backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_the_pass_agrees_with_the_definition(gamma):
    """Weights of images and ignored anchors, by the form that autograd differentiates."""
    weight = torch.tensor([0.5, 0.0, 3.0])
    ignore = torch.rand(3, 50, generator=GENERATOR) < 0.3
    ours, plain = (LOGITS.clone().requires_grad_() for _ in range(2))
    options = {"gamma": gamma, "weight": weight, "ignore": ignore}
    got = focal_loss(ours, MASK.nonzero(as_tuple=True), **options)
    want = focal_loss(plain, MASK, reduction="none", **options)
    assert (want[ignore] == 0).all()
    torch.testing.assert_close(got, want.sum())
    mean = focal_loss(ours, MASK, reduction="mean", **options)
    torch.testing.assert_close(mean, want.mean())
    got.backward()
    want.sum().backward()
    torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_gradient(gamma):
    logits = LOGITS[:, :4, :3].double().requires_grad_()
    weight = torch.tensor([1.0, 0.3, 2.0], dtype=torch.float64)
    ignore = torch.zeros(3, 4, dtype=torch.bool)
    ignore[0, 1] = True
    positive = (torch.tensor([0, 0, 2]), torch.tensor([0, 1, 3]), torch.tensor([1, 2, 0]))
    assert torch.autograd.gradcheck(
        lambda x: focal_loss(x, positive, gamma=gamma, weight=weight, ignore=ignore), (logits,)
    )


def test_large_logits_stay_finite():
    logits = torch.tensor([[-200.0, 200.0], [200.0, -200.0]], requires_grad=True)
    loss = focal_loss(logits, (torch.tensor([0, 1]), torch.tensor([0, 0])))
    # -log sigmoid(-200) = 200 twice: a sure miss (alpha 0.25) and a sure false alarm (0.75).
    assert loss.item() == pytest.approx(0.25 * 200 + 0.75 * 200)
    loss.backward()
    assert torch.isfinite(logits.grad).all()


def test_an_image_without_objects():
    none = tuple(torch.zeros(0, dtype=torch.int64) for _ in range(3))
    got = focal_loss(LOGITS, none)
    want = torchvision.ops.sigmoid_focal_loss(LOGITS, torch.zeros_like(LOGITS), reduction="sum")
    torch.testing.assert_close(got, want)


def test_half_precision_is_summed_in_float32():
    logits = torch.zeros(1, 40_000, 1, dtype=torch.bfloat16, requires_grad=True)
    none = tuple(torch.zeros(0, dtype=torch.int64) for _ in range(3))
    loss = focal_loss(logits, none, alpha=None, gamma=0)
    assert loss.item() == pytest.approx(40_000 * math.log(2), rel=1e-4)
    loss.backward()
    assert logits.grad.dtype == torch.bfloat16


def test_a_negative_gamma_is_refused():
    with pytest.raises(ValueError, match="gamma"):
        focal_loss(LOGITS, MASK, gamma=-1)


def test_focal_star_by_hand_and_by_finite_differences():
    """Appendix A: -log sigmoid(gamma x_t + beta) / gamma, weighed by alpha as the focal loss is."""
    logits = torch.tensor([[1.0, -0.5]])
    positive = (torch.tensor([0]), torch.tensor([0]))
    want = 0.25 * math.log(1 + math.exp(-(2 * 1.0 + 1))) / 2
    want += 0.75 * math.log(1 + math.exp(-(2 * 0.5 + 1))) / 2
    assert focal_star_loss(logits, positive).item() == pytest.approx(want, rel=1e-5)
    ignored = torch.tensor([True])
    assert focal_star_loss(logits, positive, ignore=ignored).item() == 0
    double = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    chosen = (torch.tensor([0, 1]), torch.tensor([2, 0]), torch.tensor([1, 3]))
    weight = torch.tensor([0.5, 2.0])
    assert torch.autograd.gradcheck(
        lambda x: focal_star_loss(x, chosen, gamma=1.5, beta=0.3, weight=weight), (double,)
    )
