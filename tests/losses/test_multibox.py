"""SSD's mining and loss: a case worked by hand, its properties, and its parts."""

from __future__ import annotations

import math

import pytest
import torch

from boxatlas.boxes.coders import DeltaCoder
from boxatlas.boxes.matching import BACKGROUND, Matches
from boxatlas.losses.classification import softmax_cross_entropy
from boxatlas.losses.multibox import hard_negatives, multibox_loss
from boxatlas.losses.regression import smooth_l1


def test_smooth_l1_by_hand():
    # beta 1: 0.5 * 0.5^2 = 0.125; 2 - 0.5 = 1.5. beta 1/9 (sigma 3): 4.5 * 0.1^2; 0.5 - 1/18.
    got = smooth_l1(torch.tensor([0.5, -2.0]), torch.zeros(2), reduction="none")
    assert got.tolist() == [0.125, 1.5]
    got = smooth_l1(torch.tensor([0.1, 0.5]), torch.zeros(2), 1 / 9, "none")
    torch.testing.assert_close(got, torch.tensor([0.045, 0.5 - 1 / 18]))
    assert smooth_l1(torch.tensor([3.0, -1]), torch.zeros(2), beta=0).item() == 4


def test_cross_entropy_by_hand():
    logits = torch.tensor([[0.0, math.log(3)], [0.0, 0.0], [5.0, 5.0]])
    labels = torch.tensor([1, 0, -100])
    rows = [math.log(4 / 3), math.log(2)]
    assert softmax_cross_entropy(logits, labels).item() == pytest.approx(sum(rows))
    assert softmax_cross_entropy(logits, labels, "mean").item() == pytest.approx(sum(rows) / 2)
    weighted = softmax_cross_entropy(logits, labels, weight=torch.tensor([2.0, 10.0, 7.0]))
    assert weighted.item() == pytest.approx(2 * rows[0] + 10 * rows[1])
    assert softmax_cross_entropy(logits[:1], labels[2:], "mean").item() == 0  # none counts


def test_the_hardest_of_each_image():
    score = torch.tensor([[0.1, 0.9, 0.5, 0.7], [0.4, 0.3, 0.2, 0.1]])
    allowed = torch.tensor([[True, False, True, True], [True, True, True, True]])
    got = hard_negatives(score, allowed, torch.tensor([2, 0]))
    assert got.tolist() == [[False, False, True, True], [False] * 4]
    more = hard_negatives(score, allowed, torch.tensor([9, 1]))  # no more than there are
    assert more.tolist() == [[True, False, True, True], [True, False, False, False]]


CODER = DeltaCoder()
ANCHORS = torch.tensor([[10.0 * i, 0, 10 * i + 10, 10] for i in range(6)])


def small_case() -> tuple[torch.Tensor, torch.Tensor, Matches, torch.Tensor, torch.Tensor]:
    """Anchor 0 answers for a box of class 1 that lies on it; anchor 5 overlaps it too much."""
    p = torch.tensor([[0.2, 0.1, 0.7], [0.9, 0.05, 0.05], [0.5, 0.25, 0.25],
                      [0.1, 0.8, 0.1], [0.6, 0.2, 0.2], [0.01, 0.98, 0.01]])  # fmt: skip
    deltas = torch.zeros(1, 6, 4)
    deltas[0, 0, 2] = 2.0
    index = torch.full((1, 6), BACKGROUND)
    index[0, 0] = 0
    iou = torch.tensor([[1.0, 0, 0, 0, 0, 0.5]])
    return p.log()[None], deltas, Matches(index, iou), ANCHORS[None, :1], torch.tensor([[1]])


def run(logits, deltas, found, boxes, labels, **options):
    return multibox_loss(logits, deltas, found, ANCHORS, boxes, labels, CODER, **options)


def test_mining_by_hand():
    """One positive, three negatives: the anchors least sure of background, not number 5."""
    loss = run(*small_case())
    assert loss.negative.tolist() == [[False, False, True, True, True, False]]
    assert loss.box.item() == pytest.approx(1.5)  # smooth L1 of 2
    want = -sum(math.log(p) for p in (0.7, 0.5, 0.1, 0.6))
    assert loss.classes.item() == pytest.approx(want, rel=1e-5)
    assert run(*small_case(), ratio=1).negative.sum() == 1
    anywhere = run(*small_case(), neg_overlap=None)
    assert anywhere.negative.tolist() == [[False, False, True, True, False, True]]


def test_a_filter_on_the_candidates():
    allowed = torch.tensor([[True, True, True, False, True, True]])
    loss = run(*small_case(), candidates=allowed)
    assert loss.negative.tolist() == [[False, True, True, False, True, False]]


def test_a_dropped_positive_is_a_candidate_under_its_label():
    logits, deltas, found, boxes, labels = small_case()
    found.index[0, 1] = 0
    dropped = torch.tensor([[False, True, False, False, False, False]])
    loss = run(logits, deltas, found, boxes, labels, dropped=dropped, ranking="label", ratio=1)
    # -log p of its class, 0.05, is the largest: it is mined, and learns its class.
    assert loss.positive.tolist() == [[True, False, False, False, False, False]]
    assert loss.negative.tolist() == [[False, True, False, False, False, False]]
    assert loss.classes.item() == pytest.approx(-math.log(0.7) - math.log(0.05), rel=1e-5)


def test_an_image_without_objects_gives_nothing():
    logits, deltas = torch.randn(2, 6, 3, requires_grad=True), torch.randn(2, 6, 4)
    found = Matches(torch.full((2, 6), BACKGROUND), torch.zeros(2, 6))
    loss = run(logits, deltas, found, torch.zeros(2, 0, 4), torch.zeros(2, 0).long())
    assert (loss.box.item(), loss.classes.item()) == (0, 0)
    (loss.box + loss.classes).backward()
    assert (logits.grad == 0).all()


def test_over_the_batch_an_image_without_objects_gives_its_hardest():
    """One positive in the first image and ratio 2: the two least sure of background in both, though
    all of the second's are surer of an object than the first's but one."""
    logits, deltas, found, boxes, labels = small_case()
    p = torch.tensor([[0.05, 0.9, 0.05]] + [[0.95, 0.03, 0.02]] * 5)
    both = Matches(
        torch.cat([found.index, torch.full((1, 6), BACKGROUND)]),
        torch.cat([found.iou, torch.zeros(1, 6)]),
    )
    given = (torch.cat([logits, p.log()[None]]), deltas.repeat(2, 1, 1), both)
    objects = (boxes.repeat(2, 1, 1), labels.repeat(2, 1))
    per_image = run(*given, *objects, ratio=2)
    assert per_image.negative.tolist() == [[False, False, True, True, False, False], [False] * 6]
    over_all = run(*given, *objects, ratio=2, mine_over="batch")
    assert over_all.negative[0].tolist() == [False, False, False, True, False, False]  # p 0.1
    assert over_all.negative[1].tolist() == [True, False, False, False, False, False]  # p 0.05
    want = -math.log(0.7) - math.log(0.1) - math.log(0.05)
    assert over_all.classes.item() == pytest.approx(want, rel=1e-5)


def test_boxes_of_an_ignored_object_are_neither():
    """The only object is a crowd: no positive, and its default box is no candidate either."""
    logits, deltas, found, boxes, labels = small_case()
    loss = run(logits, deltas, found, boxes, labels, ignored=torch.tensor([[True]]))
    assert not loss.positive.any()
    assert not loss.negative.any()
    kept = run(logits, deltas, found, boxes, labels, ignored=torch.tensor([[False]]))
    assert kept.positive[0, 0]


def test_both_terms_are_divided_by_the_positives_of_the_batch():
    logits, deltas, found, boxes, labels = small_case()
    one = run(logits, deltas, found, boxes, labels)
    empty = Matches(torch.full((1, 6), BACKGROUND), torch.zeros(1, 6))
    both = Matches(
        torch.cat([found.index, found.index, empty.index]), torch.cat([found.iou] * 2 + [empty.iou])
    )
    loss = run(
        logits.expand(3, -1, -1),
        deltas.expand(3, -1, -1),
        both,
        boxes.expand(3, -1, -1),
        labels.expand(3, -1),
    )
    torch.testing.assert_close(loss.box, one.box)
    torch.testing.assert_close(loss.classes, one.classes)


def test_gradient():
    logits, deltas, found, boxes, labels = small_case()
    leaves = (logits.double().requires_grad_(), deltas.double().requires_grad_())

    def total(x, d):
        loss = multibox_loss(x, d, found, ANCHORS.double(), boxes.double(), labels, CODER)
        return loss.box + loss.classes

    assert torch.autograd.gradcheck(total, leaves)
