"""Networks that describe a crop: R-CNN's CaffeNet and VGG-16, Darknet's, or anything of timm.

Each gives a dict of layers: pool5 (the last convolutional features, still knowing where), then fc6
and fc7 (of a Darknet or timm network fc7 alone: what its classifier would see).
Shape letters: R crops, S side of a crop.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from boxatlas.backbones.alexnet import FC67, CaffeNet, LRNOrder
from boxatlas.backbones.darknet import INPUTS, STAGES, Darknet
from boxatlas.backbones.timm_features import PREFIX, TimmNetwork, normalisation
from boxatlas.backbones.vgg import VGG16
from boxatlas.errors import InputError
from boxatlas.options import Options, habit

_GRID = 6  # cells of pool5 where the network has no pool of its own there, each way


class CropNetworkChoices(Options):
    """What `crop_network` reads beside `BackboneChoices`."""

    lrn_order: LRNOrder = habit(
        "relu_pool_lrn", "where CaffeNet normalises; AlexNet's order: relu_lrn_pool"
    )


class CropNetwork(nn.Module):
    """Crops [R, 3, S, S] -> {"pool5": [R, D5], "fc6": [R, D6], "fc7": [R, D7]}.

    `widths`: layer -> D; `dropout`: what a classifier on fc7 drops in training.
    """

    widths: dict[str, int]
    dropout = 0.5


class Classic(CropNetwork):
    """A trunk of convolutions, its last pool, and two fully connected layers."""

    def __init__(self, trunk: nn.Module, pool: int, inputs: int) -> None:
        super().__init__()
        self.trunk, self.pool = trunk, pool
        self.fc = FC67(inputs)
        self.widths = {"pool5": inputs, "fc6": 4096, "fc7": 4096}

    def forward(self, crops: Tensor) -> dict[str, Tensor]:
        x = self.trunk(crops)
        x = x[0] if isinstance(x, list) else x
        pool5 = F.max_pool2d(x, self.pool, 2, ceil_mode=True).flatten(1)
        fc6, fc7 = self.fc(pool5)
        return {"pool5": pool5, "fc6": fc6, "fc7": fc7}


class DarknetNetwork(nn.Module):
    """Images [B, 3, H, W] -> (the map of stride 16 [B, C, h, w], the last map's mean [B, D])."""

    def __init__(self, name: str, pretrained: bool) -> None:
        super().__init__()
        self.body = Darknet(name, (16, 32))
        if pretrained:
            self.body.load_pretrained()
        self.channels, self.width = self.body.channels

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        fine, last = self.body(images)
        return fine, last.mean((2, 3))


class Averaged(CropNetwork):
    """pool5: the map of stride 16 in 6 x 6 cells, as fine as CaffeNet's; fc7: what the classifier
    would see."""

    dropout = 0.2

    def __init__(self, body: TimmNetwork | DarknetNetwork) -> None:
        super().__init__()
        self.body = body
        self.widths = {"pool5": body.channels * _GRID**2, "fc7": body.width}

    def forward(self, crops: Tensor) -> dict[str, Tensor]:
        x, fc7 = self.body(crops)
        return {"pool5": F.adaptive_avg_pool2d(x, _GRID).flatten(1), "fc7": fc7}


def crop_network(
    name: str, size: int, *, pretrained: bool, fold: bool, lrn_order: LRNOrder
) -> tuple[CropNetwork, dict[str, Any]]:
    """The network for crops of `size`, and the colours that it takes as fields of a Preprocess.

    Raises InputError for another name, too small a size, and weights out of reach.
    """
    if name.startswith(PREFIX):
        mean, std = normalisation(name)
        body = TimmNetwork(name, 16, pretrained=pretrained, fold=fold)
        if body.only_size not in (None, size):
            problem = f"{name} takes crops of {body.only_size} pixels alone"
            raise InputError(problem, field="crop_size", value=size)
        return Averaged(body), {"mean": mean, "std": std}
    if name in STAGES:
        return Averaged(DarknetNetwork(name, pretrained)), dict(INPUTS)
    if name == "caffenet":
        if pretrained:
            problem = "CaffeNet's ImageNet weights are published for Caffe alone"
            hint = "use pretrained=false, vgg16 or a timm backbone"
            raise InputError(problem, field="pretrained", value=True, hint=hint)
        trunk: nn.Module = CaffeNet(lrn_order=lrn_order)
        side, pool, channels, mean = _cells(size), 3, 256, (104.0, 117.0, 123.0)
        order = "bgr"
    elif name == "vgg16":
        trunk = VGG16(("conv5_3",), fc="none")
        if pretrained:
            trunk.load_pretrained()
        side, pool, channels, mean = -(-size // 32), 2, 512, (123.0, 117.0, 104.0)
        order = "rgb"
    else:
        known = ", ".join(STAGES)
        problem = "R-CNN has no such backbone"
        hint = f'choose caffenet, vgg16, {known} or "timm/NAME"'
        raise InputError(problem, field="backbone", value=name, hint=hint)
    if side < 1:
        raise InputError("too small a crop for this network", field="crop_size", value=size)
    colours = {"channels": order, "scale": 1.0, "mean": mean, "std": (1.0, 1.0, 1.0)}
    return Classic(trunk, pool, channels * side**2), colours


def _cells(size: int) -> int:
    """Side of CaffeNet's pool5: 11/4, and three pools of 3/2 that round up."""
    side = (size - 11) // 4 + 1
    for _ in range(3):
        side = -(-(side - 3) // 2) + 1
    return side
