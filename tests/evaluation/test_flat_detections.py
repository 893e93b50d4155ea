"""Detections and data meet by class name; what does not fit is said."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from made_detections import found, nothing, table

from boxatlas.errors import InputError
from boxatlas.evaluation import evaluate
from boxatlas.evaluation.found import flatten
from boxatlas.structures import Detections

A, B = [10.0, 10.0, 50.0, 50.0], [100.0, 100.0, 160.0, 160.0]


def test_classes_are_matched_by_name_whatever_their_order() -> None:
    data = table([[A, B]], [[0, 1]])  # cat, dog
    detections = [found([A, B], [0.9, 0.8], [1, 0], ("dog", "cat", "person"))]
    out = evaluate(detections, data)
    assert out["per_class"] == {"cat": 1.0, "dog": 1.0, "person": None}


def test_detections_of_other_classes_are_left_out_with_a_note() -> None:
    data = table([[A]], [[0]])
    out = evaluate([found([A, B], [0.9, 0.95], [0, 1], ("cat", "zebra"))], data)
    assert out["mAP"] == 1.0
    assert out["detections"] == 1
    assert any("1 detections are of classes that the data does not have" in n for n in out["notes"])


def test_no_shared_class_is_an_error() -> None:
    data = table([[A]], [[0]])
    with pytest.raises(InputError, match="share no class"):
        evaluate([found([A], [0.9], [0], ("zebra",))], data)


def test_labels_without_names_index_the_datas_classes() -> None:
    data = table([[A]], [[1]])
    assert evaluate([found([A], [0.9], [1], ())], data)["per_class"]["dog"] == 1.0
    with pytest.raises(InputError, match="not one of the data's classes"):
        evaluate([found([A], [0.9], [3], ())], data)


def test_other_numbers_of_images_and_nan_are_errors() -> None:
    data = table([[A], []], [[0], []])
    with pytest.raises(InputError, match="1 images, but the data has 2"):
        evaluate([nothing()], data)
    with pytest.raises(InputError, match=r"1\.jpg.*not a finite number"):
        evaluate([nothing(), found([[0.0, 0.0, float("nan"), 5.0]], [0.5], [0])], data)


def test_the_result_is_json() -> None:
    out = evaluate([found([A], [0.9], [0])], table([[A]], [[0]]))
    assert json.loads(json.dumps(out, allow_nan=False)) == out


def test_masks_travel_as_run_lengths() -> None:
    masks = torch.zeros(1, 6, 4, dtype=torch.bool)
    masks[0, 2:5, 1:3] = True
    one = found([A], [0.9], [0])
    one.masks = masks
    (rle,) = one.run_lengths() or ()
    # Down the columns: 6 + 2 empty, 3 set, 3 empty, 3 set, the rest.
    assert rle == {"size": [6, 4], "counts": [8, 3, 3, 3, 7]}
    light = Detections(one.boxes, one.scores, one.labels, one.classes, outlines=[rle])
    flat, _ = flatten([light, nothing()], table([[A], []], [[0], []]))
    assert flat.outlines == [rle]
    assert light[[0]].outlines == [rle]
    assert light[:0].outlines == []
    assert light.to_coco()[0]["segmentation"] == one.to_coco()[0]["segmentation"]


def test_masks_of_some_detections_only_are_none() -> None:
    masked = found([A], [0.9], [0])
    masked.masks = torch.ones(1, 200, 200, dtype=torch.bool)
    flat, _ = flatten([masked, found([A], [0.9], [0])], table([[A], [A]], [[0], [0]]))
    assert flat.outlines is None
    assert np.array_equal(flat.image, [0, 1])
