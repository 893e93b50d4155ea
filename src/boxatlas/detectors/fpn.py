"""Feature pyramid networks. Lin et al. 2016, arXiv 1612.03144.

A deep map sees much but is coarse; a shallow one is fine but knows little. FPN adds to each level
of the backbone what the coarser levels know (the top-down pathway), so that all levels are strong.
Under Faster R-CNN every level holds anchors of one size, and a RoI is pooled from the level that
fits it.

Shape letters: B images, P proposals of an image, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from boxatlas.backbones.choice import BackboneChoices, TrunkChoices
from boxatlas.boxes.anchors import AnchorChoices
from boxatlas.boxes.nms import SuppressionChoices
from boxatlas.parts.region.detector import RegionDetector
from boxatlas.parts.region.heads import BoxPredictor
from boxatlas.parts.region.pyramid import HEADS, LIGHT, SIDE, Pyramid, PyramidChoices
from boxatlas.parts.region.roi import RoIChoices, box_coder
from boxatlas.parts.region.rpn import RPN, RPNChoices
from boxatlas.registry import Method, Published

METHOD = Method(
    "Faster R-CNN with FPN",
    "Feature Pyramid Networks for Object Detection",
    "1612.03144",
    2016,
    "two-stage",
)


class Config(
    BackboneChoices,
    TrunkChoices,
    PyramidChoices,
    AnchorChoices,
    RPNChoices,
    RoIChoices,
    SuppressionChoices,
):
    """The choices of Faster R-CNN on a pyramid, and the paper's values of them."""

    anchor_sizes = (32, 64, 128, 256, 512)  # section 4.1: one a level
    rpn_border = False  # section 4.1
    roi_op = "pool"  # section 4.2
    box_width = 1024  # section 4.2


class FasterRCNNFPN(RegionDetector):
    """Pyramid, RPN, RoI features of 7 x 7, two fully connected layers, classes and boxes."""

    def __init__(self, classes: Sequence[str], config: Config) -> None:
        # Figure 3, the top-down pathway and the lateral connections, is necks/fpn.py; what table 1
        # varies of it, `PyramidChoices`.
        trunk = Pyramid(config)
        super().__init__(
            classes,
            config,
            trunk=trunk,
            rpn=RPN(config, box_coder(config), trunk.width, trunk.strides),
            head=HEADS[config.box_head](trunk.width, SIDE, config.box_width),
            predictor=BoxPredictor(config, config.box_width, len(classes)),
            # A RoI reads level k = floor(4 + log2(sqrt(w h) / 224)), equation 1: `roi_levels`.
            roi_strides=trunk.roi_strides,
            roi_side=SIDE,
        )


# -- the models -----------------------------------------------------------------------------------


@METHOD.model(
    "ResNet-50",
    "shorter side 800",
    Published("COCO minival", "AP", 33.9, 6.8, "M40", "table 3; 0.148 s"),
)
def faster_rcnn_r50_fpn(classes: Sequence[str], **options: Any) -> FasterRCNNFPN:
    """Faster R-CNN on ResNet-50 with a feature pyramid."""
    return FasterRCNNFPN(classes, Config.of(options))


@METHOD.model(
    "ResNet-101",
    "shorter side 800",
    Published("COCO test-dev", "AP", 36.2, 5.8, "M40", "table 4; 0.172 s"),
)
def faster_rcnn_r101_fpn(classes: Sequence[str], **options: Any) -> FasterRCNNFPN:
    """Faster R-CNN on ResNet-101 with a feature pyramid."""
    return FasterRCNNFPN(classes, Config.of(options, backbone="resnet101"))


@METHOD.model(
    "ResNet-50", "shorter side 800", Published("COCO val2017", "AP", 46.7, source="torchvision")
)
def faster_rcnn_r50_fpn_v2(classes: Sequence[str], **options: Any) -> FasterRCNNFPN:
    """Batch norm in pyramid and head, two RPN convolutions, four in the head (2111.11429)."""
    own = Config.of(
        options, norm="batch", fpn_norm="batch", rpn_convs=2, box_head="4conv1fc", roi_op="align"
    )
    return FasterRCNNFPN(classes, own)


# Two maps of stride 32, each with anchors of all sizes.
_MOBILE: dict[str, Any] = {
    "backbone": "mobilenet_v3_large",
    "anchor_sizes": (32, 32, 32),
    "anchor_scales": (1, 2, 4, 8, 16),
    "roi_op": "align",
    "rpn_score": 0.05,
}


@METHOD.model(
    "MobileNetV3-Large",
    "shorter side 800",
    Published("COCO val2017", "AP", 32.8, source="torchvision"),
)
def faster_rcnn_mobilenet_v3_fpn(classes: Sequence[str], **options: Any) -> FasterRCNNFPN:
    """Faster R-CNN on two maps of MobileNetV3, each with anchors of all sizes."""
    return FasterRCNNFPN(classes, Config.of(options, **_MOBILE))


@METHOD.model(
    "MobileNetV3-Large",
    "shorter side 320",
    Published("COCO val2017", "AP", 22.8, source="torchvision"),
)
def faster_rcnn320_mobilenet_v3_fpn(classes: Sequence[str], **options: Any) -> FasterRCNNFPN:
    """Faster R-CNN on two maps of MobileNetV3 at 320 pixels, with 150 proposals."""
    own = {**_MOBILE, "size": (320, 640), "proposals_detect": (150, 150)}
    return FasterRCNNFPN(classes, Config.of(options, **own))


@METHOD.model("EfficientNet-Lite0", "shorter side 320")
def faster_rcnn320_efficientnet_lite0_fpn(classes: Sequence[str], **options: Any) -> FasterRCNNFPN:
    """A light pyramid of 128 channels for small machines; anchors from 16 pixels on."""
    return FasterRCNNFPN(classes, Config.of(options, **LIGHT, roi_op="align"))
