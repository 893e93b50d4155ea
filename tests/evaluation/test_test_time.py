"""Several looks at one image: mirrored back, merged by hand-worked rules."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

import boxatlas
from boxatlas import scenes
from boxatlas.data import read
from boxatlas.errors import InputError
from boxatlas.evaluation import predict
from boxatlas.evaluation.test_time import Views, merged, parse, predict_views
from boxatlas.structures import Detections


def found(boxes: list[list[float]], scores: list[float], labels: list[int]) -> Detections:
    return Detections(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(scores),
        torch.tensor(labels, dtype=torch.int64),
        ("a", "b"),
        (100, 200),
    )


ONE = found([[0, 0, 40, 40], [100, 0, 140, 40]], [0.6, 0.9], [0, 1])
TWO = found([[0, 0, 40, 30], [100, 0, 140, 40]], [0.2, 0.5], [0, 0])


def test_a_vote_is_the_weighted_mean():
    """IoU 0.75: sides 40 and 30 with weights 0.6 and 0.2 make 37.5. Another class has no vote."""
    made = merged([ONE, TWO], Views(), limit=10)
    assert made.scores.tolist() == pytest.approx([0.9, 0.6, 0.5])
    assert made.labels.tolist() == [1, 0, 0]
    assert made.boxes[1].tolist() == pytest.approx([0, 0, 40, 37.5])
    assert made.boxes[0].tolist() == pytest.approx([100, 0, 140, 40])


def test_nms_keeps_the_best_and_soft_lowers_the_others():
    plain = merged([ONE, TWO], Views(merge="nms"), limit=10)
    assert plain.boxes[1].tolist() == [0, 0, 40, 40]
    soft = merged([ONE, TWO], Views(merge="soft"), limit=10)
    assert soft.scores.tolist() == pytest.approx([0.9, 0.6, 0.5, 0.2 * 0.25])
    assert len(merged([ONE, TWO], Views(), limit=2)) == 2
    nothing = found([], [], [])
    assert len(merged([nothing, nothing], Views(), limit=5)) == 0


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("views")
    scenes.write(folder, {"train": 1, "test": 2}, seed=3, size=(80, 100))
    return folder


def tiny(classes: tuple[str, ...]) -> boxatlas.Detector:
    torch.manual_seed(0)
    return boxatlas.create_model(
        "refinedet320_vgg16",
        classes=classes,
        backbone="timm/test_efficientnet",
        size=96,
        score=0.15,
        max_detections=5000,
    ).eval()


def test_a_mirrored_image_gives_mirrored_boxes(made: Path, tmp_path: Path):
    """Flipping alone (nms, the two looks apart) equals a look at the mirrored file, mirrored."""
    table = read(made, "test")
    detector = tiny(table.classes)
    for path in table.paths:  # the same data set with its pictures mirrored
        Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "m.png")
        (there,) = [detector.detect(tmp_path / "m.png", score=0.1500001)]
        single = table.select([list(table.paths).index(path)])
        views = Views(flip=True, merge="soft", iou=1.0)  # nothing falls: all boxes of both looks
        (both,) = predict_views(detector, single, views, progress=False)
        (plain,) = predict(detector, single, progress=False)
        assert len(both) == len(plain) + len(there)
        boxes = there.boxes.clone()
        boxes[:, [0, 2]] = 100 - there.boxes[:, [2, 0]]
        for box in boxes[:5]:
            assert (both.boxes - box).abs().amax(1).min() < 0.2  # JPEG was decoded once more


def test_scales_change_what_is_seen_and_leave_the_detector(made: Path):
    table = read(made, "test")
    detector = tiny(table.classes)
    before = detector.preprocess
    several = predict_views(detector, table, Views((1.0, 1.5)), progress=False)
    assert detector.preprocess is before
    assert len(several) == 2
    once = predict(detector, table, progress=False)
    assert [one.scores.tolist() for one in several] != [one.scores.tolist() for one in once]


@pytest.mark.parametrize(("scales", "merge"), [("a", "vote"), ("0", "vote"), ("1", "mean")])
def test_what_is_refused(scales: str, merge: str):
    with pytest.raises(InputError):
        parse(scales, False, merge)
    assert parse(None, False, "vote").single
    assert not parse("1", True, "vote").single
