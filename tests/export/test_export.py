"""Exported files find the same, say what they are, and are refused where they are not ours."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from spread import CLASSES, spread

import boxatlas
from boxatlas.cli import main
from boxatlas.errors import InputError
from boxatlas.export import Deployed, export_onnx
from boxatlas.export.check import agreement, compared
from boxatlas.export.onnx_file import KEY, OPSET
from boxatlas.photos import photos
from boxatlas.structures import Detections

PHOTO = photos()[0].path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[boxatlas.Detector, Path]:
    """A small SSD and its file."""
    detector = spread("ssdlite320_efficientnet_lite0", size=96)
    path = tmp_path_factory.mktemp("exported") / "small.onnx"
    export_onnx(detector, path)
    return detector, path


def test_a_file_is_a_detector(exported: tuple[boxatlas.Detector, Path]) -> None:
    detector, path = exported
    loaded = boxatlas.load(path)
    assert isinstance(loaded, Deployed)
    assert loaded.classes == CLASSES
    assert loaded.preprocess == detector.preprocess
    assert loaded.config == detector.config
    ours, theirs = detector.detect(PHOTO, score=0.2), loaded.detect(PHOTO, score=0.2)
    assert len(ours) > 0
    torch.testing.assert_close(theirs.boxes, ours.boxes, rtol=0, atol=0.1)
    torch.testing.assert_close(theirs.scores, ours.scores, rtol=0, atol=1e-3)
    for twin in (copy.deepcopy(loaded), pickle.loads(pickle.dumps(loaded)), loaded.to("cpu")):
        assert torch.equal(twin.detect(PHOTO, score=0.2).boxes, theirs.boxes)
    fewer = loaded.detect(PHOTO, score=0.2, nms_iou=0.01)
    assert len(fewer) < len(theirs)
    assert len(loaded.detect(PHOTO, score=0.2)) == len(theirs)  # the threshold was for one call


def test_other_programs_read_what_it_is(exported: tuple[boxatlas.Detector, Path]) -> None:
    model = onnx.load(exported[1])
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata["classes"]) == list(CLASSES)
    assert json.loads(metadata["preprocess"])["size"] == [96, 96]
    assert [value.name for value in model.graph.input] == ["images"]
    first = model.graph.input[0].type.tensor_type.shape.dim[0]
    assert first.dim_param
    assert not first.dim_value
    assert str(Path.home()) not in str(model.graph)  # nothing of the machine it was made on


def test_no_training_and_no_saving(
    exported: tuple[boxatlas.Detector, Path], tmp_path: Path
) -> None:
    loaded = boxatlas.load(exported[1])
    with pytest.raises(InputError, match="cannot be trained"):
        loaded.loss(None)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="no checkpoint"):
        loaded.save(tmp_path / "x.safetensors")


def test_another_network_does_not_agree(exported: tuple[boxatlas.Detector, Path]) -> None:
    """The comparison that stands before writing tells a changed weight."""
    detector, path = copy.deepcopy(exported[0]), exported[1]
    with torch.no_grad():
        next(iter(detector.head.parameters())).add_(0.05)  # pyright: ignore
    result = agreement(detector, boxatlas.load(path))
    assert result.missing > 0
    assert not result.holds


def test_a_file_that_differs_is_not_left(
    exported: tuple[boxatlas.Detector, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from boxatlas.export import writing

    monkeypatch.setattr(writing, "model_of", lambda *_: onnx.load(exported[1]))
    other, out = spread("ssdlite320_efficientnet_lite0", size=96), tmp_path / "out.onnx"
    with torch.no_grad():
        next(iter(other.head.parameters())).add_(0.05)  # pyright: ignore
    out.write_bytes(b"before")
    with pytest.raises(InputError, match="not written"):
        export_onnx(other, out)
    assert out.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [out]


def _detections(rows: list[tuple[float, float, float]]) -> Detections:
    """Boxes of 10 x 10 pixels at (x, 0): (x, score, label)."""
    boxes = torch.tensor([[x, 0.0, x + 10, 10.0] for x, _, _ in rows]).reshape(-1, 4)
    scores = torch.tensor([score for _, score, _ in rows])
    labels = torch.tensor([int(label) for _, _, label in rows], dtype=torch.int64)
    return Detections(boxes, scores, labels, ("a", "b"), (100, 100))


@pytest.mark.parametrize(
    ("a", "b", "ties", "missing"),
    [
        ([(0, 0.9, 0)], [(0.05, 0.9005, 0)], 0, 0),  # within both
        ([(0, 0.9, 0)], [(0.2, 0.9, 0)], 0, 2),  # a box too far away
        ([(0, 0.9, 0)], [(0, 0.902, 0)], 0, 2),  # a score too
        ([(0, 0.9, 0)], [(0, 0.9, 1)], 0, 2),  # another class
        ([(0, 0.9, 0), (50, 0.1004, 0)], [(0, 0.9, 0)], 1, 0),  # at the threshold 0.1
        ([(0, 0.9, 0), (50, 0.3, 0)], [(0, 0.9, 0)], 0, 1),
        # Two that overlap by 8 / 12 with nearly one score: either may suppress the other.
        ([(0, 0.9, 0)], [(2, 0.9004, 0)], 2, 0),
        # They overlap by 1 / 2, 10 / 3 pixels apart: the suppression's own threshold.
        ([(0, 0.9, 0), (10 / 3, 0.5, 0)], [(0, 0.9, 0)], 1, 0),
    ],
)
def test_what_counts_as_the_same(a: list[Any], b: list[Any], ties: int, missing: int) -> None:
    result = compared(_detections(a), _detections(b), 0.1, 0.5, 100)
    assert (result.ties, result.missing) == (ties, missing)


def _changed(path: Path, out: Path, change: Callable[[Any], None]) -> Path:
    model = onnx.load(path)
    change(model)
    out.write_bytes(model.SerializeToString())
    return out


def _newer(model: Any) -> None:
    for entry in model.metadata_props:
        if entry.key == KEY:
            entry.value = json.dumps({**json.loads(entry.value), "format": 99})


def _foreign(model: Any) -> None:
    del model.metadata_props[:]


def _damaged(model: Any) -> None:
    for entry in model.metadata_props:
        entry.value = entry.value[:20]


def _outside(model: Any) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def _custom(model: Any) -> None:
    model.graph.node[0].domain = "evil"


def _hidden(model: Any) -> None:
    """An operator of another domain, inside a branch."""
    node = helper.make_node("Odd", ["images"], ["odd"], domain="evil")
    branch = helper.make_graph([node], "branch", [], [])
    model.graph.node.append(helper.make_node("If", ["images"], ["x"], then_branch=branch))


def _opset(model: Any) -> None:
    model.opset_import[0].version = 999


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_newer, "newer boxatlas"),
        (_foreign, "none that boxatlas wrote"),
        (_damaged, "damaged"),
        (_outside, "outside of the file"),
        (_custom, "beyond the ONNX standard"),
        (_hidden, "beyond the ONNX standard"),
        (_opset, "engine onnx cannot open it"),
    ],
)
def test_refused_files(
    change: Callable[[Any], None],
    says: str,
    exported: tuple[boxatlas.Detector, Path],
    tmp_path: Path,
) -> None:
    path = _changed(exported[1], tmp_path / "odd.onnx", change)
    with pytest.raises(InputError, match=says) as caught:
        boxatlas.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0, 10, 1000, 100_000, -100])
def test_truncated_files(
    size: int, exported: tuple[boxatlas.Detector, Path], tmp_path: Path
) -> None:
    path = tmp_path / "cut.onnx"
    path.write_bytes(exported[1].read_bytes()[:size])
    with pytest.raises(InputError) as caught:
        boxatlas.load(path)
    assert "\n" not in str(caught.value)


def test_without_the_extra(
    exported: tuple[boxatlas.Detector, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"boxatlas\[onnx\]"):
        boxatlas.load(exported[1])


def _say(*arguments: object) -> int:
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_the_verbs_take_a_file(
    exported: tuple[boxatlas.Detector, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """export, then detect and bench by the file; nothing is overwritten without --force."""
    checkpoint, out = tmp_path / "small.safetensors", tmp_path / "small.onnx"
    exported[0].save(checkpoint)
    assert _say("export", checkpoint, "--out", out, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["opset"] == OPSET
    assert document["agreement"]["missing"] == 0
    assert _say("export", checkpoint, "--out", out) == 2
    assert "--force" in capsys.readouterr().err
    assert _say("detect", PHOTO, "--model", out, "--out", tmp_path / "found", "--score", 0.2) == 0
    assert _say("bench", out, "--seconds", 0, "--json") == 0
    text = capsys.readouterr().out
    assert json.loads(text[text.index("{") :])["benchmarks"][0]["parameters"] > 1_000_000
    assert _say("export", out, "--out", tmp_path / "again.onnx") == 2
    assert "exported already" in capsys.readouterr().err
