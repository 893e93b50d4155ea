"""The loop: what it does in an iteration, what stops it, what it leaves behind."""

from __future__ import annotations

import csv
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tiny import RECIPE, Made, Tiny, job

from boxatlas import files
from boxatlas.errors import InputError
from boxatlas.training.checkpoint import STATE, read_header
from boxatlas.training.loop import run

TINY = Path(__file__).with_name("tiny.py")


def test_one_iteration_is_the_formula_of_sgd(tmp_path: Path) -> None:
    recipe = RECIPE.changed(
        {
            "iterations": 1,
            "schedule": "constant",
            "warmup": 0,
            "momentum": 0.0,
            "clip": None,
            "weight_decay": 0.0,
            "ema": None,
            "lr": 0.5,
        }
    )
    one = job(tmp_path, recipe)
    model = one.model
    assert isinstance(model, Tiny)
    model.drop.p = 0.0
    before = model.box.weight.detach().clone()
    batch = Made(4).make(0, 0)
    model.train()
    # The random term of the loss does not reach `box`: its gradient can be worked out apart.
    model.loss(batch)["loc"].backward()
    assert model.box.weight.grad is not None
    expected = before - 0.5 * model.box.weight.grad
    model.zero_grad()
    model.stem[1].reset_running_stats()
    run(one)
    torch.testing.assert_close(model.box.weight.detach(), expected)


def test_parts_of_a_batch_make_the_gradient_of_the_whole(tmp_path: Path) -> None:
    """Where the loss is a mean over images, two parts of two are one batch of four."""

    class Mean(Tiny):
        def loss(self, batch: Any, generator: Any = None) -> dict[str, torch.Tensor]:
            self.eval()
            return {"mean": self(batch.images)["logits"].square().mean()}

    class Halves(Made):
        def make(self, epoch: int, number: int) -> Any:
            whole = Made(4).make(epoch, number // 2)
            whole.images = whole.images[2 * (number % 2) :][:2]
            return whole

    recipe = RECIPE.changed({"iterations": 3, "ema": None})
    whole = job(tmp_path / "whole", recipe, Mean(), count=3)
    first = {name: value.clone() for name, value in whole.model.state_dict().items()}
    run(whole)
    parts = job(tmp_path / "parts", recipe.changed({"micro_batch": 2}), Mean())
    parts.model.load_state_dict(first)
    parts.loader = lambda *a, **k: Halves(2, 6)
    run(parts)
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_what_a_run_leaves(tmp_path: Path) -> None:
    one = job(tmp_path)
    position = run(one)
    assert int(one.model.images_seen) == 24 * 4
    with safe_open(tmp_path / "best.safetensors", framework="pt") as file:
        kept = json.loads(file.metadata()["boxatlas"])
    assert kept["recipe"]["lr"] == 0.1
    assert kept["metrics"]["mAP"] == position.best
    last, state = load_file(tmp_path / "last.safetensors"), load_file(tmp_path / STATE)
    average = state["ema/box.weight"]
    assert torch.equal(last["box.weight"], average)
    assert not torch.equal(state["model/box.weight"], average)  # what a longer run goes on from
    with open(tmp_path / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    losses = [int(r["iteration"]) for r in rows if r["loss"]]
    scores = [int(r["iteration"]) for r in rows if r["mAP"]]
    assert losses == [3, 6, 9, 12, 15, 18, 21, 24]
    assert scores == [8, 16, 24]
    first = rows[0]
    assert float(first["loss"]) == pytest.approx(
        float(first["cls"]) + float(first["loc"]), rel=1e-4
    )
    assert float(first["images_per_second"]) > 0


def test_frozen_norms_keep_their_statistics_through_an_evaluation(tmp_path: Path) -> None:
    one = job(tmp_path, RECIPE.changed({"freeze": ["stem"]}))
    before = {k: v.clone() for k, v in one.model.state_dict().items() if k.startswith("stem")}
    run(one)
    for name, value in before.items():
        assert torch.equal(one.model.state_dict()[name], value), name


def test_without_evaluation_the_last_is_the_best(tmp_path: Path) -> None:
    one = job(tmp_path, RECIPE.changed({"iterations": 2}))
    one.evaluate = None
    run(one)
    assert torch.equal(
        load_file(tmp_path / "best.safetensors")["box.weight"],
        load_file(tmp_path / "last.safetensors")["box.weight"],
    )


def test_bf16_learns_and_fp16_needs_a_gpu(tmp_path: Path) -> None:
    one = job(tmp_path / "a", RECIPE.changed({"precision": "bf16", "iterations": 2}))
    run(one)
    assert all(torch.isfinite(p).all() for p in one.model.parameters())
    with pytest.raises(InputError, match="fp16 needs a GPU"):
        run(job(tmp_path / "b", RECIPE.changed({"precision": "fp16"})))


def test_a_loss_that_is_not_finite_stops_and_names_the_images(tmp_path: Path) -> None:
    one = job(tmp_path, RECIPE.changed({"save_every": 2}), spoiled=4)
    with pytest.raises(InputError, match=r"not finite at iteration 4.*image_0_4_0\.jpg") as caught:
        run(one)
    assert "\n" not in str(caught.value)
    saved = load_file(tmp_path / "not_finite_4.safetensors")
    assert torch.isnan(saved["images"][0]).all()
    assert saved["boxes"].shape[0] == 4
    with safe_open(tmp_path / "not_finite_4.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["names"])[0] == "image_0_4_0.jpg"
    header = read_header(tmp_path)
    assert header is not None
    assert header["position"].step == 4
    state = load_file(tmp_path / STATE)
    assert all(torch.isfinite(v).all() for v in state.values() if v.is_floating_point())


def test_a_full_disk_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit of a file's size fails as a full disk does: in the middle of writing."""
    one = job(tmp_path, RECIPE.changed({"save_every": 4}))
    calls, write = [0], files.os.fsync

    def limited(*args: Any) -> None:
        calls[0] += 1
        if calls[0] == 4:  # from here on a file may have 2 kB
            resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))
        write(*args)

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setattr(files.os, "fsync", limited)
    try:
        with pytest.raises(InputError, match=r"could not be written.*unchanged"):
            run(one)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    header = read_header(tmp_path)
    assert header is not None
    assert header["position"].step == 4
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]
    monkeypatch.undo()
    assert run(job(tmp_path, RECIPE.changed({"save_every": 4}))).trained == 24


@pytest.mark.slow
def test_two_processes_one_of_them_without_any_object(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-addr",
        "127.0.0.1",
        "--master-port",
        str(20000 + os.getpid() % 20000),
        str(TINY),
        str(tmp_path / "run"),
        "12",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "done 12" in ended.stdout
    state = load_file(tmp_path / "run" / "last.safetensors")
    assert int(state["images_seen"]) == 12 * 4
    assert all(torch.isfinite(v).all() for v in state.values())


@pytest.mark.parametrize("judged", [{}, {"mAP": None}, {"mAP": 0.0}])
def test_the_best_is_the_latest_of_equals_and_where_nothing_judges(
    tmp_path: Path, judged: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    begun = job(tmp_path, RECIPE.changed({"iterations": 4, "eval_every": 2}))
    begun.evaluate = lambda detector: dict(judged)
    run(begun)
    best, last = (load_file(tmp_path / f"{name}.safetensors") for name in ("best", "last"))
    assert torch.equal(best["box.weight"], last["box.weight"])
    assert "inf" not in capfd.readouterr().err
