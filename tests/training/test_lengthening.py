"""Runs made longer, runs that end early, and what is kept of them."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from boxatlas import scenes
from boxatlas.errors import InputError
from boxatlas.training import Recipe, train
from boxatlas.training.checkpoint import STEADY, read_header
from boxatlas.training.loop import Descent
from boxatlas.weights import load

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


def test_what_cannot_be_made_longer(data: Path, whole: Path) -> None:
    with pytest.raises(InputError, match="iterations 10, not 5"):
        train(recipe(data, LONG // 2), whole, resume=True)
    with pytest.raises(InputError, match=r"lr 0\.001, not 0\.1"):
        train(recipe(data, LONG * 2).changed({"lr": 0.1}), whole, resume=True)


def test_a_finished_run_of_another_schedule_goes_on_by_the_longer_one(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its next rates are those of a cosine over six, from its own weights, momentum and average."""
    run = tmp_path / "cosine"
    train(recipe(data, 3, "cosine"), run)
    capsys.readouterr()
    longer = train(recipe(data, 6, "cosine"), run, resume=True)
    said = capsys.readouterr().err
    assert "from 3 to 6: cosine over 6 iterations; the rate after iteration 3 is 0.00085" in said
    assert "going on from iteration 3 of 6" in said
    assert longer.iterations == 6
    rates = [float(rate) for _, _, rate in rows(run)]
    cosine = [1e-3 * (1 + math.cos(math.pi * t / 4)) / 2 for t in (1, 2, 3)]  # after a warm-up of 2
    assert rates[3:] == pytest.approx(cosine, rel=1e-5)  # as the file rounds
    held = read_header(run)
    assert held is not None
    assert held["position"].phase == 1
    assert held["ended"].step == 6
    again = train(None, run, resume=True)
    assert "this run is finished; a longer one: " in capsys.readouterr().err
    assert again.iterations == 6


def test_a_finished_run_goes_on_from_its_optimizers_state(data: Path, tmp_path: Path) -> None:
    """At a constant rate five steps, then five more, are ten steps, bit for bit."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(recipe(data, 10, "constant"), whole)
    train(recipe(data, 5, "constant"), parts)
    train(recipe(data, 10, "constant"), parts, resume=True)
    same(parts, whole)


def test_patience_ends_a_training_whose_score_stays(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At a rate of nearly nothing the score soon gains no more; an equal one is no gain."""
    still = recipe(data, 12, "constant").changed(
        {"val_split": "auto", "lr": 1e-9, "eval_every": 1, "patience": 2, "keep": 2, "ema": None}
    )
    run = train(still, tmp_path / "run")
    with open(run.folder / "metrics.csv", newline="") as file:
        scores = [float(row["mAP"]) for row in csv.DictReader(file) if row["mAP"]]
    best = [max(scores[:k]) for k in range(1, len(scores) + 1)]
    assert run.iterations == len(scores) < 12
    assert best[-3] == best[-1]  # the last two brought nothing
    assert all(best[k - 2] < best[k] for k in range(2, len(best) - 1))  # nor did two before
    assert "no better score in 2 evaluations: training ends" in capsys.readouterr().err
    kept = {path.name for path in run.folder.glob("iteration-*")}
    last = run.iterations
    assert kept == {f"iteration-{k}.safetensors" for k in (last - 1, last)}
    load(run.folder / f"iteration-{last}.safetensors")
    more = train(still.changed({"patience": last + 5}), run.folder, resume=True)
    assert more.iterations == 12


def test_a_short_trial_is_judged_once() -> None:
    made = Recipe.of(model="m", epochs=40, eval_every=1, warmup=1)
    assert made.changed({"iterations": 6}).eval_every == 6
    assert made.changed({"iterations": 400}).eval_every == 100
    assert made.changed({"iterations": 40_000}).eval_every == 1000
    assert made.changed({"iterations": 6, "eval_every": 2}).eval_every == 2
