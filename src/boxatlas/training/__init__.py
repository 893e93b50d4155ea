"""Training: a recipe says everything, one plain loop does it.

from boxatlas.training import find_recipe, train
train(find_recipe("ssd300_vgg16").changed({"data": ["VOC2007"]}), "runs/first")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from boxatlas.training.recipe import Recipe, bundled_recipes, find_recipe, read_recipe

if TYPE_CHECKING:
    from boxatlas.training.runs import Trained, train, try_out

__all__ = ["Recipe", "Trained", "bundled_recipes", "find_recipe", "read_recipe", "train", "try_out"]


def __getattr__(name: str) -> object:
    if name in ("Trained", "train", "try_out"):  # with torch and the data's readers
        from boxatlas.training import runs

        return getattr(runs, name)
    raise AttributeError(f"module 'boxatlas.training' has no attribute {name!r}")
