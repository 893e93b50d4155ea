"""torch.export programs, and compiled detectors, find what the detector finds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from families import PHOTO, small
from spread import CLASSES, spread

import boxatlas
from boxatlas.cli import main
from boxatlas.errors import InputError
from boxatlas.export import export_program
from boxatlas.export.program import NOTES


@pytest.mark.parametrize(
    ("name", "with_nms"),
    [
        ("ssdlite320_efficientnet_lite0", False),
        ("yolov3_tiny", True),
        pytest.param("faster_rcnn_r50_fpn", False, marks=pytest.mark.slow),
        pytest.param("mask_rcnn_r50_fpn", True, marks=pytest.mark.slow),
        pytest.param("rcnn_efficientnet_lite0", False, marks=pytest.mark.slow),
        pytest.param("rfcn320_efficientnet_lite0", False, marks=pytest.mark.slow),
    ],
)
def test_a_program_finds_the_same(name: str, with_nms: bool, tmp_path: Path) -> None:
    """And runs for a batch of any size, by torch alone."""
    detector, path = spread(name, **small(name)), tmp_path / "model.pt2"
    done = export_program(detector, path, with_nms=with_nms)
    assert done.agreement.detections >= 2 * 20
    assert done.agreement.missing == 0
    notes = {NOTES: ""}
    program = torch.export.load(path, extra_files=notes).module()
    description = json.loads(notes[NOTES])
    assert description["classes"] == list(CLASSES)
    assert tuple(description["outputs"]) == done.outputs
    assert description["preprocess"]["channels"] == detector.preprocess.channels
    if done.inputs[0] == "images" and len(done.inputs) == 1:
        images, _ = detector.preprocess.batch([PHOTO] * 3)
        three, alone = program(images), program(images[:1])
        for a, b in zip(three, alone, strict=True):
            if len(a) == 3:
                torch.testing.assert_close(a[2:], b, rtol=1e-3, atol=1e-3)


def test_nothing_of_the_machine_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    export_program(spread("yolov3_tiny", size=96, width=0.1), path)
    assert str(Path(boxatlas.__file__).parent).encode() not in path.read_bytes()


def test_the_verb_and_what_it_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint, out = tmp_path / "tiny.safetensors", tmp_path / "tiny.pt2"
    spread("yolov3_tiny", size=96, width=0.1).save(checkpoint)
    assert _say("export", checkpoint, "--to", "torch", "--out", tmp_path / "tiny.onnx") == 2
    assert ".pt2" in capsys.readouterr().err
    assert _say("export", checkpoint, "--to", "torch", "--out", out, "--with-nms", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["outputs"] == ["boxes", "scores", "labels"]
    assert document["opset"] is None
    assert _say("detect", PHOTO, "--model", out) == 2
    assert "torch.export.load" in capsys.readouterr().err
    with pytest.raises(InputError, match="torch"):
        boxatlas.load(out)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ssdlite320_efficientnet_lite0", "yolov3_tiny"])
def test_a_compiled_detector_finds_the_same(name: str) -> None:
    """torch.compile of the network: raw outputs, and detections by the module's own calls."""
    detector = spread(name, **small(name))
    images, frames = detector.preprocess.batch([PHOTO])
    compiled = torch.compile(detector)
    with torch.no_grad():
        ours, theirs = detector(images), compiled(images)
        for key, value in ours.items():
            torch.testing.assert_close(theirs[key], value, rtol=1e-3, atol=1e-3)
        plain = detector.postprocess(ours, frames, score=0.2)[0]
        found = detector.postprocess(theirs, frames, score=0.2)[0]
    assert len(plain) > 0
    torch.testing.assert_close(found.boxes, plain.boxes, rtol=0, atol=0.1)
    assert len(compiled.detect(PHOTO, score=0.2)) == len(plain)


@pytest.mark.slow
def test_a_compiled_detector_is_trained() -> None:
    """Gradients of a compiled forward are those of the plain one."""
    detector = spread("ssdlite320_efficientnet_lite0", size=96)
    images, _ = detector.preprocess.batch([PHOTO])
    compiled = torch.compile(detector)
    gradients = []
    for network in (detector, compiled):
        detector.zero_grad()
        network(images)["logits"].square().mean().backward()
        gradients.append([p.grad.clone() for p in detector.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 50
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-2, atol=1e-4)


def _say(*arguments: object) -> int:
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)
    return 0
