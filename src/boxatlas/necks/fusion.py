"""Feature fusion: maps of several scales brought to one size and joined, and a pyramid made of it.

Li & Zhou 2017 (FSSD), arXiv 1712.00960, section 3. Shape letters: B images; maps are [B, C, H, W].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxatlas.necks.blocks import ConvRelu, enlarge
from boxatlas.necks.extra_maps import ExtraLayer
from boxatlas.options import Options, habit

Generator = Literal["direct", "simple", "bottleneck"]


class FusionChoices(Options):
    """How the programs differ in the fusion of maps."""

    fuse_norm_affine: bool = habit(False, "the fused map's batch norm scales and shifts")
    reduce_all: bool = habit(
        False, "a 1x1 convolution also on a map that has the fused width, 256, already"
    )
    extra_padding: Literal[0, 1] = habit(1, "padding of conv6_2, which comes after VGG-16's fc7")


def layers_after_fc7(extra_padding: int) -> list[ExtraLayer]:
    """conv6_1, conv6_2, conv7_1, conv7_2: VGG-16 continued to a map of half fc7's size."""
    return [ExtraLayer(256, 512, 3, 1, extra_padding), ExtraLayer(128, 256)]


class FeatureFusion(nn.Module):
    """Maps -> one map of the size of map `base` (section 3.2).

    Each is brought to `width` channels by 1x1 convolution and ReLU (one that has them already stays
    as it is, unless `reduce_all`) and to that size: finer maps by max pooling, coarser ones
    bilinearly. Joined by concatenation or by sum, and normalised. `channels` says what is returned.
    """

    def __init__(
        self,
        channels: Sequence[int],
        base: int,
        *,
        width: int = 256,
        fuse: Literal["concat", "sum"] = "concat",
        norm: bool = True,
        affine: bool = False,
        reduce_all: bool = False,
        align_corners: bool = True,
    ) -> None:
        super().__init__()
        self.base, self.fuse, self.align_corners = base, fuse, align_corners
        self.reduce = nn.ModuleList(
            ConvRelu(c, width, 1) if c != width or reduce_all else nn.Identity() for c in channels
        )
        self.channels = width * len(channels) if fuse == "concat" else width
        self.norm = nn.BatchNorm2d(self.channels, affine=affine) if norm else nn.Identity()

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        size = maps[self.base].shape[-2:]
        maps = [self._fit(layer(x), size) for layer, x in zip(self.reduce, maps, strict=True)]
        fused = torch.cat(maps, 1) if self.fuse == "concat" else torch.stack(maps).sum(0)
        return self.norm(fused)

    def _fit(self, x: Tensor, size: torch.Size) -> Tensor:
        if x.shape[-2:] == size:
            return x
        if x.shape[-2] > size[0]:
            pooled = F.max_pool2d(x, 2, 2, ceil_mode=True)
            return pooled if pooled.shape[-2:] == size else F.adaptive_max_pool2d(x, size)
        return enlarge(x, size, self.align_corners)


class FeaturePyramid(nn.Module):
    """One fused map -> a pyramid (section 3.3, figure 4).

    layers: how each map after the first is made smaller. generator: "direct", the fused map itself
    is the first of the pyramid; "simple", a 3x3 convolution comes before; "bottleneck", as
    "simple", of 1x1 to half the width and 3x3. finest: channels of the finest maps that are made,
    the coarser ones have half. `channels` says what is returned.
    """

    def __init__(
        self,
        channels: int,
        layers: Sequence[ExtraLayer],
        generator: Generator = "simple",
        finest: int = 512,
    ) -> None:
        super().__init__()
        self.direct = generator == "direct"
        wide = 0 if self.direct else 2  # how many count as the finest
        steps = [*([] if self.direct else [ExtraLayer(0, 0, 3, 1, 1)]), *layers]
        self.channels = [channels] if self.direct else []
        self.layers = nn.ModuleList()
        for i, step in enumerate(steps):
            width = finest if i < wide else finest // 2
            shape = (width, step.kernel, step.stride, step.padding)
            if generator == "bottleneck":
                squeeze = ConvRelu(channels, width // 2, 1)
                layer: nn.Module = nn.Sequential(squeeze, ConvRelu(width // 2, *shape))
            else:
                layer = ConvRelu(channels, *shape)
            self.layers.append(layer)
            self.channels.append(width)
            channels = width

    def forward(self, x: Tensor) -> list[Tensor]:
        pyramid = [x] if self.direct else []
        for layer in self.layers:
            x = layer(x)
            pyramid.append(x)
        return pyramid
