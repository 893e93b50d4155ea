"""Batch norm folded into the convolution before it. What follows which is seen in one forward, not
guessed from names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from boxatlas.backbones.resnet import FrozenBatchNorm2d

Run = Callable[[Tensor], Any]
_Norm = nn.BatchNorm2d | FrozenBatchNorm2d


def fold_norms(model: nn.Module, image: Tensor, run: Run | None = None) -> None:
    """Put each batch norm, as it stands in eval mode, into the convolution before it, in place.

    image: any input that `model` takes; which norm follows which convolution is seen on it. run:
    what calls the model, by default the model itself. A norm whose convolution is also read
    elsewhere stays.
    """
    for conv, norm in followers(model, run or model, image, nn.Conv2d, _Norm):
        _fold(conv, norm)
        replace_module(model, norm, getattr(norm, "act", None) or nn.Identity())


def followers(
    model: nn.Module, run: Run, image: Tensor, first: Any, second: Any
) -> list[tuple[Any, Any]]:
    """Each module of kind `second` that alone reads the output of one of kind `first`.

    It is seen in run(image), which runs `model`. Both run equally often: a convolution shared by
    levels that have a norm of their own each cannot fold.
    """
    made: dict[int, tuple[nn.Module, Tensor]] = {}
    readers: dict[nn.Module, int] = {}
    pairs: dict[nn.Module, nn.Module] = {}
    calls: dict[nn.Module, int] = {}

    def before(module: nn.Module, args: tuple[object, ...]) -> None:
        if isinstance(module, nn.Identity):  # gives on the very tensor
            return
        calls[module] = calls.get(module, 0) + 1
        for arg in args:
            if isinstance(arg, Tensor) and id(arg) in made:
                source = made[id(arg)][0]
                readers[source] = readers.get(source, 0) + 1
                if isinstance(module, second):
                    pairs[source] = module

    def after(module: nn.Module, args: tuple[object, ...], out: object) -> None:
        if isinstance(module, first) and isinstance(out, Tensor):
            made[id(out)] = (module, out)  # holding `out` keeps its id from being used again
        elif isinstance(module, second) and id(out) in made:
            del made[id(out)]  # changed in place: no longer the first module's output

    kinds = (first, second)
    watched = [m for m in model.modules() if not list(m.children()) or isinstance(m, kinds)]
    with hooked(watched, before, after):
        run(image)
    return [
        (source, module)
        for source, module in pairs.items()
        if readers[source] == calls[source] == calls[module]
    ]


@contextmanager
def hooked(modules: list[nn.Module], before: Any, after: Any = None) -> Iterator[None]:
    handles = [m.register_forward_pre_hook(before) for m in modules]
    handles += [m.register_forward_hook(after) for m in modules if after is not None]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _fold(conv: nn.Conv2d, norm: _Norm) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight,
        conv.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )


def replace_module(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for module in model.modules():
        for name, child in module.named_children():
            if child is old:
                setattr(module, name, new)
