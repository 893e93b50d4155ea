"""Convolution blocks that several necks are made of.

Public: BatchNorm, ConvNorm, ConvRelu, xavier, enlarge, UpsamplingChoices. Shape letters: B images;
maps are [B, C, H, W].
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxatlas.options import Options, habit

Size = int | tuple[int, int]
C = TypeVar("C", nn.Conv2d, nn.ConvTranspose2d)


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that also trains on one image whose map is one cell: by its running statistics.

    One value for each channel has no variance, and torch refuses it.
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.numel() == input.shape[1]:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(input)


class ConvNorm(nn.Sequential):
    """Convolution without bias, batch norm, ReLU (unless `relu` is off): conv, bn, relu.

    Padding None keeps the size at stride 1. eps and momentum are the batch norm's.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        kernel: Size = 3,
        stride: int = 1,
        padding: Size | None = None,
        dilation: int = 1,
        groups: int = 1,
        *,
        relu: bool = True,
        eps: float = 1e-5,
        momentum: float = 0.01,
    ) -> None:
        down, across = kernel if isinstance(kernel, tuple) else (kernel, kernel)
        same = (dilation * (down // 2), dilation * (across // 2))
        conv = nn.Conv2d(
            channels,
            width,
            (down, across),
            stride,
            same if padding is None else padding,
            dilation,
            groups,
            bias=False,
        )
        nn.init.kaiming_normal_(conv.weight, mode="fan_out")
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv=conv, bn=BatchNorm(width, eps, momentum)
        )
        if relu:
            layers["relu"] = nn.ReLU(inplace=True)
        super().__init__(layers)


class ConvRelu(nn.Sequential):
    """Convolution with bias, Xavier weights, and ReLU: the layers of the Caffe-born methods."""

    def __init__(
        self,
        channels: int,
        width: int,
        kernel: int = 3,
        stride: int = 1,
        padding: int | None = None,
    ) -> None:
        conv = nn.Conv2d(
            channels, width, kernel, stride, kernel // 2 if padding is None else padding
        )
        super().__init__(OrderedDict(conv=xavier(conv), relu=nn.ReLU(inplace=True)))


def xavier(conv: C) -> C:
    """Caffe's "xavier" weights and zero bias."""
    nn.init.xavier_uniform_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


class UpsamplingChoices(Options):
    """How the programs enlarge a map."""

    align_corners: bool = habit(True, "bilinear enlarging of a map puts corners on corners")


def enlarge(x: Tensor, size: torch.Size, align_corners: bool) -> Tensor:
    """A map [B, C, h, w] enlarged bilinearly to `size` (H, W)."""
    whole = (int(size[0]), int(size[1]))
    return F.interpolate(x, size=whole, mode="bilinear", align_corners=align_corners)
