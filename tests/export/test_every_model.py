"""Every registered model is exported, and half of them with suppression inside, too."""

from __future__ import annotations

from pathlib import Path

import pytest
from families import finds_the_same, small

import boxatlas
from boxatlas.errors import InputError
from boxatlas.export.graph import inputs_of

MODELS = boxatlas.list_models()


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_exported(name: str, tmp_path: Path) -> None:
    finds_the_same(name, small(name), tmp_path / "model.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS if "r101" not in name])
def test_with_suppression_inside(name: str, tmp_path: Path) -> None:
    """Of all but the deeper forms, which end as the others do."""
    try:
        inputs_of(boxatlas.create_model(name, num_classes=4, **small(name)), with_nms=True)
    except InputError:
        pytest.skip("no graph can suppress as it does")
    finds_the_same(name, small(name), tmp_path / "model.onnx", with_nms=True)
