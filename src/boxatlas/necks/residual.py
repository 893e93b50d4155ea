"""Residual blocks outside a ResNet: extra layers of DSSD and RefineDet, prediction modules.

Fu et al. 2017 (DSSD), arXiv 1701.06659, sections 3.1 and 3.2. Maps are [B, C, H, W].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from boxatlas.necks.blocks import ConvNorm


class Residual(nn.Module):
    """k x k to `width`, `middle` x `middle`, 1x1 to `out`, plus a shortcut, ReLU after the sum.

    kernel and stride are of the first convolution and of the shortcut, both without padding.
    identity: the shortcut is the input itself (out = channels).
    """

    def __init__(
        self,
        channels: int,
        width: int = 256,
        out: int = 1024,
        *,
        kernel: int = 1,
        stride: int = 1,
        middle: int = 3,
        identity: bool = False,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        norm: dict[str, Any] = {"eps": eps, "momentum": 0.1}
        self.channels = out
        self.a = ConvNorm(channels, width, kernel, stride, 0, **norm)
        self.b = ConvNorm(width, width, middle, **norm)
        self.c = ConvNorm(width, out, 1, relu=False, **norm)
        self.shortcut = (
            nn.Identity()
            if identity
            else ConvNorm(channels, out, kernel, stride, 0, relu=False, **norm)
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.c(self.b(self.a(x))) + self.shortcut(x))


class EachMap(nn.ModuleList):
    """A module of its own for each map."""

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return [module(x) for module, x in zip(self, maps, strict=True)]
