"""Options through the command line's doors: idle ideas, old names, values that are wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import boxatlas
from boxatlas.errors import InputError
from boxatlas.options import RENAMED, replaced
from boxatlas.training import find_recipe, read_recipe

MODEL = "ssdlite320_efficientnet_lite0"
WHY = "only VGG-16 has conv4_3"


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an idea that, for this test, does nothing in MODEL."""
    config = type(boxatlas.create_model(MODEL, num_classes=1).config)
    monkeypatch.setattr(config, "idle", lambda self: {"negatives": WHY})
    return "negatives"


def test_explain_offers_no_idle_idea(say, idle: str) -> None:
    card = json.loads(say("explain", MODEL, "--json", "--all")[1])
    kinds = ("ideas", "settings", "habits")
    assert idle not in {option["name"] for kind in kinds for option in card[kind]}
    assert card["ideas"]


def test_an_idle_idea_is_refused_at_every_door(
    say, idle: str, tmp_path: Path, made_scenes: Path
) -> None:
    with pytest.raises(InputError, match=WHY) as error:
        find_recipe(MODEL, [f"model.{idle}=1"])
    assert "\n" not in str(error.value)
    assert idle in str(error.value)
    assert MODEL in str(error.value)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"model: {MODEL}\nepochs: 1\n")
    with pytest.raises(InputError, match=WHY):
        read_recipe(recipe, [f"options.{idle}=1"])
    data = ("--data", made_scenes, "--out", tmp_path / "out")
    for line in (
        ("train", MODEL, "--set", f"model.{idle}=1", *data),
        ("ablate", MODEL, "--switch", f"{idle}=1,3", *data),
    ):
        code, _, err = say(*line)
        assert code == 2
        assert err.count("\n") == 1
        assert WHY in err
        assert not (tmp_path / "out").exists()


def test_other_settings_are_not_taken_for_options(idle: str) -> None:
    """`negatives` of the model is idle; a recipe's own keys are not asked about."""
    assert find_recipe(MODEL, ["epochs=3", "model.size=96"]).options["size"] == 96


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("model.negativs=1", "did you mean 'negatives'"),
        ("model.size=-3", "size"),
        ("model.size=big", "size"),
    ],
)
def test_a_wrong_option_is_said_before_any_data_is_read(setting: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        find_recipe(MODEL, [setting])


def test_the_old_name_of_an_option_is_that_option(tmp_path: Path) -> None:
    (old, new) = next(iter(RENAMED.items()))
    assert (old, new) == ("nms", "nms_iou")
    by_setting = find_recipe(MODEL, [f"model.{old}=0.4"])
    by_file = tmp_path / "recipe.yaml"
    by_file.write_text(f"model: {MODEL}\nepochs: 1\noptions: {{{old}: 0.4}}\n")
    for recipe in (by_setting, read_recipe(by_file)):
        model = boxatlas.create_model(MODEL, num_classes=2, **recipe.options)
        assert dict(model.config)[new] == 0.4
    # A setting stands in place of the recipe's own value under either name.
    for name in (old, new):
        options = read_recipe(by_file, [f"model.{name}=0.6"]).options
        assert options == {name: 0.6}
        assert dict(boxatlas.create_model(MODEL, num_classes=2, **options).config)[new] == 0.6


def test_values_stand_in_place_of_those_under_another_name() -> None:
    assert replaced({"nms": 0.3, "size": 1}, {"nms_iou": 0.5}) == {"size": 1, "nms_iou": 0.5}
    assert replaced({"nms_iou": 0.3}, {"nms": 0.5}) == {"nms": 0.5}
    assert replaced({"size": 1}, {}) == {"size": 1}
