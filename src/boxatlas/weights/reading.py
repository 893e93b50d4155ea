"""Reading files of weights. Nothing in a file may run code; whatever is wrong is one InputError."""

from __future__ import annotations

import json
import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.serialization import safe_globals

from boxatlas.archives import read_npz
from boxatlas.errors import InputError, parsing
from boxatlas.files import check_file
from boxatlas.weights.packing import unpacked
from boxatlas.weights.pickles import read_pickle

State = dict[str, Tensor]
KEY = "boxatlas"  # the metadata entry that describes a detector of ours
# What training programs keep beside their tensors (arguments, logs, configurations): passed over.
_BESIDE = re.compile(
    r"argparse\.Namespace|(builtins\.)?(getattr|set)|pathlib\.\w+|"
    r"(mmengine|mmcv|mmdet|numpy|detectron2|fvcore|yacs|omegaconf|pytorch_lightning|lightning|"
    r"lightning_fabric)\.[\w.]+"
)
_HOLDERS = ("state_dict", "model", "model_state_dict")  # where training programs keep the weights
_PREFIXES = ("_orig_mod.", "module.", "model.")  # of a compiled, a parallel, a Lightning model


class _Beside:
    """Stands for an object that is passed over: nothing of it is looked up, called or kept."""

    def __new__(cls, *_: object) -> _Beside:
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def read_state(path: str | Path) -> State:
    """The tensors of a file by name: safetensors, PyTorch (tensors only), named arrays (npz),
    or a pickle of arrays (pkl).

    A state dict inside a training checkpoint ("model", "state_dict", ...) is found. Raises
    InputError where the file is missing, truncated, of another kind, or would run code.
    """
    return _opened(Path(path))[0]


def read(path: str | Path) -> tuple[State, dict[str, Any] | None]:
    """(tensors by name, the description if the file is a checkpoint of ours)."""
    state, description, _ = _opened(Path(path))
    return state, description


def read_notes(path: str | Path) -> tuple[State, dict[str, Any]]:
    """(tensors by name, what mmcv and mmengine write beside them: the plain values of "meta")."""
    state, _, notes = _opened(Path(path))
    return state, notes


def _opened(path: Path) -> tuple[State, dict[str, Any] | None, dict[str, Any]]:
    """(tensors, our description, "meta" of a training program)."""
    check_file(path)
    with open(path, "rb") as file:
        head = file.read(16)
    if not head:
        raise InputError("the file is empty", file=path)
    if path.suffix == ".npz":
        return _read_arrays(path), None, {}
    if path.suffix == ".pkl":
        state = tensors_of(read_pickle(path))
        if not state:
            raise InputError("holds no arrays by name", file=path)
        return state, None, {}
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        return *_read_safetensors(path), {}
    state, notes = _read_torch(path)
    return state, None, notes


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
    return unpacked(state, path), description


def _read_torch(path: Path) -> tuple[State, dict[str, Any]]:
    content = _content(path)
    with parsing(path, "holds tensors within themselves"):
        state = tensors_of(content)
    if not state:
        raise InputError("holds no tensors by name", file=path)
    notes = content.get("meta") if isinstance(content, Mapping) else None
    return state, dict(notes) if isinstance(notes, Mapping) else {}


def _content(path: Path) -> object:
    """What a PyTorch file holds: tensors and plain values, `_Beside` for what is passed over."""
    with open(path, "rb") as file:
        head = file.read(512).lstrip().lower()
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise InputError(
            "is a web page, not weights", file=path, hint="download the file, not its page"
        )
    try:
        return _unpickled(path)
    except pickle.UnpicklingError as error:
        wanted = _wanted(error)
        raise InputError(
            "not a file of weights, or one that holds more than tensors and could run code"
            f"{f' (it would call {wanted})' if wanted else ''}; refused unread",
            file=path,
            hint="save it again as safetensors where you trust it",
        ) from None
    except Exception as error:  # a damaged file fails in any of the reader's ways
        reason = str(error).split(". ")[0].split("\n")[0]
        detail = f": {reason}" if isinstance(error, RuntimeError | OSError) else ""
        raise InputError(f"truncated or not a file of weights{detail}", file=path) from None


def _unpickled(path: Path) -> object:
    """By torch's reader of tensors; each name that it stops at and that `_BESIDE` knows stands for
    a `_Beside` when it reads again. Nothing is imported, so nothing of those programs can run."""
    passed: list[tuple[Any, str]] = []
    while True:
        try:
            with warnings.catch_warnings(), safe_globals(list(passed)):
                warnings.simplefilter("ignore")  # of old pickle protocols
                return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            name = _wanted(error)
            if name is None or not _BESIDE.fullmatch(name):
                raise
            name = name if "." in name else f"builtins.{name}"
            if name in (known for _, known in passed):
                raise
            passed.append((_Beside, name))


def _wanted(error: pickle.UnpicklingError) -> str | None:
    """What a pickle would have called."""
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    return found[1] if found else None


def _read_arrays(path: Path) -> State:
    with parsing(path, "truncated or not an npz of arrays"):
        return {name: torch.from_numpy(array) for name, array in read_npz(path).items()}


def tensors_of(content: object) -> State:
    """The state dict in what was loaded: the one where training programs keep it, or itself, or the
    largest that it holds; without the prefixes of wrapped models."""
    if not isinstance(content, Mapping):
        return {}
    flat = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    usual = (tensors_of(content[name]) for name in _HOLDERS if name in content)
    state = next((found for found in usual if found), None)
    if state is None or len(state) < len(flat):
        state = max([flat, *map(tensors_of, content.values())], key=len)
    while prefix := next((p for p in _PREFIXES if state and all(map(starts(p), state))), None):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def starts(prefix: str) -> Callable[[str], bool]:
    """Whether a name begins with it."""
    return lambda name: name.startswith(prefix)
