"""The backbone of DSOD, a DenseNet made to be trained from scratch: DS/64-192-48-1.

Shen et al. 2017, arXiv 1708.01241, section 3.2 and table 1; Huang et al. 2016 (DenseNet), arXiv
1608.06993. Shape letters: B images; a map is [B, C, H / stride, W / stride].
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from boxatlas.necks.blocks import BatchNorm, ConvNorm, xavier


class NormReluConv(nn.Sequential):
    """Batch norm, ReLU, convolution without bias: bn, relu, conv."""

    def __init__(
        self,
        channels: int,
        width: int,
        kernel: int = 1,
        stride: int = 1,
        padding: int | None = None,
    ) -> None:
        conv = nn.Conv2d(
            channels, width, kernel, stride, kernel // 2 if padding is None else padding, bias=False
        )
        super().__init__(
            OrderedDict(bn=BatchNorm(channels), relu=nn.ReLU(inplace=True), conv=xavier(conv))
        )


class DenseLayer(nn.Module):
    """1x1 to `bottleneck`, 3x3 to `growth` channels, which join the input.

    dense off: the 3x3 makes all the channels anew, so that the next layer sees this one alone.
    """

    def __init__(self, channels: int, growth: int, bottleneck: int, dense: bool) -> None:
        super().__init__()
        self.dense, self.channels = dense, channels + growth
        self.squeeze = NormReluConv(channels, bottleneck)
        self.grow = NormReluConv(bottleneck, growth if dense else channels + growth, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.grow(self.squeeze(x))
        return torch.cat([x, y], 1) if self.dense else y


class DSODNet(nn.Module):
    """Images -> [the map of stride 8 ("First"), that of stride 16 after the last dense block].

    stem: the width of the first convolution. stem_block: three 3x3 convolutions; off: DenseNet's
    7x7. transitions: the two transition layers without pooling; off: the maps pass as they are.
    compression: what part of the channels a transition keeps. dense: see DenseLayer.
    """

    def __init__(
        self,
        *,
        stem: int = 64,
        growth: int = 48,
        bottleneck: int = 192,
        compression: float = 1.0,
        layers: Sequence[int] = (6, 8, 8, 8),
        stem_block: bool = True,
        transitions: bool = True,
        dense: bool = True,
    ) -> None:
        super().__init__()
        if stem_block:
            self.stem = nn.Sequential(
                ConvNorm(3, stem, 3, 2, momentum=0.1),
                ConvNorm(stem, stem, momentum=0.1),
                ConvNorm(stem, 2 * stem, momentum=0.1),
            )
        else:
            self.stem = nn.Sequential(ConvNorm(3, 2 * stem, 7, 2, momentum=0.1))
        for unit in self.stem:
            xavier(unit[0])  # pyright: ignore
        self.pool = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.blocks, self.transitions = nn.ModuleList(), nn.ModuleList()
        channels, made = 2 * stem, []
        for i, count in enumerate(layers):
            block = []
            for _ in range(count):
                block.append(DenseLayer(channels, growth, bottleneck, dense))
                channels = block[-1].channels
            self.blocks.append(nn.Sequential(*block))
            kept = max(1, int(channels * compression))
            if i == 0 or (transitions and i < len(layers) - 1):
                self.transitions.append(NormReluConv(channels, kept))
                channels = kept
            elif i < len(layers) - 1:
                self.transitions.append(nn.Identity())
            made.append(channels)
        self.channels, self.strides = [made[1], made[3]], [8, 16]

    def forward(self, images: Tensor) -> list[Tensor]:
        one, two, three, four = self.blocks
        x = self.pool(self.transitions[0](one(self.pool(self.stem(images)))))
        first = self.transitions[1](two(x))
        return [first, four(self.transitions[2](three(self.pool(first))))]
