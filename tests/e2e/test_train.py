"""`boxatlas train` as a user runs it, on scenes made for the purpose."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from commandline import Said
from safetensors.torch import load_file

from boxatlas import scenes
from boxatlas.training import read_recipe
from boxatlas.training.checkpoint import read_header
from boxatlas.weights import load

MODEL = "ssdlite320_efficientnet_lite0"
SMALL = [
    "--set",
    "init=none",
    "--set",
    "freeze=[]",
    "--set",
    "model.size=96",
    "--set",
    "batch=4",
    "--device",
    "cpu",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    scenes.write(folder, {"train": 8, "val": 4, "test": 2}, seed=0, size=(96, 128))
    return folder


def test_train_leaves_a_detector(made: Path, tmp_path: Path, boxatlas: Callable[..., Said]) -> None:
    run = tmp_path / "run"
    said = boxatlas(
        "train",
        MODEL,
        "--data",
        str(made),
        "--out",
        str(run),
        "--set",
        "train.epochs=2",
        "--set",
        "eval_every=1",
        *SMALL,
        "--json",
    )
    assert said.code == 0, said.err
    document = json.loads(said.out)
    assert document["iterations"] == 4  # 8 images in batches of 4, twice
    assert 0 <= document["metrics"]["mAP"] <= 1
    assert "training: 8 images" in said.err
    assert "validation: 4 images" in said.err
    assert load(run / "best.safetensors").classes == tuple(scenes.CLASSES)
    assert read_recipe(run / "recipe.yaml").epochs == 2
    with open(run / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["iteration"] for r in rows if r["mAP"]] == ["2", "4"]
    said = boxatlas("train", MODEL, "--data", str(made), "--out", str(run), *SMALL)
    assert said.code == 2
    assert "--resume" in said.err
    assert boxatlas("train", "--resume", "--out", str(run), "--device", "cpu").code == 0


def test_dry_run_writes_nothing(
    made: Path, tmp_path: Path, boxatlas: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = boxatlas("train", MODEL, "--data", str(made), *SMALL, "--dry-run", "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["losses"]["classification"] > 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ssdlite320_efficientnet_lite"], f"did you mean '{MODEL}'"),
        ([MODEL, "--set", "epoch=3"], "did you mean 'epochs'"),
        ([MODEL, "--set", "model.negative=3", "--set", "init=none"], "did you mean 'negatives'"),
        ([MODEL, "--set", "match_iou=0.4"], "that is an option of the model, model.match_iou"),
        ([MODEL, "--set", "model.=3"], "no name of an option"),
        (
            [MODEL, "--set", "model.nms=0.4", "--set", "model.nms_iou=0.5"],
            "model.nms_iou: is given twice: also by its old name nms",
        ),
        ([MODEL, "--set", "init=nowhere.safetensors"], "nowhere.safetensors: no such file"),
        ([MODEL, "--set", "val_split=test"], "never chosen on test"),
        ([MODEL, *SMALL, "--set", "train_split=nothing"], "no such split"),
        ([MODEL, *SMALL, "--set", "batch=1"], "one image is too few"),
        (["missing.yaml"], "missing.yaml"),
    ],
)
def test_a_mistake_is_one_line(
    made: Path,
    tmp_path: Path,
    boxatlas: Callable[..., Said],
    arguments: list[str],
    message: str,
) -> None:
    run = tmp_path / "run"
    said = boxatlas("train", *arguments, "--data", str(made), "--out", str(run))
    last = said.err.strip().splitlines()[-1]
    assert said.code == 2
    assert said.out == ""
    assert last.startswith("boxatlas: error: ")
    assert message in last
    assert not run.exists()  # so that the same command, mended, works


def test_an_image_that_cannot_be_read_ends_a_run_and_keeps_what_it_learned(
    made: Path, tmp_path: Path, boxatlas: Callable[..., Said]
) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(made, data)
    last = int(np.random.default_rng([0, 0]).permutation(8)[-1])  # of the first epoch
    name = (data / "ImageSets/Main/train.txt").read_text().split()[last]
    image = data / "JPEGImages" / f"{name}.jpg"
    whole = image.read_bytes()
    image.write_bytes(whole[:300])
    said = boxatlas(
        "train",
        MODEL,
        "--data",
        str(data),
        "--out",
        str(run),
        *SMALL,
        "--set",
        "batch=2",
        "--set",
        "iterations=4",
    )
    assert (said.code, image.name in said.err) == (2, True)
    assert read_header(run)["position"].step == 3  # pyright: ignore[reportOptionalSubscript]
    image.write_bytes(whole)
    said = boxatlas("train", "--resume", "--out", str(run), "--device", "cpu", "--json")
    assert json.loads(said.out)["iterations"] == 4


def test_the_command_of_the_readme_starts_from_the_detector_in_the_package(
    made: Path, boxatlas: Callable[..., Said]
) -> None:
    said = boxatlas("train", MODEL, "--data", str(made), "--device", "cpu", "--dry-run")
    assert said.code == 0, said.err
    assert "weights of bundled" in said.err


def test_an_empty_folder_is_one_line(tmp_path: Path, boxatlas: Callable[..., Said]) -> None:
    (tmp_path / "empty").mkdir()
    said = boxatlas("train", MODEL, "--data", str(tmp_path / "empty"), "--dry-run")
    assert said.code == 2
    assert "holds no data set" in said.err


@pytest.mark.slow
def test_two_processes_train_and_evaluate_together(made: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
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
        "-m",
        "boxatlas",
        "train",
        MODEL,
        "--data",
        str(made),
        "--out",
        str(run),
        "--set",
        "epochs=1",
        *SMALL,
        "--json",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert json.loads(ended.stdout)["iterations"] == 2
    assert (run / "best.safetensors").exists()


@pytest.mark.slow
def test_killed_and_resumed_it_ends_with_the_same_weights(made: Path, tmp_path: Path) -> None:
    """kill -9 in the middle of a real detector's training from files, augmentation and all."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    start = [
        sys.executable,
        "-m",
        "boxatlas",
        "train",
        MODEL,
        "--data",
        str(made),
        "--set",
        "epochs=5",
        "--set",
        "save_every=1",
        *SMALL,
        "--seed",
        "3",
    ]

    def train(run: Path, *more: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*start, "--out", str(run), *more],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert train(whole).wait() == 0
    for reached in (2, 5):
        running = train(stopped, "--resume")
        deadline = time.monotonic() + 300
        while running.poll() is None and time.monotonic() < deadline:
            header = read_header(stopped) if stopped.exists() else None
            if header and header["position"].trained >= reached:
                break
            time.sleep(0.02)
        running.send_signal(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
    assert train(stopped, "--resume").wait() == 0
    for name in ("last.safetensors", "resume.safetensors"):
        ours, theirs = load_file(whole / name), load_file(stopped / name)
        assert ours.keys() == theirs.keys()
        assert all(ours[key].equal(theirs[key]) for key in ours)
