"""VOC's metric against a hand's reckoning, the kit's vectors and a plain loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_detections import found, nothing, random_case, table

from boxatlas.evaluation import evaluate, voc
from boxatlas.evaluation.found import Found, Truth, flatten, truth_of
from boxatlas.verify.case import Case
from boxatlas.verify.evaluation import CASES
from boxatlas.verify.runner import run_case

A, B = [10.0, 10.0, 50.0, 50.0], [100.0, 100.0, 160.0, 160.0]
AWAY = [60.0, 10.0, 90.0, 40.0]


def curve_of(data, detections, iou: float = 0.5, **options) -> voc.Curves:
    flat, _ = flatten(detections, data)
    return voc.curves(flat, truth_of(data), len(data.classes), iou, **options)


def test_the_kits_vectors(parity_dir: Path) -> None:
    result = run_case(Case(parity_dir / "eval_voc.json"), CASES["eval_voc"])
    assert result.status == "pass", result.reason


def test_curve_by_hand() -> None:
    # Right, wrong, right: recall 1/2, 1/2, 1; precision 1, 1/2, 2/3.
    data = table([[A, B]], [[0, 0]])
    curve = curve_of(data, [found([A, AWAY, B], [0.9, 0.8, 0.7], [0, 0, 0])])
    recall, precision, score = curve.of(0)
    np.testing.assert_allclose(recall, [0.5, 0.5, 1.0])
    np.testing.assert_allclose(precision, [1, 1 / 2, 2 / 3])
    np.testing.assert_allclose(score, [0.9, 0.8, 0.7])
    # All points: 0.5 * 1 + 0.5 * 2/3. Eleven: recalls 0 to 0.5 have 1, the other five 2/3.
    assert voc.average_precision(curve)[0] == pytest.approx(0.5 + 1 / 3)
    assert voc.average_precision(curve, 11)[0] == pytest.approx((6 + 5 * 2 / 3) / 11)


def test_a_second_detection_of_an_object_is_wrong() -> None:
    data = table([[A]], [[0]])
    curve = curve_of(data, [found([A, A], [0.9, 0.8], [0, 0])])
    assert curve.right.tolist() == [True, False]
    assert not curve.passed.any()


def test_the_most_overlapped_object_counts_even_if_taken() -> None:
    # The second detection overlaps both, the first object more: it may not take the free one.
    near = [12.0, 10.0, 52.0, 50.0]
    other = [18.0, 10.0, 58.0, 50.0]
    data = table([[A, other]], [[0, 0]])
    curve = curve_of(data, [found([A, near], [0.9, 0.8], [0, 0])])
    assert curve.right.tolist() == [True, False]


def test_difficult_objects_are_neither_right_nor_wrong_nor_counted() -> None:
    data = table([[A, B]], [[0, 0]], [[False, True]])
    curve = curve_of(data, [found([B, B, A], [0.9, 0.8, 0.7], [0, 0, 0])])
    assert curve.positives[0] == 1
    assert curve.passed.tolist() == [True, True, False]
    assert voc.average_precision(curve)[0] == 1.0


def test_an_overlap_must_reach_the_threshold() -> None:
    half = [10.0, 10.0, 50.0, 30.0]  # half of A exactly
    data = table([[A]], [[0]])
    assert curve_of(data, [found([half], [0.9], [0])]).right.all()  # VOCdevkit: ov >= minoverlap
    assert not curve_of(data, [found([half], [0.9], [0])], inclusive=False).right.any()
    numbers = evaluate([found([half], [0.9], [0])], data, "voc12")
    measured = (numbers["voc07"], numbers["voc12"], numbers["coco"]["AP50"])
    assert measured == pytest.approx((1.0, 1.0, 1.0))


def test_inclusive_corners_are_one_pixel_wider() -> None:
    # As pixels 10..19 and 10..14 across: 10 x 10 and 5 x 10 pixels.
    a, b = np.array([10.0, 10, 19, 19]), np.array([10.0, 10, 14, 19])
    assert voc.overlaps(a, b, 1.0) == 0.5
    assert voc.overlaps(a, b) == pytest.approx(4 / 9)


def test_boxes_of_no_area_overlap_by_nothing() -> None:
    point = np.array([5.0, 5, 5, 5])
    assert voc.overlaps(point, point) == 0.0


def test_equal_scores_keep_their_order() -> None:
    data = table([[A]], [[0]])
    first = curve_of(data, [found([A, AWAY], [0.5, 0.5], [0, 0])])
    second = curve_of(data, [found([AWAY, A], [0.5, 0.5], [0, 0])])
    assert voc.average_precision(first)[0] == 1.0
    assert voc.average_precision(second)[0] == 0.5


def test_no_objects_no_number_and_no_detections_nought() -> None:
    data = table([[A], []], [[0], []])
    out = evaluate([nothing(), nothing()], data)
    assert out["per_class"] == {"cat": 0.0, "dog": None, "person": None}
    assert out["mAP"] == 0.0
    empty = evaluate([nothing()], table([[]], [[]]))
    assert empty["mAP"] is None
    assert empty["coco"]["AP"] is None


def test_precision_and_recall_at_the_best_f1_and_at_a_score() -> None:
    # F1 after each: 2/3, 1/2, 4/5.
    data = table([[A, B]], [[0, 0]])
    detections = [found([A, AWAY, B], [0.9, 0.8, 0.7], [0, 0, 0])]
    best = evaluate(detections, data)["classes"]["cat"]
    assert best["score"] == pytest.approx(0.7)
    assert best["f1"] == pytest.approx(0.8)
    assert (best["precision"], best["recall"]) == (pytest.approx(2 / 3), 1.0)
    at = evaluate(detections, data, score=0.75)["classes"]["cat"]
    assert (at["precision"], at["recall"], at["score"]) == (0.5, 0.5, 0.75)
    above = evaluate(detections, data, score=0.95)["classes"]["cat"]
    assert (above["precision"], above["recall"]) == (None, 0.0)


def test_equal_scores_are_one_operating_point() -> None:
    # Stopping between two equal scores is no threshold that anyone could set.
    data = table([[A]], [[0]])
    point = evaluate([found([A, AWAY], [0.5, 0.5], [0, 0])], data)["classes"]["cat"]
    assert point["precision"] == 0.5


def by_loop(data, detections, k: int, iou: float) -> float | None:
    """AP of class k as the kit's own loop has it."""
    objects = [
        (i, box, bool(skip))
        for i in range(len(data))
        for box, label, skip in zip(
            data.boxes[data.objects(i)],
            data.labels[data.objects(i)],
            data.ignore[data.objects(i)],
            strict=True,
        )
        if label == k
    ]
    rows = [
        (float(s), i, b)
        for i, one in enumerate(detections)
        for s, b, label in zip(one.scores, one.boxes.numpy(), one.labels, strict=True)
        if label == k
    ]
    rows.sort(key=lambda r: -r[0])
    total = sum(not skip for _, _, skip in objects)
    if not total:
        return None
    taken, flags = set(), []
    for _, image, box in rows:
        best, which = -1.0, -1
        for n, (i, other, _) in enumerate(objects):
            if i == image:
                value = float(voc.overlaps(box.astype(float), other.astype(float)))
                if value > best:
                    best, which = value, n
        if best > iou and objects[which][2]:
            continue
        flags.append(best > iou and which not in taken)
        if flags[-1]:
            taken.add(which)
    area, done = 0.0, 0
    precisions = [sum(flags[: n + 1]) / (n + 1) for n in range(len(flags))]
    for n, flag in enumerate(flags):
        if flag:
            done += 1
            area += max(precisions[n:]) / total
    assert done <= total
    return area


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.booleans(), st.sampled_from([0.3, 0.5, 0.75]))
def test_all_at_once_is_as_one_by_one(seed: int, ties: bool, iou: float) -> None:
    data, detections = random_case(seed, images=6, ties=ties)
    ours = voc.average_precision(curve_of(data, detections, iou))
    for k in range(len(data.classes)):
        expected = by_loop(data, detections, k, iou)
        assert (expected is None) == bool(np.isnan(ours[k]))
        if expected is not None:
            assert ours[k] == pytest.approx(expected, abs=1e-12)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    data, detections = random_case(3)
    whole = curve_of(data, detections)
    monkeypatch.setattr(voc, "_PAIRS", 7)
    parts = curve_of(data, detections)
    assert np.array_equal(whole.right, parts.right)
    assert np.array_equal(whole.passed, parts.passed)


def test_thousands_of_detections_in_one_image() -> None:
    rng = np.random.default_rng(0)
    count = 2000
    low = rng.uniform(0, 900, (count, 2))
    boxes = np.concatenate([low, low + 20], 1)
    image, label = np.zeros(count, np.int64), np.zeros(count, np.int64)
    truth = Truth(image, label, boxes, np.zeros(count, bool))
    best, which = voc.best_overlaps(Found(image, label, boxes, rng.random(count)), truth)
    assert (best == 1.0).all()
    assert (boxes[which] == boxes).all()


def test_names_of_the_metric() -> None:
    data = table([[A]], [[0]])
    with pytest.raises(ValueError, match="did you mean 'voc12'"):
        evaluate([nothing()], data, "voc2012")  # type: ignore[arg-type]


def test_the_interval_is_of_the_images_drawn() -> None:
    """Two kinds of image, found and missed: mAP is the share of found ones among those drawn."""
    count = 40
    data = table([[A]] * count, [[0]] * count)
    detections = [found([A], [0.9], [0]) if i % 2 else nothing() for i in range(count)]
    flat, _ = flatten(detections, data)
    low, high = voc.interval(flat, truth_of(data), 3, count) or (0.0, 0.0)
    # A binomial share of one half among 40: standard deviation 0.079.
    assert low == pytest.approx(0.5 - 1.96 * 0.079, abs=0.05)
    assert high == pytest.approx(0.5 + 1.96 * 0.079, abs=0.05)
    assert voc.interval(flat, truth_of(data), 3, count) == (low, high)


def test_an_interval_of_equal_images_is_a_point_and_of_none_is_none() -> None:
    data = table([[A]] * 5, [[0]] * 5)
    flat, _ = flatten([found([A], [0.9], [0])] * 5, data)
    assert voc.interval(flat, truth_of(data), 3, 5) == (1.0, 1.0)
    empty = table([[]], [[]])
    flat, _ = flatten([nothing()], empty)
    assert voc.interval(flat, truth_of(empty), 3, 1) is None
