"""Pickled dicts of arrays (Detectron2's zoo), read without running code.

A pickle names what it wants called. Here only the makers of arrays, numbers and plain containers
can be named; anything else is refused before it runs.
"""

from __future__ import annotations

import codecs
import collections
import io
import pickle
import pickletools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from boxatlas.errors import InputError
from boxatlas.files import check_file

_DEEPEST = 4  # dicts within dicts that weights come in


def _encoded(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes in an old pickle."""
    if encoding != "latin1":
        raise _RefusedError(f"text in {encoding}")
    return codecs.latin_1_encode(text)[0]


_SCALAR: Any = np.float64(0).__reduce__()[0]
_KINDS = re.compile(r"[<>|=]?[fiub]\d{1,2}")


class _Array:
    """Stands for numpy's own class, which would take any shape before it has the numbers."""


def _empty(kind: object, shape: object, code: object) -> np.ndarray:
    """What numpy calls to make an array, whose numbers come afterwards and are counted then."""
    if kind is not _Array:
        raise _RefusedError("an array of another class")
    return np.zeros(0)


def _dtype(name: object, *_: object) -> np.dtype:
    text = name.decode("latin1") if isinstance(name, bytes) else str(name)
    if not _KINDS.fullmatch(text):
        raise _RefusedError(f"numbers of the type {text[:20]}")
    return np.dtype(text)


def _scalar(kind: np.dtype, value: bytes) -> Any:
    if not isinstance(kind, np.dtype) or len(value) != kind.itemsize:
        raise _RefusedError("a number of another length")
    return _SCALAR(kind, value)


_KNOWN: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): _dtype,
    ("numpy", "ndarray"): _Array,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("_codecs", "encode"): _encoded,
}
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _KNOWN[_module, "_reconstruct"] = _empty
    _KNOWN[_module, "scalar"] = _scalar


class _RefusedError(pickle.UnpicklingError):
    """The pickle wants something called that is not in the table."""


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise _RefusedError(f"it would call {module}.{name}")
        return _KNOWN[module, name]


def read_pickle(path: Path) -> dict[str, Any]:
    """The dict of a pickle, every array a tensor. Raises InputError for anything else in it."""
    check_file(path)
    data = path.read_bytes()
    try:
        _check_claims(data)
        content = _ArraysOnly(io.BytesIO(data), encoding="latin1").load()
    except _RefusedError as error:
        problem = f"holds more than arrays and could run code; refused unread: {error}"
        hint = "save its arrays as npz or safetensors where you trust it"
        raise InputError(problem, file=path, hint=hint) from None
    except Exception as error:  # a damaged pickle fails in any of the reader's ways
        raise InputError(f"truncated or not a pickle: {error}", file=path) from None
    if not isinstance(content, Mapping):
        raise InputError("is not a dict of arrays", file=path)
    return _tensors(content)


def _check_claims(data: bytes) -> None:
    """Raise ValueError where a length or a number of the pickle's memory is beyond the file: its
    reader would ask for so much memory first."""
    for code, argument, _ in pickletools.genops(io.BytesIO(data)):
        if code.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > len(data):
            raise ValueError("the pickle's memory is larger than the file")


def _tensors(content: Mapping[Any, Any], depth: int = 0) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            if depth < _DEEPEST:
                made[str(name)] = _tensors(value, depth + 1)
        elif isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            made[str(name)] = torch.from_numpy(np.array(value))
        elif isinstance(value, Tensor):
            made[str(name)] = value
    return made
