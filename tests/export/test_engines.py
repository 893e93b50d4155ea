"""Engines: the same detections, a graph that is kept as long as it is right, the fastest taken."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from spread import spread

import boxatlas
from boxatlas.errors import InputError
from boxatlas.export import engines, runtimes
from boxatlas.photos import photos

PHOTO = photos()[0].path


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint beside which the graph has been written."""
    path = tmp_path_factory.mktemp("engines") / "small.safetensors"
    spread("ssdlite320_efficientnet_lite0", size=96).save(path)
    boxatlas.load(path, engine="onnx")
    return path


@pytest.fixture
def checkpoint(kept: Path, tmp_path: Path) -> Path:
    """The same, for one test."""
    return Path(shutil.copytree(kept.parent, tmp_path / "run")) / kept.name


def _notes(checkpoint: Path) -> dict[str, Any]:
    (file,) = (checkpoint.parent / ".boxatlas").glob("*.json")
    return json.loads(file.read_text())


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_an_engine_finds_the_same(engine: str, checkpoint: Path) -> None:
    plain, other = boxatlas.load(checkpoint), boxatlas.load(checkpoint, engine=engine)
    assert (plain.engine, other.engine) == ("torch", engine)
    ours, theirs = plain.detect(PHOTO, score=0.2), other.detect(PHOTO, score=0.2)
    assert len(ours) > 0
    torch.testing.assert_close(theirs.boxes, ours.boxes, rtol=0, atol=0.1)
    torch.testing.assert_close(theirs.scores, ours.scores, rtol=0, atol=1e-3)


def test_the_graph_is_written_once(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And again for other weights, and where it is damaged."""
    written: list[Path] = []
    whole = engines.export_onnx

    def counted(detector: boxatlas.Detector, path: Path) -> Any:
        written.append(path)
        return whole(detector, path)

    monkeypatch.setattr(engines, "export_onnx", counted)
    boxatlas.load(checkpoint, engine="onnx")
    assert written == []
    (graph,) = (checkpoint.parent / ".boxatlas").glob("*.onnx")
    graph.write_bytes(graph.read_bytes()[:1000])
    boxatlas.load(checkpoint, engine="onnx")
    assert written == [graph]
    changed = boxatlas.load(checkpoint)
    changed.images_seen += 1
    changed.save(checkpoint)
    boxatlas.load(checkpoint, engine="onnx")
    assert len(written) == 2
    assert written[1] != graph


def test_the_slower_engine_loses(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "RUNTIMES", {"onnx": runtimes.OnnxRuntime})
    run = runtimes.OnnxRuntime.run

    def slow(self: runtimes.OnnxRuntime, *arguments: Any) -> Any:
        time.sleep(0.3)
        return run(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(runtimes.OnnxRuntime, "run", slow)
        assert boxatlas.load(checkpoint, engine="auto").engine == "torch"
    # Remembered: that it is fast now is not asked again.
    assert boxatlas.load(checkpoint, engine="auto").engine == "torch"
    (file,) = (checkpoint.parent / ".boxatlas").glob("*.json")
    file.write_text("damaged")
    infer = boxatlas.Detector.infer

    def slow_torch(self: boxatlas.Detector, *arguments: Any, **options: Any) -> Any:
        if self.engine == "torch":
            time.sleep(0.3)
        return infer(self, *arguments, **options)

    monkeypatch.setattr(boxatlas.Detector, "infer", slow_torch)
    assert boxatlas.load(checkpoint, engine="auto").engine == "onnx"


def test_an_engine_that_differs_is_not_taken(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fast but wrong: refused by name, passed over by auto."""
    monkeypatch.setattr(engines, "RUNTIMES", {"onnx": runtimes.OnnxRuntime})
    (file,) = (checkpoint.parent / ".boxatlas").glob("*.json")
    file.unlink()  # that it once agreed
    run = runtimes.OnnxRuntime.run

    def wrong(self: runtimes.OnnxRuntime, outputs: Any, inputs: Any) -> Any:
        return [1.1 * array for array in run(self, outputs, inputs)]

    monkeypatch.setattr(runtimes.OnnxRuntime, "run", wrong)
    with pytest.raises(InputError, match="other things than torch"):
        boxatlas.load(checkpoint, engine="onnx")
    assert boxatlas.load(checkpoint, engine="auto").engine == "torch"
    assert False in _notes(checkpoint).values()


def test_unknown_engines(checkpoint: Path) -> None:
    with pytest.raises(InputError, match="onnx"):
        boxatlas.load(checkpoint, engine="onx")
    (graph,) = (checkpoint.parent / ".boxatlas").glob("*.onnx")
    with pytest.raises(InputError, match="engine"):
        boxatlas.load(graph, engine="torch")
