"""Schedule constant_decay: a run made longer ends as one that was so long from the start."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from boxatlas import scenes
from boxatlas.errors import InputError
from boxatlas.training import Recipe, train
from boxatlas.training.checkpoint import STEADY, read_header
from boxatlas.training.loop import Descent

LONG = 10  # iterations: the rate falls from the eighth; of half the length from the fourth


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lengthening") / "scenes"
    scenes.write(folder, {"train": 12, "test": 2}, size=(64, 64))
    return folder


def recipe(data: Path, iterations: int, schedule: str = "constant_decay") -> Recipe:
    return Recipe.of(
        model="ssdlite320_efficientnet_lite0",
        options={"size": 64},
        init="none",
        data=[str(data)],
        val_split="none",
        augment="flip",
        iterations=iterations,
        eval_every=iterations,
        batch=2,
        lr=1e-3,
        optimizer="adamw",
        schedule=schedule,
        warmup=2,
        ema=0.9,
        log_every=1,
        workers=0,
    )


def rows(folder: Path) -> list[tuple[str, str, str]]:
    """(iteration, loss, rate) of what was logged."""
    with open(folder / "metrics.csv", newline="") as file:
        return [(r["iteration"], r["loss"], r["lr"]) for r in csv.DictReader(file) if r["loss"]]


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lengthening") / "whole"
    train(recipe(data, LONG), folder)
    return folder


def same(folder: Path, whole: Path) -> None:
    ours, theirs = (load_file(f / "last.safetensors") for f in (folder, whole))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name
    assert rows(folder) == rows(whole)


def test_a_finished_run_made_longer(data: Path, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(recipe(data, LONG // 2), run)
    held = read_header(run, STEADY)
    assert held is not None
    assert held["position"].step == 4
    short = load_file(run / "last.safetensors")
    train(recipe(data, LONG), run, resume=True)
    same(run, whole)
    long = load_file(run / "last.safetensors")
    assert any(not torch.equal(short[name], long[name]) for name in short)


def test_a_stopped_run_made_longer(
    data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped while its rate was still constant: it goes on from there."""
    run, after = tmp_path / "run", Descent._after

    def stop(self: Descent, resumed: bool = False) -> None:
        self.stop.asked = self.position.step == 3
        after(self, resumed)

    with monkeypatch.context() as patched:
        patched.setattr(Descent, "_after", stop)
        with pytest.raises(KeyboardInterrupt):
            train(recipe(data, LONG // 2), run)
    held = read_header(run)
    assert held is not None
    assert held["position"].step == 3
    assert not (run / STEADY).exists()
    train(recipe(data, LONG), run, resume=True)
    same(run, whole)


def test_what_cannot_be_made_longer(data: Path, whole: Path, tmp_path: Path) -> None:
    """A shorter one, and one of a schedule that knows its end from the start."""
    with pytest.raises(InputError, match="iterations 10, not 5"):
        train(recipe(data, LONG // 2), whole, resume=True)
    run = tmp_path / "cosine"
    train(recipe(data, 2, "cosine"), run)
    with pytest.raises(InputError, match="iterations 2, not 4"):
        train(recipe(data, 4, "cosine"), run, resume=True)
