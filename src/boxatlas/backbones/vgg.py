"""VGG-16 as a list of feature maps. Simonyan & Zisserman 2014, arXiv 1409.1556 (table 1, D).

Layers carry the names of the paper's Caffe release (conv1_1 .. conv5_3, fc6, fc7), the names that
the detection papers use too. Shape letters: B images; a map is [B, C, H / stride, W / stride].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from boxatlas.backbones.download import fetched
from boxatlas.errors import InputError, nearest
from boxatlas.options import Options, habit

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # width, number of 3x3 convolutions
FcForm = Literal["none", "atrous", "strided", "full"]


class VGGChoices(Options):
    """How the programs differ in VGG-16."""

    ceil_pools: tuple[Annotated[int, Field(ge=1, le=4)], ...] = habit(
        (1, 2, 3, 4), "VGG-16's pools 1 to 4 that round up"
    )


class UnitTrunkChoices(Options):
    """What an L2 norm that works in place does to the layers after it."""

    unit_trunk: bool = habit(False, "VGG-16's conv4_3 goes on to conv5_1 at unit length too")


class VGG16(nn.Module):
    """Images [B, 3, H, W] -> the maps named in `maps`, fine to coarse, each after its ReLU.

    maps: of conv1_2, conv2_2, conv3_3, conv4_3, conv5_3 and fc7. fc: what follows conv5_3.
    "atrous" is the fc-reduced form of DeepLab and SSD: pool5 3x3 stride 1, fc6 a 3x3 convolution
    dilated by 6, fc7 1x1, both 1024 wide, at stride 16 (SSD, section 3). "full" keeps pool5 2x2
    stride 2 and the classifier's own fc6 and fc7, 7x7 and 1x1 convolutions 4096 wide, at stride 32.
    "strided" is RefineDet's: pool5 2x2 stride 2, fc6 dilated by 3, 1024 wide, at stride 32.
    "none" ends at conv5_3. ceil_pools: the pools that round up; Caffe's all do. batch_norm: one
    after each convolution. unit_conv4_3: that map goes on at unit length over its channels.
    `channels` and `strides` say what is returned.
    """

    def __init__(
        self,
        maps: Sequence[str] = ("conv4_3", "fc7"),
        *,
        fc: FcForm = "atrous",
        ceil_pools: Sequence[int] = (1, 2, 3, 4),
        batch_norm: bool = False,
        unit_conv4_3: bool = False,
    ) -> None:
        super().__init__()
        self.maps, self.fc, self.ceil_pools = tuple(maps), fc, frozenset(ceil_pools)
        self.batch_norm, self.unit_conv4_3 = batch_norm, unit_conv4_3
        widths: dict[str, tuple[int, int]] = {}
        channels, self._stages = 3, []
        for i, (width, depth) in enumerate(STAGES, start=1):
            names = [f"conv{i}_{j}" for j in range(1, depth + 1)]
            for name in names:
                self._add(name, nn.Conv2d(channels, width, 3, padding=1))
                channels = width
            widths[names[-1]] = (width, 2 ** (i - 1))
            self._stages.append(names)
        if fc != "none":
            if fc == "full":
                fc6 = nn.Conv2d(512, 4096, 7, padding=3)
            else:
                rate = 6 if fc == "atrous" else 3
                fc6 = nn.Conv2d(512, 1024, 3, padding=rate, dilation=rate)
            self._add("fc6", fc6)
            width = fc6.out_channels
            self._add("fc7", nn.Conv2d(width, width, 1))
            widths["fc7"] = (width, 16 if fc == "atrous" else 32)
        for name in maps:
            if name not in widths:
                raise InputError(
                    "VGG-16 has no such map", field="maps", value=name, hint=nearest(name, widths)
                )
        self.channels = [widths[name][0] for name in maps]
        self.strides = [widths[name][1] for name in maps]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def _add(self, name: str, conv: nn.Conv2d) -> None:
        self.add_module(name, conv)
        if self.batch_norm:
            self.add_module(f"{name}_bn", nn.BatchNorm2d(conv.out_channels))
        # A module of its own, so that the fast form sees which convolution it can go into.
        self.add_module(f"{name}_relu", nn.ReLU(inplace=True))

    def _layer(self, name: str, x: Tensor) -> Tensor:
        x = getattr(self, name)(x)
        if self.batch_norm:
            x = getattr(self, f"{name}_bn")(x)
        return getattr(self, f"{name}_relu")(x)

    def forward(self, images: Tensor) -> list[Tensor]:
        x, made = images, {}
        for i, names in enumerate(self._stages, start=1):
            for name in names:
                x = self._layer(name, x)
            if i == 4 and self.unit_conv4_3:
                x = F.normalize(x, dim=1, eps=1e-10)
            made[names[-1]] = x
            if i < 5:
                x = F.max_pool2d(x, 2, 2, ceil_mode=i in self.ceil_pools)
        if self.fc != "none":
            atrous = self.fc == "atrous"
            x = F.max_pool2d(x, 3, 1, 1) if atrous else F.max_pool2d(x, 2, 2, ceil_mode=True)
            made["fc7"] = self._layer("fc7", self._layer("fc6", x))
        return [made[name] for name in self.maps]

    def load_pretrained(self) -> None:
        """ImageNet weights of the convolutions (the paper authors', as torchvision ships them).

        fc6 and fc7 stay new. Inputs are RGB 0..255 minus the mean. Raises InputError offline.
        """
        from torchvision.models import VGG16_Weights

        state = fetched(VGG16_Weights.IMAGENET1K_FEATURES.url)
        names = [name for stage in self._stages for name in stage]
        indices = sorted({int(k.split(".")[1]) for k in state if k.startswith("features.")})
        with torch.no_grad():
            for name, index in zip(names, indices, strict=True):
                conv = getattr(self, name)
                conv.weight.copy_(state[f"features.{index}.weight"])
                conv.bias.copy_(state[f"features.{index}.bias"])
