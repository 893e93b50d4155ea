"""DSSD's decoder: from the coarsest map back up, each step joined to the map of its size.

Fu et al. 2017, arXiv 1701.06659, section 3.2 and figure 3.
Shape letters: B images; maps are [B, C, H, W], fine to coarse.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from boxatlas.necks.blocks import ConvNorm, xavier
from boxatlas.necks.residual import Residual


def shrink(side: int) -> tuple[int, int]:
    """(kernel, stride), without padding, that take a side to about half, or past 5 by two cells.

    321: 20 -> 10, 5, 3, 1; 513: 32 -> 16, 8, 4, 2, 1.
    """
    if side in (3, 5):
        return 3, 1
    return (2, 2) if side % 2 == 0 else (3, 2)


class ExtraBlocks(nn.Module):
    """Maps -> the same maps and ever coarser ones of residual blocks, down to one cell.

    section 3.1: what SSD's extra layers are on ResNet-101. `channels`, `shapes` (kernel, stride of
    each block) say what was made.
    """

    def __init__(
        self, channels: Sequence[int], grid: tuple[int, int], *, width: int = 256, eps: float
    ) -> None:
        super().__init__()
        self.channels, self.shapes = list(channels), []
        self.extras = nn.ModuleList()
        side = min(grid)
        while side > 1:
            kernel, stride = shrink(side)
            block = Residual(
                self.channels[-1], width, 4 * width, kernel=kernel, stride=stride, eps=eps
            )
            self.extras.append(block)
            self.channels.append(block.channels)
            self.shapes.append((kernel, stride))
            side = (side - kernel) // stride + 1

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        maps = list(maps)
        for block in self.extras:
            maps.append(block(maps[-1]))
        return maps


class Deconvolution(nn.Module):
    """One step up (figure 3): the deeper map by deconvolution and 3x3, its own by two 3x3, joined.

    kernel, stride: of the deconvolution. fuse: by product or by sum, then ReLU.
    """

    def __init__(
        self,
        channels: int,
        deeper: int,
        width: int,
        kernel: int,
        stride: int,
        *,
        fuse: Literal["product", "sum"],
        eps: float,
    ) -> None:
        super().__init__()
        norm: dict[str, Any] = {"eps": eps, "momentum": 0.1}
        self.fuse = fuse
        self.lateral1 = ConvNorm(channels, width, **norm)
        self.lateral2 = ConvNorm(width, width, relu=False, **norm)
        self.up = xavier(nn.ConvTranspose2d(deeper, width, kernel, stride))
        self.after = ConvNorm(width, width, relu=False, **norm)

    def forward(self, x: Tensor, deeper: Tensor) -> Tensor:
        own = self.lateral2(self.lateral1(x))
        # An odd map is smaller than the doubled deeper one.
        up = self.after(self.up(deeper)[..., : own.shape[-2], : own.shape[-1]])
        return F.relu(own * up if self.fuse == "product" else own + up)


class Decoder(nn.Module):
    """Maps -> as many: all but the coarsest made anew, coarse to fine. `channels` says the rest.

    shapes: (kernel, stride) of the step down from each map to the next, which the way up reverses.
    """

    def __init__(
        self,
        channels: Sequence[int],
        shapes: Sequence[tuple[int, int]],
        *,
        width: int = 512,
        fuse: Literal["product", "sum"] = "product",
        eps: float,
    ) -> None:
        super().__init__()
        deeper = [width] * (len(channels) - 2) + [channels[-1]]
        self.steps = nn.ModuleList(
            Deconvolution(c, d, width, *shape, fuse=fuse, eps=eps)
            for c, d, shape in zip(channels[:-1], deeper, shapes, strict=True)
        )
        self.channels = [width] * (len(channels) - 1) + [channels[-1]]

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        decoded = [maps[-1]]
        for step, x in zip(reversed(self.steps), reversed(maps[:-1]), strict=True):
            decoded.append(step(x, decoded[-1]))
        return decoded[::-1]
