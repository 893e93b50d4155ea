"""ResNet-101 as Caffe has it, for DSSD and RefineDet: pool1 without padding, rounding up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from boxatlas.backbones.resnet import ResNet
from boxatlas.options import Options, Positive, habit


class CaffeResNetChoices(Options):
    """How programs differ in ResNet-101 and the residual blocks that follow it."""

    bn_eps: Positive = habit(1e-5, "epsilon of the batch norms of ResNet and the residual blocks")
    residual_stride: Literal["1x1", "3x3"] = habit(
        "1x1", "which convolution of a ResNet's block strides"
    )


def caffe_resnet101(
    stages: Sequence[int],
    residual_stride: Literal["1x1", "3x3"],
    eps: float,
    dilate_c5: bool = False,
) -> ResNet:
    """Images -> the maps of `stages`; dilate_c5: C5 keeps C4's stride, 16."""
    return ResNet(
        "resnet101",
        stages=stages,
        norm=lambda channels: nn.BatchNorm2d(channels, eps),
        stride_in_1x1=residual_stride == "1x1",
        ceil_pool=True,
        pool_padding=0,
        dilate_c5=dilate_c5,
    )
