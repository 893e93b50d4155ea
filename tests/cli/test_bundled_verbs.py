"""The bundled detector as the verbs take it: by default, by name, as the start of a training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import boxatlas
from boxatlas import scenes
from boxatlas.errors import InputError
from boxatlas.training import find_recipe, train
from boxatlas.training.prepare import detector_of, resolve_init
from boxatlas.weights import bundle, load
from boxatlas.weights.bundle import DEFAULT, write_card, write_weights

SETTINGS = [
    "iterations=1",
    "warmup=0",
    "batch=2",
    "val_split=none",
    "train_split=test",
    "freeze=[]",
]


@pytest.fixture
def box(checkpoint: Path, made_scenes: Path, tmp_path: Path, monkeypatch, say) -> Path:
    """The package's folder with a bundled detector in it: the small one, with its true numbers."""
    folder = tmp_path / "box"
    monkeypatch.setattr(bundle, "FOLDER", folder)
    file, about = write_weights(checkpoint, folder)
    code, out, _ = say(
        "eval", file, "--data", made_scenes, "--metric", "voc07", "--no-speed", "--json"
    )
    assert code == 0
    write_card(file, about, json.loads(out), data="scenes", terms="made by boxatlas")
    return file


def test_verbs_take_it_by_name_and_detect_by_default(say, box: Path, made_scenes: Path) -> None:
    code, out, _ = say("explain", "bundled")
    assert code == 0
    assert "terms      made by boxatlas" in out
    card = json.loads(say("explain", "bundled", "--json")[1])
    code, out, _ = say(
        "eval", "bundled", "--data", made_scenes, "--metric", "voc07", "--no-speed", "--json"
    )
    assert code == 0
    assert json.loads(out)["per_class"] == card["evaluation"]["per_class"]
    photo = next(made_scenes.rglob("*.jpg"))
    code, out, _ = say("detect", photo, "--json")
    assert code == 0
    assert json.loads(out)["model"] == DEFAULT


def test_verbs_say_that_there_is_none(
    say, made_scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "FOLDER", tmp_path / "empty")
    photo = next(made_scenes.rglob("*.jpg"))
    for arguments in (
        ("explain", "bundled"),
        ("detect", photo),
        ("eval", "bundled", "--data", made_scenes),
    ):
        code, out, err = say(*arguments)
        assert code == 2
        assert out == ""
        assert "carries no trained detector" in err
        assert err.strip().count("\n") == 0


def test_training_begins_with_it_where_there_is_one(
    box: Path, made_scenes: Path, tmp_path: Path
) -> None:
    recipe = find_recipe(DEFAULT, ["init=bundled", "options={}", *SETTINGS])
    recipe = recipe.changed({"data": [str(made_scenes)]})
    settled = resolve_init(recipe)
    assert settled.options["size"] == 96
    model, said = detector_of(settled, scenes.CLASSES)
    held = load("bundled").state_dict()
    learned = [n for n in held if n != "images_seen"]
    assert all(torch.equal(model.state_dict()[n], held[n]) for n in learned)
    assert said[0] == "weights of bundled"
    run = train(recipe, tmp_path / "run")
    assert load(run.last).preprocess.size == (96, 96)
    box.unlink()  # the run's own recipe says all: it goes on without the bundled file
    assert train(None, tmp_path / "run", resume=True).iterations == 1


def test_auto_takes_what_is_there(box: Path) -> None:
    recipe = find_recipe(DEFAULT)
    assert recipe.init == "auto"
    there = resolve_init(recipe)
    assert (there.init, there.options["size"]) == ("bundled", 320)  # the recipe's size goes first
    box.unlink()
    absent = resolve_init(recipe)
    assert (absent.init, absent.options) == ("imagenet", recipe.options)
    with pytest.raises(InputError, match="no weights are bundled for"):
        resolve_init(recipe.changed({"init": "bundled"}))


def test_photos_of_installed_packages_name_their_terms() -> None:
    from boxatlas.images import read
    from boxatlas.photos import photos

    found = photos()
    assert {"Grace Hopper", "A palace in China"} <= {one.title for one in found}
    for one in found:
        assert min(read(one.path).shape[:2]) > 100
        assert any(word in one.terms for word in ("public domain", "CC"))
        assert not one.path.is_relative_to(Path(boxatlas.__file__).parent)
