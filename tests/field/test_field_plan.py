"""The field's plan: every method is in it or apart with a reason, and all are trained alike."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from boxatlas import create_model
from boxatlas.errors import InputError
from boxatlas.field.plan import APART, ENTRIES, FAMILIES, STAGES, entry, options_of, recipe_of
from boxatlas.registry import MODELS
from boxatlas.zoo import model_info


def test_every_method_of_the_atlas_is_trained_or_apart_with_its_reason() -> None:
    trained = {model_info(one.model).method for one in ENTRIES}
    assert trained | set(APART) == {info.method for info in MODELS.values()}
    assert not trained & set(APART)
    assert all(APART.values())
    assert len({one.name for one in ENTRIES}) == len(ENTRIES)


def test_what_differs_between_two_recipes_is_the_method_its_start_and_its_familys_rate() -> None:
    recipes = {one.name: recipe_of(one, "voc20", 7500).model_dump() for one in ENTRIES}
    own = {"model", "options", "init", "lr", "warmup", "lr_scale", "freeze"}
    shared = {key for key in recipes["ssd"] if key not in own}
    for name, recipe in recipes.items():
        for key in shared:
            assert recipe[key] == recipes["ssd"][key], f"{name}: {key}"
    assert recipes["ssd"]["iterations"] * recipes["ssd"]["batch"] >= 7500
    for one in ENTRIES:
        assert recipes[one.name]["lr"] == FAMILIES[one.family].lr
        assert (recipes[one.name]["init"] == "none") == (one.start == "none")
    common = [r for r in recipes.values() if r["options"].get("backbone") and r["init"] != "none"]
    assert all(r["freeze"] == recipes["ssd"]["freeze"] != [] for r in common)
    assert all(r["options"]["fold_norms"] for r in common)


def test_each_stage_of_the_judging_is_twice_the_one_before() -> None:
    """So that what the last half of a training gained is known."""
    assert all(b == 2 * a for a, b in pairwise(STAGES))


def test_every_entry_sees_its_images_once() -> None:
    """One phase each: a method of several would train on its images again in each."""
    for one in ENTRIES:
        options = {k: v for k, v in options_of(one).items() if v != "data"}
        detector = create_model(one.model, **options)
        assert len(detector.phases()) == 1, one.name
        count = sum(p.numel() for p in detector.parameters())
        assert 1e6 < count < 12e6, one.name  # bytes of 8-bit rows: at most 12 MB a file


def test_starts_that_are_compared_differ_in_nothing_else() -> None:
    pairs = [one for one in ENTRIES if one.start == "imagenet"]
    assert Counter(one.start for one in ENTRIES)["imagenet"] == len(pairs) == 3
    for one in pairs:
        plain = entry(one.name.removesuffix("_imagenet"))
        ours, theirs = (recipe_of(e, "voc20", 7500).model_dump() for e in (one, plain))
        assert {k for k in ours if ours[k] != theirs[k]} == {"init"}


def test_an_unknown_name_is_told_the_nearest() -> None:
    with pytest.raises(InputError, match="retinanet"):
        entry("retinanett")
