"""Pickled dicts of arrays (Detectron2's zoo), read without running code.

A pickle names what it wants called. Here only the makers of arrays, numbers and plain containers
can be named; anything else is refused before it runs.
"""

from __future__ import annotations

import codecs
import collections
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from boxatlas.errors import InputError


def _encoded(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes in an old pickle."""
    if encoding != "latin1":
        raise _RefusedError(f"text in {encoding}")
    return codecs.latin_1_encode(text)[0]


_ARRAY, _SCALAR = np.zeros(0).__reduce__()[0], np.float64(0).__reduce__()[0]
_KNOWN: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("_codecs", "encode"): _encoded,
}
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _KNOWN[_module, "_reconstruct"] = _ARRAY
    _KNOWN[_module, "scalar"] = _SCALAR


class _RefusedError(pickle.UnpicklingError):
    """The pickle wants something called that is not in the table."""


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise _RefusedError(f"it would call {module}.{name}")
        return _KNOWN[module, name]


def read_pickle(path: Path) -> dict[str, Any]:
    """The dict of a pickle, every array a tensor. Raises InputError for anything else in it."""
    try:
        with open(path, "rb") as file:
            content = _ArraysOnly(file, encoding="latin1").load()
    except _RefusedError as error:
        raise InputError(
            f"holds more than arrays and could run code; refused unread: {error}",
            file=path,
            hint="save its arrays as npz or safetensors where you trust it",
        ) from None
    except Exception as error:  # a damaged pickle fails in any of the reader's ways
        raise InputError(f"truncated or not a pickle: {error}", file=path) from None
    if not isinstance(content, Mapping):
        raise InputError("is not a dict of arrays", file=path)
    return _tensors(content)


def _tensors(content: Mapping[Any, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            made[str(name)] = _tensors(value)
        elif isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            made[str(name)] = torch.from_numpy(np.array(value))
        elif isinstance(value, Tensor):
            made[str(name)] = value
    return made
