"""Faster R-CNN. Ren, He, Girshick, Sun 2015, arXiv 1506.01497.

Fast R-CNN's proposals cost ten times its network. Here a small network, the RPN, slides over the
map that the detector computes anyway and scores nine anchors at each position, so that proposals
are nearly free. Both come to share their convolutions by training in turns (section 3.2): the RPN;
the detector on its proposals; then, the convolutions fixed, the RPN again and the detector again.

Shape letters: B images, A anchors, P proposals of an image, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from boxatlas.backbones.choice import BackboneChoices, TrunkChoices
from boxatlas.boxes.anchors import AnchorChoices
from boxatlas.boxes.nms import SuppressionChoices
from boxatlas.options import Positive, idea
from boxatlas.parts.base import Phase
from boxatlas.parts.region.roi import RoIChoices
from boxatlas.parts.region.rpn import AnchorOutputs, RPNChoices
from boxatlas.parts.region.single_level import (
    RESNET,
    SingleLevelChoices,
    SingleLevelDetector,
    split_backbone,
    trained_layers,
)
from boxatlas.registry import Method, Published
from boxatlas.structures import Batch

METHOD = Method(
    "Faster R-CNN",
    "Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks",
    "1506.01497",
    2015,
    "two-stage",
)
LAMBDA = 10.0  # section 3.1.2: with it boxes and classes weigh alike


class Config(
    BackboneChoices,
    TrunkChoices,
    SingleLevelChoices,
    AnchorChoices,
    RPNChoices,
    RoIChoices,
    SuppressionChoices,
):
    """Faster R-CNN's ideas, and the paper's values of its parts' choices."""

    train_schedule: Literal["alternating4", "joint"] = idea(
        "alternating4", "section 3.2: four steps in turns, or all losses at once"
    )
    shared_features: bool = idea(True, "table 2: one set of convolutions, or one for each part")
    rpn_lambda: Positive = idea(LAMBDA, "table 9: weight of the boxes in the RPN's loss", le=1e6)

    rpn_cls = idea("softmax", "section 3.1.1: a softmax pair, or logistic regression")
    rpn_border = idea(True, "section 3.3: anchors across the border are not trained")
    anchor_sizes = idea((128, 256, 512), "table 8: sides of the square anchors, in pixels")
    anchor_base = 16
    rpn_width = 512  # section 3.1, of VGG-16; 256 of ZF
    proposals_loss = (12000, 2000)
    proposals_detect = (6000, 300)
    min_size = 16.0
    min_size_first = True

    backbone = "vgg16"
    size = (600, 1000)
    box_width = 4096
    roi_count = 128
    nms_iou = 0.3


class FasterRCNN(SingleLevelDetector):
    """A trunk of stride 16, the RPN on its map, and Fast R-CNN's head."""

    config: Config  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, classes: Sequence[str], config: Config) -> None:
        super().__init__(classes, config, split_backbone(config))
        self.rpn_trunk = None if config.shared_features else split_backbone(config).trunk

    def features(self, images: Tensor) -> list[Tensor]:
        """The map of the RoIs, and the RPN's own where features are not shared."""
        own = [] if self.rpn_trunk is None else self.rpn_trunk(images)
        return [*self.trunk(images), *own]

    def rpn_features(self, images: Tensor) -> list[Tensor]:
        """The map that the RPN looks at alone."""
        return self.trunk(images) if self.rpn_trunk is None else self.rpn_trunk(images)

    def rpn_maps(self, features: list[Tensor]) -> list[Tensor]:
        return features[-1:]

    def rpn_loss(
        self, rows: AnchorOutputs, batch: Batch, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """Equation 1. There boxes are divided by some 2400 positions, here by the 256 anchors
        drawn, so that the paper's lambda is a weight of 1."""
        losses = super().rpn_loss(rows, batch, generator)
        return {**losses, "rpn_box": losses["rpn_box"] * (self.config.rpn_lambda / LAMBDA)}

    def phases(self) -> list[Phase]:
        """Section 3.2. The convolutions of steps 1 and 2 both start from ImageNet's."""
        trunk, heads = trained_layers(self.config), ("head.*", "predictor.*")
        proposing, detecting = ("rpn_cls", "rpn_box"), ("roi_cls", "roi_box")
        if self.config.train_schedule == "joint":
            own = () if self.rpn_trunk is None else trained_layers(self.config, "rpn_trunk")
            return [Phase(learn=(*trunk, *own, "rpn.*", *heads))]
        if self.rpn_trunk is not None:
            own = trained_layers(self.config, "rpn_trunk")
            return [
                Phase("rpn", (*own, "rpn.*"), proposing),
                Phase("detector", (*trunk, *heads), detecting, "rpn", "rpn"),
            ]
        return [
            Phase("rpn", (*trunk, "rpn.*"), proposing),
            Phase("detector", (*trunk, *heads), detecting, proposals_from="rpn"),
            Phase("rpn_shared", ("rpn.*",), proposing, init_from="detector"),
            Phase("detector_shared", heads, detecting, "rpn_shared", "rpn_shared"),
        ]


# -- the models -----------------------------------------------------------------------------------


@METHOD.model(
    "VGG-16",
    "shorter side 600",
    Published("VOC07 test (07)", "mAP@0.5", 69.9, 5.0, "K40", "table 3; 0.198 s"),
    Published("VOC07 test (07+12)", "mAP@0.5", 73.2, 5.0, "K40", "table 3"),
    Published("VOC12 test (07++12)", "mAP@0.5", 70.4, source="table 4"),
    Published("COCO test-dev (trainval)", "AP", 21.9, 7.0, source="table 11; speed as surveyed"),
)
def faster_rcnn_vgg16(classes: Sequence[str], **options: Any) -> FasterRCNN:
    """Faster R-CNN on VGG-16, trained in four steps."""
    return FasterRCNN(classes, Config.of(options))


@METHOD.model(
    "ZF", "shorter side 600", Published("VOC07 test (07)", "mAP@0.5", 59.9, 17.0, "K40", "table 2")
)
def faster_rcnn_zf(classes: Sequence[str], **options: Any) -> FasterRCNN:
    """Faster R-CNN on the fast model of Zeiler and Fergus, with an RPN of 256 channels."""
    return FasterRCNN(classes, Config.of(options, backbone="zf", rpn_width=256))


@METHOD.model(
    "ResNet-50",
    "shorter side 800",
    Published("COCO minival", "AP", 31.6, source="FPN table 3 (a)"),
    Published("COCO val2017", "AP", 35.7, source="Detectron2's zoo"),
)
def faster_rcnn_r50_c4(classes: Sequence[str], **options: Any) -> FasterRCNN:
    """Faster R-CNN on ResNet-50's conv4; its conv5 is the head of each RoI (1512.03385)."""
    own = Config.of(options, **RESNET, train_schedule="joint", rpn_width=1024)
    return FasterRCNN(classes, own)


@METHOD.model(
    "ResNet-50",
    "shorter side 800",
    Published("COCO val2017", "AP", 37.3, source="Detectron2's zoo"),
)
def faster_rcnn_r50_dc5(classes: Sequence[str], **options: Any) -> FasterRCNN:
    """Faster R-CNN on a dilated conv5 of ResNet-50, with two fully connected layers."""
    own = {"train_schedule": "joint", "resnet_map": "dc5", "rpn_width": 2048, "box_width": 1024}
    return FasterRCNN(classes, Config.of(options, **RESNET, **own))


@METHOD.model("EfficientNet-Lite0", "shorter side 320")
def faster_rcnn320_efficientnet_lite0(classes: Sequence[str], **options: Any) -> FasterRCNN:
    """A light form for small machines: one map of stride 16, anchors from 16 pixels on."""
    own = Config.of(
        options,
        backbone="timm/tf_efficientnet_lite0",
        size=320,
        rpn_width=256,
        box_width=512,
        train_schedule="joint",
        anchor_sizes=(16, 32, 64, 128, 256),
        roi_op="align",
        dropout=0.0,
        min_size=8.0,
        proposals_loss=(2000, 500),
        proposals_detect=(1000, 300),
        rpn_border=False,
    )
    return FasterRCNN(classes, own)
