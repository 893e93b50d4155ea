"""Kinds of mistakes: by hand, and against hotcoco's TIDE."""

from __future__ import annotations

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
    assert judged.lost["missed"] == 0.0
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


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_as_hotcocos_tide(seed: int) -> None:
    data, detections = random_case(seed, ignored=0.0)
    flat, _ = flatten(detections, data)
    referee = coco.evaluator_of(coco.ground_truth(data), coco.results(flat), coco.Rules())
    referee.evaluate()
    theirs = referee.tide_errors(pos_thr=0.5, bg_thr=0.1)
    ours = mistakes(detections, data)
    assert ours.counts() == {ours_: theirs["counts"][name] for name, ours_ in NAMES.items()}
    assert ours.ap == pytest.approx(theirs["ap_base"], abs=1e-9)
    special = {"FP": "false positives", "FN": "false negatives"}
    for name, own in {**NAMES, **special}.items():
        assert ours.lost[own] == pytest.approx(theirs["delta_ap"][name], abs=1e-9), own
    matrix = referee.confusion_matrix(iou_thr=0.5, min_score=0.25)["matrix"]
    assert np.array_equal(ours.confusion, matrix.astype(int))
