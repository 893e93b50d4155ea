"""One of each family is exported, with suppression inside where that is harder; see
test_every_model.py for all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families import PHOTO, finds_the_same, small
from spread import spread

import boxatlas
from boxatlas.errors import InputError
from boxatlas.export import export_onnx

FAMILIES = [
    ("ssdlite320_efficientnet_lite0", False),
    ("retinanet_r50_fpn", True),
    ("yolov3_tiny", True),
    ("fast_rcnn_r50_fpn", False),
    ("faster_rcnn_r50_fpn", False),
    ("mask_rcnn_r50_fpn", True),
    ("rcnn_efficientnet_lite0", False),
]


@pytest.mark.parametrize(("name", "with_nms"), FAMILIES)
def test_one_of_each_family(name: str, with_nms: bool, tmp_path: Path) -> None:
    finds_the_same(name, small(name), tmp_path / "model.onnx", with_nms=with_nms)


@pytest.fixture(scope="module")
def suppressed(tmp_path_factory: pytest.TempPathFactory) -> tuple[boxatlas.Detector, Path]:
    """A small SSD, and its file with suppression inside."""
    detector = spread("ssdlite320_efficientnet_lite0", size=96, max_detections=50)
    path = tmp_path_factory.mktemp("suppressed") / "small.onnx"
    export_onnx(detector, path, with_nms=True)
    return detector, path


@pytest.mark.parametrize("score", [0.05, 0.3, 0.6])
def test_a_threshold_is_the_callers(
    suppressed: tuple[boxatlas.Detector, Path], score: float
) -> None:
    detector, path = suppressed
    ours = detector.detect(PHOTO, score=score)
    theirs = boxatlas.load(path).detect(PHOTO, score=score)
    assert len(ours) > 0
    assert theirs.labels.tolist() == ours.labels.tolist()
    torch.testing.assert_close(theirs.boxes, ours.boxes, rtol=0, atol=0.1)
    torch.testing.assert_close(theirs.scores, ours.scores, rtol=0, atol=1e-3)


def test_another_program_needs_the_picture_alone(
    suppressed: tuple[boxatlas.Detector, Path],
) -> None:
    """The score is an input with a value of its own; rows that are no detection say so."""
    import onnxruntime

    detector, path = suppressed
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    images, frames = detector.preprocess.batch([PHOTO])
    boxes, scores, labels = session.run(None, {"images": images.numpy()})
    real = labels[0] >= 0
    (found,) = detector.infer(images, frames)
    assert real.sum() == len(found)
    assert (scores[0][~real] == 0).all()
    assert (boxes[0][~real] == 0).all()
    scale = torch.tensor(frames[0].scale * 2)
    inside = torch.tensor([found.size[1], found.size[0]] * 2)
    placed = (torch.tensor(boxes[0][real]) / scale).clamp(min=0).minimum(inside)
    torch.testing.assert_close(placed, found.boxes, rtol=0, atol=0.1)


def test_what_was_decided_when_it_was_written(suppressed: tuple[boxatlas.Detector, Path]) -> None:
    deployed = boxatlas.load(suppressed[1])
    assert len(deployed.detect(PHOTO, score=0.05, max_detections=5)) == 5
    with pytest.raises(InputError, match="nms_iou"):
        deployed.detect(PHOTO, nms_iou=0.3)
    with pytest.raises(InputError, match="max_detections"):
        deployed.detect(PHOTO, max_detections=51)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("rcnn_efficientnet_lite0", {}, "crops"),
        ("yolo9000", {"size": 96, "width": 0.1}, "tree"),
        ("m2det320_vgg16", {}, "softly"),
        ("faster_rcnn_zf", {"inclusive": True}, "pixels of the source"),
    ],
)
def test_suppression_that_no_graph_has_is_refused(
    name: str, options: dict[str, Any], says: str, tmp_path: Path
) -> None:
    detector = boxatlas.create_model(name, num_classes=3, **options)
    with pytest.raises(InputError, match=says):
        export_onnx(detector, tmp_path / "x.onnx", with_nms=True)
    assert not list(tmp_path.iterdir())
