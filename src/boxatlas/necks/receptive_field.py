"""Receptive field blocks: branches of growing kernels, each followed by a dilated convolution.

Liu, Huang & Wang 2017 (RFBNet), arXiv 1711.07767, section 3 and figures 4 and 5. As in the human
visual cortex, the further from the centre a unit looks, the larger the field it sums over.
Shape letters: B images; maps are [B, C, H, W].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from boxatlas.necks.blocks import ConvNorm, Size
from boxatlas.options import NotNegative, Options, habit

Rates = Literal["paper", "released"]


class ReceptiveFieldChoices(Options):
    """How the authors' code differs from their paper."""

    rates: Rates = habit(
        "paper", "dilations of an RFB's branches: the paper's 1, 3, 5 or the code's 2, 3, 5"
    )
    residual_scale: NotNegative = habit(
        1.0, "factor of a receptive field block before its shortcut is added"
    )


@dataclass(frozen=True)
class Layer:
    """One convolution of a branch: its kernel, its width, and whether the block strides here."""

    kernel: Size
    width: int
    strided: bool = False


# The branches: 1x1 to narrow, then a small kernel, and a dilated 3x3 of `rate` at last.
Branch = tuple[Sequence[Layer], int]


class ReceptiveField(nn.Module):
    """Branches side by side -> concatenation -> 1x1, times `scale`, plus a 1x1 shortcut, ReLU.

    Each branch ends with a dilated 3x3 without ReLU. The stride is taken once in each branch and in
    the shortcut. identity: the input itself is the shortcut where its shape allows. depthwise: the
    dilated convolutions act on each channel by itself.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        branches: Sequence[Branch],
        *,
        stride: int = 1,
        scale: float = 1.0,
        identity: bool = False,
        depthwise: bool = False,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.branches = nn.ModuleList()
        total = 0
        for layers, rate in branches:
            row, last = [], channels
            for layer in layers:
                step = stride if layer.strided else 1
                row.append(ConvNorm(last, layer.width, layer.kernel, step))
                last = layer.width
            groups = last if depthwise else 1
            row.append(ConvNorm(last, last, 3, dilation=rate, groups=groups, relu=False))
            self.branches.append(nn.Sequential(*row))
            total += last
        self.linear = ConvNorm(total, width, 1, relu=False)
        same = identity and channels == width and stride == 1
        self.shortcut = nn.Identity() if same else ConvNorm(channels, width, 1, stride, relu=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(torch.cat([branch(x) for branch in self.branches], 1))
        return self.relu(y * self.scale + self.shortcut(x))


def rfb(channels: int, rates: Sequence[int], *, wide: bool = False) -> list[Branch]:
    """RFB (figure 4a): kernels 1, 3 and 5 (two 3x3). wide: a 7x7 branch too, as 1x7 and 7x1.

    rates: the dilations of the branches in turn.
    """
    q = max(1, channels // 8)
    half = q * 3 // 2
    rows = [
        [Layer(1, 2 * q, strided=True)],
        [Layer(1, q), Layer(3, 2 * q, strided=True)],
        [Layer(1, q), Layer(3, half), Layer(3, 2 * q, strided=True)],
        [Layer(1, q), Layer((1, 7), half), Layer((7, 1), 2 * q, strided=True)],
    ]
    return list(zip(rows[: 4 if wide else 3], rates, strict=True))


def rfb_rates(rates: Rates, narrow: bool) -> tuple[int, int, int]:
    """Dilations of the three branches; the code has its own for a narrow block that halves."""
    if rates == "paper":
        return (1, 3, 5)
    return (1, 2, 3) if narrow else (2, 3, 5)


def rfb_narrow(channels: int, rates: Sequence[int] = (1, 3, 7)) -> list[Branch]:
    """The E version's block for 256 channels: kernels 1, 3 and 7."""
    first, second, _, last = rfb(channels, (1, 1, 1, 1), wide=True)
    rows = [first[0], second[0], last[0]]
    return list(zip(rows, rates, strict=True))


def rfb_s(channels: int, rates: Sequence[int] = (1, 3, 3, 5)) -> list[Branch]:
    """RFB-s (figure 4b), for the finest map: 1x3 and 3x1 in place of 3x3 and 5x5."""
    q = max(1, channels // 4)
    rows = [
        [Layer(1, q)],
        [Layer(1, q), Layer((3, 1), q)],
        [Layer(1, q), Layer((1, 3), q)],
        [Layer(1, q // 2 or 1), Layer((1, 3), q // 4 * 3 or 1), Layer((3, 1), q)],
    ]
    return list(zip(rows, rates, strict=True))


def rfb_s_wide(channels: int, rates: Sequence[int] = (1, 3, 3, 5, 5, 7, 7)) -> list[Branch]:
    """The E version's RFB-s: seven branches, half as wide."""
    q = max(1, channels // 8)
    narrow, middle = q // 2 or 1, q // 4 * 3 or 1
    rows = [
        [Layer(1, q)],
        [Layer(1, q), Layer((3, 1), q)],
        [Layer(1, q), Layer((1, 3), q)],
        [Layer(1, q), Layer((3, 1), q)],
        [Layer(1, q), Layer((1, 3), q)],
        [Layer(1, narrow), Layer((1, 3), middle), Layer((3, 1), q)],
        [Layer(1, narrow), Layer((3, 1), middle), Layer((1, 3), q)],
    ]
    return list(zip(rows, rates, strict=True))


def rfb_light(channels: int, rates: Sequence[int] = (3, 5)) -> list[Branch]:
    """RFB of the MobileNet version: two branches, dilated depthwise."""
    q = max(1, channels // 8)
    half = q // 2 * 3 or 1
    rows = [
        [Layer(1, q), Layer((1, 3), half), Layer((3, 1), half, strided=True)],
        [Layer(1, q), Layer(3, half), Layer(3, half, strided=True)],
    ]
    return list(zip(rows, rates, strict=True))
