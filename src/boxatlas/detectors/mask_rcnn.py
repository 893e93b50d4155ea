"""Mask R-CNN. He, Gkioxari, Dollar, Girshick 2017, arXiv 1703.06870.

Faster R-CNN with a third branch: for each RoI a small network of convolutions draws the object's
mask, one map for every class, beside the branches that classify and place it. The classes' maps do
not compete. A mask needs pixel-to-pixel alignment that RoI pooling's rounding destroys; RoIAlign
samples the map where the RoI lies.

Shape letters: B images, P RoIs of an image, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from boxatlas.backbones.choice import BackboneChoices, TrunkChoices
from boxatlas.boxes.anchors import AnchorChoices
from boxatlas.boxes.nms import SuppressionChoices
from boxatlas.detectors import fpn
from boxatlas.errors import InputError
from boxatlas.options import idea
from boxatlas.parts.region.masks import MaskChoices, WithMasks
from boxatlas.parts.region.pyramid import LIGHT, PyramidChoices
from boxatlas.parts.region.roi import RoIChoices
from boxatlas.parts.region.rpn import RPNChoices
from boxatlas.parts.region.single_level import (
    RESNET,
    Res5,
    SingleLevelChoices,
    SingleLevelDetector,
    split_backbone,
)
from boxatlas.registry import Method, Published

METHOD = Method("Mask R-CNN", "Mask R-CNN", "1703.06870", 2017, "two-stage")


class Config(
    BackboneChoices,
    TrunkChoices,
    PyramidChoices,
    AnchorChoices,
    RPNChoices,
    RoIChoices,
    SuppressionChoices,
    MaskChoices,
):
    """The choices of Faster R-CNN on a pyramid, and the mask branch's."""

    roi_op = idea("align", "table 2c: how a RoI is pooled")
    roi_reduce = idea("average", "table 2c: what becomes of the samples in a bin")


class MaskRCNN(WithMasks, fpn.FasterRCNNFPN):
    """On a pyramid: masks see RoIs of 14 x 14 and have 28 x 28 cells."""

    config: Config  # pyright: ignore[reportIncompatibleVariableOverride]
    mask_side = 14

    def __init__(self, classes: Sequence[str], config: Config) -> None:
        super().__init__(classes, config)  # pyright: ignore[reportArgumentType] more groups
        self.mask = self.branch(config.width, self.mask_side)


class C4Config(
    BackboneChoices,
    TrunkChoices,
    SingleLevelChoices,
    AnchorChoices,
    RPNChoices,
    RoIChoices,
    SuppressionChoices,
    MaskChoices,
):
    """Mask R-CNN on a ResNet's conv4: the branch has no convolutions before its map is doubled."""

    # Faster R-CNN's own ideas, which this form never followed in full: its steps train no mask.
    gone: ClassVar[Mapping[str, Any]] = {
        "train_schedule": "joint",
        "shared_features": True,
        "rpn_lambda": 10.0,
    }

    roi_op = idea("align", "table 2c: how a RoI is pooled")
    roi_reduce = idea("average", "table 2c: what becomes of the samples in a bin")
    mask_convs = 0
    proposals_loss = (12000, 2000)
    min_size_first = True
    box_width = 4096


class C4MaskRCNN(WithMasks, SingleLevelDetector):
    """On conv4: masks see what conv5 makes of a RoI and have 14 x 14 cells."""

    config: C4Config  # pyright: ignore[reportIncompatibleVariableOverride]
    head: Res5

    def __init__(self, classes: Sequence[str], config: C4Config) -> None:
        parts = split_backbone(config)
        if not isinstance(parts.head, Res5):
            problem = "masks on one map need a ResNet of 50 layers or more, cut at conv4"
            hint = "use mask_rcnn_r50_fpn"
            raise InputError(problem, field="backbone", value=config.backbone, hint=hint)
        super().__init__(classes, config, parts)
        self.mask_side = parts.side
        self.mask = self.branch(parts.head.width, 7)

    def mask_features(self, features: list[Tensor], boxes: Tensor) -> Tensor:
        return self.head.blocks(super().mask_features(features, boxes))


# -- the models -----------------------------------------------------------------------------------


@METHOD.model(
    "ResNet-50",
    "shorter side 800",
    Published("COCO val2017", "AP", 36.8, source="Detectron2's zoo"),
    Published("COCO minival", "mask AP", 30.3, source="table 2b"),
)
def mask_rcnn_r50_c4(classes: Sequence[str], **options: Any) -> C4MaskRCNN:
    """Mask R-CNN on ResNet-50's conv4; conv5 is the head of each RoI."""
    return C4MaskRCNN(classes, C4Config.of(options, **RESNET, rpn_width=1024))


@METHOD.model(
    "ResNet-50",
    "shorter side 800",
    Published("COCO val2017", "AP", 37.7, source="Detectron's zoo, 1x"),
    Published("COCO minival", "mask AP", 33.6, source="table 2a"),
)
def mask_rcnn_r50_fpn(classes: Sequence[str], **options: Any) -> MaskRCNN:
    """Mask R-CNN on ResNet-50 with a feature pyramid."""
    return MaskRCNN(classes, Config.of(options))


@METHOD.model(
    "ResNet-50", "shorter side 800", Published("COCO val2017", "AP", 47.4, source="torchvision")
)
def mask_rcnn_r50_fpn_v2(classes: Sequence[str], **options: Any) -> MaskRCNN:
    """Batch norm in pyramid and heads, deeper RPN and box head (2111.11429)."""
    own = {
        "norm": "batch",
        "fpn_norm": "batch",
        "rpn_convs": 2,
        "box_head": "4conv1fc",
        "mask_norm": "batch",
    }
    return MaskRCNN(classes, Config.of(options, **own))


@METHOD.model(
    "ResNet-101",
    "shorter side 800",
    Published("COCO test-dev", "AP", 38.2, 5.1, "M40", "table 3; 0.195 s"),
    Published("COCO test-dev", "mask AP", 35.7, 5.1, "M40", "table 1"),
)
def mask_rcnn_r101_fpn(classes: Sequence[str], **options: Any) -> MaskRCNN:
    """Mask R-CNN on ResNet-101 with a feature pyramid."""
    return MaskRCNN(classes, Config.of(options, backbone="resnet101"))


@METHOD.model(
    "ResNeXt-101 64x4d",
    "shorter side 800",
    Published("COCO test-dev", "AP", 39.8, 3.3, "M40", "table 3; speed as surveyed"),
    Published("COCO test-dev", "mask AP", 37.1, source="table 1"),
)
def mask_rcnn_x101_fpn(classes: Sequence[str], **options: Any) -> MaskRCNN:
    """Mask R-CNN on ResNeXt-101 with a feature pyramid."""
    return MaskRCNN(classes, Config.of(options, backbone="resnext101_64x4d"))


@METHOD.model("EfficientNet-Lite0", "shorter side 320")
def mask_rcnn320_efficientnet_lite0_fpn(classes: Sequence[str], **options: Any) -> MaskRCNN:
    """A light pyramid of 128 channels for small machines; two convolutions before a mask."""
    return MaskRCNN(classes, Config.of(options, **LIGHT, mask_convs=2, mask_width=128))
