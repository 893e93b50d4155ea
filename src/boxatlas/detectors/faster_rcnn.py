"""Faster R-CNN as published. Ren, He, Girshick, Sun 2015, arXiv 1506.01497.

Fast R-CNN's proposals cost ten times its network. Here a small network, the RPN, slides over the
map that the detector computes anyway and scores nine anchors at each position, so that proposals
are nearly free. Both learn the same convolutions by training in turns (section 3.2): the RPN; the
detector on its proposals; then, the convolutions fixed, the RPN again and the detector again.

Shape letters: B images, A anchors, P proposals of an image, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from torch import Tensor

from boxatlas.detectors.fpn import box_predictor, region_parts
from boxatlas.options import convention, switch
from boxatlas.parts.base import Phase
from boxatlas.parts.region.detector import RegionDetector
from boxatlas.parts.region.single_level import (
    OneMapAnchors,
    OneMapConfig,
    cut,
    learned_layers,
    one_map_parts,
    one_map_preprocess,
    one_map_rpn,
)
from boxatlas.registry import Published, register_model


class OriginalConfig(OneMapConfig, OneMapAnchors):
    """Faster R-CNN's choices."""

    train_schedule: Literal["alternating4", "joint"] = switch(
        "alternating4", "section 3.2: four steps in turns, or all losses at once"
    )
    shared_features: bool = switch(True, "table 2: one set of convolutions, or one for each part")
    rpn_cls: Literal["sigmoid", "softmax"] = switch(
        "softmax", "section 3.1.1: a softmax pair, or logistic regression"
    )
    rpn_border: bool = switch(True, "section 3.3: anchors across the border learn nothing")
    rpn_lambda: float = switch(10.0, "table 9: weight of the boxes in the RPN's loss", gt=0)
    anchor_sizes: tuple[float | tuple[float, ...], ...] = switch(
        (128, 256, 512), "table 8: sides of the square anchors, in pixels"
    )
    proposals_loss: tuple[int, int] = convention(
        (12000, 2000), "before and after suppression, per image, when learning"
    )
    proposals_detect: tuple[int, int] = convention((6000, 300), "the same when detecting")
    min_size: float = convention(16.0, "smallest side of a proposal, in pixels of the source")


class OriginalFasterRCNN(RegionDetector):
    """A trunk of stride 16, the RPN on its map, and Fast R-CNN's head."""

    config: OriginalConfig

    def __init__(self, classes: Sequence[str], config: OriginalConfig) -> None:
        parts = cut(config)
        super().__init__(
            classes,
            one_map_preprocess(config),
            config,
            predictor=box_predictor(config, parts.head.width, len(classes)),
            rpn=one_map_rpn(config, parts.channels),
            **{**one_map_parts(config, parts), **region_parts(config)},
        )
        self.rpn_trunk = None if config.shared_features else cut(config).trunk
        assert self.rpn is not None  # lambda 10 over 2400 positions is 1 over the 256 that learn
        self.rpn.targets = replace(self.rpn.targets, box_weight=config.rpn_lambda / 10)
        in_source = {"source_size": True, "small_first": True}
        self.select_in_loss = replace(self.select_in_loss, **in_source)
        self.select_in_detect = replace(self.select_in_detect, **in_source)

    def features(self, images: Tensor) -> list[Tensor]:
        """The map of the RoIs, and the RPN's own where features are not shared."""
        own = [] if self.rpn_trunk is None else self.rpn_trunk(images)
        return [*self.trunk(images), *own]

    def rpn_features(self, images: Tensor) -> list[Tensor]:
        return self.trunk(images) if self.rpn_trunk is None else self.rpn_trunk(images)

    def rpn_maps(self, features: list[Tensor]) -> list[Tensor]:
        return features[-1:]

    def phases(self) -> list[Phase]:
        """Section 3.2. The convolutions of steps 1 and 2 both start from ImageNet's."""
        trunk, heads = learned_layers(self.config), ("head.*", "predictor.*")
        proposing, detecting = ("rpn_cls", "rpn_box"), ("roi_cls", "roi_box")
        if self.config.train_schedule == "joint":
            own = () if self.rpn_trunk is None else learned_layers(self.config, "rpn_trunk")
            return [Phase(learn=(*trunk, *own, "rpn.*", *heads))]
        if self.rpn_trunk is not None:
            own = learned_layers(self.config, "rpn_trunk")
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


def _register(backbone: str, size: str, *published: Published) -> Any:
    return register_model(
        method="Faster R-CNN",
        arxiv="1506.01497",
        year=2015,
        family="two-stage",
        title="Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks",
        backbone=backbone,
        size=size,
        published=published,
    )


def _build(
    classes: Sequence[str], defaults: dict[str, Any], options: dict[str, Any]
) -> OriginalFasterRCNN:
    return OriginalFasterRCNN(classes, OriginalConfig.of(**{**defaults, **options}))


@_register(
    "VGG-16",
    "shorter side 600",
    Published("VOC07 test (07)", "mAP@0.5", 69.9, 5.0, "K40", "table 3; 0.198 s"),
    Published("VOC07 test (07+12)", "mAP@0.5", 73.2, 5.0, "K40", "table 3"),
    Published("VOC12 test (07++12)", "mAP@0.5", 70.4, source="table 4"),
    Published("COCO test-dev (trainval)", "AP", 21.9, 7.0, source="table 11; speed as surveyed"),
)
def faster_rcnn_vgg16(classes: Sequence[str], **options: Any) -> OriginalFasterRCNN:
    """Faster R-CNN on VGG-16, trained in four steps."""
    return _build(classes, {}, options)


@_register(
    "ZF", "shorter side 600", Published("VOC07 test (07)", "mAP@0.5", 59.9, 17.0, "K40", "table 2")
)
def faster_rcnn_zf(classes: Sequence[str], **options: Any) -> OriginalFasterRCNN:
    """Faster R-CNN on the fast model of Zeiler and Fergus, with an RPN of 256 channels."""
    return _build(classes, {"backbone": "zf", "rpn_width": 256}, options)


# As the published ResNets are trained: all losses at once, anchors of five sizes kept at the
# border, one objectness logit, RoIAlign.
RESNET: dict[str, Any] = {
    "train_schedule": "joint", "size": (800, 1333), "rpn_cls": "sigmoid", "rpn_border": False,
    "anchor_base": None, "anchor_sizes": (32, 64, 128, 256, 512), "anchor_order": "size,ratio",
    "roi_op": "align", "roi_count": 512, "min_size": 0.0, "nms": 0.5, "dropout": 0.0,
    "proposals_detect": (6000, 1000),
}  # fmt: skip


@_register(
    "ResNet-50",
    "shorter side 800",
    Published("COCO minival", "AP", 31.6, source="FPN table 3 (a)"),
    Published("COCO val2017", "AP", 35.7, source="Detectron2's zoo"),
)
def faster_rcnn_r50_c4(classes: Sequence[str], **options: Any) -> OriginalFasterRCNN:
    """Faster R-CNN on ResNet-50's conv4; its conv5 is the head of each RoI (1512.03385)."""
    return _build(classes, {**RESNET, "backbone": "resnet50", "rpn_width": 1024}, options)


@_register(
    "ResNet-50",
    "shorter side 800",
    Published("COCO val2017", "AP", 37.3, source="Detectron2's zoo"),
)
def faster_rcnn_r50_dc5(classes: Sequence[str], **options: Any) -> OriginalFasterRCNN:
    """Faster R-CNN on a dilated conv5 of ResNet-50, with two fully connected layers."""
    own = {"backbone": "resnet50", "resnet_map": "dc5", "rpn_width": 2048, "box_width": 1024}
    return _build(classes, {**RESNET, **own}, options)


@_register("EfficientNet-Lite0", "shorter side 320")
def faster_rcnn320_efficientnet_lite0(classes: Sequence[str], **options: Any) -> OriginalFasterRCNN:
    """A light form for small machines: one map of stride 16, anchors from 16 pixels on."""
    own = {
        "backbone": "timm/tf_efficientnet_lite0", "size": 320, "rpn_width": 256, "box_width": 512,
        "train_schedule": "joint", "anchor_sizes": (16, 32, 64, 128, 256), "roi_op": "align",
        "dropout": 0.0, "min_size": 8.0, "proposals_loss": (2000, 500),
        "proposals_detect": (1000, 300), "rpn_border": False,
    }  # fmt: skip
    return _build(classes, own, options)
