"""Small files of weights: half precision, and rows of eight bits where that is not small enough.

A matrix of many numbers is kept as whole numbers from -127 to 127, each row (what makes one output)
with a scale of its own, so that an error is at most 1/254 of the row's largest weight. All else,
biases and norms among it, stays as it is or becomes half precision.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from boxatlas.errors import InputError

Packing = Literal["half", "rows of 8 bits"]
SCALE = "/scale"  # after the name of a tensor: its rows' scales; no name of ours holds a slash
_MANY = 1 << 14  # numbers from which a tensor's rows are worth scales


def packed(state: Mapping[str, Tensor], packing: Packing, file: object = None) -> dict[str, Tensor]:
    """The tensors of a detector as a small file holds them. `unpacked` gives them back.

    Raises InputError for values that half precision cannot hold and for such as are not finite.
    """
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if not tensor.is_floating_point() or tensor.dim() < 2:
            out[name] = tensor
        elif packing == "half" or tensor.numel() < _MANY:
            out[name] = _half(name, tensor, file)
        else:
            out[name], out[name + SCALE] = _rows(name, tensor, file)
    return out


def unpacked(state: Mapping[str, Tensor], file: object = None) -> dict[str, Tensor]:
    """The tensors as a detector takes them; rows of eight bits become float32.

    Raises InputError for scales that are not those of a tensor's rows.
    """
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.endswith(SCALE):
            continue
        scale = state.get(name + SCALE)
        if scale is None:
            out[name] = tensor
            continue
        if tensor.dtype != torch.int8 or scale.shape != tensor.shape[:1]:
            raise InputError("has scales that are not of its rows", file=_text(file), field=name)
        out[name] = tensor.float() * scale.float().reshape(-1, *[1] * (tensor.dim() - 1))
    lost = [n for n in state if n.endswith(SCALE) and n.removesuffix(SCALE) not in state]
    if lost:
        raise InputError("scales without their tensor", file=_text(file), field=lost[0])
    return out


def size_of(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of the tensors alone."""
    return sum(t.numel() * t.element_size() for t in tensors.values())


def _half(name: str, tensor: Tensor, file: object) -> Tensor:
    half = tensor.to(torch.float16)
    if not torch.isfinite(half).all():
        raise InputError("holds values that half precision cannot", file=_text(file), field=name)
    return half


def _rows(name: str, tensor: Tensor, file: object) -> tuple[Tensor, Tensor]:
    """(whole numbers of the tensor's shape, a scale for each row)."""
    rows = tensor.detach().float().flatten(1)
    if not torch.isfinite(rows).all():
        raise InputError("holds values that are not numbers", file=_text(file), field=name)
    scale = rows.abs().amax(1).clamp(min=1e-12) / 127
    whole = (rows / scale[:, None]).round().clamp(-127, 127).to(torch.int8)
    return whole.reshape(tensor.shape), scale


def _text(file: Any) -> str | None:
    return None if file is None else str(file)
