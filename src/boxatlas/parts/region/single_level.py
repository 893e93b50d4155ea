"""Trunks that end in one map of stride 16, and the heads that a RoI of it goes through.

Fast R-CNN split networks for classification in two: their convolutions see the whole image once,
their fully connected layers see each RoI, pooled to the size they were made for. VGG-16, ZF and
CaffeNet are split after their last convolution; a ResNet after conv4, its conv5 being the head (C4,
He et al. 2015), or after a conv5 that keeps the stride by dilation (DC5).

Shape letters: B images, R RoIs, C channels, s the side of a pooled RoI.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from boxatlas.backbones.alexnet import CaffeNet
from boxatlas.backbones.choice import BackboneChoices, TrunkChoices, has_own_norms, pyramid_backbone
from boxatlas.backbones.download import imagenet_state
from boxatlas.backbones.resnet import ResNet, norm_layer, residual_stage
from boxatlas.backbones.vgg import VGG16
from boxatlas.backbones.zf import ZF
from boxatlas.options import Options, habit, idea, setting
from boxatlas.parts.region.detector import RegionDetector
from boxatlas.parts.region.heads import BoxPredictor, TwoFC
from boxatlas.parts.region.roi import RoIChoices, box_coder
from boxatlas.parts.region.rpn import RPN, RPNChoices

STRIDE = 16  # of the map

_DEEP = ("resnet50", "resnet101", "resnet152")
_SMALL = {"caffenet": 6, "zf": 6}  # the side that their fc6 was made for; 7 elsewhere


class SingleLevelChoices(Options):
    """Where a classification network is split into a trunk and a RoI's head."""

    train_from: Literal["all", "conv2_1", "conv3_1", "fc"] = idea(
        "conv3_1", "Fast R-CNN section 4.5: the first layer of VGG-16 that is trained"
    )

    resnet_map: Literal["c4", "dc5"] = setting(
        "c4", "a ResNet's map: conv4, with conv5 as the RoI's head, or a dilated conv5"
    )
    dropout: float = setting(0.5, "dropout of fc6 and fc7", ge=0, lt=1)

    c4_side: Literal[7, 14] = habit(
        14, "cells a side of a RoI for conv5: 14, which it halves, or 7, which it does not"
    )
    ceil_pools: bool = habit(True, "VGG's pools round up, as Caffe's do")

    def idle(self) -> dict[str, str]:
        assert isinstance(self, BackboneChoices)
        why = super().idle()
        if self.backbone != "vgg16":
            why["train_from"] = "only VGG-16 is trained in part"
        if not self.backbone.startswith("resne"):
            why["resnet_map"] = "the backbone is no ResNet"
        elif self.backbone in _DEEP and self.resnet_map == "c4":
            why |= dict.fromkeys(("box_width", "dropout"), "the RoI's head is conv5")
        return why


class OneMap(nn.Module):
    """A network that returns a map, as a list of maps."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.network(images)]


class Res5(nn.Module):
    """A ResNet's conv5 on each RoI: [R, 1024, s, s] -> [R, 2048, 7, 7] -> the mean of its cells."""

    width = 2048

    def __init__(self, config: SingleLevelChoices) -> None:
        super().__init__()
        assert isinstance(config, TrunkChoices)
        self.blocks = residual_stage(
            1024,
            512,
            3,
            stride=config.c4_side // 7,
            stride_in_1x1=config.stride_in_1x1,
            norm=norm_layer(config.norm, config.norm_eps),
        )

    def forward(self, rois: Tensor) -> Tensor:
        return self.blocks(rois).mean((2, 3))


Head = TwoFC | Res5


@dataclass
class TrunkAndHead:
    """A classification network in two; channels of the trunk's map, side of a pooled RoI."""

    trunk: nn.Module
    head: Head
    channels: int
    side: int


def split_backbone(config: SingleLevelChoices) -> TrunkAndHead:
    """The trunk and the head that a config names. Raises InputError for an unknown backbone."""
    # Groups of every config on one map, which a type cannot say of several together.
    assert isinstance(config, BackboneChoices)
    assert isinstance(config, TrunkChoices)
    assert isinstance(config, RoIChoices)
    name = config.backbone
    trunk, channels, side = _trunk(config)
    if name in _DEEP and config.resnet_map == "c4":
        head: Head = Res5(config)
        side = config.c4_side
    else:
        head = TwoFC(channels, side, config.box_width, config.dropout)
    parts = TrunkAndHead(trunk, head, channels, side)
    if config.pretrained:
        _load_pretrained(name, parts)
    return parts


def _trunk(config: SingleLevelChoices) -> tuple[nn.Module, int, int]:
    """The convolutions, channels of their map, and the side of a RoI for fully connected layers."""
    assert isinstance(config, BackboneChoices)
    assert isinstance(config, TrunkChoices)
    name = config.backbone
    if name == "vgg16":
        pools = (1, 2, 3, 4) if config.ceil_pools else ()
        return VGG16(("conv5_3",), fc="none", ceil_pools=pools), 512, 7
    if name == "zf":
        return ZF(), 256, _SMALL[name]
    if name == "caffenet":
        return OneMap(CaffeNet(padded=True)), 256, _SMALL[name]
    if has_own_norms(name):
        network = pyramid_backbone(name, (4,), pretrained=config.pretrained, fold=config.fold_norms)
        return network, network.channels[0], 7
    last = 5 if config.resnet_map == "dc5" else 4
    resnet = ResNet(
        name,
        stages=(last,),
        dilate_c5=last == 5,
        norm=norm_layer(config.norm, config.norm_eps),
        stride_in_1x1=config.stride_in_1x1,
        last=last,
    )
    return resnet, resnet.channels[0], 7


@torch.no_grad()
def _load_pretrained(name: str, parts: TrunkAndHead) -> None:
    """ImageNet weights. Raises InputError where there are none."""
    if name == "vgg16":
        _load_vgg(parts)
    elif isinstance(parts.trunk, ResNet):
        parts.trunk.load_pretrained()
        if isinstance(parts.head, Res5):
            start = "layer4."
            state = {
                key.removeprefix(start): value
                for key, value in imagenet_state(name).items()
                if key.startswith(start)
            }
            parts.head.blocks.load_state_dict(state, strict=False)  # frozen norms keep no counters
    elif not has_own_norms(name):
        imagenet_state(name)  # raises: there are none


def _load_vgg(parts: TrunkAndHead) -> None:
    """torchvision's: the convolutions, and fc6 and fc7 of the classifier."""
    assert isinstance(parts.head, TwoFC)
    state = imagenet_state("vgg16")
    convs = [m for m in parts.trunk.modules() if isinstance(m, nn.Conv2d)]
    indices = sorted({int(k.split(".")[1]) for k in state if k.startswith("features.")})
    names = [f"features.{i}" for i in indices] + ["classifier.0", "classifier.3"]
    for layer, name in zip([*convs, parts.head.fc6, parts.head.fc7], names, strict=True):
        assert layer.bias is not None
        layer.weight.copy_(state[f"{name}.weight"])
        layer.bias.copy_(state[f"{name}.bias"])


class SingleLevelDetector(RegionDetector):
    """An RPN and RoIs on one map: Faster R-CNN, and Mask R-CNN on conv4.

    config: of the groups `RoIChoices` and `RPNChoices` too.
    """

    def __init__(
        self, classes: Sequence[str], config: SingleLevelChoices, parts: TrunkAndHead
    ) -> None:
        assert isinstance(config, RoIChoices)
        assert isinstance(config, RPNChoices)
        super().__init__(
            classes,
            config,
            trunk=parts.trunk,
            rpn=RPN(config, box_coder(config), parts.channels, (STRIDE,)),
            head=parts.head,
            predictor=BoxPredictor(config, parts.head.width, len(classes)),
            roi_strides=(STRIDE,),
            roi_side=parts.side,
        )


def trained_layers(config: SingleLevelChoices, trunk: str = "trunk") -> tuple[str, ...]:
    """Name patterns of what is trained in the trunk; only VGG-16 is divided by `train_from`."""
    assert isinstance(config, BackboneChoices)
    if config.backbone != "vgg16" or config.train_from == "all":
        return (f"{trunk}.*",)
    first = {"conv2_1": 2, "conv3_1": 3, "fc": 6}[config.train_from]
    return tuple(f"{trunk}.conv{i}_*" for i in range(first, 6))


# As the published ResNets on one map are trained: anchors of five sizes kept at the border, one
# objectness logit, RoIAlign.
RESNET: dict[str, Any] = {
    "backbone": "resnet50",
    "size": (800, 1333),
    "rpn_cls": "sigmoid",
    "rpn_border": False,
    "anchor_base": None,
    "anchor_sizes": (32, 64, 128, 256, 512),
    "anchor_order": "size,ratio",
    "roi_op": "align",
    "roi_count": 512,
    "min_size": 0.0,
    "nms_iou": 0.5,
    "dropout": 0.0,
    "proposals_detect": (6000, 1000),
}
