"""Rates worked by hand, and which parameter decays and learns how fast."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tiny import Tiny
from torch import nn

from boxatlas.errors import InputError
from boxatlas.parts.base import Phase
from boxatlas.training.ema import Ema
from boxatlas.training.loop import divided
from boxatlas.training.optim import make_optimizer, matches, schedule, set_rate
from boxatlas.training.phases import learn_only
from boxatlas.training.recipe import Recipe


def recipe(**values: Any) -> Recipe:
    return Recipe.of(**{"model": "tiny", "iterations": 100, "lr": 0.1, **values})


@pytest.mark.parametrize(
    ("values", "step", "expected"),
    [
        ({"schedule": "constant"}, 99, 0.1),
        ({"schedule": "step", "milestones": [80, 90]}, 79, 0.1),
        ({"schedule": "step", "milestones": [80, 90]}, 80, 0.01),
        ({"schedule": "step", "milestones": [80, 90]}, 90, 0.001),
        ({"schedule": "step", "milestones": [50], "gamma": 0.5}, 60, 0.05),
        ({"schedule": "cosine"}, 0, 0.1),
        ({"schedule": "cosine"}, 50, 0.05),
        ({"schedule": "cosine", "final_lr": 0.2}, 50, 0.06),  # 0.2 + 0.8 / 2 of the rate
        ({"schedule": "cosine", "final_lr": 0.2}, 100, 0.02),
        ({"schedule": "polynomial", "power": 2}, 50, 0.025),
        # warm-up from a tenth over 10 iterations; the fall begins after it: t = (55 - 10) / 90
        ({"schedule": "constant", "warmup": 10, "warmup_from": 0.1}, 0, 0.01),
        ({"schedule": "constant", "warmup": 10, "warmup_from": 0.1}, 5, 0.055),
        ({"schedule": "constant", "warmup": 10, "warmup_from": 0.1}, 10, 0.1),
        ({"schedule": "polynomial", "power": 1, "warmup": 10}, 55, 0.05),
        # falls over the last 20 of 100 iterations, to a tenth
        ({"schedule": "constant_decay", "final_lr": 0.1}, 80, 0.1),
        ({"schedule": "constant_decay", "final_lr": 0.1}, 90, 0.055),
        ({"schedule": "constant_decay", "final_lr": 0.1}, 100, 0.01),
        ({"schedule": "constant_decay", "final_lr": 0.1, "decay": 0.5}, 75, 0.055),
        ({"schedule": "constant_decay", "warmup": 10, "warmup_from": 0.1}, 5, 0.055),
    ],
)
def test_rate(values: dict[str, Any], step: int, expected: float) -> None:
    assert schedule(recipe(**values), 10)(step) == pytest.approx(expected)


def test_epochs_count_in_epochs() -> None:
    by_epoch = recipe(iterations=None, epochs=10, schedule="step", milestones=[8], warmup=0.5)
    rate = schedule(by_epoch, 20)
    assert [rate(159), rate(160)] == pytest.approx([0.1, 0.01])
    assert rate(9) < 0.1
    assert rate(10) == pytest.approx(0.1)


def test_biases_and_norms_have_rules_of_their_own() -> None:
    model = Tiny()
    optimizer = make_optimizer(
        model, recipe(weight_decay=5e-4, bias_lr=2.0, lr_scale={"stem.*": 0.1})
    )
    set_rate(optimizer, 0.01)
    found = {
        name: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for name in group["names"]
    }
    expected = {
        "stem.0.weight": (0.001, 5e-4), "stem.0.bias": (0.002, 0.0),
        "stem.1.weight": (0.001, 0.0), "stem.1.bias": (0.002, 0.0),
        "body.weight": (0.01, 5e-4), "body.bias": (0.02, 0.0),
        "head.weight": (0.01, 5e-4), "head.bias": (0.02, 0.0),
        "box.weight": (0.01, 5e-4), "box.bias": (0.02, 0.0),
    }  # fmt: skip
    assert found.keys() == expected.keys()
    for name, pair in expected.items():
        assert found[name] == pytest.approx(pair), name


def test_decay_on_norms_and_biases_where_asked() -> None:
    groups = make_optimizer(
        Tiny(), recipe(weight_decay=0.1, bias_decay=True, norm_decay=True)
    ).param_groups
    assert [g["weight_decay"] for g in groups] == [0.1]


def test_frozen_layers_do_not_learn_and_their_norms_stay_as_they_are() -> None:
    model = Tiny()
    kept = learn_only(model, Phase(), recipe(freeze=["stem"]))
    assert kept == [model.stem[1]]
    assert {n for n, p in model.named_parameters() if not p.requires_grad} == {
        "stem.0.weight",
        "stem.0.bias",
        "stem.1.weight",
        "stem.1.bias",
    }
    kept = learn_only(model, Phase(), recipe(freeze_norms=["*"]))
    assert kept == [model.stem[1]]
    assert model.stem[0].weight.requires_grad
    assert not model.stem[1].weight.requires_grad
    assert learn_only(model, Phase(learn=("head", "stem*")), recipe()) == []


def test_a_pattern_that_matches_nothing_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"freeze.*stemm.*did you mean 'stem'"):
        learn_only(Tiny(), Phase(), recipe(freeze=["stemm"]))
    model = Tiny()
    learn_only(model, Phase(), recipe(freeze=["*"]))
    with pytest.raises(InputError, match="no parameter is left to train"):
        make_optimizer(model, recipe(freeze=["*"]))


@pytest.mark.parametrize(
    ("name", "pattern", "expected"),
    [
        ("a.b.weight", "a", True),
        ("a.b.weight", "a.b", True),
        ("a.b.weight", "*.weight", True),
        ("ab.weight", "a", False),
        ("a.b.weight", "b", False),
    ],
)
def test_matches(name: str, pattern: str, expected: bool) -> None:
    assert matches(name, [pattern]) is expected


def test_the_average_follows_its_formula() -> None:
    model = Tiny()
    with torch.no_grad():
        model.box.weight.fill_(1.0)
    ema = Ema(model, 0.9)
    with torch.no_grad():
        model.box.weight.fill_(2.0)
        model.stem[1].running_mean.fill_(7.0)
    ema.update()  # d = 2/11
    first = 1 * 2 / 11 + 2 * 9 / 11
    assert ema.model.box.weight[0, 0].item() == pytest.approx(first)
    ema.update()  # d = 3/12
    assert ema.model.box.weight[0, 0].item() == pytest.approx(first * 0.25 + 2 * 0.75)
    assert ema.model.stem[1].running_mean[0].item() == 7.0
    for _ in range(200):
        ema.update()
    assert ema.model.box.weight[0, 0].item() == pytest.approx(2.0)
    assert isinstance(ema.model.stem, nn.Sequential)
    assert math.isfinite(sum(p.sum().item() for p in ema.model.parameters()))


@pytest.mark.parametrize(
    ("batch", "micro", "processes", "expected"),
    [
        (32, None, 1, (32, 1)),
        (32, 8, 1, (8, 4)),
        (32, 8, 2, (8, 2)),
        (32, 10, 1, (8, 4)),
        (16, 100, 4, (4, 1)),
        (1, None, 1, (1, 1)),
    ],
)
def test_a_batch_is_divided(
    batch: int, micro: int | None, processes: int, expected: tuple[int, int]
) -> None:
    assert divided(recipe(batch=batch, micro_batch=micro), processes) == expected


def test_a_batch_that_cannot_be_divided_is_refused() -> None:
    with pytest.raises(InputError, match="do not divide"):
        divided(recipe(batch=32), 3)
