"""Faster R-CNN with a feature pyramid. Ren et al. 2015, arXiv 1506.01497; Lin et al. 2016,
arXiv 1612.03144.

Proposals come from the network itself: a small head slides over the shared features and scores
anchors (the RPN); the best, after suppression, are pooled and classified as in Fast R-CNN. With
FPN every level of the pyramid holds anchors of one size, and a RoI is pooled from the level that
fits it.

Shape letters: B images, P proposals of an image, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import field_validator
from torch import Tensor, nn

from boxatlas.backbones.choice import (
    Backbone,
    pyramid_backbone,
    pyramid_preprocess,
    side_limits,
)
from boxatlas.boxes.anchors import AnchorRule
from boxatlas.boxes.coders import CLAMP, DeltaCoder
from boxatlas.necks.fpn import FPN, Extra
from boxatlas.options import AtLeastOne, Options, convention, switch
from boxatlas.parts.region.detector import DetectRule, LevelRule, RegionDetector, RoIRule
from boxatlas.parts.region.heads import BoxPredictor, ConvFC, TwoFC
from boxatlas.parts.region.rpn import RPN, RPNSelection, RPNTargets
from boxatlas.parts.region.targets import RoITargets
from boxatlas.registry import Published, register_model


class RoIConfig(Options):
    """The choices that every method with a head for RoIs shares."""

    backbone: str = convention("resnet50", 'resnet50, mobilenet_v3_large, ... or "timm/NAME"')
    pretrained: bool = convention(False, "the backbone starts from ImageNet weights")
    size: tuple[int, int] = convention(
        (800, 1333), "shorter side, and the longer one's limit; one number s: s and 5/3 s"
    )
    train_sizes: tuple[AtLeastOne, ...] = convention(
        (), "shorter sides that training changes among"
    )

    # ideas
    roi_op: Literal["align", "pool", "warp"] = switch(
        "pool", "FPN section 4.2 pools; RoIAlign from Mask R-CNN (table 2c) on"
    )
    sampler: Literal["random", "ohem"] = switch(
        "random", "Fast R-CNN section 2.3; OHEM (1604.03540) keeps the RoIs of largest loss"
    )

    # conventions
    norm: Literal["frozen", "batch"] = convention("frozen", "batch norms of ResNet and MobileNet")
    norm_eps: float = convention(1e-5, "their epsilon")
    stride_in_1x1: bool = convention(False, "the original ResNet's place of the stride")
    fold_norms: bool = convention(False, "a timm network's batch norms go into its convolutions")
    inclusive: bool = convention(False, "corners belong to a box, whose width is x2 - x1 + 1")
    code_inclusive: bool = convention(True, "with `inclusive`: so are the box code's widths")
    inclusive_centre: bool = convention(False, "a box's centre is that of its corner pixels")
    box_end: float = convention(0.0, "added to the far corner of a decoded box")
    roi_aligned: bool = convention(False, "RoIAlign's half-cell shift")
    roi_sampling: int = convention(2, "RoIAlign's samples a side, 0 = adaptive", ge=0)
    roi_weights: tuple[float, float, float, float] = convention((10, 10, 5, 5), "of the box code")
    box_clamp: float | None = convention(CLAMP, "bound of a box's growth when decoding, as log")
    box_clamp_below: bool = convention(False, "and of its shrinking")
    class_agnostic: bool = convention(False, "one box for all classes")
    background_box: bool = convention(False, "box outputs begin with a row for the background")
    roi_count: int = convention(512, "RoIs that learn, per image")
    roi_beta: float = convention(1.0, "smooth L1 of the head")
    score: float = convention(0.05, "least score of a detection")
    nms: float = convention(0.5, "suppression among detections of a class")
    max_detections: int = convention(100, "detections an image")
    min_detection: float = convention(0.0, "smallest side of a detection, in pixels")

    _one_number = field_validator("size", mode="before")(side_limits)


class TwoStageConfig(RoIConfig):
    """And those of an RPN."""

    # ideas
    rpn_cls: Literal["sigmoid", "softmax"] = switch(
        "sigmoid", "Faster R-CNN section 3.1.1: a softmax pair, or logistic regression"
    )
    rpn_border: bool = switch(
        False, "Faster R-CNN section 3.3 drops anchors that cross the border; FPN section 4.1 keeps"
    )
    anchor_ratios: tuple[float, ...] = switch(
        (0.5, 1.0, 2.0), "Faster R-CNN table 8: heights over widths"
    )

    # conventions
    anchor_sizes: tuple[float | tuple[float, ...], ...] = convention(
        (32, 64, 128, 256, 512), "of each level, in pixels"
    )
    anchor_rounded: bool = convention(False, "corners rounded to whole pixels")
    anchor_stride: Literal["fixed", "image // grid"] = convention("fixed", "stride of the anchors")
    anchor_order: Literal["ratio,size", "size,ratio"] = convention("ratio,size", "in a cell")
    rpn_count: int = convention(256, "anchors that learn, per image")
    rpn_beta: float = convention(1 / 9, "smooth L1 of the RPN")
    proposals_loss: tuple[int, int] = convention(
        (2000, 2000), "per level, per image, when learning"
    )
    proposals_detect: tuple[int, int] = convention((1000, 1000), "the same when detecting")
    rpn_score: float = convention(0.0, "least probability of a proposal")
    rpn_nms: float = convention(0.7, "suppression among proposals")
    min_size: float = convention(0.0, "smallest side of a proposal, in pixels")


class PyramidConfig(RoIConfig):
    """The choices of heads on a pyramid."""

    # ideas
    top_down: bool = switch(True, "FPN table 1 (d): the top-down pathway")
    lateral: bool = switch(True, "FPN table 1 (e): the lateral connections")
    one_level: bool = switch(False, "FPN table 1 (f): all anchors and RoIs on P2 alone")

    # conventions
    width: int = convention(256, "channels of the pyramid and of the RPN", ge=1)
    fpn_norm: Literal["none", "batch"] = convention("none", "norms in pyramid and box head")
    box_head: Literal["2fc", "4conv1fc"] = convention("2fc", "the head of a RoI")
    box_width: int = convention(1024, "width of the fully connected layers")
    level_epsilons: tuple[float, float] = convention(
        (0.0, 1e-6), "added inside and outside of the logarithm that gives a RoI's level"
    )


class RegionConfig(PyramidConfig, TwoStageConfig):
    """The choices of a pyramid with an RPN."""

    p6: Literal["maxpool", "conv"] = switch(
        "maxpool", "FPN section 4.1, footnote 2: P5 subsampled; a strided 3x3 as in RetinaNet"
    )
    rpn_convs: int = convention(1, "3x3 convolutions before the RPN's outputs", ge=1)
    anchor_scales: tuple[float, ...] = convention((1.0,), "further sizes of a level, as factors")


class Pyramid(nn.Module):
    """Backbone and FPN: images -> P2..P6, or P2 alone (table 1 f)."""

    def __init__(self, config: PyramidConfig, p6: Extra = "maxpool") -> None:
        super().__init__()
        self.backbone = backbone_of(config)
        self.neck = FPN(
            self.backbone.channels,
            config.width,
            extra=p6,
            top_down=config.top_down,
            lateral=config.lateral,
            norm=nn.BatchNorm2d if config.fpn_norm == "batch" else None,
        )
        self.width, self.one_level = config.width, config.one_level
        strides = self.backbone.strides
        # P6 serves the RPN alone.
        self.strides = strides[:1] if self.one_level else [*strides, 2 * strides[-1]]
        self.roi_strides = tuple(strides[:1] if self.one_level else strides)

    def forward(self, images: Tensor) -> list[Tensor]:
        levels = self.neck(self.backbone(images))
        return levels[:1] if self.one_level else levels


def backbone_of(config: RoIConfig, stages: Sequence[int] = (2, 3, 4, 5)) -> Backbone:
    """The trunk that the config names, with `channels` and `strides`."""
    return pyramid_backbone(
        config.backbone,
        stages,
        pretrained=config.pretrained,
        norm=config.norm,
        norm_eps=config.norm_eps,
        stride_in_1x1=config.stride_in_1x1,
        fold=config.fold_norms,
    )


def anchor_rule(config: RegionConfig, strides: Sequence[int]) -> AnchorRule:
    """One size a level (times `anchor_scales`); every size on the one level where there is one."""
    rows = [s if isinstance(s, tuple) else (s,) for s in config.anchor_sizes]
    sizes = tuple(tuple(s * f for s in row for f in config.anchor_scales) for row in rows)
    if config.one_level:
        sizes = (tuple(s for row in sizes for s in row),)
    return AnchorRule(
        sizes,
        config.anchor_ratios,
        tuple(strides),
        rounded=config.anchor_rounded,
        stride=config.anchor_stride,
        order=config.anchor_order,
    )


def coder_of(
    config: RoIConfig, weights: tuple[float, float, float, float] = (1, 1, 1, 1)
) -> DeltaCoder:
    """The box code that the config spells; the RPN's has no weights."""
    return DeltaCoder(
        weights,
        clamp=config.box_clamp,
        clamp_below=config.box_clamp_below,
        inclusive=config.inclusive and config.code_inclusive,
        inclusive_centre=config.inclusive_centre,
        end_offset=config.box_end,
    )


def head_parts(config: RoIConfig) -> dict[str, Any]:
    """The rules of a head that a config spells, as RegionDetector takes them."""
    return {
        "coder": coder_of(config, config.roi_weights),
        "roi_targets": RoITargets(
            count=config.roi_count,
            sampler=config.sampler,
            beta=config.roi_beta,
            inclusive=config.inclusive,
        ),
        "detect_rule": DetectRule(
            config.score, config.nms, config.max_detections, config.min_detection, config.inclusive
        ),
    }


def region_parts(config: TwoStageConfig) -> dict[str, Any]:
    """And those of an RPN's choice."""
    chosen: dict[str, Any] = {
        "nms": config.rpn_nms,
        "min_size": config.min_size,
        "min_score": config.rpn_score,
        "inclusive": config.inclusive,
    }
    return {
        **head_parts(config),
        "select_in_loss": RPNSelection(*config.proposals_loss, **chosen),
        "select_in_detect": RPNSelection(*config.proposals_detect, **chosen),
    }


def rpn_of(config: RegionConfig, strides: Sequence[int], channels: int = 256) -> RPN:
    """The RPN that the config spells, over maps of these strides."""
    return RPN(
        channels,
        channels,
        anchor_rule(config, strides),
        cls=config.rpn_cls,
        convs=config.rpn_convs,
        coder=coder_of(config),
        targets=rpn_targets(config),
    )


def rpn_targets(config: TwoStageConfig) -> RPNTargets:
    """How the anchors learn."""
    return RPNTargets(
        border=config.rpn_border,
        count=config.rpn_count,
        beta=config.rpn_beta,
        inclusive=config.inclusive,
    )


def level_rule(config: PyramidConfig, strides: Sequence[int]) -> LevelRule:
    """RoIs go to the maps of these strides (FPN, equation 1)."""
    inside, outside = config.level_epsilons
    return LevelRule(
        int(math.log2(strides[0])),
        int(math.log2(strides[-1])),
        epsilon_inside_log=inside,
        epsilon_outside_log=outside,
    )


def pyramid_roi(config: PyramidConfig, strides: tuple[int, ...]) -> RoIRule:
    """How RoIs are pooled from a pyramid: 7 x 7 cells, from the level that fits."""
    return RoIRule(
        config.roi_op,
        7,
        config.roi_sampling,
        config.roi_aligned,
        strides,
        level_rule(config, strides),
    )


def box_head(config: PyramidConfig, channels: int) -> TwoFC | ConvFC:
    """What a RoI of a pyramid goes through."""
    made = TwoFC if config.box_head == "2fc" else ConvFC
    return made(channels, 7, config.box_width)


def box_predictor(config: RoIConfig, width: int, classes: int) -> BoxPredictor:
    """The outputs after a head of that width."""
    return BoxPredictor(width, classes, config.class_agnostic, config.background_box)


class FasterRCNN(RegionDetector):
    """Pyramid, RPN, RoI features of 7 x 7, two fully connected layers, classes and boxes."""

    config: RegionConfig

    def __init__(self, classes: Sequence[str], config: RegionConfig) -> None:
        trunk = Pyramid(config, config.p6)
        super().__init__(
            classes,
            pyramid_preprocess(config.backbone, config.size),
            config,
            trunk=trunk,
            rpn=rpn_of(config, trunk.strides, trunk.width),
            head=box_head(config, trunk.width),
            predictor=box_predictor(config, config.box_width, len(classes)),
            roi=pyramid_roi(config, trunk.roi_strides),
            **region_parts(config),
        )


# -- the models -----------------------------------------------------------------------------------


def _register(backbone: str, size: str, *published: Published) -> Any:
    return register_model(
        method="Faster R-CNN with FPN",
        title="Feature Pyramid Networks for Object Detection",
        arxiv="1612.03144",
        year=2016,
        family="two-stage",
        backbone=backbone,
        size=size,
        published=published,
    )


def _build(classes: Sequence[str], defaults: dict[str, Any], options: dict[str, Any]) -> FasterRCNN:
    return FasterRCNN(classes, RegionConfig.of(**{**defaults, **options}))


@_register(
    "ResNet-50",
    "shorter side 800",
    Published("COCO minival", "AP", 33.9, 6.8, "M40", "table 3; 0.148 s"),
)
def faster_rcnn_r50_fpn(classes: Sequence[str], **options: Any) -> FasterRCNN:
    """Faster R-CNN on ResNet-50 with a feature pyramid."""
    return _build(classes, {}, options)


@_register(
    "ResNet-101",
    "shorter side 800",
    Published("COCO test-dev", "AP", 36.2, 5.8, "M40", "table 4; 0.172 s"),
)
def faster_rcnn_r101_fpn(classes: Sequence[str], **options: Any) -> FasterRCNN:
    """Faster R-CNN on ResNet-101 with a feature pyramid."""
    return _build(classes, {"backbone": "resnet101"}, options)


@_register(
    "ResNet-50", "shorter side 800", Published("COCO val2017", "AP", 46.7, source="torchvision")
)
def faster_rcnn_r50_fpn_v2(classes: Sequence[str], **options: Any) -> FasterRCNN:
    """Batch norm in pyramid and head, two RPN convolutions, four in the head (2111.11429)."""
    own = {
        "norm": "batch",
        "fpn_norm": "batch",
        "rpn_convs": 2,
        "box_head": "4conv1fc",
        "roi_op": "align",
    }
    return _build(classes, own, options)


_MOBILE: dict[str, Any] = {
    "backbone": "mobilenet_v3_large",
    "anchor_sizes": (32, 32, 32),
    "anchor_scales": (1, 2, 4, 8, 16),
    "roi_op": "align",
    "rpn_score": 0.05,
}


@_register(
    "MobileNetV3-Large",
    "shorter side 800",
    Published("COCO val2017", "AP", 32.8, source="torchvision"),
)
def faster_rcnn_mobilenet_v3_fpn(classes: Sequence[str], **options: Any) -> FasterRCNN:
    """Faster R-CNN on two maps of MobileNetV3, each with anchors of all sizes."""
    return _build(classes, _MOBILE, options)


@_register(
    "MobileNetV3-Large",
    "shorter side 320",
    Published("COCO val2017", "AP", 22.8, source="torchvision"),
)
def faster_rcnn320_mobilenet_v3_fpn(classes: Sequence[str], **options: Any) -> FasterRCNN:
    """The same at 320 pixels, with 150 proposals."""
    own = {**_MOBILE, "size": (320, 640), "proposals_detect": (150, 150)}
    return _build(classes, own, options)


# A pyramid for small machines, with fewer proposals and RoIs.
LIGHT: dict[str, Any] = {
    "backbone": "timm/tf_efficientnet_lite0", "size": 320, "width": 128, "box_width": 512,
    "anchor_sizes": (16, 32, 64, 128, 256), "proposals_loss": (500, 500),
    "proposals_detect": (300, 300), "roi_count": 128,
}  # fmt: skip


@_register("EfficientNet-Lite0", "shorter side 320")
def faster_rcnn320_efficientnet_lite0_fpn(classes: Sequence[str], **options: Any) -> FasterRCNN:
    """A light pyramid of 128 channels for small machines; anchors from 16 pixels on."""
    return _build(classes, {**LIGHT, "roi_op": "align"}, options)
