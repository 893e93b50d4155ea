"""Files that earlier versions wrote still say the same: `old_files` holds what version 0.1.0 wrote.

descriptions.json: the description in a checkpoint of every model, with the values of all options
and a digest of the names and shapes of its tensors; and the same of models with other options
(but for M2Det's `shared_leach` in the paper's form, which could be built and never ran).
recipes: all that came with it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from boxatlas.parts.base import Detector
from boxatlas.training import find_recipe
from boxatlas.weights import described
from boxatlas.zoo import build

FOLDER = Path(__file__).parent / "old_files"
HELD = json.loads((FOLDER / "descriptions.json").read_text(encoding="utf-8"))
RECIPES = sorted((FOLDER / "recipes").rglob("*.yaml"))
# The quick run takes one model of each method, small; `make test-all` all of them.
SMALL = ("lite0", "tiny", "yolov1_tiny", "rfbnet300_mobilenet", "mobilenet_v3", "dsod")


def digest(model: Detector) -> str:
    """Of the names and shapes of a detector's tensors, in their order."""
    rows = [[name, list(value.shape)] for name, value in model.state_dict().items()]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


def cases(held: list[dict[str, Any]], name: str) -> list[Any]:
    """One parameter of each entry; `name` says of an entry which model it is of."""
    made = []
    for i, one in enumerate(held):
        model = one["description"]["model"] if name == "description" else one["model"]
        quick = any(part in model for part in SMALL)
        made.append(
            pytest.param(one, id=f"{model}-{i}", marks=() if quick else (pytest.mark.slow,))
        )
    return made


def plain(value: Any) -> Any:
    """As JSON has it."""
    return json.loads(json.dumps(value))


@pytest.mark.parametrize("held", cases(HELD["models"], "description"))
def test_a_checkpoint_s_description_builds_the_same_tensors(held: dict[str, Any]) -> None:
    model = described(held["description"], "old.safetensors")
    assert len(model.state_dict()) == held["tensors"]
    assert digest(model) == held["names_and_shapes"]
    preprocess = held["description"]["preprocess"]
    assert plain(model.preprocess.model_dump(mode="json")) == preprocess
    # Every option has its name and default, or its new name, or is gone at its old default.
    # What the description itself sets (YOLO9000: its tree) is so.
    old = type(model.config).current({**held["values"], **held["description"]["options"]})
    new = plain(model.config.model_dump(mode="json"))
    assert {name: new[name] for name in old} == old


@pytest.mark.parametrize("held", cases(HELD["variants"], "model"))
def test_options_of_an_old_checkpoint_build_the_same_tensors(held: dict[str, Any]) -> None:
    model = build(held["model"], ("class0", "class1", "class2"), held["options"])
    assert (len(model.state_dict()), digest(model)) == (held["tensors"], held["names_and_shapes"])


@pytest.mark.parametrize("file", RECIPES, ids=lambda f: f"{f.parent.name}/{f.stem}")
def test_an_old_recipe_is_read_and_its_options_are_known(file: Path) -> None:
    recipe = find_recipe(str(file), [])
    with torch.device("meta"):
        model = build(recipe.model, ("a", "b"), recipe.options)
    assert model.name == recipe.model
