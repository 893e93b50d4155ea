"""The optimizer with its rules per parameter, and learning-rate schedules as plain functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.optim import Optimizer

from boxatlas.errors import InputError, nearest
from boxatlas.training.recipe import Recipe

NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
)


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a dotted name, or a module it lies in, matches one of the shell patterns."""
    return any(fnmatchcase(name, p) or fnmatchcase(name, f"{p}.*") for p in patterns)


def check_patterns(field: str, patterns: Iterable[str], names: Sequence[str]) -> None:
    """Raise InputError for a pattern that matches no name, naming the nearest."""
    for pattern in patterns:
        if not any(matches(name, [pattern]) for name in names):
            stems = sorted({n.rsplit(".", i)[0] for n in names for i in (0, 1, 2, 3)} - {""})
            raise InputError(
                "matches no layer", field=field, value=pattern, hint=nearest(pattern, stems)
            )


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict]:
    """The parameters that are trained, grouped by rate and decay.

    Each group holds `params`, `names`, `weight_decay` and `scale`, the multiple of the base rate.
    """
    names = [name for name, _ in model.named_parameters()]
    check_patterns("lr_scale", recipe.lr_scale, names)
    norms = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, NORMS)
        for parameter in module.parameters(recurse=False)
    }
    groups: dict[tuple[float, float], dict] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        bias = name.endswith("bias")
        norm = id(parameter) in norms
        decays = (recipe.bias_decay or not bias) and (recipe.norm_decay or not norm)
        scale = recipe.bias_lr if bias else 1.0
        for pattern, factor in recipe.lr_scale.items():
            scale *= factor if matches(name, [pattern]) else 1.0
        decay = recipe.weight_decay if decays else 0.0
        group = groups.setdefault(
            (scale, decay), {"params": [], "names": [], "weight_decay": decay, "scale": scale}
        )
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def make_optimizer(model: nn.Module, recipe: Recipe) -> Optimizer:
    """SGD or AdamW over the groups, in the fused form where the device has one."""
    groups = parameter_groups(model, recipe)
    if not groups:
        raise InputError("no parameter is left to train", field="freeze", value=recipe.freeze)
    fused = groups[0]["params"][0].device.type in ("cpu", "cuda")
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(
            groups, lr=recipe.lr, betas=(recipe.momentum, recipe.beta2), fused=fused
        )
    return torch.optim.SGD(
        groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov, fused=fused
    )


def set_rate(optimizer: Optimizer, lr: float) -> None:
    """Give every group its multiple of the base rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["scale"]


def steps_in(value: float, recipe: Recipe, steps_per_epoch: int) -> int:
    """A length of the recipe, in its unit, as iterations."""
    return round(value * steps_per_epoch) if recipe.epochs is not None else round(value)


def divided(recipe: Recipe, processes: int) -> tuple[int, int]:
    """(images at once in a process, parts of an iteration) whose product over all is `batch`."""
    share = recipe.batch / processes
    parts = math.ceil(share / (recipe.micro_batch or share))
    if recipe.batch % (processes * parts):
        raise InputError(
            f"{recipe.batch} images do not divide into {processes} processes of {parts} parts",
            field="batch",
            hint="choose batch and micro_batch so that they do",
        )
    return recipe.batch // (processes * parts), parts


def decay_start(recipe: Recipe, steps_per_epoch: int) -> int:
    """The first iteration at which a schedule constant_decay falls: all before it are the same
    however long the training is."""
    total = max(steps_in(recipe.length, recipe, steps_per_epoch), 1)
    return total - round(recipe.decay * total)


def schedule(recipe: Recipe, steps_per_epoch: int) -> Callable[[int], float]:
    """Iteration (from 0) -> the base learning rate there.

    warm-up: from `warmup_from` of the rate up, by the `warmup_power` of its progress. step: times
    gamma at each milestone.
    cosine: f + (1 - f) (1 + cos(pi t)) / 2; polynomial: f + (1 - f) (1 - t)^power, where f is
    `final_lr` and t goes from 0 at the end of the warm-up to 1 at the end of training. poly_whole:
    (1 - step / length)^power after the warm-up, as Darknet has it. constant_decay: 1, and from
    `decay_start` on a straight line to f, which the step after the last would have.
    """
    total = max(steps_in(recipe.length, recipe, steps_per_epoch), 1)
    falls = decay_start(recipe, steps_per_epoch)
    warmup = min(steps_in(recipe.warmup, recipe, steps_per_epoch), total)
    milestones = [steps_in(m, recipe, steps_per_epoch) for m in recipe.milestones]
    gammas = recipe.gamma if isinstance(recipe.gamma, list) else [recipe.gamma] * len(milestones)

    def factor(step: int) -> float:
        if recipe.schedule == "constant":
            return 1.0
        if recipe.schedule == "step":
            return math.prod(g for g, m in zip(gammas, milestones, strict=True) if step >= m)
        if recipe.schedule == "poly_whole":
            return 1.0 if step < warmup else max(1 - step / total, 0.0) ** recipe.power
        if recipe.schedule == "constant_decay":
            fallen = max(step - falls, 0) / max(total - falls, 1)
            return 1 - (1 - recipe.final_lr) * min(fallen, 1.0)
        t = min(max(step - warmup, 0) / max(total - warmup, 1), 1.0)
        cosine = recipe.schedule == "cosine"
        fall = (1 + math.cos(math.pi * t)) / 2 if cosine else (1 - t) ** recipe.power
        return recipe.final_lr + (1 - recipe.final_lr) * fall

    def rate(step: int) -> float:
        ramp = 1.0
        if step < warmup:
            progress = (step / warmup) ** recipe.warmup_power
            ramp = recipe.warmup_from + (1 - recipe.warmup_from) * progress
        return recipe.lr * ramp * factor(step)

    return rate
