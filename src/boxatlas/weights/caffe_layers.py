"""What Caffe releases call the layers of ResNet-101, of residual blocks and of batch norms.

A norm is two layers there: one that normalises (running_mean, running_var), one that scales.
"""

from __future__ import annotations

# Our part of a residual block -> the branch.
_BRANCHES = {"a": "branch2a", "b": "branch2b", "c": "branch2c", "shortcut": "branch1"}
_BOTTLENECK = {"conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c"}


def norm(own: str, normal: str, scale: str) -> str:
    """The norm's layer of a leaf: `normal` for statistics, `scale` for weight and bias."""
    return f"{normal if own.startswith(('running', 'num')) else scale}.{own}"


def residual(own: str, block: str) -> str:
    """A tensor of our Residual -> that of block "6", "res3b3_relu_inter256", ..."""
    part, kind, leaf = own.split(".")
    name = f"{block}_{_BRANCHES[part]}"
    return f"res{name}.{leaf}" if kind == "conv" else norm(leaf, f"bn{name}", f"scale{name}")


def convolution(own: str, layer: str) -> str:
    """A tensor of a convolution with or without a norm ("conv.weight", "0.bias", "bn.weight")."""
    kind, leaf = own.split(".")
    plain = kind in ("conv", "0")
    return f"{layer}.{leaf}" if plain else norm(leaf, f"{layer}_bn", f"{layer}_scale")


def resnet(own: str) -> str:
    """A tensor of our ResNet-101 trunk."""
    layer, rest = own.split(".", 1)
    if layer == "conv1":
        return own
    if layer == "bn1":
        return norm(rest, "bn_conv1", "scale_conv1")
    index, part, rest = rest.split(".", 2)
    stage = int(layer[-1]) + 1
    block = f"{stage}{_letter(stage, int(index))}"
    if part == "downsample":
        place, leaf = rest.split(".")
        name = f"{block}_branch1"
        return f"res{name}.{leaf}" if place == "0" else norm(leaf, f"bn{name}", f"scale{name}")
    name = f"{block}_{_BOTTLENECK[part.replace('bn', 'conv')]}"
    return (
        f"res{name}.{rest}" if part.startswith("conv") else norm(rest, f"bn{name}", f"scale{name}")
    )


def _letter(stage: int, index: int) -> str:
    """Blocks are a, b, c in the short stages, a, b1, b2, ... in the long ones."""
    if index == 0:
        return "a"
    return "abc"[index] if stage in (2, 5) else f"b{index}"
