"""The state that a stopped run resumes from: one safetensors file, the position in its header.

One file, replaced in one move, so that weights, momentum and position are always of the same
iteration. Nothing random is stored: every iteration seeds its generators from its own number.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from boxatlas.errors import InputError
from boxatlas.files import check_format, write_tensors
from boxatlas.training.ema import Ema

STATE = "resume.safetensors"
STEADY = "steady.safetensors"  # the state as a schedule constant_decay began to fall


@dataclass
class Position:
    """Where a run is.

    phase: its index; step: iterations done in it, trained: in all; evaluated: the step last
    evaluated; best: the best score so far, None before the first; seconds: spent so far;
    epoch_steps: iterations in an epoch, which must be the same after a resume; losses: as last
    read; metrics: of the last evaluation.
    """

    phase: int = 0
    step: int = 0
    trained: int = 0
    evaluated: int = 0
    best: float | None = None
    stale: int = 0
    seconds: float = 0.0
    epoch_steps: int = 0
    losses: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)


def save_state(
    folder: Path,
    position: Position,
    model: nn.Module,
    optimizer: Optimizer | None = None,
    ema: Ema | None = None,
    scaler: GradScaler | None = None,
    *,
    name: str = STATE,
    **extra: Any,
) -> None:
    """Write the state of a run to a file of its folder. `extra` is JSON kept in the header."""
    tensors = {f"model/{k}": v for k, v in model.state_dict().items()}
    header: dict[str, Any] = {"format": 1, "position": asdict(position), **extra}
    if ema is not None:
        tensors |= {f"ema/{k}": v for k, v in ema.model.state_dict().items()}
        header["ema_updates"] = ema.updates
    if optimizer is not None:
        tensors |= _optimizer_tensors(optimizer)
    if scaler is not None and scaler.is_enabled():
        header["scaler"] = scaler.state_dict()
    write_tensors(folder / name, tensors, {"boxatlas_run": json.dumps(header)})


def read_header(folder: Path, name: str = STATE) -> dict[str, Any] | None:
    """The JSON of a run's state, its position as `Position`; None where there is no state yet."""
    path = folder / name
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["boxatlas_run"])
        check_format(header["format"], path)
        header["position"] = Position(**header["position"])
        header["ended"] = Position(**header["ended"]) if header.get("ended") else None
    except InputError:
        raise
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise InputError(f"not the state of a run: {error}", file=path) from None
    return header


@torch.no_grad()
def load_state(
    folder: Path,
    model: nn.Module,
    optimizer: Optimizer | None = None,
    ema: Ema | None = None,
    scaler: GradScaler | None = None,
) -> None:
    """Put a state back, in place. Raises InputError where the file is of another model."""
    header = read_header(folder) or {}
    path = folder / STATE
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())

        def fill(prefix: str, module: nn.Module) -> None:
            for name, tensor in module.state_dict().items():
                key = f"{prefix}/{name}"
                if key not in names or tuple(file.get_slice(key).get_shape()) != tensor.shape:
                    raise InputError(
                        f"holds no fitting {name}",
                        file=path,
                        hint="it is the state of another model",
                    )
                tensor.copy_(file.get_tensor(key))

        fill("model", model)
        if ema is not None:
            fill("ema", ema.model)
            ema.updates = int(header.get("ema_updates", 0))
        if optimizer is not None:
            _fill_optimizer(optimizer, file, names)
    if scaler is not None and scaler.is_enabled() and "scaler" in header:
        scaler.load_state_dict(header["scaler"])


def reopen(folder: Path) -> None:
    """Put a run that had ended back to the last iteration of its only phase."""
    path = folder / STATE
    with safe_open(path, framework="pt") as file:
        header = json.loads((file.metadata() or {})["boxatlas_run"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    header["position"], header["ended"] = header["ended"], None
    write_tensors(path, tensors, {"boxatlas_run": json.dumps(header)})


def _optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """Momentum and the like, by parameter name: "optim/NAME/KEY"."""
    tensors = {}
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            for key, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    tensors[f"optim/{name}/{key}"] = value
    return tensors


def _fill_optimizer(optimizer: Optimizer, file: Any, names: set[str]) -> None:
    keys: dict[str, list[str]] = {}
    for full in names:
        if full.startswith("optim/"):
            name, key = full.removeprefix("optim/").rsplit("/", 1)
            keys.setdefault(name, []).append(key)
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            state = {}
            for key in sorted(keys.get(name, [])):
                saved = file.get_tensor(f"optim/{name}/{key}")
                # The parameter's own memory layout, so that the arithmetic repeats bit for bit.
                like = (
                    torch.empty_like(parameter)
                    if saved.shape == parameter.shape
                    else (torch.empty(saved.shape, dtype=saved.dtype, device=parameter.device))
                )
                state[key] = like.copy_(saved)
            if state:
                optimizer.state[parameter] = state
