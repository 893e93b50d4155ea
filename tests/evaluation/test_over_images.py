"""predict, speed, sizes and the report, with a detector small enough for tests."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import boxatlas
from boxatlas import scenes
from boxatlas.data import Table, read
from boxatlas.evaluation import evaluate, predict
from boxatlas.evaluation.report import write_report
from boxatlas.evaluation.sizes import size_of
from boxatlas.evaluation.speed import PARTS, made_images, measure, measure_together, usual_score
from boxatlas.parts.base import Detector
from boxatlas.structures import Detections


@pytest.fixture(scope="module")
def detector() -> Detector:
    torch.manual_seed(0)
    return boxatlas.create_model("ssdlite320_efficientnet_lite0", classes=scenes.CLASSES, size=96)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Table:
    folder = tmp_path_factory.mktemp("scenes")
    scenes.write(folder, {"test": 5}, seed=0, size=(72, 96))
    return read(folder, "test")


def perfect(data: Table) -> list[Detections]:
    return [
        Detections(
            torch.from_numpy(data.boxes[data.objects(i)]),
            torch.full((int(data.counts[i]),), 0.9),
            torch.from_numpy(data.labels[data.objects(i)].astype(np.int64)),
            data.classes,
        )
        for i in range(len(data))
    ]


def test_predict_is_detect_without_a_looker_threshold(detector: Detector, data: Table) -> None:
    found = predict(detector, data, progress=False)
    assert len(found) == len(data)
    for path, one in zip(data.paths, found, strict=True):
        alone = detector.detect(path, score=0.0)
        kept = alone.scores > detector.config.score  # type: ignore[attr-defined]
        assert len(one) == int(kept.sum()) or len(one) == len(alone)
        torch.testing.assert_close(one.boxes[:20], alone.boxes[:20], atol=1e-3, rtol=1e-4)
        assert one.image is None


def test_batches_and_workers_change_nothing(detector: Detector, data: Table) -> None:
    ones = predict(detector, data, progress=False, batch_size=1)
    many = predict(detector, data, progress=False, batch_size=4, workers=1)
    for a, b in zip(ones, many, strict=True):
        assert len(a) == len(b)
        torch.testing.assert_close(a.scores, b.scores, atol=1e-5, rtol=1e-4)


def test_masks_are_kept_small(detector: Detector, data: Table, monkeypatch) -> None:
    def with_masks(images, frames, **_) -> list[Detections]:
        return [
            Detections(
                torch.zeros(2, 4),
                torch.ones(2),
                torch.zeros(2, dtype=torch.int64),
                detector.classes,
                f.source,
                torch.ones(2, *f.source, dtype=torch.bool),
            )
            for f in frames
        ]

    monkeypatch.setattr(detector, "infer", with_masks)
    first = predict(detector, data, progress=False)[0]
    assert first.masks is None
    assert first.masks is None
    assert first.outlines == [{"size": [72, 96], "counts": [0, 72 * 96]}] * 2


def test_speed_adds_up(detector: Detector) -> None:
    speed = measure(detector, made_images(2, (48, 64)), seconds=0.0, batches=(1, 2), untrained=True)
    assert set(speed.parts_ms) == set(PARTS) - {"proposals"}  # the method takes none
    assert all(ms >= 0 for ms in speed.parts_ms.values())
    assert speed.fps == pytest.approx(1000 / speed.latency_ms)
    assert speed.fps_whole < speed.fps
    assert speed.latency_p95_ms >= speed.latency_ms
    assert set(speed.throughput) == {1, 2}
    assert speed.input == (96, 96)
    assert speed.images == 5
    assert speed.peak_memory_mb is None or speed.peak_memory_mb > 50
    assert "random weights" in speed.notes[0]


def test_detectors_are_timed_in_turns(detector: Detector, monkeypatch) -> None:
    other = copy.deepcopy(detector)
    order: list[str] = []
    for name, one in (("a", detector), ("b", other)):
        infer = one.fast
        monkeypatch.setattr(one, "fast", lambda name=name, f=infer: order.append(name) or f())
    two = [(detector, True), (other, True)]
    speeds = measure_together(two, made_images(2, (48, 64)), seconds=0.0, batches=(2,))
    assert len(speeds) == 2
    for speed in speeds:
        assert speed.images == 5
        low, high = speed.fps_between
        assert low <= speed.fps <= high
    timed = "".join(order)
    assert "ab" * 5 in timed  # one image at a time, then the other's turn
    assert timed.endswith("ab" * 3)  # so with batches


def test_untrained_weights_are_timed_with_a_usual_number_of_boxes(detector: Detector) -> None:
    images, frames = detector.preprocess.batch(made_images(1, (48, 64)))
    score = usual_score(detector, images, frames)
    kept = detector.infer(images, frames, score=score)[0]
    assert 0 < len(kept) <= 100


def test_multiply_adds_by_hand() -> None:
    """A 3x3 convolution from 3 to 8 channels at stride 2, and two linear layers."""
    from boxatlas.images import Preprocess
    from boxatlas.options import Options

    class Small(Detector):
        def __init__(self) -> None:
            super().__init__(("a",), Preprocess(size=(16, 16)), Options())
            self.conv = torch.nn.Conv2d(3, 8, 3, 2, 1)
            self.fc = torch.nn.Linear(8, 5)

        def forward(self, images, frames=None, proposals=None):
            return {"x": self.fc(self.conv(images).mean((2, 3)))}

    size = size_of(Small())
    assert size.parameters == 3 * 8 * 9 + 8 + 8 * 5 + 5
    assert size.multiply_adds == 8 * 8 * 8 * 3 * 9 + 8 * 5
    assert size.input == (16, 16)


def test_the_report_is_one_page_with_nothing_fetched(
    detector: Detector, data: Table, tmp_path: Path
) -> None:
    found = perfect(data)
    found[0] = replace(found[0], labels=(found[0].labels + 1) % 6)  # something to be wrong about
    document = {
        "model": "mine",
        "data": ["<b>folder</b>"],
        "split": "test",
        **evaluate(found, data),
    }
    speed = measure(detector, data.paths, seconds=0.0)
    document |= {"fps": speed.fps, "speed": speed.document()}
    history = tmp_path / "metrics.csv"
    history.write_text(
        "phase,iteration,lr,loss,box,mAP,coco/AP\ntrain,1,0.1,3.5,1.5,,\n"
        "train,2,0.1,2.5,1.0,,\ntrain,2,,,,0.5,0.25\n"
    )
    path = tmp_path / "report.html"
    write_report(path, document, found, data, detector, lead=["made for a test"], history=history)
    text = path.read_text()
    assert not re.search(r'(src|href)="(?!data:|#)', text)
    assert text.count("data:image/jpeg;base64,") >= 4
    assert text.count("<svg") == 5  # curves, mistakes, confusion, losses, scores
    assert "&lt;b&gt;folder&lt;/b&gt;" in text
    assert "made for a test" in text
    for name in data.classes:
        assert name in text
    assert f"{document['coco']['AP']:.3f}" in text


def test_a_report_of_images_without_objects(tmp_path: Path, data: Table) -> None:
    empty = data.where(np.zeros(len(data.labels), bool))
    none = [
        Detections(
            torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), data.classes
        )
    ] * len(data)
    write_report(tmp_path / "r.html", evaluate(none, empty), none, empty)
    assert "nothing was detected" in (tmp_path / "r.html").read_text()


def test_the_plots_of_equal_numbers_are_equal_files() -> None:
    from boxatlas.evaluation import plots

    curve = {"cat": ([0.0, 1.0], [1.0, 0.5])}
    assert plots.precision_recall(curve) == plots.precision_recall(curve)
