"""Weights and inputs made from names and seeds, the same on every machine.

Public: tensor, weights, generate, sample. NumPy's legacy RandomState is frozen, which is why it is
used here: a value depends on its name, its shape and the seed alone.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from boxatlas.errors import InputError, nearest

Shape = Sequence[int]


def tensor(name: str, shape: Shape, seed: int = 0) -> np.ndarray:
    """The value of the parameter or buffer `name`: float32, int64 zeros for a batch counter.

    Standard normal noise seeded by the CRC of the name; running_var is 1 + |noise| / 2,
    running_mean and bias noise / 10, weights of two and more axes noise * sqrt(2 / fan_in), and
    one-dimensional weights, the gains of norms, 1 + noise / 10.
    """
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    source = np.random.RandomState((zlib.crc32(name.encode()) + seed) % (1 << 32))
    noise = np.asarray(source.standard_normal(tuple(shape)))
    if name.endswith("running_var"):
        value = 1 + 0.5 * np.abs(noise)
    elif name.endswith(("running_mean", "bias")):
        value = 0.1 * noise
    elif len(shape) > 1:
        value = noise * np.sqrt(2 / np.prod(shape[1:], dtype=np.int64))
    else:
        value = 1 + 0.1 * noise
    return value.astype(np.float32)


def weights(rule: Mapping[str, Any], shapes: Mapping[str, Shape]) -> dict[str, np.ndarray]:
    """Every named tensor by a case's `weights` block: seed, then gains, then set; alias renames."""
    made = {}
    for name, shape in shapes.items():
        source = name
        for pattern, other in rule.get("alias", ()):
            if re.search(pattern, name):
                source = re.sub(pattern, other, name)
                break
        made[name] = tensor(source, shape, rule["seed"] or 0)
    for pattern, factor in rule.get("gains", ()):
        for name in _matching(pattern, made):
            gain = np.asarray(factor, np.float32)
            gain = gain.reshape(-1, *[1] * (made[name].ndim - 1)) if gain.ndim else gain
            made[name] = made[name] * gain
    for pattern, value in rule.get("set", ()):
        for name in _matching(pattern, made):
            made[name] = np.full_like(made[name], value)
    return made


def _matching(pattern: str, made: Mapping[str, np.ndarray]) -> list[str]:
    return [name for name in made if re.search(pattern, name)]


def generate(rule: Mapping[str, Any]) -> np.ndarray:
    """The float32 input that a rule with shape, seed, rule, scale and offset describes."""
    shape = tuple(rule["shape"])
    noise = np.random.RandomState(rule["seed"]).standard_normal(shape).astype(np.float32)
    scale, offset = np.float32(rule.get("scale", 1.0)), np.float32(rule.get("offset", 0.0))
    kind = rule["rule"]
    if kind == "unit":
        value = np.clip(np.float32(0.5) + np.float32(0.25) * noise, 0, 1)
    elif kind == "normal":
        value = noise * scale + offset
    elif kind == "relu":
        value = np.maximum(noise * scale + offset, np.float32(0))
    elif kind == "rank":
        rank = np.empty(noise.size, np.int64)
        rank[np.argsort(noise.reshape(-1), kind="stable")] = np.arange(noise.size)
        spread = (rank + 1) / (noise.size + 1)
        value = (rule.get("scale", 1.0) * spread + rule.get("offset", 0.0)).reshape(shape)
    else:
        known = ["unit", "normal", "relu", "rank"]
        raise InputError("no such rule of an input", value=kind, hint=nearest(str(kind), known))
    value = _softmax(value) if rule.get("activation") == "softmax" else value
    value = np.array(value, np.float32)
    added = rule.get("add", [])
    for part in [added] if isinstance(added, Mapping) else added:
        value[tuple(slice(*axis) for axis in part["slice"])] += np.float32(part["value"])
    return value


def _softmax(value: np.ndarray) -> np.ndarray:
    power = np.exp(value - value.max(axis=-1, keepdims=True))
    return power / power.sum(axis=-1, keepdims=True)


def sample(array: np.ndarray, count: int) -> np.ndarray:
    """`count` values at fixed pseudo-random flat positions as float32; all if there are fewer."""
    flat = np.asarray(array, np.float32).reshape(-1)
    if flat.size <= count:
        return flat
    return flat[np.random.RandomState(1).permutation(flat.size)[:count]]
