"""Bad input gets one line that names the file, the field and the value, exit code 2, no remains."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from commandline import Said

from boxatlas import create_model, scenes

MODEL = "ssdlite320_efficientnet_lite0"
DRY = ("--dry-run", "--device", "cpu", "--set", "init=none", "--set", "model.size=64")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small data set in each layout, and a checkpoint for its classes."""
    folder = tmp_path_factory.mktemp("whole")
    for layout in ("voc", "coco", "yolo"):
        scenes.write(folder / layout, {"train": 4, "test": 2}, size=(64, 80), layout=layout)
    create_model(MODEL, classes=scenes.CLASSES, size=64).save(folder / "model.safetensors")
    return folder


@pytest.fixture
def data(whole: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(whole, tmp_path / "data")


def refused(said: Said, *parts: str) -> None:
    """One line on standard error, nothing on standard output, exit code 2."""
    assert said.code == 2, said.err
    assert said.out == ""
    assert said.last.startswith("boxatlas: error: "), said.err
    assert "Traceback" not in said.err
    for part in parts:
        assert part in said.last, said.last


def first_xml(data: Path) -> Path:
    """The annotation of a training image that holds an object."""
    for path in sorted((data / "voc" / "Annotations").glob("train_*.xml")):
        if "<object>" in path.read_text():
            return path
    raise AssertionError("the scenes hold no object")


def test_an_empty_folder(boxatlas: Callable, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    for verb in (("train", MODEL, *DRY), ("eval", MODEL)):
        refused(boxatlas(*verb, "--data", tmp_path / "nothing"), "nothing: holds no data set")
    refused(boxatlas("detect", tmp_path / "nothing"), "nothing: holds no picture")
    refused(boxatlas("train", MODEL, *DRY, "--data", tmp_path / "gone"), "gone: no such folder")


def test_a_truncated_jpeg(boxatlas: Callable, data: Path) -> None:
    for path in (data / "voc" / "JPEGImages").glob("train_*.jpg"):
        path.write_bytes(path.read_bytes()[:-300])
    said = boxatlas("train", MODEL, *DRY, "--data", data / "voc", "--set", "val_split=none")
    refused(said, "train_0", ".jpg: the image cannot be decoded", "truncated")
    broken = data / "voc" / "JPEGImages" / "train_00000.jpg"
    said = boxatlas("detect", broken, "--model", data / "model.safetensors", "--device", "cpu")
    refused(said, "train_00000.jpg: the image cannot be decoded")


def test_invalid_xml(boxatlas: Callable, data: Path) -> None:
    path = first_xml(data)
    path.write_text(path.read_text().replace("</annotation>", ""))
    refused(boxatlas("train", MODEL, *DRY, "--data", data / "voc"), f"{path.name}: ", "XML")


def test_invalid_json(boxatlas: Callable, data: Path) -> None:
    path = data / "coco" / "annotations" / "instances_train.json"
    path.write_text(path.read_text()[:-40])
    refused(
        boxatlas("train", MODEL, *DRY, "--data", data / "coco"), "instances_train.json: ", "JSON"
    )


def test_invalid_yaml(boxatlas: Callable, data: Path, tmp_path: Path) -> None:
    (data / "yolo" / "data.yaml").write_text("names: [a, b\ntrain: {")
    refused(boxatlas("train", MODEL, *DRY, "--data", data / "yolo"), "data.yaml: ", "YAML")
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("model: [")
    refused(boxatlas("train", recipe, *DRY, "--data", data / "voc"), "mine.yaml: not valid YAML")


def test_entities_are_not_expanded(boxatlas: Callable, data: Path) -> None:
    path = first_xml(data)
    secret = data / "secret.txt"
    secret.write_text("hidden")
    head = f'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY e SYSTEM "file://{secret}">]>'
    path.write_text(head + path.read_text().replace("<segmented>0", "<segmented>&e;"))
    said = boxatlas("train", MODEL, *DRY, "--data", data / "voc")
    refused(said, f"{path.name}: ", "entit")
    assert "hidden" not in said.err


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd"])
def test_a_path_outside_the_folder(boxatlas: Callable, data: Path, name: str) -> None:
    listed = data / "voc" / "ImageSets" / "Main" / "train.txt"
    listed.write_text(f"{name}\n")
    refused(boxatlas("train", MODEL, *DRY, "--data", data / "voc"), "train.txt", "leaves", name)
    path = data / "coco" / "annotations" / "instances_train.json"
    document = json.loads(path.read_text())
    document["images"][0]["file_name"] = f"{name}.jpg"
    path.write_text(json.dumps(document))
    refused(
        boxatlas("train", MODEL, *DRY, "--data", data / "coco"),
        "instances_train.json: images[0].file_name",
        "leaves",
        name,
    )


def test_a_coordinate_that_is_not_a_number(boxatlas: Callable, data: Path) -> None:
    path = first_xml(data)
    text = path.read_text()
    start, end = text.index("<xmin>"), text.index("</xmin>")
    path.write_text(text[:start] + "<xmin>nan" + text[end:])
    refused(boxatlas("train", MODEL, *DRY, "--data", data / "voc"), path.name, "xmin", "'nan'")
    path = data / "coco" / "annotations" / "instances_train.json"
    document = json.loads(path.read_text())
    document["annotations"][0]["bbox"][2] = float("nan")
    path.write_text(json.dumps(document))
    refused(
        boxatlas("train", MODEL, *DRY, "--data", data / "coco"),
        "instances_train.json: annotations[0].bbox[2]",
        "nan",
    )
    labels = next(
        p for p in sorted((data / "yolo" / "labels" / "train").iterdir()) if p.stat().st_size
    )
    labels.write_text("0 0.5 nan 0.1 0.1\n")
    refused(boxatlas("train", MODEL, *DRY, "--data", data / "yolo"), labels.name, "line 1", "nan")


def test_an_unknown_class(boxatlas: Callable, data: Path) -> None:
    path = data / "coco" / "annotations" / "instances_train.json"
    document = json.loads(path.read_text())
    document["annotations"][0]["category_id"] = 77
    path.write_text(json.dumps(document))
    refused(
        boxatlas("train", MODEL, *DRY, "--data", data / "coco"),
        "annotations[0].category_id: no such category",
        "77",
    )
    labels = next(
        p for p in sorted((data / "yolo" / "labels" / "train").iterdir()) if p.stat().st_size
    )
    labels.write_text("9 0.5 0.5 0.1 0.1\n")
    refused(boxatlas("train", MODEL, *DRY, "--data", data / "yolo"), labels.name, "line 1", "'9'")
    picture = data / "voc" / "JPEGImages" / "test_00000.jpg"
    said = boxatlas("detect", picture, "--model", data / "model.safetensors", "--class", "bal")
    refused(said, "no such class", "did you mean 'ball'")


def test_a_misspelt_model_or_key(boxatlas: Callable, data: Path, tmp_path: Path) -> None:
    voc = data / "voc"
    refused(boxatlas("train", "ssd300_vgg61", "--data", voc, *DRY), "did you mean 'ssd300_vgg16'")
    refused(boxatlas("bench", "ssd300_vgg61"), "did you mean 'ssd300_vgg16'")
    refused(boxatlas("eval", "ssd300_vgg61", "--data", voc), "did you mean 'ssd300_vgg16'")
    refused(boxatlas("eval", "bundledd", "--data", voc), "did you mean 'bundled'")
    refused(
        boxatlas("train", MODEL, "--data", voc, *DRY, "--set", "batchh=2"), "did you mean 'batch'"
    )
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"model: {MODEL}\nepochs: 1\nlearning_rates: 2\nmomentun: 0.9\n")
    refused(boxatlas("train", recipe, "--data", voc, *DRY), "mine.yaml: ", "no such option")
    recipe.write_text(f"model: {MODEL}\nepochs: 1\nmomentun: 0.9\n")
    refused(boxatlas("train", recipe, "--data", voc, *DRY), "did you mean 'momentum'")
    refused(
        boxatlas("eval", data / "model.safetensors", "--data", voc, "--split", "tests"),
        "no such split",
        "did you mean 'test'",
    )
    refused(
        boxatlas("eval", data / "model.safetensors", "--data", voc, "--metric", "voc1"),
        "did you mean 'voc12'",
    )


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["detect", "--scroe", "1"], ["detect: no such option (got '--scroe')", "'--score'"]),
        (["detect", "x", "--score", "1.5"], ["--score: ", "less than or equal to 1", "'1.5'"]),
        (["detect", "x", "--score", "nan"], ["--score: not a number (got 'nan')"]),
        (["detect", "x", "--score"], ["'--score' requires an argument"]),
        (["bench", "--seconds", "inf"], ["--seconds: ", "'inf'"]),
        (["demo", "--epochs", "0"], ["--epochs: ", "'0'"]),
        (["train", "--resume", "--out", "x", "--seed", "3"], ["--seed: needs the model or recipe"]),
        (["train", "--resume", "--out", "x", "--format", "voc"], ["--format: needs the model"]),
        (["train", "--resume", "--out", "x", "--dry-run"], ["--dry-run: needs the model"]),
        (["trian"], ["no such command (got 'trian')", "did you mean 'train'?"]),
        (["data", "validate", "x"], ["data: no such command", "that is `boxatlas data check`"]),
        (["explain", "SSD"], ["no such model", "'ssd300_vgg16'"]),
        (["models", "FSSD9*"], ["no model matches", "choose from"]),
        (["weights", "improt"], ["weights: no such command", "did you mean 'import'"]),
        (["weights", "import"], ["Missing argument", "see boxatlas weights import --help"]),
    ],
)
def test_a_misuse_of_the_command_line(
    boxatlas: Callable, arguments: list[str], parts: list[str]
) -> None:
    said = boxatlas(*arguments)
    refused(said, *parts)
    assert len(said.err.splitlines()) == 1


def test_a_checkpoint_of_another_model(boxatlas: Callable, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copyfile(data / "model.safetensors", run.with_suffix(".safetensors"))
    said = boxatlas(
        "train",
        "ssd300_vgg16",
        "--data",
        data / "voc",
        "--out",
        run,
        "--device",
        "cpu",
        "--set",
        f"init={run.with_suffix('.safetensors')}",
    )
    refused(said, "run.safetensors: ")
    assert not (run / "best.safetensors").exists()
    stranger = tmp_path / "stranger.safetensors"
    from safetensors.torch import save_file

    save_file({"w": torch.zeros(3)}, stranger)
    refused(boxatlas("eval", stranger, "--data", data / "voc"), "stranger.safetensors: ")
    (tmp_path / "text.safetensors").write_text("no tensors")
    refused(
        boxatlas("detect", data / "voc", "--model", tmp_path / "text.safetensors"),
        "text.safetensors: ",
    )


class Trap:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("kind", ["torch", "plain"])
def test_a_pickle_that_runs_code_is_refused_unread(
    boxatlas: Callable, data: Path, tmp_path: Path, kind: str
) -> None:
    sprung, path = tmp_path / "sprung", tmp_path / "trap.pth"
    if kind == "torch":
        torch.save({"w": Trap(sprung)}, path)
    else:
        path.write_bytes(pickle.dumps({"w": Trap(sprung)}))
    for verb in (
        ("weights", "import", path, "--source", "torchvision", "--as", "ssd300_vgg16"),
        ("eval", path, "--data", data / "voc"),
        ("detect", data / "voc", "--model", path),
    ):
        refused(boxatlas(*verb), "trap.pth: ")
        assert not sprung.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of a file as Linux does")
def test_a_full_disk_while_saving_keeps_the_last_checkpoint(whole: Path, tmp_path: Path) -> None:
    """The limit on a file's size stands in for the disk's end: the second save fails midway."""
    run = tmp_path / "run"
    code = f"""
import resource, signal, sys
from pathlib import Path
from boxatlas.cli import main
from boxatlas.training import loop
run, saves, save = Path({str(run)!r}), [], loop.save_state
def then_full(*a, **k):
    if saves:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    saves.append(1)
    save(*a, **k)
loop.save_state = then_full
main(["train", {MODEL!r}, "--data", {str(whole / "voc")!r}, "--out", str(run), "--device", "cpu",
      "--set", "init=none", "--set", "freeze=[]", "--set", "model.size=64", "--set", "batch=2",
      "--set", "val_split=none", "--set", "epochs=3", "--set", "save_every=2"])
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("boxatlas: error: ")
    assert "could not be written" in last
    assert "what was there before is unchanged" in last
    from boxatlas import load
    from boxatlas.training.checkpoint import read_header

    assert int(load(run / "last.safetensors").images_seen) == 4  # of two iterations
    header = read_header(run)
    assert header is not None
    assert header["position"].step == 2
    assert not list(run.rglob("*.part"))
