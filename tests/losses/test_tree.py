"""Losses over a WordTree: the path of a label, and images without a box."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from boxatlas.losses.tree import image_loss, path_log_probability, path_loss, pick
from boxatlas.wordtree import WordTree

TREE = WordTree([-1, -1, 0, 0, 2, 2])  # (0, 1), (2, 3) under 0, (4, 5) under 2


def test_a_label_teaches_the_groups_on_its_path_alone():
    logits = torch.randn(1, 6).requires_grad_()
    loss = path_loss(logits, torch.tensor([0]), torch.tensor([3]), TREE)
    wanted = F.cross_entropy(logits[:, :2], torch.tensor([0])) + F.cross_entropy(
        logits[:, 2:4], torch.tensor([1])
    )
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[0, 4:].tolist() == [0, 0]  # below another word
    assert (logits.grad[0, :4] != 0).all()


def test_of_two_labels_that_meet_in_a_group_the_later_counts():
    logits = torch.randn(1, 6)
    both = path_loss(logits, torch.tensor([0, 0]), torch.tensor([4, 3]), TREE)
    # 4 teaches (0), (2), (4); then 3 teaches (0), (3) in place of the first two.
    parts = ((0, 2, 0), (2, 4, 1), (4, 6, 0))
    wanted = sum(F.cross_entropy(logits[:, a:b], torch.tensor([i])) for a, b, i in parts)
    assert both.item() == pytest.approx(float(wanted), rel=1e-6)


def test_the_probability_of_a_word_at_every_place():
    logits = torch.randn(2, 3, 6, 2, 2)
    found = path_log_probability(logits, torch.tensor([5, 1]), TREE)
    absolute = TREE.absolute(TREE.conditional(logits.movedim(2, -1)))
    assert torch.allclose(found[0].exp(), absolute[0, ..., 5], atol=1e-6)
    assert torch.allclose(found[1].exp(), absolute[1, ..., 1], atol=1e-6)


def image(objectness: list[float]) -> torch.Tensor:
    """One image, one prior, three cells; the third is surest of word 3."""
    found = torch.zeros(1, 1, 11, 1, 3)
    found[0, 0, 4, 0] = torch.tensor(objectness)
    found[0, 0, 5 + 3, 0, 2] = 2.0
    return found


def test_the_surest_place_answers():
    label = torch.tensor([3])
    assert pick(image([0.5, 0.5, 0.4]), label, TREE, "class").tolist() == [2]
    # Objectness 0.9 against 0.4 * (more than twice the probability)
    assert pick(image([0.9, 0.5, 0.4]), label, TREE, "objectness_times_class").tolist() == [0]
    assert pick(image([0.5, 0.5, 0.4]), label, TREE, "objectness_times_class").tolist() == [2]


def test_many_images_answer_as_one_by_one(monkeypatch):
    found = torch.rand(5, 2, 11, 3, 3)
    label = torch.tensor([3, 5, 1, 4, 0])
    together = pick(found, label, TREE, "objectness_times_class")
    monkeypatch.setattr("boxatlas.losses.tree._BUDGET", 1)
    assert torch.equal(pick(found, label, TREE, "objectness_times_class"), together)


@pytest.mark.parametrize(
    ("rule", "suppress", "wanted"),
    [
        # 5/2 (0.3 - 0.2)^2 at the place, 1/2 o^2 elsewhere
        ("push_to_0.3", True, 2.5 * 0.01 + 0.5 * (0.04 + 0.01)),
        ("push_to_0.3", False, 2.5 * 0.01),
        ("zero", True, 0.5 * (0.04 + 0.01)),
        ("none", True, 0.5 * (0.04 + 0.01 + 0.04)),
        ("none", False, 0.0),
    ],
)
def test_what_objectness_an_image_without_boxes_teaches(rule, suppress: bool, wanted: float):
    losses = image_loss(
        image([0.2, 0.1, 0.2]), torch.tensor([3]), TREE, objectness=rule, suppress_others=suppress
    )
    assert losses["objectness"].item() == pytest.approx(wanted, rel=1e-5)
    # The path of 3: even odds among the roots, e^2 against 1 below.
    path = math.log(2) + math.log(1 + math.exp(-2))
    assert losses["classes"].item() == pytest.approx(path, rel=1e-5)


def test_a_place_that_is_sure_already_is_not_pulled_down():
    losses = image_loss(image([0.0, 0.0, 0.8]), torch.tensor([3]), TREE)
    assert losses["objectness"] == 0


def test_gradients_by_finite_differences():
    torch.manual_seed(0)
    raw = torch.rand(2, 2, 11, 2, 2, dtype=torch.float64).requires_grad_()

    def loss(x: torch.Tensor) -> torch.Tensor:
        return sum(image_loss(x, torch.tensor([3, 5]), TREE).values())  # pyright: ignore

    assert torch.autograd.gradcheck(loss, raw, eps=1e-6, atol=1e-6)
