"""MobileNetV3-Large as SSDlite and as a pyramid use it. Howard et al. 2019, arXiv 1905.02244,
section 6.3.

Shape letters: B images; a map is [B, C, H / stride, W / stride].
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

from torch import Tensor, nn
from torchvision.models import mobilenet_v3_large

from boxatlas.backbones.download import imagenet_state
from boxatlas.errors import InputError


class MobileNetV3Large(nn.Module):
    """Images -> [the expansion layer of the last strided block, the last layer]: strides 16, 32.

    reduced_tail halves the channels of the last blocks (table 6, "for detection"). Built of
    torchvision's blocks and split as its SSDlite is: `features.0` ends with the expansion of the
    block that strides to 32, `features.1` is the rest.
    """

    def __init__(self, *, reduced_tail: bool = True) -> None:
        super().__init__()
        norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
        whole = mobilenet_v3_large(weights=None, norm_layer=norm, reduced_tail=reduced_tail)
        blocks = cast(nn.Sequential, whole.features)
        split = _last_strided(blocks)
        block = cast(nn.Sequential, blocks[split].block)
        self.features = nn.Sequential(
            nn.Sequential(*blocks[:split], block[0]), nn.Sequential(block[1:], *blocks[split + 1 :])
        )
        expansion = cast(nn.Conv2d, cast(nn.Sequential, block[0])[0]).out_channels
        last = cast(nn.Conv2d, cast(nn.Sequential, blocks[-1])[0]).out_channels
        self.reduced_tail = reduced_tail
        self.channels, self.strides = [expansion, last], [16, 32]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.03)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> list[Tensor]:
        fine = self.features[0](images)
        return [fine, self.features[1](fine)]

    def load_pretrained(self) -> None:
        """torchvision's ImageNet weights, which have the full tail. Raises InputError offline."""
        if self.reduced_tail:
            problem = "the ImageNet weights are of the full tail"
            raise InputError(problem, field="pretrained", value=True, hint="add reduced_tail=false")
        state = imagenet_state("mobilenet_v3_large")
        # Both walk the same layers in the same order, so that names need no table.
        found = [v for k, v in state.items() if k.startswith("features.")]
        own = self.features.state_dict()
        self.features.load_state_dict(dict(zip(own, found, strict=True)))


class MobileNetV3Features(nn.Module):
    """Images -> the last strided block's map and the last layer's, both of stride 32.

    What torchvision's Faster R-CNN builds its pyramid on. norm makes a norm of so many channels.
    """

    _MAPS = (13, 16)  # the layers, in torchvision's numbering

    def __init__(self, norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.features = mobilenet_v3_large(weights=None, norm_layer=norm).features
        self.channels, self.strides = [160, 960], [32, 32]

    def forward(self, images: Tensor) -> list[Tensor]:
        x, maps = images, []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in self._MAPS:
                maps.append(x)
        return maps

    def load_pretrained(self) -> None:
        """torchvision's ImageNet weights. Raises InputError offline."""
        state = imagenet_state("mobilenet_v3_large")
        own = self.features.state_dict()
        self.features.load_state_dict({key: state[f"features.{key}"] for key in own})


def _last_strided(blocks: nn.Sequential) -> int:
    strided = [
        i
        for i, block in enumerate(blocks)
        if i and any(isinstance(m, nn.Conv2d) and m.stride[0] == 2 for m in block.modules())
    ]
    return strided[-1]
