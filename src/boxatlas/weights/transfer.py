"""Putting the weights of one detector into another: every tensor that fits, class rows by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from boxatlas.parts.base import ClassRows, Detector

ABSENT = "absent from the source"


@dataclass
class Transferred:
    """What a transfer did.

    loaded: names of tensors taken whole; rows: name -> the classes whose rows were taken, for
    tensors that hold a row per class; new: name -> why it kept its own values; unused: names that
    the source holds and the detector does not.
    """

    loaded: list[str] = field(default_factory=list)
    rows: dict[str, list[str]] = field(default_factory=dict)
    new: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)

    def lines(self, limit: int = 6) -> list[str]:
        """The account for people: what was loaded, what is new and why, what was left."""
        out = [f"loaded: {len(self.loaded)} tensors whole"]
        for classes, names in _grouped(self.rows).items():
            shown = _few(list(classes), limit)
            out.append(f"class rows: {len(names)} tensors, for {shown} ({_few(names, limit)})")
        for reason, names in _grouped(self.new).items():
            out.append(f"new: {len(names)} tensors, {reason} ({_few(names, limit)})")
        if self.unused:
            out.append(f"not used: {len(self.unused)} tensors ({_few(self.unused, limit)})")
        return out


@torch.no_grad()
def transfer(
    model: Detector, state: Mapping[str, Tensor], classes: Sequence[str] | None = None
) -> Transferred:
    """Load into `model` every tensor of `state` that fits.

    A tensor fits where the names and the shapes agree. Where the model's classes are not `classes`
    (those of `state`; None = the same), a tensor that holds a row per class (`class_rows`) takes
    the rows of the classes of equal name and all rows that belong to no class; the rest keeps the
    values it has.
    """
    done = Transferred()
    table = model.class_rows()
    source = model.classes if classes is None else tuple(classes)
    own = model.state_dict()
    for name, target in own.items():
        given = state.get(name)
        if given is None:
            done.new[name] = ABSENT
        elif name in table and source != model.classes:
            _take_rows(name, target, given, table[name], source, model.classes, done)
        elif given.shape != target.shape:
            done.new[name] = f"{_shape(given)} does not fit {_shape(target)}"
        else:
            target.copy_(given)
            done.loaded.append(name)
    done.unused = [name for name in state if name not in own]
    return done


def _take_rows(
    name: str,
    target: Tensor,
    given: Tensor,
    rows: ClassRows,
    source: tuple[str, ...],
    wanted: tuple[str, ...],
    done: Transferred,
) -> None:
    """Copy the rows of shared classes and those before the classes, block by block."""
    shape = (rows.groups, rows.offset + len(source), rows.width, *target.shape[1:])
    if given.shape != (shape[0] * shape[1] * rows.width, *target.shape[1:]):
        done.new[name] = f"{_shape(given)} does not hold {len(source)} classes as this model does"
        return
    shared = [label for label in wanted if label in source]
    blocks = given.reshape(shape).to(target)
    view = target.view(rows.groups, rows.offset + len(wanted), rows.width, *target.shape[1:])
    view[:, : rows.offset] = blocks[:, : rows.offset]
    to = [rows.offset + wanted.index(label) for label in shared]
    view[:, to] = blocks[:, [rows.offset + source.index(label) for label in shared]]
    if shared:
        done.rows[name] = shared
    else:
        done.new[name] = "no class in common"


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _few(names: Sequence[str], limit: int) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def _grouped(items: Mapping[str, str] | Mapping[str, list[str]]) -> dict[str | tuple, list[str]]:
    """Names by what is said of them."""
    groups: dict[str | tuple, list[str]] = {}
    for name, value in items.items():
        groups.setdefault(value if isinstance(value, str) else tuple(value), []).append(name)
    return groups
