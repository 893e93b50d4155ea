"""Matching against a slow, plain reference, and cases worked by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from boxatlas.boxes import formats, matching
from boxatlas.boxes.formats import pairwise_iou
from boxatlas.boxes.matching import (
    BACKGROUND,
    IGNORED,
    Matches,
    ignore_inside,
    match_argmax_per_object,
    match_bipartite,
    match_thresholds,
)


def slow_greedy(iou: torch.Tensor, threshold: float, min_iou: float) -> list[int]:
    """SSD, section 2.2, as it reads. iou [M, A]."""
    owner = [BACKGROUND] * iou.shape[1]
    pairs = [
        (-float(iou[o, a]), a, o)
        for o in range(iou.shape[0])
        for a in range(iou.shape[1])
        if iou[o, a] > min_iou
    ]
    done = set()
    for _, a, o in sorted(pairs):
        if o not in done and owner[a] == BACKGROUND:
            owner[a] = o
            done.add(o)
    for a in range(iou.shape[1]):
        if owner[a] == BACKGROUND and len(iou) and iou[:, a].max() >= threshold:
            owner[a] = int(iou[:, a].argmax())
    return owner


@st.composite
def scene(draw, images: int = 2):
    """Boxes on a coarse grid, so that equal overlaps are common; some rows are padding."""
    corner, side = st.integers(0, 6), st.integers(1, 5)
    one = st.tuples(corner, corner, side, side)
    anchors = torch.tensor(draw(st.lists(one, min_size=1, max_size=14))).float()
    count = draw(st.integers(0, 8))
    rows = draw(st.lists(one, min_size=images * count, max_size=images * count))
    boxes = torch.tensor(rows, dtype=torch.float32).reshape(images, count, 4)
    real = draw(st.lists(st.booleans(), min_size=images * count, max_size=images * count))
    valid = torch.tensor(real, dtype=torch.bool).reshape(images, count)
    return formats.xywh_to_xyxy(anchors), formats.xywh_to_xyxy(boxes), valid


@settings(max_examples=150, deadline=None)
@given(scene(), st.sampled_from([1 << 18, 20]), st.sampled_from([32, 1]))
def test_bipartite_is_the_greedy_matching(case, budget, depth):
    anchors, boxes, valid = case
    old = formats.CPU_BUDGET, matching._Wishes.depth
    formats.CPU_BUDGET, matching._Wishes.depth = budget, depth
    try:
        got = match_bipartite(anchors, boxes, valid, 0.5)
    finally:
        formats.CPU_BUDGET, matching._Wishes.depth = old
    for image in range(len(boxes)):
        real = valid[image].nonzero()[:, 0]
        iou = pairwise_iou(boxes[image][real], anchors)
        want = slow_greedy(iou, 0.5, 1e-6)
        own = [int(real[o]) if o >= 0 else BACKGROUND for o in want]
        assert got.index[image].tolist() == own
        best = iou.amax(dim=0) if len(iou) else torch.zeros(len(anchors))
        torch.testing.assert_close(got.iou[image], best)


@settings(max_examples=100, deadline=None)
@given(scene(), st.sampled_from([1 << 18, 20]))
def test_argmax_per_object_is_the_loop_of_the_ports(case, budget):
    anchors, boxes, valid = case
    old, formats.CPU_BUDGET = formats.CPU_BUDGET, budget
    try:
        got = match_argmax_per_object(anchors, boxes, valid, 0.5)
    finally:
        formats.CPU_BUDGET = old
    for image in range(len(boxes)):
        iou = pairwise_iou(boxes[image], anchors) * valid[image, :, None]
        want = [BACKGROUND] * len(anchors)
        for a in range(len(anchors)):
            if len(iou) and iou[:, a].max() >= 0.5:
                want[a] = int(iou[:, a].argmax())
        for o in range(len(iou)):
            if valid[image, o]:
                want[int(iou[o].argmax())] = o
        assert got.index[image].tolist() == want


def test_two_objects_with_one_best_anchor():
    """The greedy rule gives each its own; the ports' rule leaves the earlier with none."""
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 14]])
    boxes = torch.tensor([[[0.0, 0, 5, 8], [0, 0, 5, 9]]])  # 40 and 45 of 100: both prefer anchor 0
    valid = torch.ones(1, 2, dtype=torch.bool)
    assert match_bipartite(anchors, boxes, valid).index.tolist() == [[1, 0]]
    assert match_argmax_per_object(anchors, boxes, valid).index.tolist() == [[1, BACKGROUND]]


def overlaps(*values: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Anchors that overlap one object [0,0,100,1] by the given amounts (narrower boxes)."""
    anchors = torch.tensor([[0.0, 0, 100 * v, 1] for v in values])
    return anchors, torch.tensor([[[0.0, 0, 100, 1]]])


def test_thresholds_by_hand():
    anchors, boxes = overlaps(0.9, 0.7, 0.5, 0.3, 0.1)
    one = torch.ones(1, 1, dtype=torch.bool)
    got = match_thresholds(anchors, boxes, one, 0.7, 0.3)
    # "at least 0.7" is positive, "below 0.3" background; 0.3 itself is neither.
    assert got.index.tolist() == [[0, 0, IGNORED, IGNORED, BACKGROUND]]
    assert match_thresholds(anchors, boxes, one, 0.5).index.tolist() == [[0, 0, 0, -1, -1]]


def test_low_quality_matches():
    anchors, boxes = overlaps(0.45, 0.45, 0.2)
    one = torch.ones(1, 1, dtype=torch.bool)
    assert match_thresholds(anchors, boxes, one, 0.7, 0.4).index.tolist() == [[-2, -2, -1]]
    low = match_thresholds(anchors, boxes, one, 0.7, 0.4, low_quality="argmax")
    assert low.index.tolist() == [[0, 0, -1]]  # equal ones are all taken
    guarded = match_thresholds(
        anchors, boxes, one, 0.7, 0.4, low_quality="argmax", low_quality_min_iou=0.5
    )
    assert guarded.index.tolist() == [[-2, -2, -1]]
    below = match_thresholds(anchors[2:], boxes, one, 0.7, 0.3, low_quality="argmax")
    assert below.index.tolist() == [[0]]
    authors = match_thresholds(
        anchors[2:], boxes, one, 0.7, 0.3, low_quality="argmax", negative_wins=True
    )
    assert authors.index.tolist() == [[-1]]


def test_claim_and_argmax_differ_where_an_anchor_is_nearest_to_another_object():
    # The one anchor is object 1's only hope, but overlaps object 0 more.
    anchor = torch.tensor([[0.0, 0, 10, 4]])
    boxes = torch.tensor([[[0.0, 0, 10, 8], [0, 3, 10, 10]]])
    two = torch.ones(1, 2, dtype=torch.bool)
    argmax = match_thresholds(anchor, boxes, two, 0.9, 0.3, low_quality="argmax")
    claim = match_thresholds(anchor, boxes, two, 0.9, 0.3, low_quality="claim")
    assert (argmax.index.item(), claim.index.item()) == (0, 1)


def test_an_object_that_nothing_overlaps():
    anchors = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    boxes = torch.tensor([[[0.0, 0, 10, 10], [80, 80, 90, 90]]])
    two = torch.ones(1, 2, dtype=torch.bool)
    guarded = match_thresholds(anchors, boxes, two, 0.7, 0.3, low_quality="argmax")
    assert guarded.index.tolist() == [[0, BACKGROUND]]
    loose = match_thresholds(anchors, boxes, two, 0.7, 0.3, low_quality="argmax_including_zero")
    assert loose.index.tolist() == [[0, 0]]


def test_unusable_anchors_count_for_nothing():
    anchors, boxes = overlaps(0.9, 0.4, 0.1)
    one = torch.ones(1, 1, dtype=torch.bool)
    usable = torch.tensor([False, True, True])
    got = match_thresholds(anchors, boxes, one, 0.7, 0.3, low_quality="argmax", usable=usable)
    assert got.index.tolist() == [[IGNORED, 0, BACKGROUND]]


def test_anchors_per_image_give_what_each_image_gives_alone():
    generator = torch.Generator().manual_seed(3)
    anchors = formats.xywh_to_xyxy(torch.rand(3, 40, 4, generator=generator))
    boxes = formats.xywh_to_xyxy(torch.rand(3, 5, 4, generator=generator))
    valid = torch.ones(3, 5, dtype=torch.bool)
    rules = (
        match_bipartite,
        match_argmax_per_object,
        lambda *a: match_thresholds(*a, 0.5, 0.4, low_quality="argmax"),
        lambda *a: match_thresholds(*a, 0.5, 0.4, low_quality="claim"),
    )
    for rule in rules:
        whole = rule(anchors, boxes, valid)
        for i in range(3):
            alone = rule(anchors[i], boxes[i : i + 1], valid[i : i + 1])
            assert torch.equal(whole.index[i], alone.index[0])


@pytest.mark.parametrize("objects", [0, 3])
def test_an_image_without_objects_is_background(objects):
    anchors = torch.rand(7, 4).cumsum(1)
    boxes, none = torch.zeros(2, objects, 4), torch.zeros(2, objects, dtype=torch.bool)
    for found in (
        match_bipartite(anchors, boxes, none),
        match_argmax_per_object(anchors, boxes, none),
        match_thresholds(anchors, boxes, none, 0.7, 0.3, low_quality="argmax_including_zero"),
    ):
        assert (found.index == BACKGROUND).all()
        assert (found.iou == 0).all()
        labels = torch.full((2, objects), -1)
        assert (found.labels(labels, background=20) == 20).all()


def test_labels_and_pairs():
    found = Matches(torch.tensor([[1, BACKGROUND, IGNORED], [0, 0, BACKGROUND]]), torch.zeros(2, 3))
    labels = torch.tensor([[4, 7], [9, -1]])
    assert found.labels(labels, background=20, ignored=-5).tolist() == [[7, 20, -5], [9, 9, 20]]
    assert [p.tolist() for p in found.pairs()] == [[0, 1, 1], [0, 0, 1], [1, 0, 0]]


def test_background_in_a_crowd_is_ignored():
    anchors = torch.tensor([[0.0, 0, 10, 10], [8, 0, 18, 10], [50, 50, 60, 60]])
    boxes = torch.tensor([[[0.0, 0, 12, 12], [0, 0, 0, 0]]])
    crowd = torch.tensor([[True, False]])
    found = Matches(torch.full((1, 3), BACKGROUND), torch.zeros(1, 3))
    # The second anchor lies in the crowd by 4 of its 10 columns.
    assert ignore_inside(found, anchors, boxes, crowd).index.tolist() == [[-2, -1, -1]]
    assert ignore_inside(found, anchors, boxes, crowd, 0.4).index.tolist() == [[-2, -2, -1]]
    assert (found.index == BACKGROUND).all()


def test_five_thousand_objects_stay_in_memory(monkeypatch):
    """No temporary outgrows the budget (all pairs at once would be forty times as many)."""
    generator = torch.Generator().manual_seed(0)
    anchors = formats.xywh_to_xyxy(torch.rand(2000, 4, generator=generator))
    small = torch.tensor([1.5, 1.5, 0.1, 0.1])
    boxes = formats.xywh_to_xyxy(torch.rand(1, 5000, 4, generator=generator) * small)
    sizes = []

    def watched(a, b, *rest):
        sizes.append(a.shape[-2] * b.shape[-2])
        return pairwise_iou(a, b, *rest)

    monkeypatch.setattr(matching, "pairwise_iou", watched)
    found = match_bipartite(anchors, boxes, torch.ones(1, 5000, dtype=torch.bool), threshold=1.1)
    assert max(sizes) <= formats.CPU_BUDGET
    # Greedy means: of any pair that overlaps, one side has a partner it overlaps at least as much.
    _, anchor, owner = found.pairs()
    assert len(anchor) > 1500
    assert len(set(owner.tolist())) == len(owner)
    iou = pairwise_iou(anchors, boxes[0])
    held_anchor, held_object = torch.zeros(2000), torch.zeros(5000)
    held_anchor[anchor] = held_object[owner] = iou[anchor, owner]
    assert (iou <= torch.maximum(held_anchor[:, None], held_object).clamp(min=1e-6)).all()
