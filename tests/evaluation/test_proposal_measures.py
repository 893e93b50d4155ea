"""Recall, average recall and MABO by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boxatlas.data import Table
from boxatlas.errors import InputError
from boxatlas.evaluation.proposals import Measured, measure, plot


def table(boxes, labels, images, ignore=None, classes=("a", "b", "c")) -> Table:
    """Objects given as (image, box)."""
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    counts = np.bincount(images, minlength=max(images, default=0) + 1)
    return Table(
        classes,
        [f"{i}.jpg" for i in range(len(counts))],
        list(range(len(counts))),
        np.full((len(counts), 2), 100, np.int32),
        np.concatenate([[0], np.cumsum(counts)]),
        boxes,
        np.array(labels, np.int32),
        np.zeros(len(boxes), bool) if ignore is None else np.array(ignore),
    )


# Two objects of class a and one of b; overlaps with the proposals 1, 1/2 and 1/4 by hand.
TRUTH = table(
    [[0, 0, 10, 10], [20, 20, 40, 40], [0, 0, 10, 40]], [0, 0, 1], [0, 0, 1],
)  # fmt: skip
GIVEN = [
    np.array([[20, 20, 40, 30], [0, 0, 10, 10]], np.float32),  # IoU 1/2 with the second, 1
    np.array([[0, 0, 10, 10]], np.float32),  # 100 of 400 pixels
]


def test_by_hand() -> None:
    found = measure(GIVEN, TRUTH, counts=(1, 2, 100), thresholds=(0.25, 0.5, 0.9))
    assert found.best.tolist() == [[0, 0.5, 0.25], [1, 0.5, 0.25], [1, 0.5, 0.25]]
    np.testing.assert_allclose(
        found.recall, [[2 / 3, 1 / 3, 0], [1, 2 / 3, 1 / 3], [1, 2 / 3, 1 / 3]]
    )
    # Twice the mean of what is above 0.5: only the one met exactly has any.
    np.testing.assert_allclose(found.average_recall, [0, 1 / 3, 1 / 3])
    np.testing.assert_allclose(found.abo[1, :2], [0.75, 0.25])
    assert np.isnan(found.abo[1, 2])
    np.testing.assert_allclose(found.mabo, [(0.25 + 0.25) / 2, 0.5, 0.5])
    document = found.document()
    assert document["per_class"] == {"a": 0.75, "b": 0.25, "c": None}
    assert document["proposals_per_image"] == 1.5
    assert found.rows()[1]["MABO"] == 0.5


def test_average_recall_is_the_area_under_recall() -> None:
    rng = np.random.default_rng(0)
    best = rng.random((1, 400))
    steps = np.linspace(0.5, 1, 20001)
    found = Measured(("a",), (1,), tuple(steps), np.zeros(400, int), best, 1, 1.0)
    area = np.trapezoid(found.recall[0], steps) * 2
    assert found.average_recall[0] == pytest.approx(area, abs=1e-3)


def test_objects_marked_ignore_are_not_asked_for() -> None:
    hidden = table([[0, 0, 10, 10], [50, 50, 60, 60]], [0, 1], [0, 0], ignore=[False, True])
    found = measure([np.array([[0, 0, 10, 10.0]])], hidden, counts=(1,), thresholds=(0.5,))
    assert found.recall.tolist() == [[1.0]]
    assert found.document()["objects"] == 1


def test_images_without_proposals_or_objects() -> None:
    one = table([[0, 0, 10, 10]], [0], [1])  # nothing in image 0
    found = measure([GIVEN[0], np.zeros((0, 4))], one, counts=(10,), thresholds=(0.5,))
    assert found.recall.tolist() == [[0.0]]
    nothing = table([], [], [])
    empty = measure([GIVEN[0]], nothing, counts=(10,), thresholds=(0.5,)).document()
    assert empty["recall"] == [[None]]
    assert empty["mabo"] == [None]
    with pytest.raises(InputError, match="1 images for 2"):
        measure([GIVEN[0]], one)


@given(seed=st.integers(0, 500))
@settings(max_examples=25, deadline=None)
def test_more_proposals_never_do_worse(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def boxes(count: int) -> np.ndarray:
        low = rng.uniform(0, 80, (count, 2))
        return np.concatenate([low, low + rng.uniform(1, 20, (count, 2))], 1)

    truth = table(boxes(6), rng.integers(0, 3, 6), [0, 0, 1, 1, 1, 1])
    found = measure([boxes(30), boxes(7)], truth, counts=(1, 3, 10, 30))
    assert (np.diff(found.recall, axis=0) >= 0).all()
    assert (np.diff(found.recall, axis=1) <= 0).all()
    assert (np.diff(found.mabo) >= 0).all()
    assert (found.average_recall <= found.recall[:, 0]).all()


def test_a_plot_is_a_picture(tmp_path: Path) -> None:
    found = measure(GIVEN, TRUTH)
    for name in ("p.png", "p.svg"):
        plot({"selective search": found, "rpn": found}, tmp_path / name)
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"
    assert b"selective search" in (tmp_path / "p.svg").read_bytes() or (
        b"<svg" in (tmp_path / "p.svg").read_bytes()
    )
