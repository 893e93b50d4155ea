"""What a user asks for by index, class or score, checked."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from boxatlas.errors import InputError, nearest


def rows_of(index: Any, count: int) -> Tensor:
    """What an index chooses of `count` rows, as int64 [n]."""
    if isinstance(index, slice):
        return torch.from_numpy(np.arange(count, dtype=np.int64)[index].copy())
    chosen = index.detach().cpu().numpy() if isinstance(index, Tensor) else np.asarray(index)
    if chosen.size == 0 and chosen.ndim == 1 and chosen.dtype != bool:
        return torch.zeros(0, dtype=torch.int64)
    if chosen.ndim == 1 and chosen.dtype == bool:
        if len(chosen) != count:
            raise IndexError(f"a mask of {len(chosen)} for {count} detections")
        return torch.from_numpy(np.flatnonzero(chosen))
    if chosen.ndim > 1 or chosen.dtype.kind not in "iu":
        raise TypeError(
            "detections are indexed by an integer, a slice, a list of integers or a mask; "
            "filter(classes=..., score=...) chooses by name and score"
        )
    rows = np.atleast_1d(chosen).astype(np.int64)
    beyond = rows[(rows < -count) | (rows >= count)]
    if len(beyond):
        raise IndexError(f"index {beyond[0]} of {count} detections")
    return torch.from_numpy(np.where(rows < 0, rows + count, rows))


def labels_of(names: str | Iterable[str], classes: Sequence[str]) -> list[int]:
    """The labels of classes by name; a name may stand for several. Raises InputError for others."""
    wanted = [names] if isinstance(names, str) else list(names)
    for name in wanted:
        if name not in classes:
            problem = "the detector has no such class"
            raise InputError(problem, field="classes", value=name, hint=nearest(str(name), classes))
    return [i for i, name in enumerate(classes) if name in wanted]


def checked_fraction(number: Any, field: str) -> float:
    """A number of 0 to 1: a score or an overlap. Raises InputError, naming the field, otherwise."""
    try:
        value = math.nan if isinstance(number, bool | str) else float(number)
    except (TypeError, ValueError):
        value = math.nan
    if not 0 <= value <= 1:
        raise InputError("is a number of 0 to 1", field=field, value=number)
    return value


def checked_count(count: Any, field: str) -> int:
    """A whole number of at least 1. Raises InputError, naming the field, otherwise."""
    try:
        value = 0 if isinstance(count, bool) else operator.index(count)
    except TypeError:
        value = 0
    if value < 1:
        raise InputError("is a whole number of at least 1", field=field, value=count)
    return value
