"""COCO's metric: pycocotools is the referee."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_detections import found, nothing, random_case, table

from boxatlas.data.masks import encode
from boxatlas.errors import InputError
from boxatlas.evaluation import coco, evaluate
from boxatlas.evaluation.found import flatten
from boxatlas.structures import Detections
from boxatlas.verify.case import Case
from boxatlas.verify.evaluation import CASES
from boxatlas.verify.runner import run_case

A = [10.0, 10.0, 50.0, 50.0]


def test_the_referees_vectors(parity_dir: Path) -> None:
    result = run_case(Case(parity_dir / "eval_coco.json"), CASES["eval_coco"])
    assert result.status == "pass", result.reason


def all_of(data, detections, backend: coco.Backend, rules: coco.Rules) -> coco.Accumulated:
    flat, _ = flatten(detections, data)
    masks = rules.kind == "segm"
    return coco.accumulate(
        coco.ground_truth(data, masks=masks), coco.results(flat, masks=masks), rules, backend
    )


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.booleans(), st.booleans())
def test_backends_agree(seed: int, ties: bool, by_class: bool) -> None:
    data, detections = random_case(seed, ties=ties)
    rules = coco.Rules(by_class=by_class)
    ours = all_of(data, detections, "hotcoco", rules)
    for referee in ("pycocotools", "faster-coco-eval"):
        theirs = all_of(data, detections, referee, rules)
        np.testing.assert_allclose(ours.precision, theirs.precision, atol=1e-12)
        np.testing.assert_allclose(ours.recall, theirs.recall, atol=1e-12)


def with_masks(data, detections):
    """Every box becomes the mask of a disc inside it."""
    rows, columns = np.mgrid[0:200, 0:200] + 0.5

    def disc(box) -> np.ndarray:
        x1, y1, x2, y2 = box
        a, b = max((x2 - x1) / 2, 0.6), max((y2 - y1) / 2, 0.6)
        return ((columns - (x1 + x2) / 2) / a) ** 2 + ((rows - (y1 + y2) / 2) / b) ** 2 <= 1

    masks = [disc(box) for box in data.boxes]
    areas = np.array([m.sum() for m in masks], np.float32)
    labelled = replace(data, masks=[encode(m) for m in masks], areas=areas)
    made = [
        replace(
            one,
            masks=torch.from_numpy(
                np.array([disc(b) for b in one.boxes.tolist()]).reshape(-1, 200, 200)
            ),
        )
        for one in detections
    ]
    return labelled, made


def test_masks_agree_with_the_referee() -> None:
    data, detections = with_masks(*random_case(5))
    out = evaluate(detections, data)
    referee = evaluate(detections, data, backend="pycocotools")
    assert out["coco_masks"] == pytest.approx(referee["coco_masks"], abs=1e-12)
    assert out["coco_masks"]["AP"] > 0
    # A mask's own area says how large it is, not its box: discs are smaller than their boxes.
    assert out["coco_masks"]["AP_small"] != out["coco"]["AP_small"]


def test_ids_start_at_one() -> None:
    # An annotation of id 0 counts as unmatched in the original program.
    data = table([[A, [100, 100, 150, 150]]], [[0, 0]])
    truth = coco.ground_truth(data)
    assert [a["id"] for a in truth["annotations"]] == [1, 2]
    assert {a["image_id"] for a in truth["annotations"]} == {1}
    perfect = [found([A, [100, 100, 150, 150]], [0.9, 0.8], [0, 0])]
    for backend in ("hotcoco", "faster-coco-eval", "pycocotools"):
        assert evaluate(perfect, data, "coco", backend=backend)["mAP"] == pytest.approx(1.0)


def test_no_detections_at_all() -> None:
    data = table([[A]], [[0]])
    for backend in ("hotcoco", "faster-coco-eval", "pycocotools"):
        out = evaluate([nothing()], data, "coco", backend=backend)
        assert out["mAP"] == 0.0
        assert out["coco"]["AR100"] == 0.0
    assert "nothing was detected" in out["notes"]


def test_a_crowd_takes_in_many_and_counts_for_none() -> None:
    crowd = [60.0, 60.0, 160.0, 160.0]
    data = table([[A, crowd]], [[0, 0]], [[False, True]])
    inside = [[70.0, 70, 90, 90], [100.0, 100, 120, 120], [130.0, 130, 150, 150]]
    out = evaluate([found([*inside, A], [0.9, 0.8, 0.7, 0.6], [0, 0, 0, 0])], data, "coco")
    assert out["mAP"] == pytest.approx(1.0)
    assert out["objects"] == 1
    assert out["ignored"] == 1


def test_areas_are_those_that_the_data_states() -> None:
    big = [10.0, 10.0, 150.0, 150.0]  # a large box around an object stated to be small
    data = replace(table([[big]], [[0]]), areas=np.array([500.0], np.float32))
    out = evaluate([found([big], [0.9], [0])], data)["coco"]
    assert out["AP_small"] == pytest.approx(1.0)
    assert out["AP_large"] is None


def test_by_hand_one_box_of_iou_072() -> None:
    # Right at 0.5, 0.55, 0.6, 0.65, 0.7 and wrong from 0.75 on: half of the ten overlaps.
    data = table([[[0.0, 0.0, 100.0, 100.0]]], [[0]])
    out = evaluate([found([[0.0, 0.0, 100.0, 72.0]], [0.9], [0])], data, "coco")
    assert out["coco"]["AP"] == pytest.approx(0.5)
    assert out["coco"]["AP50"] == pytest.approx(1.0)
    assert out["coco"]["AP75"] == 0.0
    assert out["mAP"] == out["per_class"]["cat"] == out["coco"]["AP"]


def test_other_rules_agree_with_the_referee() -> None:
    data, detections = random_case(11)
    rules = coco.Rules(
        ious=(0.4, 0.6),
        recalls=tuple(np.linspace(0, 1, 11).tolist()),
        budgets=(2, 5, 50),
        areas={"all": (0, 1e10), "tiny": (0, 300.0)},
    )
    ours, theirs = (all_of(data, detections, b, rules) for b in ("hotcoco", "pycocotools"))
    np.testing.assert_allclose(ours.precision, theirs.precision, atol=1e-12)
    assert ours.precision.shape == (2, 11, 3, 2, 3)
    assert ours.mean("AP", area="tiny") == pytest.approx(theirs.mean("AP", area="tiny"))
    assert ours.mean("AP", area="small") is None


def test_the_number_for_100_detections_where_that_is_no_budget() -> None:
    data, detections = random_case(11)
    numbers = all_of(data, detections, "hotcoco", coco.Rules(budgets=(1, 10, 50)))
    assert numbers.numbers()["AP"] is not None
    assert numbers.numbers(overall_budget=100)["AP"] is None


def test_masks_are_asked_for_and_absent() -> None:
    data, detections = random_case(1)
    flat, _ = flatten(detections, data)
    with pytest.raises(InputError, match="no masks"):
        coco.results(flat, masks=True)
    with pytest.raises(InputError, match="no such backend"):
        coco.accumulate(coco.ground_truth(data), coco.results(flat), backend="mine")  # type: ignore[arg-type]


@pytest.mark.data
def test_real_annotations_through_the_table_as_from_the_file(shared_data: Path) -> None:
    """Perfect boxes score 1, and noise scores as the referee says from the JSON itself."""
    import json

    from boxatlas.data import read

    folder = shared_data / "coco_mini"
    data = read(folder, "val")
    rng = np.random.default_rng(0)
    detections = []
    for i in range(len(data)):
        boxes = data.boxes[data.objects(i)] + rng.normal(0, 5, (int(data.counts[i]), 4))
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        labels = data.labels[data.objects(i)].tolist()
        detections.append(
            Detections(
                torch.from_numpy(boxes.astype(np.float32)),
                torch.from_numpy(rng.random(len(labels))),
                torch.tensor(labels, dtype=torch.int64),
                data.classes,
            )
        )
    ours = evaluate(detections, data)["coco"]
    (file,) = (folder / "annotations").glob("*val2017.json")
    truth = json.loads(file.read_text())
    number = {c["name"]: c["id"] for c in truth["categories"]}
    rows = [
        row
        for i, one in enumerate(detections)
        for row in one.to_coco(int(data.ids[i]), [number[name] for name in data.classes])
    ]
    theirs = coco.accumulate(truth, rows, backend="pycocotools").numbers()
    # The table holds corners in float32: overlaps differ in the seventh digit.
    assert ours == pytest.approx(theirs, abs=2e-3)
