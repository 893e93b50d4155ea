"""Recipes: what they say, what is refused, how settings change them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from boxatlas.create import create_model
from boxatlas.errors import InputError
from boxatlas.training.recipe import Recipe, bundled_recipes, find_recipe, read_recipe

MINIMAL = "model: ssd300_vgg16\niterations: 1000\nschedule: step\nmilestones: [600, 800]\n"


def written(folder: Path, text: str = MINIMAL) -> Path:
    file = folder / "recipe.yaml"
    file.write_text(text)
    return file


@pytest.mark.parametrize("setting", ["lr=0.5", "train.lr=0.5", "lr=5e-1", "lr=.5"])
def test_settings_with_and_without_a_group(tmp_path: Path, setting: str) -> None:
    assert read_recipe(written(tmp_path), [setting]).lr == 0.5


def test_settings_of_the_method_of_the_augmentation_and_of_a_phase(tmp_path: Path) -> None:
    recipe = read_recipe(
        written(tmp_path),
        ["model.negatives=5", "augment_options.flip=0.1", "phases.rpn.lr=0.2", "ema=null"],
    )
    assert recipe.options == {"negatives": 5}
    assert recipe.augment_options == {"flip": 0.1}
    assert recipe.for_phase("rpn").lr == 0.2
    assert recipe.for_phase("other") is recipe


def test_a_new_length_takes_the_milestones_along(tmp_path: Path) -> None:
    shorter = read_recipe(written(tmp_path), ["iterations=100"])
    assert (shorter.iterations, shorter.milestones) == (100, [60, 80])
    text = MINIMAL + "eval_every: 200\nwarmup: 100\n"
    epochs = read_recipe(written(tmp_path, text), ["train.epochs=10"])
    assert (epochs.epochs, epochs.iterations) == (10, None)
    assert (epochs.milestones, epochs.eval_every, epochs.warmup) == ([6, 8], 2, 1)
    given = read_recipe(written(tmp_path), ["iterations=100", "milestones=[50]"])
    assert given.milestones == [50]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: x\nepoch: 3\n", r"recipe.yaml.*epoch.*did you mean 'epochs'"),
        ("model: x\nepochs: many\n", r"recipe.yaml.*epochs.*many"),
        ("model: x\nepochs: 3\nlr: -1\n", r"recipe.yaml.*lr.*-1"),
        ("model: x\nepochs: 3\niterations: 4\n", "as epochs or as iterations"),
        ("model: x\n", "as epochs or as iterations"),
        ("model: x\nepochs: 3\nschedule: steps\n", "schedule.*steps"),
        ("model: [x\nepochs: 3\n", r"not valid YAML: line \d"),
        ("- model\n", "a recipe is a list of"),
        ("model: !!python/object/apply:os.system [ls]\n", "not valid YAML"),
    ],
)
def test_a_wrong_recipe_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_recipe(written(tmp_path, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epoch=3", "--set.*epoch.*did you mean 'epochs'"),
        ("train.epoch=3", "did you mean 'epochs'"),
        ("epochs", "must be KEY=VALUE"),
        ("epochs=many", "--set.*epochs.*many"),
        ("epochs=[1", "not a YAML value"),
        ("epochs=.inf", "--set: epochs: .*finite"),
        ("lr=.inf", "--set: lr: .*finite"),
        ("lr_scale={a: .nan}", "--set: lr_scale.a: .*finite"),
        ("milestones=[-1]", "--set: milestones.0: .*greater"),
        ("phases.rpn.lrr=1", None),
    ],
)
def test_a_wrong_setting_is_one_line(tmp_path: Path, setting: str, message: str | None) -> None:
    if message is None:
        with pytest.raises(InputError, match=r"phases.rpn.*lrr.*did you mean 'lr'"):
            read_recipe(written(tmp_path), [setting]).for_phase("rpn")
        return
    with pytest.raises(InputError, match=message):
        read_recipe(written(tmp_path), [setting])


def test_no_such_file_or_model() -> None:
    with pytest.raises(InputError, match="no such file"):
        read_recipe("no/such.yaml")
    with pytest.raises(InputError, match="did you mean 'ssd300_vgg16'"):
        find_recipe("ssd300_vg16")


def test_its_text_reads_back_as_itself(tmp_path: Path) -> None:
    recipe = read_recipe(written(tmp_path), ["ema=0.999", "model.negatives=5", "freeze=[a, 'b*']"])
    assert read_recipe(written(tmp_path, recipe.text())) == recipe


@pytest.mark.parametrize("name", sorted(bundled_recipes()))
def test_our_recipes_show_every_value_and_build_their_model(name: str) -> None:
    text = bundled_recipes()[name].read_text(encoding="utf-8")
    recipe = find_recipe(name)
    header = [line for line in text.splitlines() if line.startswith("#")]
    for word in ("paper:", "command:", "expected:", "measured:"):
        assert any(word in line.lower() for line in header), word
    with torch.device("meta"):  # some hold hundreds of millions of numbers
        model = create_model(recipe.model, num_classes=3, **recipe.options)
    assert model.config is not None
    missing = set(Recipe.model_fields) - set(yaml.safe_load(text))
    assert missing <= (set() if model.takes_proposals else {"proposals"})


def test_a_model_alone_takes_todays_recipe() -> None:
    assert find_recipe("ssd300_vgg16") == find_recipe("modern/ssd300_vgg16")
