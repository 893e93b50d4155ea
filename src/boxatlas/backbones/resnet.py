"""ResNet and ResNeXt as lists of feature maps. He et al. 2015, arXiv 1512.03385; Xie et al. 2016,
arXiv 1611.05431.

Shape letters: B images; a stage's map is [B, C, H / stride, W / stride].
Names of modules are torchvision's (conv1, bn1, layer1..layer4), the field's common tongue.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from boxatlas.backbones.download import imagenet_state
from boxatlas.errors import InputError, nearest
from boxatlas.options import Options, habit

Norm = Callable[[int], nn.Module]

DEPTHS: dict[str, tuple[int, int, int, int]] = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
    "resnext50_32x4d": (3, 4, 6, 3),
    "resnext101_32x4d": (3, 4, 23, 3),
    "resnext101_32x8d": (3, 4, 23, 3),
    "resnext101_64x4d": (3, 4, 23, 3),
}


class StemChoices(Options):
    """A ResNet's first layers, where programs differ."""

    pool_padding: Literal[0, 1] = habit(
        1, "padding of a ResNet's pool1; 0: none, rounding up, as Caffe's"
    )


class FrozenBatchNorm2d(nn.Module):
    """Batch norm whose statistics and affine never change: y = x * scale + shift."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return torch.addcmul(shift[:, None, None], x, scale[:, None, None])


def norm_layer(kind: Literal["batch", "frozen"] = "batch", eps: float = 1e-5) -> Norm:
    """A maker of batch norms with this epsilon; "frozen" ones never learn."""
    if kind == "frozen":
        return lambda channels: FrozenBatchNorm2d(channels, eps)
    return lambda channels: nn.BatchNorm2d(channels, eps)


class Block(nn.Module):
    """relu(shortcut + branch, whose last convolution and norm stand apart)."""

    relu: nn.Module
    downsample: nn.Module | None

    def branch(self, x: Tensor) -> Tensor:
        """Everything before the last convolution."""
        raise TypeError(f"{type(self).__name__} does not define branch")

    @property
    def last(self) -> nn.Module:
        raise TypeError(f"{type(self).__name__} does not define last")

    @property
    def last_norm(self) -> nn.Module:
        raise TypeError(f"{type(self).__name__} does not define last_norm")

    def shortcut(self, x: Tensor) -> Tensor:
        return x if self.downsample is None else self.downsample(x)

    def forward(self, x: Tensor) -> Tensor:
        y = self.last_norm(self.last(self.branch(x)))
        return self.relu(y + self.shortcut(x))


class BasicBlock(Block):
    """Two 3x3 convolutions (ResNet-18 and 34)."""

    expansion = 1

    def __init__(
        self,
        channels: int,
        width: int,
        stride: int,
        dilation: int,
        groups: int,
        stride_in_1x1: bool,
        norm: Norm,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, dilation, dilation, bias=False)
        self.bn1 = norm(width)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, dilation, dilation, bias=False)
        self.bn2 = norm(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(channels, width, stride, norm)

    def branch(self, x: Tensor) -> Tensor:
        return self.relu1(self.bn1(self.conv1(x)))

    @property
    def last(self) -> nn.Module:
        return self.conv2

    @property
    def last_norm(self) -> nn.Module:
        return self.bn2


class Bottleneck(Block):
    """1x1, 3x3, 1x1. `stride_in_1x1`: the original places the stride in the first 1x1."""

    expansion = 4

    def __init__(
        self,
        channels: int,
        width: int,
        stride: int,
        dilation: int,
        groups: int,
        stride_in_1x1: bool,
        norm: Norm,
        out: int | None = None,
    ) -> None:
        super().__init__()
        out = out or width * self.expansion
        first, second = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = nn.Conv2d(channels, width, 1, first, bias=False)
        self.bn1 = norm(width)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, second, dilation, dilation, groups, bias=False)
        self.bn2 = norm(width)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = norm(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(channels, out, stride, norm)

    def branch(self, x: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(x)))

    @property
    def last(self) -> nn.Module:
        return self.conv3

    @property
    def last_norm(self) -> nn.Module:
        return self.bn3


def _shortcut(channels: int, out: int, stride: int, norm: Norm) -> nn.Sequential | None:
    if stride == 1 and channels == out:
        return None
    return nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), norm(out))


def residual_stage(
    channels: int,
    width: int,
    blocks: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    stride_in_1x1: bool = False,
    norm: Norm | None = None,
    out: int | None = None,
) -> nn.Sequential:
    """One stage of bottlenecks: channels -> out (4 * width), the first block strided."""
    norm = norm or norm_layer()
    out = out or width * Bottleneck.expansion
    form = (dilation, groups, stride_in_1x1, norm, out)
    first = Bottleneck(channels, width, stride, *form)
    return nn.Sequential(first, *(Bottleneck(out, width, 1, *form) for _ in range(1, blocks)))


class ResNet(nn.Module):
    """The trunk: images -> the maps of `stages` (2..5, C2 at stride 4 to C5 at stride 32).

    stride_in_1x1: the original's (Caffe, Detectron) strided 1x1; torchvision strides the 3x3.
    dilate_c5: C5 keeps C4's stride and its 3x3s are dilated by 2 ("DC5", R-FCN's conv5).
    ceil_pool: pool1 as Caffe's, rounding up; pool_padding 0 with it is Caffe's exactly.
    last: the last stage that is built. `channels` and `strides` say what is returned.
    """

    def __init__(
        self,
        name: str = "resnet50",
        *,
        stages: Sequence[int] = (2, 3, 4, 5),
        norm: Norm | None = None,
        stride_in_1x1: bool = False,
        dilate_c5: bool = False,
        ceil_pool: bool = False,
        pool_padding: int = 1,
        last: int = 5,
    ) -> None:
        super().__init__()
        norm = norm or norm_layer()
        if name not in DEPTHS:
            problem = "no such backbone"
            hint = f"{nearest(name, DEPTHS)}; or timm/NAME"
            raise InputError(problem, field="backbone", value=name, hint=hint)
        self.name, depths = name, DEPTHS[name]
        basic = name in ("resnet18", "resnet34")
        groups, base = 1, 64
        if name.startswith("resnext"):
            groups, base = (int(part.rstrip("d")) for part in name.split("_")[1].split("x"))
        block = BasicBlock if basic else Bottleneck
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = norm(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, pool_padding, ceil_mode=ceil_pool)
        channels, stride, self._stages = 64, 4, tuple(stages)
        made: dict[int, tuple[int, int]] = {}
        for i, count in enumerate(depths):
            if i + 2 > last:
                break
            planes = 64 * 2**i
            width = planes if basic else planes * base * groups // 64
            dilated = i == 3 and dilate_c5
            step = 1 if i == 0 or dilated else 2
            stride *= step
            blocks: list[nn.Module] = []
            for j in range(count):
                out = planes * block.expansion
                arguments = (channels, width, step if j == 0 else 1, 2 if dilated else 1)
                if basic:
                    blocks.append(BasicBlock(*arguments, groups, stride_in_1x1, norm))
                else:
                    blocks.append(Bottleneck(*arguments, groups, stride_in_1x1, norm, out))
                channels = out
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
            made[i + 2] = (channels, stride)
        self.channels = [made[s][0] for s in stages]
        self.strides = [made[s][1] for s in stages]
        self._built = sorted(made)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        maps = []
        for stage in self._built:
            x = getattr(self, f"layer{stage - 1}")(x)
            if stage in self._stages:
                maps.append(x)
        return maps

    def load_pretrained(self) -> None:
        """torchvision's ImageNet weights, which stride the 3x3. Raises InputError offline."""
        state = imagenet_state(self.name)
        self.load_state_dict({key: state[key] for key in self.state_dict()})
