"""NMS against torchvision's, worked by hand, and its invariants."""

from __future__ import annotations

import math

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from boxatlas.boxes import nms as module
from boxatlas.boxes.formats import pairwise_iou
from boxatlas.boxes.nms import (
    above,
    batched_nms,
    best_sigmoid_above,
    nms,
    proposal_nms,
    soft_nms,
    top_per_level,
)


@pytest.fixture(params=["compiled", "torchvision"])
def path(request, monkeypatch):
    """Both ways of doing it, whatever the number of boxes."""
    limit = 0 if request.param == "compiled" else 10**9
    monkeypatch.setattr(module, "_COMPILED_FROM", limit)


def crowd(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randint(0, 8, (count, 2), generator=generator) * 12.0
    centre += torch.randn(count, 2, generator=generator) * 4
    size = torch.rand(count, 2, generator=generator) * 30 + 5
    boxes = torch.cat([centre - size / 2, centre + size / 2], dim=1)
    return boxes, torch.rand(count, generator=generator)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.7, 1.0])
def test_the_same_rows_as_torchvision(threshold):
    boxes, scores = crowd(400)
    groups = torch.randint(0, 5, (400,), generator=torch.Generator().manual_seed(1))
    assert torch.equal(nms(boxes, scores, threshold), torchvision.ops.nms(boxes, scores, threshold))
    want = torchvision.ops.batched_nms(boxes, scores, groups, threshold)
    assert torch.equal(batched_nms(boxes, scores, groups, threshold), want)


@pytest.mark.usefixtures("path")
def test_many_groups_far_out_are_still_exact():
    """2,560 groups (32 images, 80 classes) at 4,000 pixels: float32 offsets would blur boxes."""
    boxes, scores = crowd(600)
    boxes = boxes + 4000
    groups = torch.randint(0, 2560, (600,), generator=torch.Generator().manual_seed(2))
    groups[:300] = 2559
    kept = set(batched_nms(boxes, scores, groups, 0.3).tolist())
    for group in groups.unique():
        rows = (groups == group).nonzero()[:, 0]
        own = rows[torchvision.ops.nms(boxes[rows], scores[rows], 0.3)].tolist()
        assert kept & set(rows.tolist()) == set(own)


@pytest.mark.usefixtures("path")
def test_an_overlap_of_exactly_the_threshold():
    # 8 of 16 pixels: IoU 0.5 without +1. Inclusive: 5 x 5 and 5 x 3 pixels, 15 of 25.
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 2]])
    scores = torch.tensor([0.9, 0.8])
    assert nms(boxes, scores, 0.5).tolist() == [0, 1]
    assert nms(boxes, scores, 0.5, suppress="ge").tolist() == [0]
    assert nms(boxes, scores, 0.55, inclusive=True).tolist() == [0]
    assert nms(boxes, scores, 0.65, inclusive=True).tolist() == [0, 1]


@pytest.mark.usefixtures("path")
def test_limits():
    boxes, scores = crowd(300)
    whole = nms(boxes, scores, 0.5)
    assert torch.equal(nms(boxes, scores, 0.5, limit=7), whole[:7])
    groups = torch.arange(300) % 3
    few = batched_nms(boxes, scores, groups, 0.5, limit=4)
    assert torch.bincount(groups[few]).tolist() == [4, 4, 4]
    best = scores.argsort(descending=True)
    first = torch.cat([best[groups[best] == g][:10] for g in range(3)])
    entered = batched_nms(boxes, scores, groups, 0.5, group_candidates=10)
    assert torch.equal(entered, first[batched_nms(boxes[first], scores[first], groups[first], 0.5)])


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.floats(0.05, 0.95), st.sampled_from([0, 10**9]))
def test_invariants(seed, threshold, limit):
    """What stays does not overlap; what went overlaps something better that stays."""
    old, module._COMPILED_FROM = module._COMPILED_FROM, limit
    try:
        boxes, scores = crowd(40, seed)
        kept = nms(boxes, scores, threshold)
    finally:
        module._COMPILED_FROM = old
    iou = pairwise_iou(boxes, boxes[kept])
    inner = iou[kept].fill_diagonal_(0)
    assert (inner <= threshold + 1e-6).all()
    assert (scores[kept].diff() <= 0).all()
    gone = torch.ones(40, dtype=torch.bool)
    gone[kept] = False
    better = scores[kept][None] >= scores[gone][:, None]
    assert ((iou[gone] > threshold - 1e-6) & better).any(dim=1).all()


@pytest.mark.usefixtures("path")
def test_equal_scores_stay_in_order():
    boxes = torch.tensor([[0.0, 0, 4, 4], [50, 0, 54, 4], [0, 0, 4, 4]])
    assert nms(boxes, torch.ones(3), 0.5).tolist() == [0, 1]


def test_nothing():
    none = torch.zeros(0, 4)
    assert nms(none, torch.zeros(0), 0.5).tolist() == []
    groups = torch.zeros(0, dtype=torch.int64)
    assert batched_nms(none, torch.zeros(0), groups, 0.5).shape == (0,)


def test_soft_nms_by_hand():
    # Boxes 0 and 1 overlap by 0.5, box 2 stands alone, box 3 is the same as 0 in another group.
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 2], [9, 9, 12, 12], [0, 0, 4, 4]])
    scores, groups = torch.tensor([0.9, 0.8, 0.5, 0.7]), torch.tensor([0, 0, 0, 1])
    rows, decayed = soft_nms(boxes, scores, groups, method="linear", threshold=0.3)
    assert rows.tolist() == [0, 3, 2, 1]
    torch.testing.assert_close(decayed, torch.tensor([0.9, 0.7, 0.5, 0.8 * 0.5]))
    rows, decayed = soft_nms(boxes, scores, groups, sigma=0.5)
    want = {0: 0.9, 1: 0.8 * math.exp(-0.25 / 0.5), 2: 0.5, 3: 0.7}
    assert rows.tolist() == sorted(want, key=lambda r: -want[r])
    torch.testing.assert_close(decayed, torch.tensor([want[r] for r in rows.tolist()]))
    rows, _ = soft_nms(boxes, scores, groups, min_score=0.55)
    assert rows.tolist() == [0, 3]


def test_candidates():
    scores = torch.tensor([[[0.9, 0.1], [0.3, 0.6]], [[0.2, 0.2], [0.8, 0.05]]])
    found = above(scores, 0.2)
    assert list(zip(*(f.tolist() for f in found[:3]), strict=True)) == [
        (0, 0, 0),
        (0, 1, 0),
        (0, 1, 1),
        (1, 1, 0),
    ]
    assert len(above(scores, 0.2, or_equal=True).score) == 6
    best = best_sigmoid_above(scores.logit(), 0.25, top=2)
    assert list(zip(*(f.tolist() for f in best[:3]), strict=True)) == [
        (0, 0, 0),
        (0, 1, 1),
        (1, 1, 0),
    ]
    per_level = best_sigmoid_above(scores.logit(), 0.0, top=1, splits=[1, 1])
    assert list(zip(per_level.row.tolist(), per_level.label.tolist(), strict=True))[:2] == [
        (0, 0),
        (1, 1),
    ]


def test_classes_do_not_compete_unless_asked():
    scores = torch.tensor([[[0.9, 0.8], [0.7, 0.6]]])
    same = torch.tensor([0.0, 0, 4, 4]).expand(4, 4)
    found = above(scores, 0.5)
    kept = batched_nms(same, found.score, found.label, 0.5)
    assert found.label[kept].tolist() == [0, 1]
    assert found.row[kept].tolist() == [0, 0]
    one = batched_nms(same, found.score, torch.zeros_like(found.label), 0.5)
    assert found.score[one].tolist() == pytest.approx([0.9])


def test_a_fixed_number_of_proposals():
    boxes = torch.tensor([[[0.0, 0, 4, 4], [0, 0, 4, 4], [9, 9, 12, 12]]]).repeat(2, 1, 1)
    scores = torch.tensor([[0.5, 0.9, 0.7], [0.5, 0.9, 0.7]])
    usable = torch.tensor([[True, True, True], [True, False, False]])
    found = proposal_nms(boxes, scores, 0.7, 3, usable=usable)
    assert found.valid.tolist() == [[True, True, False], [True, False, False]]
    torch.testing.assert_close(found.scores, torch.tensor([[0.9, 0.7, 0], [0.5, 0, 0]]))
    assert found.boxes[0, 1].tolist() == [9, 9, 12, 12]
    levels = proposal_nms(boxes, scores, 0.7, 2, level=torch.tensor([0, 1, 1]))
    torch.testing.assert_close(levels.scores, torch.tensor([[0.9, 0.7], [0.9, 0.7]]))


def test_the_best_of_each_level():
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.3, 0.2]])
    index, level = top_per_level(scores, [3, 2], 2)
    assert index.tolist() == [[1, 2, 3, 4]]
    assert level.tolist() == [0, 0, 1, 1]


@given(seed=st.integers(0, 1000), threshold=st.sampled_from([0.0, 0.05, 0.3, 0.5, 0.9, 1.0]))
@settings(max_examples=30, deadline=None)
def test_sigmoids_are_chosen_as_their_scores_would_be(seed, threshold):
    """Computing the sigmoid only where it may pass changes nothing."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 30, 3, generator=generator) * 3
    logits[0, :5] = math.log(0.3 / 0.7)  # on a threshold
    for splits in (None, [20, 7, 3]):
        got = best_sigmoid_above(logits, threshold, 4, splits)
        want = []
        for image in range(2):
            start = 0
            for count in splits or [30]:
                part = logits.sigmoid()[image, start : start + count].flatten()
                ranked = part.sort(descending=True, stable=True)
                for score, place in zip(ranked.values[:4], ranked.indices[:4], strict=True):
                    if score > threshold:
                        row = start + int(place) // 3
                        want.append((image, row, int(place) % 3, float(score)))
                start += count
        rows = zip(*(part.tolist() for part in got[:3]), strict=True)
        assert list(rows) == [place[:3] for place in want]
        # A sigmoid of few numbers may differ from that of many in the last bit.
        assert got.score.tolist() == pytest.approx([place[3] for place in want], rel=1e-6)
    reached = best_sigmoid_above(logits, threshold, 1000, or_equal=True)
    assert len(reached.score) == int((logits.sigmoid() >= threshold).sum())
