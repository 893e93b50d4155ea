"""The extra layers of SSD: ever coarser maps after the backbone's last. arXiv 1512.02325, figure 2.

Shape letters: B images; maps are [B, C, H, W], fine to coarse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class ExtraLayer:
    """A 1x1 convolution to `squeeze` channels, then one to `width` that makes the map smaller."""

    squeeze: int
    width: int
    kernel: int = 3
    stride: int = 2
    padding: int = 1


def plan(grid: tuple[int, int], lite: bool = False) -> list[ExtraLayer]:
    """Layers that take a map of this size (rows, columns) down to one cell.

    The published networks are points of this rule: 19 -> 10, 5, 3, 1 (SSD300: stride 2 twice, then
    3x3 without padding), 32 -> 16, 8, 4, 2, 1 (SSD512: the last is 4x4), 10 -> 5, 3, 2, 1 (SSDlite:
    stride 2 throughout).
    """
    layers: list[ExtraLayer] = []
    side = min(grid)
    while side > 1:
        first = not layers
        if lite:
            width = 512 if first else 128 if side == 2 else 256
            layers.append(ExtraLayer(width // 2, width))
            side = (side + 1) // 2
            continue
        squeeze, width = (256, 512) if first else (128, 256)
        if side == 2:
            layers.append(ExtraLayer(squeeze, width, kernel=4, stride=1))
            side = 1
        elif side in (3, 5):
            layers.append(ExtraLayer(squeeze, width, stride=1, padding=0))
            side -= 2
        else:
            layers.append(ExtraLayer(squeeze, width))
            side = (side + 1) // 2
    return layers


class ExtraMaps(nn.Module):
    """Maps -> the same maps and one for each layer; `norm` acts on the first as the head sees it.

    lite: the convolutions after the 1x1 are depthwise, each followed by batch norm and ReLU6.
    `channels` says what is returned.
    """

    def __init__(
        self,
        channels: Sequence[int],
        layers: Sequence[ExtraLayer],
        *,
        lite: bool = False,
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.norm = norm
        self.channels = [*channels, *(layer.width for layer in layers)]
        layer_of = lite_layer if lite else plain_layer
        sources = [channels[-1], *(layer.width for layer in layers)]
        self.extras = nn.ModuleList(
            layer_of(source, layer) for source, layer in zip(sources[:-1], layers, strict=True)
        )
        for module in self.extras.modules():
            if isinstance(module, nn.Conv2d):
                if lite:
                    nn.init.normal_(module.weight, std=0.03)
                else:
                    nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        maps = list(maps)
        for layer in self.extras:
            maps.append(layer(maps[-1]))
        if self.norm is not None:
            maps[0] = self.norm(maps[0])
        return maps


def plain_layer(channels: int, layer: ExtraLayer) -> nn.Sequential:
    """As published: 1x1, ReLU, k x k, ReLU, with biases."""
    return nn.Sequential(
        nn.Conv2d(channels, layer.squeeze, 1),
        nn.ReLU(inplace=True),
        nn.Conv2d(layer.squeeze, layer.width, layer.kernel, layer.stride, layer.padding),
        nn.ReLU(inplace=True),
    )


def lite_layer(channels: int, layer: ExtraLayer) -> nn.Sequential:
    """SSDlite's: 1x1, depthwise k x k, 1x1, each with batch norm and ReLU6."""
    return nn.Sequential(
        conv_norm(channels, layer.squeeze, 1),
        conv_norm(
            layer.squeeze, layer.squeeze, layer.kernel, layer.stride, layer.padding, layer.squeeze
        ),
        conv_norm(layer.squeeze, layer.width, 1),
    )


def conv_norm(
    channels: int, width: int, kernel: int, stride: int = 1, padding: int = 0, groups: int = 1
) -> nn.Sequential:
    """Convolution without bias, batch norm, ReLU6: the building block of SSDlite."""
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(width, eps=0.001, momentum=0.03),
        nn.ReLU6(inplace=True),
    )
