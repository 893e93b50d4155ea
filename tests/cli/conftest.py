"""What the tests of single verbs share: made scenes, and a small detector's checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import boxatlas
from boxatlas import scenes
from boxatlas.cli import main


@pytest.fixture(scope="session")
def made_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VOC layout, 4 test and 3 val images."""
    folder = tmp_path_factory.mktemp("verbs") / "scenes"
    scenes.write(folder, {"test": 4, "val": 3}, seed=0, size=(72, 96))
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained light detector of the scenes' classes."""
    torch.manual_seed(0)
    model = boxatlas.create_model("ssdlite320_efficientnet_lite0", classes=scenes.CLASSES, size=96)
    path = tmp_path_factory.mktemp("verbs") / "small.safetensors"
    model.save(path)
    return path


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Call the command line: (exit code, standard output, standard error)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            main([str(a) for a in arguments])
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call
