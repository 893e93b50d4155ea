"""Sampling: counts, membership, repeatability."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from boxatlas.boxes.sampling import sample


@st.composite
def kinds(draw):
    rows = draw(st.integers(1, 20))
    kind = torch.tensor(
        draw(st.lists(st.integers(0, 2), min_size=2 * rows, max_size=2 * rows))
    ).view(2, rows)
    return kind == 1, kind == 2


@settings(deadline=None)
@given(kinds(), st.integers(1, 25), st.sampled_from([0.25, 0.5, 1.0]), st.integers(0, 99))
def test_counts_and_membership(case, count, fraction, seed):
    positive, negative = case
    drawn = sample(positive, negative, count, fraction, torch.Generator().manual_seed(seed))
    chosen_p, chosen_n = drawn.masks(positive.shape[1])
    assert not (chosen_p & ~positive).any()
    assert not (chosen_n & ~negative).any()
    for i in range(2):
        most = min(int(count * fraction), int(positive[i].sum()))
        assert int(chosen_p[i].sum()) == most
        assert int(chosen_n[i].sum()) == min(count - most, int(negative[i].sum()))
        rows = drawn.index[i][drawn.valid[i]]
        assert len(set(rows.tolist())) == len(rows)
        head = drawn.positive[i][drawn.valid[i]]
        assert head.tolist() == sorted(head.tolist(), reverse=True)  # positives first


def test_lowest_priority_first():
    positive = torch.tensor([[True, False, True, True, False, False]])
    order = torch.arange(6.0)[None]
    drawn = sample(positive, ~positive, 4, 0.5, priority=order)
    assert drawn.index.tolist() == [[0, 2, 1, 4]]
    assert drawn.positive.tolist() == [[True, True, False, False]]
    last = sample(positive, ~positive, 4, 0.5, priority=-order)
    assert last.index.tolist() == [[2, 3, 4, 5]]


def test_everything():
    positive = torch.tensor([[True, False, False], [False, False, False]])
    negative = torch.tensor([[False, True, False], [True, False, True]])
    drawn = sample(positive, negative, None)
    assert drawn.index.tolist() == [[0, 1], [0, 2]]
    assert drawn.valid.all()


def test_the_generator_decides():
    positive = torch.ones(1, 1000, dtype=torch.bool)
    none = torch.zeros_like(positive)

    def draw(seed: int) -> list[int]:
        found = sample(positive, none, 10, 1.0, torch.Generator().manual_seed(seed))
        return found.index[0].tolist()

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_draws_are_even():
    """Each of 10 rows is among the 3 drawn 3 times in 10: 4,000 images, five deviations wide."""
    positive = torch.ones(4000, 10, dtype=torch.bool)
    drawn = sample(positive, ~positive, 3, 1.0, torch.Generator().manual_seed(0))
    share = drawn.masks(10)[0].float().mean(dim=0)
    assert ((share - 0.3).abs() < 5 * (0.3 * 0.7 / 4000) ** 0.5).all()


def test_no_rows():
    none = torch.zeros(2, 0, dtype=torch.bool)
    drawn = sample(none, none, 8)
    assert drawn.index.shape == (2, 0)
