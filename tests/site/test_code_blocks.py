"""Code of the documents: Python runs; commands name verbs, options and models that exist."""

from __future__ import annotations

import re
import shlex
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from PIL import Image

import boxatlas
from boxatlas import scenes
from boxatlas.cli import build
from boxatlas.data import make_loader, read
from boxatlas.training.recipe import bundled_recipes
from boxatlas.zoo import list_models

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
_FENCE = re.compile(r"^```python\n(.*?)^```$", re.S | re.M)


# -- Python ---------------------------------------------------------------------------------------


def blocks() -> list[Any]:
    """Every block of Python, page by page; those of one page follow each other."""
    found = []
    for page in PAGES:
        code = _FENCE.findall(page.read_text(encoding="utf-8"))
        name = str(page.relative_to(ROOT))
        if code and name != "docs/training_loop.md":  # which has a test of its own
            found.append(pytest.param(name, code, id=name))
    return found


@pytest.fixture
def readers_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the documents take for granted: photos, photo.jpg, a trained run, a batch."""
    monkeypatch.chdir(tmp_path)
    scenes.write("photos", {"train": 4, "val": 2, "test": 2})
    for name in ("photo.jpg", "photos/one.jpg"):
        Image.fromarray(scenes.make(3).image).save(name)
    torch.manual_seed(0)
    table = read("photos", "train")
    model = boxatlas.create_model(
        "ssdlite320_efficientnet_lite0", classes=["cat", "dog"], size=64, pretrained=False
    )
    Path("runs/first").mkdir(parents=True)
    model.save("runs/first/best.safetensors")
    two = boxatlas.create_model("ssd300_vgg16", classes=["cat", "dog"])
    some = table.where(table.labels < 2)
    loader = make_loader(some, two.preprocess, batch_size=2, shuffle=False, seed=0)
    return {"batch": next(iter(loader)), "np": np}


@pytest.mark.parametrize(("page", "code"), blocks())
def test_python_of_the_documents_runs(
    page: str, code: list[str], readers_folder: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if page == "docs/training.md":  # on a GPU, twelve epochs: not here
        monkeypatch.setattr("boxatlas.training.train", _one_step)
    space = dict(readers_folder)
    for part in code:
        exec(compile(part, page, "exec"), space)


def _one_step(recipe: Any, out: str, device: str) -> Any:
    """Training's face, without the training: the recipe must be one, and the values used exist."""
    from boxatlas.training import Trained

    assert recipe.epochs == 12
    assert "best" in Trained.__annotations__
    assert "metrics" in Trained.__annotations__
    return type("Done", (), {"best": out, "metrics": {"mAP": 0.0}})()


# -- commands -------------------------------------------------------------------------------------


def commands() -> list[Any]:
    """Every line of the documents that runs boxatlas, with the lines that continue it."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for line in re.findall(r"^ {4,}(boxatlas [a-z].*)$", text, re.M):
            found.append(pytest.param(line, id=f"{page.stem}: {line[:60]}"))
    return found


@lru_cache(maxsize=1)
def program() -> Any:
    return typer.main.get_command(build())


def leaf(words: list[str]) -> tuple[Any, list[str]]:
    """(the command that the words name, what follows it)."""
    at = program()
    context = at.make_context("boxatlas", [], resilient_parsing=True)
    while words and hasattr(at, "get_command"):
        inner = at.get_command(context, words[0])
        assert inner is not None, f"there is no verb {words[0]}"
        at, words = inner, words[1:]
        context = at.make_context(words[0] if words else "x", [], resilient_parsing=True)
    return at, words


@pytest.mark.parametrize("line", commands())
def test_a_command_of_the_documents_is_one(line: str) -> None:
    try:
        words = shlex.split(line, comments=True)[1:]
    except ValueError:
        pytest.fail("the shell would not read this line")
    if "--help" in words:
        words.remove("--help")
    verb, rest = leaf(words)
    known = {name for one in verb.params for name in (*one.opts, *one.secondary_opts)}
    options = [w.split("=")[0] for w in rest if w.startswith("--")]
    assert not [o for o in options if o not in known | {"--debug", "--json"}]
    _models_exist(verb.name, rest)


def _models_exist(verb: str, rest: list[str]) -> None:
    """A model that a command names exists, and so do the choices that it sets."""
    first = next((w for w in rest if not w.startswith("-")), "")
    if verb not in ("explain", "train", "ablate") or first.isupper():
        return
    if verb == "train" and (not first or "--resume" in rest):
        return
    recipes = bundled_recipes()
    assert first in {*list_models(), *recipes, "bundled"} or first.endswith(".yaml"), first
    keys = [
        rest[i + 1].split("=")[0].removeprefix("model.")
        for i, w in enumerate(rest[:-1])
        if (w == "--set" and rest[i + 1].startswith("model.")) or w == "--switch"
    ]
    if not keys or first == "bundled" or first.endswith(".yaml"):
        return
    name = first if first in list_models() else None
    if name is None:
        from boxatlas.training.recipe import find_recipe

        name = find_recipe(first).model
    with torch.device("meta"):
        config = boxatlas.create_model(name).config
    missing = [key for key in keys if key not in type(config).model_fields]
    assert not [key for key in missing if key not in ("lr", "batch", "epochs", "augment")], missing
