"""The fast form of a network: batch norm folded into convolutions, channels last, and on a CPU
weights laid out once as oneDNN wants them, with activations and residual sums inside the
convolutions, and 3x3 convolutions by Winograd's method where that is faster.

What follows which convolution is seen in one traced forward, not guessed from names, and the fast
network must answer as the plain one does or the change is undone.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from boxatlas.backbones.folding import fold_norms, followers, hooked, replace_module
from boxatlas.backbones.resnet import Block
from boxatlas.ops import winograd
from boxatlas.ops.roi import MapLinear

if TYPE_CHECKING:
    from boxatlas.parts.base import Detector

    D = TypeVar("D", bound=Detector)

_TOLERANCE = 1e-3  # of an output's largest value; rounding alone stays well below


@torch.inference_mode()
def fastest(model: D) -> D:
    """A copy for inference on the model's own device; `model` is unchanged.

    Its answers are compared with the plain network's on one random image. Where they do not agree,
    Winograd's method is left out, then packed weights, then the folding of norms.
    """
    on_cpu = model.device.type == "cpu"
    for use_winograd in (True, False) if on_cpu else ():
        fast, image, expected = _traced(model)
        _pack(fast, image, use_winograd)
        if _agrees(fast, image, expected):
            return fast
    return folded(model)


@torch.inference_mode()
def folded(model: D) -> D:
    """As `fastest`, of plain torch layers only, so that it can be exported."""
    fast, image, expected = _traced(model)
    return fast if _agrees(fast, image, expected) else _plain(model)


def _plain(model: D) -> D:
    """A copy of plain weights in float32, in eval mode: pruned, parametrised and normed weights as
    they are now."""
    computed = {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf  # which deepcopy refuses
    }
    twin = copy.deepcopy(model, dict(computed)).eval().requires_grad_(False)
    for module in list(twin.modules()):
        if parametrize.is_parametrized(module):
            _leave_parametrised(module)
        for key, hook in list(module._forward_pre_hooks.items()):
            if isinstance(hook, BasePruningMethod | WeightNorm | SpectralNorm):
                hook.remove(module)
                del module._forward_pre_hooks[key]
    return twin.float()


def _leave_parametrised(module: nn.Module) -> None:
    """Plain parameters of the values now. Not by torch's own function: that changes the class,
    which the original shares."""
    made: Any = module.parametrizations
    values = {name: getattr(module, name).detach().clone() for name in made}
    del module.parametrizations
    module.__class__ = type(module).__bases__[0]
    for name, value in values.items():
        module.register_parameter(name, nn.Parameter(value, requires_grad=False))


def _traced(model: D) -> tuple[D, Tensor, list[Tensor]]:
    """(the folded copy, the image it was traced with, what the plain network answers to it)."""
    fast = _plain(model)
    noise = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, *_probe_size(fast), generator=noise, dtype=torch.float32)
    image = image.to(fast.device)
    expected = [t.clone() for t in fast.probe(image)]
    fold_norms(fast, image)
    return fast.to(memory_format=torch.channels_last), image, expected


def _agrees(fast: Detector, image: Tensor, expected: list[Tensor]) -> bool:
    try:
        found = fast.probe(image.contiguous(memory_format=torch.channels_last))
    except RuntimeError:  # an operator that this build of torch lacks
        return False
    return all(
        a.shape == b.shape
        and bool((a - b).abs().amax() <= _TOLERANCE * b.abs().amax().clamp(min=1e-6))
        for a, b in zip(found, expected, strict=True)
        if b.is_floating_point() and b.numel()
    )


def _probe_size(model: Detector) -> tuple[int, int]:
    """The smallest input that runs through every layer: the real one unless it is any size."""
    size = model.preprocess.size
    return (128, 128) if model.preprocess.resize == "shorter" else size


# -- layers on a CPU ------------------------------------------------------------------------------

# Activations that oneDNN applies to a layer's output before it is written.
_FUSED: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.Hardswish: ("hardswish", []),
}


# The activations that are a clamp; None: to the values that come with it.
_RANGES: dict[str, tuple[float, float] | None] = {
    "none": (-math.inf, math.inf),
    "relu": (0.0, math.inf),
    "hardtanh": None,
}
# Below, a direct convolution was measured to be as fast: few tiles, few channels.
_TILES, _CHANNELS = 12, 64


class PackedConv2d(nn.Module):
    """A convolution whose weight lies as oneDNN wants it, and the activation after it."""

    def __init__(self, conv: nn.Conv2d, shape: tuple[int, ...]) -> None:
        super().__init__()
        padding = conv.padding if isinstance(conv.padding, tuple) else (0, 0)
        self.geometry = (list(padding), list(conv.stride), list(conv.dilation), conv.groups)
        self.bias = conv.bias
        self.activation: tuple[str, list[float]] = ("none", [])
        weight = conv.weight.detach().contiguous(memory_format=torch.channels_last)
        self.weight = torch._C._nn.mkldnn_reorder_conv2d_weight(  # pyright: ignore
            weight.to_mkldnn(), *self.geometry, list(shape)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, self.bias, *self.geometry, *self.activation, ""
        )

    def added(self, x: Tensor, other: Tensor) -> Tensor:
        """relu(convolution + other)."""
        return torch.ops.mkldnn._convolution_pointwise.binary(
            x, other, self.weight, self.bias, *self.geometry, "add", 1.0, "relu", [], ""
        )


class WinogradConv2d(PackedConv2d):
    """A 3x3 convolution by Winograd's method on maps that are large enough for it."""

    def __init__(self, conv: nn.Conv2d, shape: tuple[int, ...]) -> None:
        super().__init__(conv, shape)
        self.transformed = winograd.transformed(conv.weight)
        self.shift = torch.zeros_like(conv.weight[:, 0, 0, 0]) if conv.bias is None else conv.bias

    def forward(self, x: Tensor) -> Tensor:
        kind, values = self.activation
        if winograd.tiles(x.shape) < _TILES or kind not in _RANGES:
            return super().forward(x)
        low, high = _RANGES[kind] or values
        return winograd.convolve(x, self.transformed, self.shift, low, high)

    def added(self, x: Tensor, other: Tensor) -> Tensor:
        if winograd.tiles(x.shape) < _TILES:
            return super().added(x, other)
        return winograd.convolve(x, self.transformed, self.shift).add_(other).relu_()


class PackedLinear(nn.Module):
    """A fully connected layer whose weight lies as oneDNN wants it, channels last over a map."""

    def __init__(self, linear: nn.Linear, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.bias, self.on_map = linear.bias, isinstance(linear, MapLinear)
        weight = linear.weight.detach()
        if self.on_map:
            weight = weight.view(-1, *shape[1:]).permute(0, 2, 3, 1).reshape(weight.shape)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), 1000)

    def forward(self, x: Tensor) -> Tensor:
        if self.on_map:
            x = x.permute(0, 2, 3, 1).flatten(1)  # no copy of what RoIAlign wrote
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")


class FusedBlock(nn.Module):
    """A residual block whose sum and last activation happen inside its last convolution."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        last: Any = self.block.last
        return last.added(self.block.branch(x), self.block.shortcut(x))


def _pack(model: Detector, image: Tensor, use_winograd: bool) -> None:
    """Replace what is worth it; what fails stays as it is. use_winograd: also by that method."""
    image = image.contiguous(memory_format=torch.channels_last)
    shapes: dict[nn.Module, tuple[int, ...]] = {}

    def before(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        size = tuple(args[0].shape)
        if module not in shapes or size[-1] > shapes[module][-1]:  # the finest level's
            shapes[module] = size

    with hooked([m for m in model.modules() if _packable(m)], before):
        model.probe(image)
    try:
        packed = {m: _packed(m, shape, use_winograd) for m, shape in shapes.items()}
    except (RuntimeError, AttributeError):  # a build of torch without oneDNN
        return
    for module in list(model.modules()):
        for name, child in module.named_children():
            if packed.get(child) is not None:
                setattr(module, name, packed[child])
    for conv, activation in followers(model, model.probe, image, PackedConv2d, tuple(_FUSED)):
        conv.activation = _FUSED[type(activation)]
        replace_module(model, activation, nn.Identity())
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, Block) and _fusable(child):
                setattr(module, name, FusedBlock(child))


def _packable(module: nn.Module) -> bool:
    if isinstance(module, nn.Linear):
        return type(module) in (nn.Linear, MapLinear) and module.weight.dtype == torch.float32
    return (
        isinstance(module, nn.Conv2d)
        and type(module).forward is nn.Conv2d.forward  # not one that pads in a way of its own
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
        and module.weight.dtype == torch.float32
    )


def _packed(module: nn.Module, shape: tuple[int, ...], use_winograd: bool) -> nn.Module | None:
    if isinstance(module, nn.Linear):
        return PackedLinear(module, shape)
    assert isinstance(module, nn.Conv2d)
    if shape[-1] * shape[-2] == 1:
        return None
    kind = WinogradConv2d if use_winograd and _plain_3x3(module) else PackedConv2d
    return kind(module, shape)


def _plain_3x3(conv: nn.Conv2d) -> bool:
    """Whether `ops.winograd` computes it, and faster."""
    return (
        conv.kernel_size == (3, 3)
        and conv.stride == conv.padding == conv.dilation == (1, 1)
        and conv.groups == 1
        and min(conv.in_channels, conv.out_channels) >= _CHANNELS
    )


def _fusable(block: Block) -> bool:
    return (
        isinstance(block.last, PackedConv2d)
        and block.last.activation[0] == "none"
        and isinstance(block.last_norm, nn.Identity)
    )
