"""Comparing a computed value with a stored one, by the rule that the output's entry gives.

Public: Outcome, compare.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from boxatlas.errors import InputError, nearest
from boxatlas.verify import fill
from boxatlas.verify.case import Case


@dataclass(frozen=True)
class Outcome:
    """Of one output: its name, whether it agrees, the largest errors, and what is wrong."""

    name: str
    ok: bool
    absolute: float
    relative: float
    reason: str = ""
    informational: bool = False


def compare(case: Case, entry: Mapping[str, Any], value: Any) -> Outcome:
    """Hold `value` against the entry's stored numbers."""
    shown = bool(entry.get("informational"))
    try:
        got, wanted = _pair(case, entry, value)
    except _MismatchError as error:
        return Outcome(entry["name"], False, float("inf"), float("inf"), str(error), shown)
    rule = entry.get("compare")
    rules = {"close": _close, "equal": _equal, "set": _as_set}
    if rule not in rules:
        raise InputError(
            "no such comparison",
            file=case.path,
            field=f"outputs.{entry['name']}.compare",
            value=rule,
            hint=nearest(str(rule), rules),
        )
    ok, absolute, relative, reason = rules[rule](entry, got, wanted)
    return Outcome(entry["name"], ok, absolute, relative, reason, shown)


class _MismatchError(Exception):
    """The computed value has not the form of the stored one."""


def _array(value: Any) -> np.ndarray:
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    return np.asarray(value)


def _pair(case: Case, entry: Mapping[str, Any], value: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both sides as arrays of equal shape: the computed one reduced as the stored one was."""
    got = _array(value)
    if got.dtype == object:
        raise _MismatchError("is ragged")
    if "value" in entry:
        wanted = np.asarray(entry["value"])
        return _shaped(got, wanted.shape), wanted
    shape = tuple(entry["shape"])
    if "rows" in entry and got.shape[:1] != shape[:1]:
        got = got[entry["rows"]]
    if entry.get("compare") == "set" and got.ndim == len(shape) and got.shape[1:] == shape[1:]:
        return got, case.array(entry["key"]).reshape(shape)  # the number of rows may differ
    got = _shaped(got, shape)
    if entry.get("relabel"):
        return _partition(got), _partition(case.array(entry["key"]).reshape(shape))
    stored = entry.get("stored", "all")
    if stored == "all":
        return got, case.array(entry["key"]).reshape(shape)
    if stored == "sparse":
        wanted = np.zeros(got.size, got.dtype)
        wanted[case.array(f"{entry['key']}.index")] = case.array(f"{entry['key']}.value")
        return got.reshape(-1), wanted
    wanted = case.array(entry["key"]).reshape(-1)
    return fill.sample(got, int(str(stored).removeprefix("sample:"))), wanted


def _shaped(got: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if got.size != int(np.prod(shape, dtype=np.int64)):
        raise _MismatchError(f"has shape {list(got.shape)}, not {list(shape)}")
    return got.reshape(shape)


def _partition(labels: np.ndarray) -> np.ndarray:
    """Labels renamed by the order in which they first appear."""
    _, first, inverse = np.unique(labels.reshape(-1), return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].reshape(labels.shape)


def _errors(got: np.ndarray, wanted: np.ndarray, atol: float) -> tuple[np.ndarray, float, float]:
    """Elementwise |got - wanted|, its maximum, and the largest relative one.

    The relative error leaves out numbers that the absolute tolerance covers by itself.
    """
    got, wanted = got.astype(np.float64), wanted.astype(np.float64)
    with np.errstate(invalid="ignore"):
        error = np.abs(got - wanted)
    error[(got == wanted) | (np.isnan(got) & np.isnan(wanted))] = 0.0  # equal infinities too
    error[np.isnan(error)] = np.inf
    size = np.abs(wanted)
    counts = size > atol
    relative = error[counts] / size[counts] if counts.any() else np.zeros(0)
    return error, float(error.max(initial=0.0)), float(relative.max(initial=0.0))


def _close(entry: Mapping[str, Any], got: np.ndarray, wanted: np.ndarray):
    atol, rtol = float(entry.get("atol", 0.0)), float(entry.get("rtol", 0.0))
    got, wanted = np.atleast_1d(got), np.atleast_1d(wanted)
    error, absolute, relative = _errors(got, wanted, atol)
    limit = np.nan_to_num(np.abs(wanted.astype(np.float64)), nan=0.0, posinf=0.0, neginf=0.0)
    far = int((error > atol + rtol * limit).sum())
    reason = f"{far} of {error.size} numbers differ by more than the tolerance" if far else ""
    return far == 0, absolute, relative, reason


def _equal(entry: Mapping[str, Any], got: np.ndarray, wanted: np.ndarray):
    error, absolute, relative = _errors(np.atleast_1d(got), np.atleast_1d(wanted), 0.0)
    far = int((error > 0).sum())
    reason = f"{far} of {error.size} values are not equal" if far else ""
    return far == 0, absolute, relative, reason


def _as_set(entry: Mapping[str, Any], got: np.ndarray, wanted: np.ndarray):
    """Rows in any order, one to one; max_unmatched may stay over on either side."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    got, wanted = got.astype(np.float64), wanted.astype(np.float64)
    column = np.asarray(entry.get("column_atol", entry.get("atol", 0.0)), np.float64)
    limit = column + float(entry.get("rtol", 0.0)) * np.abs(wanted)  # [stored, columns]
    near = np.zeros((len(wanted), len(got)), bool)
    for i, row in enumerate(wanted):
        near[i] = (np.abs(got - row) <= limit[i]).all(axis=1)
    partner = maximum_bipartite_matching(csr_array(near), perm_type="column")
    matched = partner >= 0
    over = max(len(wanted), len(got)) - int(matched.sum())
    _, absolute, relative = _errors(got[partner[matched]], wanted[matched], float(column.max()))
    allowed = int(entry.get("max_unmatched", 0))
    reason = f"{over} rows have no partner (of {len(got)} and {len(wanted)})" if over else ""
    return over <= allowed, absolute, relative, reason if over > allowed else ""
