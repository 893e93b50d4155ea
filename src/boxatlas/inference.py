"""The fast form of a network: batch norm folded into convolutions, channels last.

Which batch norm follows which convolution is seen in one traced forward, not guessed from names,
and the folded network must answer as the plain one does or the fold is undone.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

if TYPE_CHECKING:
    from boxatlas.detectors.base import Detector

    D = TypeVar("D", bound=Detector)


@torch.no_grad()
def folded(model: D) -> D:
    """A copy for inference; `model` is unchanged. Its answers agree to float32 rounding."""
    fast = copy.deepcopy(model).eval().requires_grad_(False)
    size = _probe_size(fast)
    image = torch.zeros(1, 3, *size, device=fast.device)
    for conv, norm in _pairs(fast, image):
        _fold(conv, norm)
    return fast.to(memory_format=torch.channels_last)


def _probe_size(model: Detector) -> tuple[int, int]:
    """The smallest input that runs through every layer: the real one unless it is any size."""
    size = model.preprocess.size
    return (128, 128) if model.preprocess.resize == "shorter" else size


def _pairs(model: nn.Module, image: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Each batch norm and the convolution whose output, used nowhere else, is its input."""
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    consumers: dict[nn.Conv2d, int] = {}
    pairs: dict[nn.Conv2d, nn.BatchNorm2d] = {}
    calls: dict[nn.Module, int] = {}

    def after_conv(module: nn.Module, _: tuple[Tensor, ...], out: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        calls[module] = calls.get(module, 0) + 1
        made[id(out)] = (module, out)  # holding `out` keeps its id from being used again

    def before(module: nn.Module, args: tuple[object, ...]) -> None:
        for arg in args:
            if isinstance(arg, Tensor) and id(arg) in made:
                conv = made[id(arg)][0]
                consumers[conv] = consumers.get(conv, 0) + 1
                if isinstance(module, nn.BatchNorm2d):
                    calls[module] = calls.get(module, 0) + 1
                    pairs[conv] = module

    handles = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(after_conv))
        if not list(module.children()) or isinstance(module, nn.BatchNorm2d):
            handles.append(module.register_forward_pre_hook(before))
    try:
        model(image)
    finally:
        for handle in handles:
            handle.remove()
    # A layer that runs twice (a head shared by levels with a norm of its own each) cannot fold.
    return [
        (conv, norm)
        for conv, norm in pairs.items()
        if consumers[conv] == 1 and calls[conv] == 1 and calls[norm] == 1
    ]


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    weight, bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight,
        norm.bias,
    )  # fmt: skip
    conv.weight, conv.bias = weight, bias
    # The norm keeps its place (it may hold an activation) and becomes the identity.
    norm.running_mean.zero_()
    norm.running_var.fill_(1.0)
    if norm.affine:
        norm.weight.fill_(1.0)
        norm.bias.zero_()
    norm.eps = 0.0
