"""Reading files of weights. Nothing in a file may run code; whatever is wrong is one InputError."""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from boxatlas.errors import InputError
from boxatlas.weights.pickles import read_pickle

State = dict[str, Tensor]
KEY = "boxatlas"  # the metadata entry that describes a detector of ours


def read_state(path: str | Path) -> State:
    """The tensors of a file by name: safetensors, PyTorch (tensors only), named arrays (npz),
    or a pickle of arrays (pkl).

    A state dict inside a training checkpoint ("model", "state_dict", ...) is found. Raises
    InputError where the file is missing, truncated, of another kind, or would run code.
    """
    return read(path)[0]


def read(path: str | Path) -> tuple[State, dict[str, Any] | None]:
    """(tensors by name, the description if the file is a checkpoint of ours)."""
    path = Path(path)
    if not path.is_file():
        raise InputError("no such file", file=path)
    with open(path, "rb") as file:
        head = file.read(16)
    if not head:
        raise InputError("the file is empty", file=path)
    if path.suffix == ".npz":
        return _read_arrays(path), None
    if path.suffix == ".pkl":
        state = tensors_of(read_pickle(path))
        if not state:
            raise InputError("holds no arrays by name", file=path)
        return state, None
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        return _read_safetensors(path)
    return _read_torch(path), None


def _read_safetensors(path: Path) -> tuple[State, dict[str, Any] | None]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"truncated or not a safetensors file: {error}", file=path) from None
    if KEY not in metadata:
        return state, None
    try:
        description = json.loads(metadata[KEY])
    except ValueError:
        description = None
    if not isinstance(description, dict):
        raise InputError("the description of the detector is damaged", file=path, field=KEY)
    return state, description


def _read_torch(path: Path) -> State:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old pickle protocols
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(
            "not a file of weights, or one that holds more than tensors and could run code; "
            "refused unread",
            file=path,
            hint="save it again as safetensors where you trust it",
        ) from None
    except Exception as error:  # a damaged file fails in any of the reader's ways
        reason = str(error).split(". ")[0].split("\n")[0]
        detail = f": {reason}" if isinstance(error, RuntimeError | OSError) else ""
        raise InputError(f"truncated or not a file of weights{detail}", file=path) from None
    state = tensors_of(content)
    if not state:
        raise InputError("holds no tensors by name", file=path)
    return state


def _read_arrays(path: Path) -> State:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"truncated or not an npz of arrays: {error}", file=path) from None


def tensors_of(content: object) -> State:
    """The state dict in what was loaded: itself, or the largest one that it holds."""
    if not isinstance(content, Mapping):
        return {}
    flat = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    inner = [tensors_of(v) for v in content.values() if isinstance(v, Mapping)]
    state = max([flat, *inner], key=len)
    if state and all(name.startswith("module.") for name in state):  # saved under DataParallel
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state
