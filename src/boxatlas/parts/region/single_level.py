"""Trunks that end in one map of stride 16, and the heads that a RoI of it goes through.

Fast R-CNN cut networks for classification in two: their convolutions see the whole image once,
their fully connected layers see each RoI, pooled to the size they were made for. VGG-16, ZF and
CaffeNet are cut after their last convolution; a ResNet after conv4, its conv5 being the head (C4,
He et al. 2015), or after a conv5 that keeps the stride by dilation (DC5).

Shape letters: B images, R RoIs, C channels, s the side of a pooled RoI.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import field_validator
from torch import Tensor, nn

from boxatlas.backbones.alexnet import CaffeNet
from boxatlas.backbones.choice import (
    has_own_norms,
    pyramid_backbone,
    pyramid_preprocess,
    side_limits,
)
from boxatlas.backbones.download import imagenet_state
from boxatlas.backbones.resnet import ResNet, norm_layer, residual_stage
from boxatlas.backbones.vgg import VGG16
from boxatlas.backbones.zf import ZF
from boxatlas.boxes.anchors import AnchorRule
from boxatlas.detectors.fpn import (
    RoIConfig,
    TwoStageConfig,
    coder_of,
    head_parts,
    rpn_targets,
)
from boxatlas.images import Preprocess
from boxatlas.options import convention, switch
from boxatlas.parts.region.detector import RoIRule
from boxatlas.parts.region.heads import TwoFC
from boxatlas.parts.region.rpn import RPN

_DEEP = ("resnet50", "resnet101", "resnet152")
_SMALL = {"caffenet": 6, "zf": 6}  # the side that their fc6 was made for; 7 elsewhere


class OneMapAnchors(TwoStageConfig):
    """The choices of an RPN on one map."""

    anchor_base: int | None = convention(16, "the base box that anchors are grown from")
    rpn_width: int = convention(512, "channels of the RPN's 3x3 convolution", ge=1)


class OneMapConfig(RoIConfig):
    """The choices of methods on one map."""

    backbone: str = convention(
        "vgg16", 'vgg16, zf, caffenet, resnet50, ..., darknet53, ... or "timm/NAME"'
    )
    size: tuple[int, int] = convention(
        (600, 1000), "shorter side, and the longer one's limit; one number s: s and 5/3 s"
    )
    train_from: Literal["all", "conv2_1", "conv3_1", "fc"] = switch(
        "conv3_1", "Fast R-CNN section 4.5: the first layer of VGG-16 that learns"
    )
    resnet_map: Literal["c4", "dc5"] = convention(
        "c4", "of a ResNet: conv4, with conv5 as the head, or a dilated conv5"
    )
    c4_side: Literal[7, 14] = convention(
        14, "a RoI for conv5: 14 x 14, which it halves, or 7 x 7, which it does not"
    )
    ceil_pools: bool = convention(True, "VGG's pools round up, as Caffe's do")
    dropout: float = convention(0.5, "of fc6 and fc7", ge=0, lt=1)
    box_width: int = convention(4096, "width of fc6 and fc7", ge=1)
    nms: float = convention(0.3, "suppression among detections of a class")
    roi_count: int = convention(128, "RoIs that learn, per image")

    _one_number = field_validator("size", mode="before")(side_limits)


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

    def __init__(self, config: OneMapConfig) -> None:
        super().__init__()
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


@dataclass
class Cut:
    """A classification network cut in two: channels of the map, side of a pooled RoI."""

    trunk: nn.Module
    head: Any
    channels: int
    side: int


def cut(config: OneMapConfig) -> Cut:
    """The trunk and the head that a config names. Raises InputError for an unknown backbone."""
    name = config.backbone

    def made(trunk: nn.Module, channels: int, side: int = 7) -> Cut:
        head = TwoFC(channels, side, config.box_width, config.dropout)
        return Cut(trunk, head, channels, side)

    if name == "vgg16":
        pools = (1, 2, 3, 4) if config.ceil_pools else ()
        parts = made(VGG16(("conv5_3",), fc="none", ceil_pools=pools), 512)
        if config.pretrained:
            _load_vgg(parts)
        return parts
    if name == "zf":
        parts = made(ZF(), 256, _SMALL[name])
    elif name == "caffenet":
        parts = made(OneMap(CaffeNet(padded=True)), 256, _SMALL[name])
    elif has_own_norms(name):
        network = pyramid_backbone(name, (4,), pretrained=config.pretrained, fold=config.fold_norms)
        return made(network, network.channels[0])
    else:
        return _resnet(config, made)
    if config.pretrained:
        imagenet_state(name)  # says that there are none
    return parts


def _resnet(config: OneMapConfig, made: Any) -> Cut:
    dilated = config.resnet_map == "dc5"
    trunk = ResNet(
        config.backbone,
        stages=(5,) if dilated else (4,),
        dilate_c5=dilated,
        norm=norm_layer(config.norm, config.norm_eps),
        stride_in_1x1=config.stride_in_1x1,
        last=5 if dilated else 4,
    )
    if config.pretrained:
        trunk.load_pretrained()
    if dilated or config.backbone not in _DEEP:
        return made(trunk, trunk.channels[0])
    head = Res5(config)
    if config.pretrained:
        state = imagenet_state(config.backbone)
        own = {k.removeprefix("layer4."): v for k, v in state.items() if k.startswith("layer4.")}
        head.blocks.load_state_dict(own, strict=False)  # frozen norms keep no counters
    return Cut(trunk, head, trunk.channels[0], config.c4_side)


@torch.no_grad()
def _load_vgg(parts: Cut) -> None:
    """torchvision's ImageNet weights: the convolutions, and fc6 and fc7 of the classifier."""
    state = imagenet_state("vgg16")
    convs = [m for m in parts.trunk.modules() if isinstance(m, nn.Conv2d)]
    indices = sorted({int(k.split(".")[1]) for k in state if k.startswith("features.")})
    names = [f"features.{i}" for i in indices] + ["classifier.0", "classifier.3"]
    for layer, name in zip([*convs, parts.head.fc6, parts.head.fc7], names, strict=True):
        assert layer.bias is not None
        layer.weight.copy_(state[f"{name}.weight"])
        layer.bias.copy_(state[f"{name}.bias"])


def learned_layers(config: OneMapConfig, trunk: str = "trunk") -> tuple[str, ...]:
    """Name patterns of what learns in the trunk; only VGG-16 is cut by `train_from`."""
    if config.backbone != "vgg16" or config.train_from == "all":
        return (f"{trunk}.*",)
    first = {"conv2_1": 2, "conv3_1": 3, "fc": 6}[config.train_from]
    return tuple(f"{trunk}.conv{i}_*" for i in range(first, 6))


def one_map_parts(config: OneMapConfig, parts: Cut) -> dict[str, Any]:
    """The rules that a config spells, as RegionDetector takes them."""
    rule = RoIRule(config.roi_op, parts.side, config.roi_sampling, config.roi_aligned, (16,))
    return {"trunk": parts.trunk, "head": parts.head, "roi": rule, **head_parts(config)}


def one_map_rpn(config: OneMapAnchors, channels: int, strides: Sequence[int] = (16,)) -> RPN:
    """An RPN whose anchors all lie on one map."""
    sizes = tuple(
        s for row in config.anchor_sizes for s in (row if isinstance(row, tuple) else [row])
    )
    rule = AnchorRule(
        (sizes,),
        config.anchor_ratios,
        tuple(strides),
        rounded=config.anchor_rounded or config.anchor_base is not None,
        base=None if config.anchor_base is None else (config.anchor_base,),
        order=config.anchor_order,
        stride=config.anchor_stride,
    )
    return RPN(
        channels,
        config.rpn_width,
        rule,
        cls=config.rpn_cls,
        coder=coder_of(config),
        targets=rpn_targets(config),
    )


def one_map_preprocess(config: OneMapConfig) -> Preprocess:
    return pyramid_preprocess(config.backbone, config.size)
