"""The Darknet networks as lists of feature maps: Extraction, Darknet-19, Darknet-53, the tiny ones.

Extraction: YOLO's first 20 convolutions (Redmon et al. 2015, arXiv 1506.02640, section 2.1);
Darknet-19: arXiv 1612.08242, table 6; Darknet-53: arXiv 1804.02767, table 1.
Shape letters: B images; a map is [B, C, H / stride, W / stride].
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from boxatlas.backbones.darknet_file import Numbers, Part, conv_parts, read_numbers
from boxatlas.errors import InputError, nearest
from boxatlas.files import make_folder
from boxatlas.options import NotNegative, Options, habit

Norm = Callable[[int], nn.Module]
EpsPlace = Literal["inside_root", "added_to_root"]
SLOPE = 0.1  # of every leaky ReLU


class DarknetNormChoices(Options):
    """What `norm_layer` reads."""

    norm_eps: NotNegative = habit(1e-5, "epsilon of Darknet's batch norms")
    norm_place: EpsPlace = habit(
        "inside_root", "batch norms add their epsilon to the variance, or to its square root"
    )


class RootEpsBatchNorm(_BatchNorm):
    """Batch norm as Darknet computes it on a CPU: (x - mean) / (sqrt(var) + eps).

    In training the variance is the unbiased one, for normalising as for the running value.
    """

    def __init__(self, channels: int, eps: float = 1e-6, momentum: float = 0.01) -> None:
        super().__init__(channels, eps, momentum)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() != 4:
            raise ValueError(f"expected [B, C, H, W], got {list(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        mean, var = self.running_mean, self.running_var
        assert mean is not None
        assert var is not None
        if self.training:
            own_var, own_mean = torch.var_mean(input, dim=(0, 2, 3), correction=1)
            rate = self.momentum or 0.0
            with torch.no_grad():
                mean.lerp_(own_mean, rate)
                var.lerp_(own_var, rate)
            mean, var = own_mean, own_var
        scale = self.weight / (var.sqrt() + self.eps)
        return input * scale[:, None, None] + (self.bias - mean * scale)[:, None, None]


def norm_layer(eps: float = 1e-5, place: EpsPlace = "inside_root") -> Norm:
    """Batch norm with Darknet's running average (0.99 old, 0.01 new)."""
    if place == "added_to_root":
        return lambda channels: RootEpsBatchNorm(channels, eps)
    return lambda channels: nn.BatchNorm2d(channels, eps, momentum=0.01)


NORM = norm_layer()
INPUTS: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}  # of 0..1


class Conv(nn.Sequential):
    """Convolution, batch norm (or a bias where `norm` is None), leaky ReLU: conv, norm, act."""

    def __init__(
        self,
        channels: int,
        width: int,
        kernel: int,
        stride: int = 1,
        *,
        norm: Norm | None,
        leaky: bool = True,
        padding: int | None = None,
    ) -> None:
        pad = kernel // 2 if padding is None else padding
        conv = nn.Conv2d(channels, width, kernel, stride, pad, bias=norm is None)
        layers: OrderedDict[str, nn.Module] = OrderedDict(conv=conv)
        if norm is not None:
            layers["norm"] = norm(width)
        if leaky:
            layers["act"] = nn.LeakyReLU(SLOPE, inplace=True)
        super().__init__(layers)
        self.width = width
        initialise(conv)


def initialise(layer: nn.Conv2d | nn.Linear) -> None:
    """Darknet's first weights: N(0, 2 / fan in) of a convolution, U(-1, 1) of that of a matrix."""
    fan_in = layer.weight[0].numel()
    if isinstance(layer, nn.Linear):
        bound = (2 / fan_in) ** 0.5
        nn.init.uniform_(layer.weight, -bound, bound)
    else:
        nn.init.normal_(layer.weight, std=(2 / fan_in) ** 0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class Pool(nn.Module):
    """Max pool with all of Darknet's padding (kernel - 1 cells of minus infinity).

    Half of it lies left and above, rounded down: 2x2 of stride 2 rounds up, 2x2 of stride 1 looks
    right and down, 5x5 of stride 1 keeps the size.
    """

    def __init__(self, kernel: int = 2, stride: int = 2, padding: int | None = None) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.padding = kernel - 1 if padding is None else padding

    def forward(self, x: Tensor) -> Tensor:
        if self.kernel == self.stride == 2 and self.padding == 1:
            return F.max_pool2d(x, 2, 2, ceil_mode=True)
        if self.padding % 2 == 0:
            return F.max_pool2d(x, self.kernel, self.stride, self.padding // 2)
        before = self.padding // 2
        after = self.padding - before
        x = F.pad(x, (before, after, before, after), value=-torch.inf)
        return F.max_pool2d(x, self.kernel, self.stride)


class DarknetBlock(nn.Module):
    """1x1 to half the channels, 3x3 back, added to the input; no activation after the sum."""

    def __init__(self, channels: int, norm: Norm | None) -> None:
        super().__init__()
        self.squeeze = Conv(channels, channels // 2, 1, norm=norm)
        self.expand = Conv(channels // 2, channels, 3, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.expand(self.squeeze(x))


# One stage a line: "M" is a 2x2 max pool of stride 2, "m" one of stride 1, (k, width[, stride]) a
# convolution, ("R", n) n residual blocks. A stage ends where the map is next made smaller.
Item = str | tuple
_E4 = [(1, 256), (3, 512)]
_E5 = [(1, 512), (3, 1024)]
_POOLED: list[list[Item]] = [["M", (3, width)] for width in (32, 64, 128, 256)]
STAGES: dict[str, list[list[Item]]] = {
    "extraction": [
        [(7, 64, 2)],
        ["M", (3, 192)],
        ["M", (1, 128), (3, 256), (1, 256), (3, 512)],
        ["M", *_E4, *_E4, *_E4, *_E4, (1, 512), (3, 1024)],
        ["M", *_E5, *_E5],
    ],
    "darknet19": [
        [(3, 32)],
        ["M", (3, 64)],
        ["M", (3, 128), (1, 64), (3, 128)],
        ["M", (3, 256), (1, 128), (3, 256)],
        ["M", (3, 512), (1, 256), (3, 512), (1, 256), (3, 512)],
        ["M", (3, 1024), (1, 512), (3, 1024), (1, 512), (3, 1024)],
    ],
    "darknet53": [
        [(3, 32)],
        *([(3, w, 2), ("R", n)] for w, n in ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4))),
    ],
    # YOLOv2's and YOLOv3's tiny networks; YOLO's ends in a pool of stride 2 before its 1024.
    "darknet_tiny": [[(3, 16)], *_POOLED, ["M", (3, 512), "m", (3, 1024)]],
    "yolov1_tiny": [[(3, 16)], *_POOLED, ["M", (3, 512)], ["M", (3, 1024)]],
}


@dataclass(frozen=True)
class Pretrained:
    """A published file of ImageNet weights: a prefix of the detector's own file."""

    file: str
    url: str


_SITE = "https://pjreddie.com/media/files/"
PRETRAINED = {
    name: Pretrained(file, _SITE + file)
    for name, file in (
        ("extraction", "extraction.conv.weights"),
        ("darknet19", "darknet19_448.conv.23"),
        ("darknet19_224", "darknet19.weights"),
        ("darknet53", "darknet53.conv.74"),
    )
}


class Darknet(nn.Module):
    """Images [B, 3, H, W] -> the maps at `strides`, fine to coarse, each the last of its stride.

    name: extraction, darknet19, darknet53, darknet_tiny or yolov1_tiny. norm: how to make a batch
    norm; None: biases (the YOLO paper's own network). `channels` and `strides` say what is
    returned. Raises InputError for an unknown name or a stride that the network lacks.
    """

    def __init__(
        self, name: str, strides: Sequence[int] = (8, 16, 32), *, norm: Norm | None = NORM
    ) -> None:
        super().__init__()
        if name not in STAGES:
            raise InputError(
                "no such Darknet network", field="backbone", value=name, hint=nearest(name, STAGES)
            )
        self.name = name
        channels, stride = 3, 1
        at: dict[int, tuple[int, int]] = {}
        self.stages = nn.ModuleList()
        for index, items in enumerate(STAGES[name]):
            layers, channels, factor = _stage(items, channels, norm)
            self.stages.append(nn.Sequential(*layers))
            stride *= factor
            at[stride] = (index, channels)
        missing = [s for s in strides if s not in at]
        if missing:
            problem = f"{name} has maps at strides {sorted(at)} only, not {missing}"
            raise InputError(problem, field="backbone", value=name)
        self.strides = list(strides)
        self.channels = [at[s][1] for s in strides]
        self._wanted = [at[s][0] for s in strides]

    def load_pretrained(self, weights: str | None = None) -> None:
        """ImageNet weights as published; weights: another entry of PRETRAINED than the name's.

        Raises InputError where there are none or they cannot be fetched.
        """
        load_published(self, PRETRAINED.get(weights or self.name), self.name)

    def forward(self, images: Tensor) -> list[Tensor]:
        x, maps = images, []
        for index in range(max(self._wanted) + 1):
            x = self.stages[index](x)
            if index in self._wanted:
                maps.append(x)
        return maps


def _stage(
    items: Sequence[Item], channels: int, norm: Norm | None
) -> tuple[list[nn.Module], int, int]:
    """(layers, channels of the last, factor of the stride) of one row of the table."""
    layers: list[nn.Module] = []
    factor = 1
    for item in items:
        if isinstance(item, str):
            stride = 2 if item == "M" else 1
            layers.append(Pool(2, stride))
            factor *= stride
        elif item[0] == "R":
            layers += [DarknetBlock(channels, norm) for _ in range(item[1])]
        else:
            kernel, width, stride = (*item, 1)[:3]
            layers.append(Conv(channels, width, kernel, stride, norm=norm))
            channels, factor = width, factor * stride
    return layers, channels, factor


class Classifier(nn.Module):
    """A Darknet network with its ImageNet head: images -> logits [B, K].

    Darknet-19 classifies each cell (1x1) and averages; Extraction too, with a leaky ReLU between;
    Darknet-53 averages first.
    """

    def __init__(self, name: str, classes: int = 1000, *, norm: Norm | None = NORM) -> None:
        super().__init__()
        self.backbone = Darknet(name, (32,), norm=norm)
        self.pool_first = name == "darknet53"
        self.head = Conv(
            self.backbone.channels[0], classes, 1, norm=None, leaky=name == "extraction"
        )

    def forward(self, images: Tensor) -> Tensor:
        (x,) = self.backbone(images)
        if self.pool_first:
            return self.head(x.mean((2, 3), keepdim=True)).flatten(1)
        return self.head(x).mean((2, 3))


# -- published weights ----------------------------------------------------------------------------


def parts_of(conv: Conv, where: str) -> list[Part]:
    """Its tensors in the order of a file, named for messages."""
    layers = dict(conv.named_children())
    layer = layers["conv"]
    assert isinstance(layer, nn.Conv2d)
    return conv_parts(layer, layers.get("norm"), where)


def fill_prefix(network: nn.Module, numbers: Numbers) -> None:
    """Fill the convolutions of a backbone from the start of a file, which may hold more.

    A published file holds batch norms; a convolution without one takes in what its own would do.
    """
    for index, conv in enumerate(m for m in network.modules() if isinstance(m, Conv)):
        layer = conv.get_submodule("conv")
        assert isinstance(layer, nn.Conv2d)
        where = f"convolution {index}"
        present = dict(conv.named_children()).get("norm")
        norm = nn.BatchNorm2d(layer.out_channels) if present is None else present
        for name, target in conv_parts(layer, norm, where):
            numbers.fill(name, target)
        if present is None:
            assert isinstance(norm, nn.BatchNorm2d)
            mean, variance = norm.running_mean, norm.running_var
            assert mean is not None
            assert variance is not None
            layer.weight, layer.bias = fuse_conv_bn_weights(
                layer.weight, None, mean, variance, norm.eps, norm.weight, norm.bias
            )


def load_published(network: nn.Module, published: Pretrained | None, name: str) -> None:
    """Fetch the authors' ImageNet weights of a backbone, once, and fill it.

    Raises InputError where there are none or they cannot be fetched.
    """
    if published is None:
        raise InputError(
            f"there are no published weights of {name}", field="pretrained", value=True
        )
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / published.file
    if not path.is_file():
        make_folder(folder)
        part = path.with_suffix(path.suffix + f".{os.getpid()}.part")
        try:
            torch.hub.download_url_to_file(published.url, str(part), progress=False)
            os.replace(part, path)
        except OSError as error:
            problem = f"{published.file} cannot be downloaded: {error}"
            hint = f"connect, put the file at {path}, or use pretrained=false"
            raise InputError(problem, field="pretrained", hint=hint) from None
        finally:
            part.unlink(missing_ok=True)
    fill_prefix(network, read_numbers(path))
