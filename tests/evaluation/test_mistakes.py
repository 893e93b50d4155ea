"""Kinds of mistakes: by hand, against TIDE's own program and against hotcoco."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_detections import found, nothing, random_case, table

from boxatlas.evaluation import coco
from boxatlas.evaluation.errors import (
    BACKGROUND,
    BOTH,
    CLASS,
    DUPLICATE,
    PASSED,
    PLACE,
    RIGHT,
    mistakes,
)
from boxatlas.evaluation.found import flatten

A, B, C = [10.0, 10.0, 50.0, 50.0], [100.0, 100.0, 160.0, 160.0], [10.0, 100.0, 60.0, 150.0]
OFF_A = [10.0, 10.0, 50.0, 26.0]  # 0.4 of A


def test_each_kind_by_hand() -> None:
    data = table([[A, B, C]], [[0, 1, 2]], [[False, False, True]])
    boxes = [A, A, OFF_A, B, [100.0, 100.0, 160.0, 124.0], [170.0, 10.0, 190.0, 30.0], C]
    labels = [0, 0, 0, 0, 2, 0, 2]
    judged = mistakes([found(boxes, [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3], labels)], data)
    assert judged.kind.tolist() == [RIGHT, DUPLICATE, PLACE, CLASS, BOTH, BACKGROUND, PASSED]
    assert judged.object.tolist()[:4] == [0, 0, 0, 1]
    assert judged.counts() == {
        "classification": 1,
        "localisation": 1,
        "both": 1,
        "duplicate": 1,
        "background": 1,
        "missed": 0,
    }


def test_what_would_be_found_if_put_right_is_not_missed() -> None:
    data = table([[A, B]], [[0, 1]])
    judged = mistakes([found([OFF_A], [0.9], [0])], data)
    assert judged.missed.tolist() == [False, True]
    assert judged.ap == 0.0
    # Put right, class cat would have AP 1 of the two classes.
    assert judged.lost["localisation"] == pytest.approx(0.5)
    assert judged.lost["duplicate"] == 0.0


def test_nothing_found_and_nothing_there() -> None:
    judged = mistakes([nothing()], table([[A]], [[0]]))
    assert judged.counts()["missed"] == 1
    assert judged.lost["missed"] is None  # nothing would be left to judge
    judged = mistakes([nothing()], table([[]], [[]]))
    assert judged.ap is None
    assert set(judged.lost.values()) == {None}


def test_confusion_by_hand() -> None:
    data = table([[A, B]], [[0, 1]])
    judged = mistakes([found([A, [170.0, 0.0, 199.0, 20.0]], [0.9, 0.8], [2, 1])], data)
    expected = np.zeros((4, 4), int)
    expected[0, 2] = 1  # the cat taken for a person
    expected[3, 1] = 1  # a dog where nothing is
    expected[1, 3] = 1  # the dog missed
    assert judged.confusion.tolist() == expected.tolist()


NAMES = {
    "Cls": "classification",
    "Loc": "localisation",
    "Both": "both",
    "Dupe": "duplicate",
    "Bkg": "background",
    "Miss": "missed",
}


def test_the_kinds_cost_what_the_authors_program_says() -> None:
    """tidecv 1.0.1 on made images: every class present, no crowds, distinct scores."""
    cases = json.loads((Path(__file__).parent / "tide.json").read_text())
    for case in cases:
        names = tuple(f"c{k}" for k in range(case["classes"]))
        objects, detections = case["objects"], case["detections"]
        data = table(
            [[box for box, _ in one] for one in objects],
            [[label for _, label in one] for one in objects],
            classes=names,
        )
        made = [
            found([d[0] for d in one], [d[2] for d in one], [d[1] for d in one], names)
            for one in detections
        ]
        ours, theirs = mistakes(made, data), case["tide"]
        assert ours.counts() == {own: theirs["counts"][name] for name, own in NAMES.items()}
        assert ours.ap == pytest.approx(theirs["ap"] / 100, abs=1e-9)
        special = {"FalsePos": "false positives", "FalseNeg": "false negatives"}
        for name, own in {**NAMES, **special}.items():
            assert ours.lost[own] == pytest.approx(theirs[name] / 100, abs=1e-9), own


def test_a_class_that_is_never_found_is_missed() -> None:
    data = table([[A, B]], [[0, 1]], classes=("cat", "dog"))
    judged = mistakes([found([A], [0.9], [0], ("cat", "dog"))], data)
    assert judged.ap == pytest.approx(0.5)
    assert judged.lost["missed"] == judged.lost["false negatives"] == pytest.approx(0.5)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_kinds_and_confusion_as_hotcocos(seed: int) -> None:
    data, detections = random_case(seed, ignored=0.0)
    flat, _ = flatten(detections, data)
    referee = coco.evaluator_of(coco.ground_truth(data), coco.results(flat), coco.Rules())
    referee.evaluate()
    theirs = referee.tide_errors(pos_thr=0.5, bg_thr=0.1)
    ours = mistakes(detections, data)
    assert ours.counts() == {ours_: theirs["counts"][name] for name, ours_ in NAMES.items()}
    matrix = referee.confusion_matrix(iou_thr=0.5, min_score=0.25)["matrix"]
    assert np.array_equal(ours.confusion, matrix.astype(int))
