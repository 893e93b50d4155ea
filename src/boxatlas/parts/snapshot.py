"""Whether a model still is what it was: its modules, their attributes, and every weight.

A fast form of a network is a copy. It may serve only while nothing that it was made from has
changed, by whatever means: an optimizer's step, `.data`, a numpy view, a replaced module, pruning.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, nn

_SMALL = 4096  # elements: up to these, a tensor is compared number by number
_ROW = 32  # words of 8 bytes of a larger one that are summed to one
_IGNORED = ("training", "_fast")  # neither changes what a detection gives
_SCALARS = (str, int, float, bool, type(None), tuple)


class Snapshot:
    """How a model stands now. Every object that it is made of is held, so that none of them can
    give its identity to another.

    A change of a single weight is always seen, as a sum of integers then differs; numbers that
    change their places are seen unless all of them stay within 256 bytes of a large tensor. Lists
    and dicts that modules hold are compared where they hold plain values.
    """

    @torch.no_grad()
    def __init__(self, model: nn.Module) -> None:
        self.objects = _objects(model)
        self.lists = [(o, o.copy()) for o in self.objects if _holds_values(o)]
        self.small: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        self.large: list[_Large] = []
        for tensor in {id(o): o for o in self.objects if isinstance(o, Tensor)}.values():
            if tensor.layout is not torch.strided or tensor.device.type == "meta":
                continue
            if tensor.numel() > _SMALL:
                self.large.append(_Large(tensor))
            else:
                self.small.setdefault((tensor.dtype, tensor.device), []).append(tensor)
        self.values = [part.clone() for part in self._small_values()]  # one alone is a view
        self.sums = [one.sums() for one in self.large]

    @torch.no_grad()
    def still(self, model: nn.Module) -> bool:
        """Whether nothing has changed since."""
        objects = _objects(model)
        return (
            len(objects) == len(self.objects)
            and all(map(operator.is_, objects, self.objects))
            and all(values == copied for values, copied in self.lists)
            and all(one.in_place() for one in self.large)
            and all(map(_same, self._small_values(), self.values))
            and all(map(torch.equal, (one.sums() for one in self.large), self.sums))
        )

    def _small_values(self) -> list[Tensor]:
        """All small tensors of a type in one vector, as integers."""
        flat = torch._C._nn.flatten_dense_tensors  # pyright: ignore
        return [part for held in self.small.values() for part in _words(flat(held))]


class _Large:
    """A tensor's memory in rows of words. It is held, so that no other can come to its place."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.place = (tensor.data_ptr(), tensor.stride(), tensor.dtype)
        if not tensor.is_contiguous() and tensor.ndim == 4:
            tensor = tensor.permute(0, 2, 3, 1)  # how channels-last memory lies
        dense = tensor.is_contiguous() and tensor.data_ptr() % 8 == 0
        self.rows: Tensor | None = None
        if dense:
            words, *tail = _words(tensor.detach().view(-1))
            whole = words.numel() // _ROW * _ROW
            self.rows = words[:whole].view(-1, _ROW)
            self.rest = [part for part in (words[whole:], *tail) if part.numel()]

    def in_place(self) -> bool:
        tensor = self.tensor
        return self.place == (tensor.data_ptr(), tensor.stride(), tensor.dtype)

    def sums(self) -> Tensor:
        """[rows + what is left], or every number where the memory does not lie in one piece."""
        if self.rows is None:
            return self.tensor.detach().clone()
        sums = self.rows.sum(1)
        return torch.cat([sums, *self.rest]) if self.rest else sums


def _objects(model: nn.Module) -> list[Any]:
    """Every module, its attributes, parameters, buffers and hooks, always in the same order."""
    objects: list[Any] = []
    modules: list[nn.Module] = [model]
    for module in modules:  # grows as it goes; the dicts are read directly, as it must take no time
        own = module.__dict__.copy()
        for name in _IGNORED:
            own.pop(name, None)
        objects += own.values()
        objects += module._parameters.values()
        objects += module._buffers.values()
        objects += module._forward_hooks.values()
        objects += module._forward_pre_hooks.values()
        children = module._modules.values()
        objects += children
        modules += [child for child in children if child is not None]
    return objects


def _holds_values(thing: Any) -> bool:
    """Whether it is a list or dict of plain values (a module's own tables of tensors are not)."""
    if not isinstance(thing, list | dict) or not thing:
        return False
    return all(
        isinstance(v, _SCALARS) for v in (thing.values() if isinstance(thing, dict) else thing)
    )


def _words(flat: Tensor) -> list[Tensor]:
    """A vector's memory as int64, the quickest to sum and compare, and the bytes that are left."""
    left = flat.numel() * flat.element_size() % 8 // flat.element_size()
    if not left:
        return [flat.view(torch.int64)]
    return [flat[:-left].view(torch.int64), flat[-left:].view(torch.uint8)]


def _same(now: Tensor, then: Tensor) -> bool:
    """Of small tensors, whose number may have changed with their device or shape."""
    return now.shape == then.shape and now.device == then.device and torch.equal(now, then)
