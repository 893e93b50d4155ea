"""The region family's training in steps: four in turns, stopped anywhere; staged; SVMs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from regions import SMALL
from safetensors.torch import load_file

from boxatlas import proposing, scenes
from boxatlas.detectors.faster_rcnn import FasterRCNN
from boxatlas.training import Recipe, train
from boxatlas.training.checkpoint import STATE
from boxatlas.weights import load

pytestmark = pytest.mark.slow


@pytest.fixture
def data(tmp_path: Path) -> Path:
    scenes.write(tmp_path / "data", {"train": 6}, seed=1, size=(64, 96))
    return tmp_path / "data"


def recipe(data: Path, model: str, **options: Any) -> Recipe:
    return Recipe.of(
        model=model,
        options={**SMALL[model], **options},
        data=[str(data)],
        iterations=4,
        batch=2,
        lr=0.002,
        momentum=0.9,
        clip=5.0,
        schedule="constant",
        save_every=1,
        eval_every=4,
        val_split="none",
        workers=0,
        log_every=1,
    )


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(folder / "phases" / f"{name}.safetensors")


def changed(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> set[str]:
    """The parts of the network that differ."""
    return {n.split(".")[0] for n in one if n != "images_seen" and not torch.equal(one[n], two[n])}


def test_four_steps_stopped_within_and_between_end_as_if_never_stopped(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = recipe(data, "faster_rcnn_zf", train_schedule="alternating4")
    train(how, tmp_path / "whole")

    loss, made, calls = FasterRCNN.loss_terms, proposing.by_detector, [0, 0]
    # Within each step, at the start of the second and the fourth, as proposals are made twice.
    stops, cuts = [3, 5, 7, 11, 13, 15], [1, 3]

    def stopping(self: Any, *given: Any) -> Any:
        calls[0] += 1
        if stops and calls[0] == stops[0]:
            calls[0] -= 1
            stops.pop(0)
            raise KeyboardInterrupt
        return loss(self, *given)

    def cutting(*given: Any, **more: Any) -> Any:
        calls[1] += 1
        if calls[1] in cuts:
            raise KeyboardInterrupt
        return made(*given, **more)

    monkeypatch.setattr(FasterRCNN, "loss_terms", stopping)
    monkeypatch.setattr(proposing, "by_detector", cutting)
    starts = 1
    while True:
        try:
            train(how, tmp_path / "stopped", resume=starts > 1)
            break
        except KeyboardInterrupt:
            starts += 1
            assert starts < 20
    assert not stops
    assert starts == 1 + 6 + 2
    for name in ("last.safetensors", STATE):
        one, two = load_file(tmp_path / "whole" / name), load_file(tmp_path / "stopped" / name)
        assert one.keys() == two.keys()
        assert [n for n in one if not torch.equal(one[n], two[n])] == []


def test_each_of_the_four_steps_learns_what_the_paper_says(data: Path, tmp_path: Path) -> None:
    """Steps 1 and 2 have convolutions of their own, from one start; 3 and 4 share those of 2."""
    train(recipe(data, "faster_rcnn_zf", train_schedule="alternating4"), tmp_path / "run")
    names = ("start", "rpn", "detector", "rpn_shared", "detector_shared")
    start, rpn, detector, shared, last = (weights(tmp_path / "run", name) for name in names)
    assert changed(start, rpn) == {"trunk", "rpn"}
    assert changed(start, detector) == {"trunk", "head", "predictor"}
    assert changed(detector, shared) == {"rpn"}
    assert changed(shared, last) == {"head", "predictor"}
    assert len(load(tmp_path / "run" / "last.safetensors").classes) > 0


def test_fast_rcnn_learns_classes_then_boxes_then_svms(data: Path, tmp_path: Path) -> None:
    """Table 6's staged training, and SVMs on fc7 (table 8)."""
    how = recipe(data, "fast_rcnn_alexnet", training="staged", classifier="svm", proposals=60)
    train(how, tmp_path / "run")
    start, classes, boxes, svms = (
        weights(tmp_path / "run", name) for name in ("start", "classes", "boxes", "svms")
    )
    assert changed(start, classes) == {"trunk", "head", "predictor"}
    assert torch.equal(start["predictor.box.weight"], classes["predictor.box.weight"])
    assert changed(classes, boxes) == {"predictor"}
    assert torch.equal(classes["predictor.cls.weight"], boxes["predictor.cls.weight"])
    assert changed(boxes, svms) == {"svm_weight", "svm_bias", "svm_fitted"}
    model = load(tmp_path / "run" / "last.safetensors").eval()
    images = sorted((data / "JPEGImages").iterdir())
    found = model.detect(images[0], score=0.0)
    assert len(found) > 0
    assert found.scores.isfinite().all()
