"""RefineDet's loss: a case worked by hand, what its filters do, and its gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from boxatlas.boxes.coders import DeltaCoder
from boxatlas.boxes.matching import match_bipartite
from boxatlas.losses.multibox import multibox_loss
from boxatlas.losses.refinement import RefinementLoss, refinement_loss

CODER = DeltaCoder()
# The object lies 10 to the right of anchor 0: an overlap of 1/3 there, none elsewhere.
ANCHORS = torch.tensor([[0.0, 0, 20, 20], [40, 0, 60, 20], [40, 40, 60, 60], [0, 40, 20, 60],
                        [80, 0, 100, 20], [80, 40, 100, 60]])  # fmt: skip
BOXES, LABELS = torch.tensor([[[10.0, 0, 30, 20]]]), torch.tensor([[1]])
VALID = torch.ones(1, 1, dtype=torch.bool)


def match(anchors: Tensor, boxes: Tensor, valid: Tensor):
    return match_bipartite(anchors, boxes, valid, 0.5)


def outputs() -> list[Tensor]:
    """ARM: anchor 0 is moved exactly onto the object; anchors 4 and 5 are surely background."""
    object_p = torch.tensor([0.5, 0.5, 0.5, 0.5, 0.005, 0.001])
    arm_logits = torch.stack([1 - object_p, object_p], dim=1).log()[None]
    arm_deltas = torch.zeros(1, 6, 4)
    arm_deltas[0, 0, 0] = 0.5
    p = torch.tensor([[0.2, 0.1, 0.7], [0.9, 0.05, 0.05], [0.8, 0.1, 0.1], [0.7, 0.2, 0.1],
                      [0.05, 0.9, 0.05], [0.1, 0.8, 0.1]])  # fmt: skip
    deltas = torch.zeros(1, 6, 4)
    deltas[0, 0, 1] = 2.0
    return [arm_logits, arm_deltas, p.log()[None], deltas]


def run(given: list[Tensor], **options) -> RefinementLoss:
    a, b, c, d = given
    anchors, boxes = ANCHORS.to(a.dtype), BOXES.to(a.dtype)
    return refinement_loss(a, b, c, d, anchors, boxes, LABELS, VALID, match, CODER, **options)


def test_both_steps_by_hand():
    found = run(outputs())
    # Step 1: its one positive is off by half a width and says 0.5; of three negatives all are 0.5.
    assert found.arm.box.item() == pytest.approx(0.0)
    assert found.arm.classes.item() == pytest.approx(4 * math.log(2), rel=1e-4)
    # Step 2: from the refined anchor nothing is left to move, so a delta of 2 costs 1.5.
    assert found.odm.box_targets.tolist() == [pytest.approx([0, 0, 0, 0], abs=1e-6)]
    assert found.odm.box.item() == pytest.approx(1.5)
    # Anchors 4 and 5 would be the hardest negatives, but they are easy by the first step.
    assert found.odm.negative.tolist() == [[False, True, True, True, False, False]]
    want = -sum(math.log(p) for p in (0.7, 0.9, 0.8, 0.7))
    assert found.odm.classes.item() == pytest.approx(want, rel=1e-5)


def test_without_the_filter_the_hard_ones_are_mined():
    found = run(outputs(), filter_negatives=False)
    assert found.odm.negative.tolist() == [[False, False, False, True, True, True]]


def test_positives_are_never_filtered():
    """However sure the first step is that there is nothing."""
    given = outputs()
    given[0][0, 0] = torch.tensor([0.999, 0.001]).log()
    assert run(given).odm.positive.tolist() == [[True, *[False] * 5]]
    port = run(given, filter_positives=True, filter_negatives=False, ranking="label")
    assert port.odm.positive.sum() == 0


def test_in_one_step_the_second_starts_from_the_anchors():
    found = run(outputs(), two_step=False)
    assert found.odm.box_targets.tolist() == [pytest.approx([0.5, 0, 0, 0], abs=1e-6)]


def test_no_object_no_loss():
    a, b, c, d = outputs()
    none = (BOXES[:, :0], LABELS[:, :0], VALID[:, :0])
    empty = refinement_loss(a, b, c, d, ANCHORS, *none, match, CODER)
    for part in (empty.arm, empty.odm):
        assert part.box.item() == 0
        assert part.classes.item() == 0


def test_no_gradient_through_the_refined_anchors():
    given = [t.requires_grad_() for t in outputs()]
    found = run(given)
    grads = torch.autograd.grad(found.odm.box + found.odm.classes, given, allow_unused=True)
    assert grads[0] is None
    assert grads[1] is None


def numbers(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(1, 6, 2), (1, 6, 4), (1, 6, 3), (1, 6, 4)]
    return [
        torch.randn(s, generator=generator, dtype=torch.float64).mul(0.3).requires_grad_()
        for s in shapes
    ]


def test_gradients_are_the_finite_differences():
    """The first step's own terms and the second's, in float64; who is mined stays the same."""

    def first(arm_logits: Tensor, arm_deltas: Tensor) -> Tensor:
        found = run([arm_logits, arm_deltas, *numbers(0)[2:]])
        return found.arm.box + found.arm.classes

    def second(logits: Tensor, deltas: Tensor) -> Tensor:
        found = run([*numbers(0)[:2], logits, deltas])
        return found.odm.box + found.odm.classes

    a, b, c, d = numbers(0)
    assert torch.autograd.gradcheck(first, (a, b))
    assert torch.autograd.gradcheck(second, (c, d))


def test_gradients_of_ssds_loss_are_the_finite_differences():
    def loss(logits: Tensor, deltas: Tensor) -> Tensor:
        anchors, boxes = ANCHORS.double(), BOXES.double()
        found = multibox_loss(
            logits, deltas, match(anchors, boxes, VALID), anchors, boxes, LABELS, CODER
        )
        return found.box + found.classes

    _, _, logits, deltas = numbers(1)
    assert torch.autograd.gradcheck(loss, (logits, deltas))
