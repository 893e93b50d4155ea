"""The fast form of a network: batch norm folded into convolutions, channels last, and on a CPU
weights laid out once as oneDNN wants them, with the activation inside the convolution.

Which batch norm follows which convolution is seen in one traced forward, not guessed from names,
and the fast network must answer as the plain one does or the change is undone.
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

_TOLERANCE = 1e-3  # of an output's largest value; rounding alone stays well below


@torch.inference_mode()
def fastest(model: D) -> D:
    """A copy for inference on the model's own device; `model` is unchanged.

    Its answers agree to float32 rounding: they are compared on one random image, and where they do
    not the plain network is returned.
    """
    fast, image, expected = _traced(model)
    if fast.device.type == "cpu":
        _pack(fast, image)
        if not _agrees(fast, image, expected):
            fast, image, expected = _traced(model)
    return fast if _agrees(fast, image, expected) else _plain(model)


@torch.inference_mode()
def folded(model: D) -> D:
    """As `fastest`, of plain torch layers only, so that it can be exported."""
    fast, image, expected = _traced(model)
    return fast if _agrees(fast, image, expected) else _plain(model)


def _plain(model: D) -> D:
    return copy.deepcopy(model).eval().requires_grad_(False)


def _traced(model: D) -> tuple[D, Tensor, list[Tensor]]:
    """(the folded copy, the image it was traced with, what the plain network answers to it)."""
    fast = _plain(model)
    noise = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, *_probe_size(fast), generator=noise).to(fast.device)
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


# -- batch norm -----------------------------------------------------------------------------------


def fold_norms(model: nn.Module, image: Tensor) -> None:
    """Put each batch norm, as it stands in eval mode, into the convolution before it, in place.

    image: any input that `model` takes; which norm follows which convolution is seen on it. A norm
    whose convolution is also read elsewhere stays.
    """
    for conv, norm in _pairs(model, image):
        _fold(conv, norm)
        _replace(model, norm, getattr(norm, "act", None) or nn.Identity())


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
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight,
        norm.bias,
    )  # fmt: skip


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for module in model.modules():
        for name, child in module.named_children():
            if child is old:
                setattr(module, name, new)


# -- convolutions on a CPU ------------------------------------------------------------------------

# Activations that oneDNN applies to a convolution's output before it is written.
_FUSED: dict[type[nn.Module], str] = {nn.ReLU: "relu", nn.Hardswish: "hardswish"}


class PackedConv2d(nn.Module):
    """A convolution whose weight lies as oneDNN wants it, and the activation after it."""

    def __init__(self, conv: nn.Conv2d, shape: tuple[int, ...]) -> None:
        super().__init__()
        padding = conv.padding if isinstance(conv.padding, tuple) else (0, 0)
        self.geometry = (list(padding), list(conv.stride), list(conv.dilation), conv.groups)
        self.bias = conv.bias
        self.activation, self.scalars = "none", []
        weight = conv.weight.detach().contiguous(memory_format=torch.channels_last)
        self.weight = torch._C._nn.mkldnn_reorder_conv2d_weight(  # pyright: ignore
            weight.to_mkldnn(), *self.geometry, list(shape)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, self.bias, *self.geometry, self.activation, self.scalars, ""
        )


def _pack(model: nn.Module, image: Tensor) -> None:
    """Replace convolutions on maps larger than one cell; what fails stays as it is."""
    shapes: dict[nn.Conv2d, tuple[int, ...]] = {}

    def before(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.Conv2d)
        shapes[module] = tuple(args[0].shape)

    convs = [
        m
        for m in model.modules()
        if isinstance(m, nn.Conv2d)
        and type(m).forward is nn.Conv2d.forward  # not one that pads in a way of its own
        and m.padding_mode == "zeros"
        and not isinstance(m.padding, str)
    ]
    handles = [m.register_forward_pre_hook(before) for m in convs]
    try:
        model(image.contiguous(memory_format=torch.channels_last))
    finally:
        for handle in handles:
            handle.remove()
    try:
        packed = {
            conv: PackedConv2d(conv, shape)
            for conv, shape in shapes.items()
            if shape[-1] * shape[-2] > 1 and conv.weight.dtype == torch.float32
        }
    except (RuntimeError, AttributeError):  # a build of torch without oneDNN
        return
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Conv2d) and child in packed:
                setattr(module, name, packed[child])
    for module in list(model.modules()):
        if isinstance(module, nn.Sequential):
            _fuse_activations(module)


def _fuse_activations(row: nn.Sequential) -> None:
    """In a plain row of layers, an activation moves into the convolution before it."""
    before: nn.Module | None = None
    for name, layer in row.named_children():
        if isinstance(before, PackedConv2d) and before.activation == "none":
            kind = _FUSED.get(type(layer))
            if isinstance(layer, nn.ReLU6):
                before.activation, before.scalars = "hardtanh", [0.0, 6.0]
            elif kind is not None:
                before.activation = kind
            if before.activation != "none":
                setattr(row, name, nn.Identity())
        if not isinstance(layer, nn.Identity):
            before = layer
