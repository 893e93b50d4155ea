"""Files of the region family's programs: pickles that cannot run code, Caffe's layers by name."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from boxatlas import create_model
from boxatlas.detectors.fast_rcnn import FastRCNN, TruncatedFC
from boxatlas.detectors.faster_rcnn import FasterRCNN
from boxatlas.errors import InputError
from boxatlas.weights import import_model, names_of
from boxatlas.weights.pickles import read_pickle


class Runs:
    """Unpickling it would make a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def test_a_pickle_that_would_run_code_is_refused_and_runs_none(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps({"model": Runs(trap)}))
    with pytest.raises(InputError, match="could run code") as error:
        read_pickle(tmp_path / "bad.pkl")
    assert "bad.pkl" in str(error.value)
    assert not trap.exists()


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps([1, 2])[:-3]])
def test_a_damaged_pickle_is_one_clear_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "torn.pkl").write_bytes(content)
    with pytest.raises(InputError, match=r"torn\.pkl.*not a pickle"):
        read_pickle(tmp_path / "torn.pkl")


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_arrays_of_a_pickle_are_tensors(tmp_path: Path, protocol: int) -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    document = {"model": {"a.weight": values}, "__author__": "Detectron2", "matching_heuristics": 1}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(document, protocol=protocol))
    held = read_pickle(tmp_path / "x.pkl")
    assert torch.equal(held["model"]["a.weight"], torch.from_numpy(values))


# -- Caffe's layers ---------------------------------------------------------------------------


def layers(name: str, **options: Any) -> dict[str, Tensor]:
    """The tensors of a seeded detector under Caffe's names."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=2, background_box=True, **options)
    told = {"cls_score.weight": torch.zeros(3, 1), "bbox_pred.weight": torch.zeros(12, 1)}
    theirs = names_of(told, "py_faster_rcnn", name)
    return {theirs(k): v.clone() for k, v in model.state_dict().items() if k != "images_seen"}


def test_zfs_dropout_halves_what_it_does_not_drop() -> None:
    """Its prototxt says `scale_train: false`: values are whole in training, halved in testing."""
    state = layers("faster_rcnn_zf", box_width=8)
    model = import_model(state, source="py_faster_rcnn", as_="faster_rcnn_zf", box_width=8).eval()
    assert isinstance(model, FasterRCNN)
    rois = torch.randn(5, 256, 6, 6)
    x = F.linear(rois.flatten(1), state["fc6.weight"], state["fc6.bias"]).relu() * 0.5
    x = F.linear(x, state["fc7.weight"], state["fc7.bias"]).relu() * 0.5
    with torch.no_grad():
        logits, deltas = model.predictor(model.head(rois))
    wanted = F.linear(x, state["cls_score.weight"], state["cls_score.bias"])
    assert torch.allclose(logits, wanted, atol=1e-6)
    wanted = F.linear(x, state["bbox_pred.weight"], state["bbox_pred.bias"])
    assert torch.allclose(deltas, wanted, atol=1e-6)


def test_caffenets_dropout_scales_in_training() -> None:
    state = layers("fast_rcnn_alexnet", box_width=8)
    model = import_model(state, source="py_faster_rcnn", as_="fast_rcnn_alexnet", box_width=8)
    assert torch.equal(model.state_dict()["head.fc7.weight"], state["fc7.weight"])


def test_a_file_of_thin_layers_makes_a_truncated_head() -> None:
    state = layers("fast_rcnn_alexnet", box_width=8, truncated_svd=(4, 3))
    model = import_model(state, source="py_faster_rcnn", as_="fast_rcnn_alexnet", box_width=8)
    assert isinstance(model, FastRCNN)
    assert isinstance(model.head, TruncatedFC)
    assert model.config.truncated_svd == (4, 3)
    assert torch.equal(model.head.fc6_L.weight, state["fc6_L.weight"])


def test_a_file_of_something_else_names_what_is_missing() -> None:
    state = layers("fast_rcnn_alexnet", box_width=8)
    del state["fc7.bias"]
    with pytest.raises(InputError, match=r"fc7\.bias"):
        import_model(state, source="py_faster_rcnn", as_="fast_rcnn_alexnet", box_width=8)
