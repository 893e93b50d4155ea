"""Every registered model is exported, and most of them with suppression inside, too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from families import finds_the_same, small

import boxatlas
from boxatlas.errors import InputError
from boxatlas.export.graph import inputs_of

MODELS = boxatlas.list_models()
# Soft suppression, crops a few at a time, a tree of words: no graph suppresses as these do.
OUTSIDE = ("m2det", "rcnn_", "yolo9000")


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_exported(name: str, tmp_path: Path) -> None:
    finds_the_same(name, small(name), tmp_path / "model.onnx")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name in MODELS if "r101" not in name and not name.startswith(OUTSIDE)]
)
def test_with_suppression_inside(name: str, tmp_path: Path) -> None:
    """Of all but the deeper forms, which end as the others do."""
    finds_the_same(name, small(name), tmp_path / "model.onnx", with_nms=True)


@pytest.mark.parametrize("name", ["m2det320_vgg16", "rcnn_efficientnet_lite0", "yolo9000"])
def test_what_no_graph_can_suppress_is_refused(name: str) -> None:
    with torch.device("meta"):
        detector = boxatlas.create_model(name, num_classes=4, **small(name))
    with pytest.raises(InputError, match="with_nms"):
        inputs_of(detector, with_nms=True)
