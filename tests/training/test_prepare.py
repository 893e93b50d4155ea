"""Which images are trained on and evaluated, the first weights, and run folders that are safe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from boxatlas import create_model
from boxatlas.detectors.yolov3 import ANCHORS, YOLOv3
from boxatlas.errors import InputError
from boxatlas.training import train, try_out
from boxatlas.training.checkpoint import STATE
from boxatlas.training.distributed import World
from boxatlas.training.prepare import (
    detector_of,
    images_of,
    size_schedule,
    with_anchors,
    workers_of,
)
from boxatlas.training.recipe import Recipe
from boxatlas.weights import load

LITE = {
    "model": "ssdlite320_efficientnet_lite0",
    "options": {"size": 64},
    "augment": "flip",
    "iterations": 3,
    "batch": 2,
    "val_split": "none",
    "save_every": 1,
    "log_every": 1,
}


def yolo(folder: Path, splits: Mapping[str, int], names: Sequence[str] = ("cat", "dog")) -> str:
    """A YOLO folder of noise, with an object of each class in every image but the first."""
    rng = np.random.default_rng(0)
    for split, count in splits.items():
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / split / f"{split}{i}.png")
            rows = [f"{k} 0.5 0.5 0.4 0.{3 + k}" for k in range(len(names))] if i else []
            (folder / "labels" / split / f"{split}{i}.txt").write_text("\n".join(rows))
    lines = [f"{split}: images/{split}" for split in splits]
    (folder / "data.yaml").write_text("\n".join([*lines, f"names: [{', '.join(names)}]"]))
    return str(folder)


def recipe(*data: str, **values: Any) -> Recipe:
    return Recipe.of(**{**LITE, "val_split": "auto", "data": list(data), **values})


def test_val_judges_and_test_never_does(tmp_path: Path) -> None:
    images = images_of(recipe(yolo(tmp_path, {"train": 6, "val": 3, "test": 2})))
    assert images.val is not None
    assert (len(images.train), len(images.val)) == (6, 3)
    assert all("val" in Path(p).name for p in images.val.paths)
    with pytest.raises(InputError, match="never chosen on test"):
        images_of(recipe(str(tmp_path), val_split="test"))


def test_without_val_a_tenth_drawn_by_the_seed_is_held_out_and_said(tmp_path: Path) -> None:
    folder = yolo(tmp_path, {"train": 30, "test": 5})
    images = images_of(recipe(folder))
    assert images.val is not None
    assert (len(images.train), len(images.val)) == (27, 3)
    assert not set(images.train.paths) & set(images.val.paths)
    assert any("a tenth of the training images" in note for note in images.notes)
    again, other = images_of(recipe(folder)), images_of(recipe(folder, seed=1))
    assert again.val is not None
    assert other.val is not None
    assert again.val.paths == images.val.paths != other.val.paths


def test_train_and_trainval_stand_in_for_one_another(tmp_path: Path) -> None:
    """The recipes of VOC's papers learn trainval, which few sets of one's own have."""
    data = yolo(tmp_path / "a", {"train": 4, "val": 2})
    images = images_of(recipe(data, train_split="trainval", val_split="none"))
    assert (len(images.train), "(train)" in images.notes[0]) == (4, True)
    with pytest.raises(InputError, match="no such split"):
        images_of(recipe(data, train_split="trainvall"))


def test_it_is_said_why_one_learned_image_is_not_judged(tmp_path: Path) -> None:
    folder = Path(yolo(tmp_path, {"train": 2}))
    (folder / "images" / "train" / "train0.png").unlink()
    (folder / "labels" / "train" / "train0.txt").unlink()
    (folder / "data.yaml").write_text("train: images/train\nval: images/train\nnames: [cat, dog]\n")
    images = images_of(recipe(str(folder)))
    assert images.val is None
    line = "validation: too few images to hold any out, and those of val are trained on"
    assert line in images.notes


def test_folders_are_joined_by_class_name(tmp_path: Path) -> None:
    a = yolo(tmp_path / "a", {"train": 3, "val": 2})
    b = yolo(tmp_path / "b", {"train": 4}, ["dog", "cow"])
    images = images_of(recipe(a, b))
    assert images.val is not None
    assert images.train.classes == images.val.classes == ("cat", "dog", "cow")
    assert (len(images.train), len(images.val)) == (7, 2)


def test_nothing_is_held_out_where_the_recipe_says_none(tmp_path: Path) -> None:
    images = images_of(recipe(yolo(tmp_path, {"train": 5, "val": 2}), val_split="none"))
    assert (len(images.train), images.val) == (5, None)
    with pytest.raises(InputError, match=r"split.*trian"):
        images_of(recipe(str(tmp_path), train_split="trian"))
    with pytest.raises(InputError, match="no data set"):
        images_of(recipe())


def test_workers_leave_the_cpu_to_a_cpu() -> None:
    one = recipe("x")
    assert workers_of(one, torch.device("cpu"), World()) == 0
    assert workers_of(one, torch.device("cuda"), World()) >= 1
    assert workers_of(recipe("x", workers=3), torch.device("cpu"), World()) == 3


def test_fine_tuning_takes_over_what_fits_and_says_so(tmp_path: Path) -> None:
    old, _ = detector_of(recipe("x", init="none"), ("cat", "dog"))
    old.images_seen += 5
    old.save(tmp_path / "old.safetensors")
    new, said = detector_of(recipe("x", init=str(tmp_path / "old.safetensors")), ("dog", "car"))
    name, rows = next(iter(new.class_rows().items()))
    shape = (rows.groups, rows.offset + 2, -1)
    a, b = (m.state_dict()[name].flatten(1).reshape(shape) for m in (old, new))
    assert torch.equal(b[:, 1], a[:, 2])  # dog
    assert not torch.equal(b[:, 2], a[:, 1])
    assert int(new.images_seen) == 0
    assert any("class rows" in line and "dog" in line for line in said)


def test_a_run_folder_is_never_overwritten(tmp_path: Path) -> None:
    one = Recipe.of(**LITE, data=[yolo(tmp_path / "data", {"train": 4})], init="none")
    run = tmp_path / "run"
    trained = train(one, run)
    assert trained.iterations == 3
    assert load(trained.best).classes == ("cat", "dog")
    assert {"recipe.yaml", "metrics.csv", "last.safetensors", STATE} <= {
        p.name for p in run.iterdir()
    }
    with pytest.raises(InputError, match=r"holds something already.*--resume"):
        train(one, run)
    with pytest.raises(InputError, match=r"the run has lr 0.01, not 0.5"):
        train(one.changed({"lr": 0.5}), run, resume=True)
    before = (run / STATE).read_bytes()
    assert train(None, run, resume=True).iterations == 3  # it had ended
    assert (run / STATE).read_bytes() == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="is not the folder of a run"):
        train(one, tmp_path / "other", resume=True)


def test_a_run_killed_before_its_first_checkpoint_begins_again(tmp_path: Path) -> None:
    one = Recipe.of(**LITE, data=[yolo(tmp_path / "data", {"train": 4})], init="none")
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text(one.text())
    (run / f".{STATE}.x.part").write_bytes(b"half")
    assert train(None, run, resume=True).iterations == 3
    assert not list(run.glob(".*.part"))


def test_a_dry_run_goes_through_all_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = yolo(tmp_path / "data", {"train": 4, "val": 2})
    result = try_out(recipe(data, batch=32, init="none"))
    assert result["batch"] == 4
    assert set(result["losses"]) == {"classification", "localisation"}
    assert 0 <= result["metrics"]["mAP"] <= 1
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_when_a_training_keeps_to_the_largest_size() -> None:
    """100 batches, two a step: 50 steps an epoch. Darknet: the last 200 steps of all."""
    sizes = [(64, 64), (96, 96)]
    given = recipe(iterations=1000, batch=4, micro_batch=2)
    kept = create_model("yolov3_tiny", num_classes=2, width=0.05, size=64, largest_last=200)
    free = create_model("yolov3_tiny", num_classes=2, width=0.05, size=64)
    made = size_schedule(sizes, kept, given, 100, World())
    assert (made.parts, made.epoch_steps, made.largest_after) == (2, 50, 800)
    assert size_schedule(sizes, free, given, 100, World()).largest_after is None
    longer = given.changed({"epochs": 40})
    assert size_schedule(sizes, kept, longer, 100, World()).largest_after == 40 * 50 - 200


def shaped(folder: Path, sides: Sequence[tuple[int, int]]) -> str:
    """One image of 50 x 40 pixels with a centred object of each width and height."""
    yolo(folder, {"train": 1})
    rows = [f"0 0.5 0.5 {w / 50} {h / 40}" for w, h in sides]
    (folder / "labels" / "train" / "train0.txt").write_text("\n".join(rows))
    return str(folder)


def test_anchors_of_the_data_are_its_clusters(tmp_path: Path) -> None:
    """Five shapes are five clusters of themselves, in cells of 32 pixels of the input."""
    sides = [(5, 4), (10, 10), (20, 10), (20, 30), (45, 36)]
    table = images_of(recipe(shaped(tmp_path, sides), val_split="none")).train
    options = {"size": 64, "width": 0.05, "anchors": "data", "resize": "stretch"}
    given = recipe(model="yolov2_efficientnet_lite0", options=options, init="none")
    found, _ = with_anchors(given, table)
    wanted = [[w * 64 / 50 / 32, h * 64 / 40 / 32] for w, h in sides]
    np.testing.assert_allclose(found.options["anchors"], wanted, atol=2e-3)
    letterboxed = given.changed({"options": {**options, "resize": "letterbox"}})
    found, _ = with_anchors(letterboxed, table)
    wanted = [[w * 64 / 50 / 32, h * 64 / 50 / 32] for w, h in sides]
    np.testing.assert_allclose(found.options["anchors"], wanted, atol=2e-3)


def test_published_anchors_stay_where_boxes_are_few_or_weights_know_them(tmp_path: Path) -> None:
    table = images_of(recipe(shaped(tmp_path, [(5, 4), (10, 10)] * 5), val_split="none")).train
    options = {"size": 64, "width": 0.05, "anchors": "data"}
    given = recipe(model="yolov3_efficientnet_lite0", options=options, init="none")
    few, said = with_anchors(given, table)
    assert few == given
    assert "9 need as many" in said[0]
    model, _ = detector_of(few, ["a", "b"])
    assert isinstance(model, YOLOv3)
    assert model.anchors.tolist() == [list(pair) for pair in ANCHORS]
    told, said = with_anchors(given.changed({"init": "some.safetensors"}), table)
    assert told.options["anchors"] == "data"
    assert "some.safetensors" in said[0]
