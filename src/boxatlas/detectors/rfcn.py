"""R-FCN. Dai, Li, He, Sun 2016, arXiv 1605.06409.

In a ResNet everything up to the last convolution can be shared by the whole image, but a RoI must
then tell where in an object it lies, which deep maps have forgotten. R-FCN gives each of the k x k
parts of a RoI score maps of its own and lets the parts vote: all that depends on a RoI is an
average, and the network is convolutional to the end.

Shape letters: B images, P RoIs of an image, K classes, k parts a side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from boxatlas.backbones.choice import (
    Backbone,
    BackboneChoices,
    TrunkChoices,
    has_own_norms,
    pyramid_backbone,
)
from boxatlas.backbones.resnet import ResNet, StemChoices, norm_layer
from boxatlas.boxes.anchors import AnchorChoices
from boxatlas.boxes.nms import SuppressionChoices
from boxatlas.errors import InputError
from boxatlas.options import idea
from boxatlas.parts.base import Phase
from boxatlas.parts.region.position_sensitive import PartChoices, PositionSensitiveDetector
from boxatlas.parts.region.pyramid import Pyramid, PyramidChoices
from boxatlas.parts.region.roi import RoIChoices, box_coder
from boxatlas.parts.region.rpn import RPN, RPNChoices
from boxatlas.registry import Method, Published

METHOD = Method(
    "R-FCN",
    "R-FCN: Object Detection via Region-based Fully Convolutional Networks",
    "1605.06409",
    2016,
    "two-stage",
)

_POOL = "section 2, equation 1: whole cells of a part, or bilinear samples (align)"
_MINING = "table 3: the RoIs of largest loss, or a draw with a quarter on objects"
_NO_LAYERS = "a RoI has no fully connected layers"


class Config(
    BackboneChoices,
    TrunkChoices,
    StemChoices,
    PartChoices,
    AnchorChoices,
    RPNChoices,
    RoIChoices,
    SuppressionChoices,
):
    """R-FCN's ideas, and the paper's values of its parts' choices."""

    res5: Literal["dilated", "stride32", "conv4"] = idea(
        "dilated", "table 6: conv5 at stride 16 by dilation, at stride 32, or left out"
    )

    roi_op = idea("pool", _POOL)
    sampler = idea("ohem", _MINING)
    rpn_cls = idea("softmax", "Faster R-CNN section 3.1.1: a softmax pair, or logistic regression")
    rpn_border = idea(True, "Faster R-CNN section 3.3: anchors across the border are not trained")
    anchor_sizes = (128, 256, 512)
    anchor_base = 16
    rpn_width = 512
    proposals_loss = (6000, 300)
    proposals_detect = (6000, 300)
    background_low = 0.1  # without mining, as Fast R-CNN has it
    roi_count = 128
    class_agnostic = True
    background_box = True

    backbone = "resnet101"
    size = (600, 1000)
    stride_in_1x1 = True
    nms_iou = 0.3

    def idle(self) -> dict[str, str]:
        return super().idle() | {"box_width": _NO_LAYERS}


class RFCN(PositionSensitiveDetector):
    """RPN on conv4, score maps on conv5."""

    config: Config  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, classes: Sequence[str], config: Config) -> None:
        trunk = trunk_of(config)
        super().__init__(
            classes,
            config,
            trunk=trunk,
            rpn=RPN(config, box_coder(config), trunk.channels[0], trunk.strides[:1]),
            rpn_levels=1,
            first_score=len(trunk.channels) - 1,
            channels=trunk.channels[-1],
            roi_strides=trunk.strides[-1:],
        )

    def phases(self) -> list[Phase]:
        return phases(self.config.train_scheme)


def trunk_of(config: Config) -> Backbone:
    """A trunk that makes conv4's map and, unless it is left out, conv5's.

    Raises InputError where another network than a ResNet is to be dilated.
    """
    stages = (4,) if config.res5 == "conv4" else (4, 5)
    if has_own_norms(config.backbone):
        if config.res5 == "dilated":
            problem = "only a ResNet is dilated"
            raise InputError(problem, field="res5", value="dilated", hint="use stride32 or conv4")
        return pyramid_backbone(
            config.backbone, stages, pretrained=config.pretrained, fold=config.fold_norms
        )
    trunk = ResNet(
        config.backbone,
        stages=stages,
        norm=norm_layer(config.norm, config.norm_eps),
        stride_in_1x1=config.stride_in_1x1,
        dilate_c5=config.res5 == "dilated",
        ceil_pool=config.pool_padding == 0,
        pool_padding=config.pool_padding,
        last=stages[-1],
    )
    if config.pretrained:
        trunk.load_pretrained()
    return trunk


def phases(scheme: Literal["alternating", "joint"]) -> list[Phase]:
    """Section 2: as Faster R-CNN's four steps."""
    if scheme == "joint":
        return [Phase()]
    proposing, detecting = ("rpn_cls", "rpn_box"), ("roi_cls", "roi_box")
    return [
        Phase("rpn", ("trunk.*", "rpn.*"), proposing),
        Phase("detector", ("trunk.*", "score.*"), detecting, proposals_from="rpn"),
        Phase("rpn_shared", ("rpn.*",), proposing, init_from="detector"),
        Phase("detector_shared", ("score.*",), detecting, "rpn_shared", "rpn_shared"),
    ]


class PyramidConfig(
    BackboneChoices,
    TrunkChoices,
    PyramidChoices,
    PartChoices,
    AnchorChoices,
    RPNChoices,
    RoIChoices,
    SuppressionChoices,
):
    """R-FCN on a pyramid; box heads it has none."""

    roi_op = idea("pool", _POOL)
    sampler = idea("ohem", _MINING)
    proposals_loss = (6000, 300)
    proposals_detect = (6000, 300)
    background_low = 0.1
    roi_count = 128
    class_agnostic = True
    background_box = True
    nms_iou = 0.3

    def idle(self) -> dict[str, str]:
        return super().idle() | {"box_width": _NO_LAYERS, "box_head": _NO_LAYERS}


class RFCNPyramid(PositionSensitiveDetector):
    """Score maps on every level of a pyramid, of one set of weights."""

    config: PyramidConfig  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, classes: Sequence[str], config: PyramidConfig) -> None:
        trunk = Pyramid(config)
        super().__init__(
            classes,
            config,
            trunk=trunk,
            rpn=RPN(config, box_coder(config), trunk.width, trunk.strides),
            rpn_levels=len(trunk.strides),
            first_score=0,
            channels=trunk.width,
            roi_strides=trunk.roi_strides,
        )

    def phases(self) -> list[Phase]:
        return phases(self.config.train_scheme)


# -- the models -----------------------------------------------------------------------------------


@METHOD.model(
    "ResNet-50",
    "shorter side 600",
    Published("VOC07 test (07+12)", "mAP@0.5", 77.4, source="the release, mean of 5 runs"),
)
def rfcn_r50(classes: Sequence[str], **options: Any) -> RFCN:
    """R-FCN on ResNet-50 with a dilated conv5."""
    return RFCN(classes, Config.of(options, backbone="resnet50"))


@METHOD.model(
    "ResNet-101",
    "shorter side 600",
    Published("VOC07 test (07+12)", "mAP@0.5", 79.5, 5.9, "K40", "table 3; 0.17 s"),
    Published("COCO test-dev", "AP", 29.9, 9.0, source="as surveyed"),
    Published("COCO test-dev (trainval)", "AP", 29.2, source="the paper, table 6"),
)
def rfcn_r101(classes: Sequence[str], **options: Any) -> RFCN:
    """R-FCN on ResNet-101 with a dilated conv5."""
    return RFCN(classes, Config.of(options))


@METHOD.model("ResNet-50", "shorter side 800")
def rfcn_r50_fpn(classes: Sequence[str], **options: Any) -> RFCNPyramid:
    """Position-sensitive heads on a feature pyramid; a combination of ours."""
    return RFCNPyramid(classes, PyramidConfig.of(options, backbone="resnet50", conv_width=256))


@METHOD.model("EfficientNet-Lite0", "shorter side 320")
def rfcn320_efficientnet_lite0(classes: Sequence[str], **options: Any) -> RFCN:
    """A light form for small machines: one map of stride 16, anchors from 16 pixels on."""
    own = Config.of(
        options,
        backbone="timm/tf_efficientnet_lite0",
        size=320,
        res5="conv4",
        rpn_width=256,
        conv_width=256,
        train_scheme="joint",
        anchor_sizes=(16, 32, 64, 128, 256),
        rpn_border=False,
        proposals_detect=(1000, 300),
        proposals_loss=(1000, 300),
    )
    return RFCN(classes, own)
