"""Transfer connection blocks: from the maps that refine anchors to those that detect.

Zhang et al. 2017 (RefineDet), arXiv 1711.06897, section 3.1 and figure 2.
Shape letters: B images; maps are [B, C, H, W], fine to coarse.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from boxatlas.necks.blocks import BatchNorm, ConvNorm, xavier


class TransferBlock(nn.Module):
    """Two 3x3 convolutions; the coarser result, doubled by deconvolution, is added; one 3x3 more.

    norm: batch norm after each convolution and the deconvolution, which then have no bias.
    deepest: there is no coarser result.
    """

    def __init__(self, channels: int, width: int, *, norm: bool, deepest: bool) -> None:
        super().__init__()
        self.first = _conv(channels, width, norm)
        self.second = _conv(width, width, norm)
        self.up = None
        if not deepest:
            up = xavier(nn.ConvTranspose2d(width, width, 2, 2, bias=not norm))
            self.up = nn.Sequential(up, BatchNorm(width)) if norm else nn.Sequential(up)
        self.last = _conv(width, width, norm)

    def forward(self, x: Tensor, coarser: Tensor | None) -> Tensor:
        y = self.second(F.relu(self.first(x)))
        if self.up is not None and coarser is not None:
            # An odd map is one row or column smaller than the doubled coarser one.
            y = y + self.up(coarser)[..., : y.shape[-2], : y.shape[-1]]
        return F.relu(self.last(F.relu(y)))


class TransferConnection(nn.Module):
    """Maps -> as many maps of `width` channels, each knowing all the coarser ones."""

    def __init__(self, channels: Sequence[int], width: int = 256, *, norm: bool = False) -> None:
        super().__init__()
        self.channels = [width] * len(channels)
        self.blocks = nn.ModuleList(
            TransferBlock(c, width, norm=norm, deepest=i == len(channels) - 1)
            for i, c in enumerate(channels)
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        transferred: list[Tensor] = []
        coarser = None
        for block, x in zip(reversed(self.blocks), reversed(maps), strict=True):
            coarser = block(x, coarser)
            transferred.append(coarser)
        return transferred[::-1]


def _conv(channels: int, width: int, norm: bool) -> nn.Sequential:
    if norm:
        return ConvNorm(channels, width, relu=False, momentum=0.1)
    return nn.Sequential(xavier(nn.Conv2d(channels, width, 3, padding=1)))
