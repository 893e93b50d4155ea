"""Reading files of weights. Nothing in a file may run code; whatever is wrong is one InputError."""

from __future__ import annotations

import json
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from boxatlas.archives import read_npz
from boxatlas.errors import InputError, parsing
from boxatlas.files import check_file
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
    check_file(path)
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
    with (
        parsing(path, "truncated or not a safetensors file"),
        safe_open(path, framework="pt") as file,
    ):
        metadata = file.metadata() or {}
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if KEY not in metadata:
        return state, None
    try:
        description = json.loads(metadata[KEY])
    except (ValueError, RecursionError):
        description = None
    if not isinstance(description, dict):
        raise InputError("the description of the detector is damaged", file=path, field=KEY)
    return state, description


def _read_torch(path: Path) -> State:
    with open(path, "rb") as file:
        head = file.read(512).lstrip().lower()
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise InputError(
            "is a web page, not weights", file=path, hint="download the file, not its page"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old pickle protocols
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        wanted = f" (it would call {named[1]})" if named else ""
        raise InputError(
            "not a file of weights, or one that holds more than tensors and could run code"
            f"{wanted}; refused unread",
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
    with parsing(path, "truncated or not an npz of arrays"):
        return {name: torch.from_numpy(array) for name, array in read_npz(path).items()}


def tensors_of(content: object) -> State:
    """The state dict in what was loaded: itself, or the largest one that it holds."""
    if not isinstance(content, Mapping):
        return {}
    flat = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    inner = [tensors_of(v) for v in content.values() if isinstance(v, Mapping)]
    state = max([flat, *inner], key=len)
    for prefix in ("_orig_mod.", "module.", "_orig_mod."):  # of a compiled, a parallel model
        if state and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state
