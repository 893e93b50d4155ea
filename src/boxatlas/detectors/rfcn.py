"""R-FCN. Dai, Li, He, Sun 2016, arXiv 1605.06409.

In a ResNet everything up to the last convolution can be shared by the whole image, but a RoI must
then tell where in an object it lies, which deep maps have forgotten. R-FCN gives each of the k x k
parts of a RoI score maps of its own and lets the parts vote: all that depends on a RoI is an
average, and the network is convolutional to the end.

Shape letters: B images, P RoIs of an image, R = B * P, K classes, k parts a side, D box columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch.nn.functional as F
from pydantic import field_validator
from torch import Tensor, nn

from boxatlas.backbones.choice import (
    Backbone,
    has_own_norms,
    pyramid_backbone,
    pyramid_preprocess,
    side_limits,
)
from boxatlas.backbones.resnet import ResNet, norm_layer
from boxatlas.detectors.fpn import Pyramid, RegionConfig, level_rule, region_parts, rpn_of
from boxatlas.errors import InputError
from boxatlas.ops.psroi import PSRoIRule, psroi_align, psroi_pool
from boxatlas.options import Options, convention, switch
from boxatlas.parts.base import ClassRows, Phase, Raw
from boxatlas.parts.region.detector import RegionDetector, RoIRule
from boxatlas.parts.region.heads import per_roi
from boxatlas.parts.region.single_level import OneMapAnchors, one_map_rpn
from boxatlas.parts.region.targets import RoITargets
from boxatlas.registry import Published, register_model


class PositionSensitive(Options):
    """The choices of position-sensitive heads."""

    k: int = switch(7, "table 2: parts a side of a RoI", ge=1)
    roi_op: Literal["align", "pool", "warp"] = switch(
        "pool", "section 2, equation 1: whole cells of a part, or bilinear samples (align)"
    )
    sampler: Literal["random", "ohem"] = switch(
        "ohem", "table 3: the RoIs of largest loss, or a draw with a quarter on objects"
    )
    train_scheme: Literal["alternating", "joint"] = switch(
        "alternating", "section 2: four steps with the RPN in turns, or all losses at once"
    )

    conv_width: int = convention(1024, "channels of the 1x1 convolution before the maps", ge=1)
    vote: Literal["mean", "sum"] = convention("mean", "of the parts")
    rounding: Literal["image", "map"] = convention(
        "image", "a RoI's corners are rounded to pixels of the image or to cells of the map"
    )
    class_agnostic: bool = convention(True, "one box for all classes")
    background_box: bool = convention(True, "box outputs begin with a row for the background")
    roi_count: int = convention(128, "RoIs that learn, per image")
    proposals_loss: tuple[int, int] = convention(
        (6000, 300), "before and after suppression, per image, when learning"
    )
    proposals_detect: tuple[int, int] = convention((6000, 300), "the same when detecting")
    nms: float = convention(0.3, "suppression among detections of a class")


class ScoreMaps(nn.Module):
    """Section 2: a 1x1 convolution, then k^2 maps for each class and each box coordinate."""

    def __init__(self, channels: int, classes: int, config: PositionSensitive) -> None:
        super().__init__()
        width, parts = config.conv_width, config.k**2
        self.columns = (1 if config.class_agnostic else classes) + int(config.background_box)
        self.reduce = nn.Conv2d(channels, width, 1)
        self.cls = nn.Conv2d(width, parts * (classes + 1), 1)
        self.box = nn.Conv2d(width, parts * 4 * self.columns, 1)
        for module in (self.reduce, self.cls, self.box):
            nn.init.normal_(module.weight, std=0.01)
            assert module.bias is not None
            nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.reduce(x), inplace=True)
        return self.cls(x), self.box(x)


class PositionSensitiveDetector(RegionDetector):
    """An RPN, and score maps from which each RoI reads its votes.

    The trunk's first `rpn_levels` maps are the RPN's; scores are made of those from `first_score`
    on, as many as the RoI rule has strides.
    """

    score: ScoreMaps
    parts: PSRoIRule
    rpn_levels: int
    first_score: int

    @property
    def choices(self) -> PositionSensitive:
        assert isinstance(self.config, PositionSensitive)
        return self.config

    def features(self, images: Tensor) -> list[Tensor]:
        """The RPN's maps, then each level's class maps, then each level's box maps."""
        maps = self.trunk(images)
        count = len(self.roi.strides)
        made = [self.score(x) for x in maps[self.first_score : self.first_score + count]]
        return [*maps[: self.rpn_levels], *(cls for cls, _ in made), *(box for _, box in made)]

    def rpn_features(self, images: Tensor) -> list[Tensor]:
        """The RPN's maps alone: no scores are made."""
        return self.trunk(images)[: self.rpn_levels]

    def rpn_maps(self, features: list[Tensor]) -> list[Tensor]:
        return features[: self.rpn_levels]

    def heads(self, features: list[Tensor], boxes: Tensor, limits: Tensor | None = None) -> Raw:
        """Equation 1 and the vote: boxes [B, P, 4] -> logits [B, P, K + 1], deltas [B, P, D, 4]."""
        cls, box = self.pooled(features, boxes)
        summed = self.choices.vote == "sum"
        logits, deltas = (x.sum((2, 3)) if summed else x.mean((2, 3)) for x in (cls, box))
        return per_roi(logits, deltas, boxes)

    def pooled(self, features: list[Tensor], boxes: Tensor) -> tuple[Tensor, Tensor]:
        """What each part of each RoI says: [R, K + 1, k, k] and [R, 4 D, k, k]."""
        count, start = len(self.roi.strides), self.rpn_levels
        return (
            self._pool(features[start : start + count], boxes),
            self._pool(features[start + count :], boxes),
        )

    def _pool(self, maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
        k, config = self.choices.k, self.choices
        rois = self.roi.rois(boxes)
        levels = self.roi.levels(rois[:, 1:])
        out = maps[0].new_zeros(len(rois), maps[0].shape[1] // k**2, k, k)
        for i, (one, stride) in enumerate(zip(maps, self.roi.strides, strict=True)):
            rows = (levels == i).nonzero()[:, 0] if len(maps) > 1 else slice(None)
            if config.roi_op == "align":
                part = psroi_align(one, rois[rows], k, 1 / stride)
            else:
                part = psroi_pool(one, rois[rows], k, 1 / stride, self.parts)
            if len(maps) == 1:
                return part
            out = out.index_put((rows,), part)  # pyright: ignore[reportArgumentType]
        return out

    def phases(self) -> list[Phase]:
        """Section 2: as Faster R-CNN's four steps."""
        if self.choices.train_scheme == "joint":
            return [Phase()]
        proposing, detecting = ("rpn_cls", "rpn_box"), ("roi_cls", "roi_box")
        return [
            Phase("rpn", ("trunk.*", "rpn.*"), proposing),
            Phase("detector", ("trunk.*", "score.*"), detecting, proposals_from="rpn"),
            Phase("rpn_shared", ("rpn.*",), proposing, init_from="detector"),
            Phase("detector_shared", ("score.*",), detecting, "rpn_shared", "rpn_shared"),
        ]

    def class_rows(self) -> dict[str, ClassRows]:
        parts, score = self.choices.k**2, self.score
        rows = {f"score.cls.{leaf}": ClassRows(1, 1, parts) for leaf in ("weight", "bias")}
        if not self.choices.class_agnostic:
            offset = score.columns - self.num_classes
            own = ClassRows(1, offset, 4 * parts)
            rows |= {f"score.box.{leaf}": own for leaf in ("weight", "bias")}
        return rows


def part_rule(config: PositionSensitive, inclusive: bool) -> PSRoIRule:
    """Where the parts of a RoI end: as the authors have it, or with corners rounded to cells."""
    if config.rounding == "map":
        return PSRoIRule("map", 0.0, 1.0, -1)
    return PSRoIRule(end_offset=float(inclusive))


def targets_of(config: PositionSensitive, rule: RoITargets) -> RoITargets:
    """Without mining, background overlaps an object by 0.1 at least, as Fast R-CNN has it."""
    if config.roi_op == "warp":
        raise InputError("R-FCN pools or aligns", field="roi_op", value="warp")
    return rule if config.sampler == "ohem" else replace(rule, low=0.1)


class RFCNConfig(PositionSensitive, OneMapAnchors):
    """R-FCN's choices."""

    backbone: str = convention("resnet101", 'resnet101, ..., darknet53, ... or "timm/NAME"')
    size: tuple[int, int] = convention(
        (600, 1000), "shorter side, and the longer one's limit; one number s: s and 5/3 s"
    )
    res5: Literal["dilated", "stride32", "conv4"] = switch(
        "dilated", "table 6: conv5 at stride 16 by dilation, at stride 32, or left out"
    )
    rpn_cls: Literal["sigmoid", "softmax"] = switch(
        "softmax", "Faster R-CNN section 3.1.1: a softmax pair, or logistic regression"
    )
    rpn_border: bool = switch(True, "Faster R-CNN section 3.3: anchors across the border learn not")
    anchor_sizes: tuple[float | tuple[float, ...], ...] = convention(
        (128, 256, 512), "sides of the square anchors, in pixels"
    )
    stride_in_1x1: bool = convention(True, "the original ResNet's place of the stride")
    pool_padding: Literal[0, 1] = convention(1, "of pool1; 0: none, rounding up, as Caffe's")

    _one_number = field_validator("size", mode="before")(side_limits)


class RFCN(PositionSensitiveDetector):
    """RPN on conv4, score maps on conv5."""

    def __init__(self, classes: Sequence[str], config: RFCNConfig) -> None:
        trunk, stride = trunk_of(config)
        parts = region_parts(config)
        parts["roi_targets"] = targets_of(config, parts["roi_targets"])
        super().__init__(
            classes,
            pyramid_preprocess(config.backbone, config.size),
            config,
            trunk=trunk,
            rpn=one_map_rpn(config, trunk.channels[0]),
            head=nn.Identity(),
            predictor=nn.Identity(),
            roi=RoIRule("pool", config.k, strides=(stride,)),
            **parts,
        )
        self.rpn_levels, self.first_score = 1, len(trunk.channels) - 1
        self.score = ScoreMaps(trunk.channels[-1], len(classes), config)
        self.parts = part_rule(config, config.inclusive)


def trunk_of(config: RFCNConfig) -> tuple[Backbone, int]:
    """The maps of conv4 and, unless it is left out, conv5; and the stride of the last."""
    stages = (4,) if config.res5 == "conv4" else (4, 5)
    if has_own_norms(config.backbone):
        if config.res5 == "dilated":
            raise InputError(
                "only a ResNet is dilated",
                field="res5",
                value="dilated",
                hint="use stride32 or conv4",
            )
        made = pyramid_backbone(
            config.backbone, stages, pretrained=config.pretrained, fold=config.fold_norms
        )
        return made, made.strides[-1]
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
    return trunk, trunk.strides[-1]


class RFCNPyramidConfig(PositionSensitive, RegionConfig):
    """R-FCN on a pyramid: Faster R-CNN's choices, and those of position-sensitive heads."""


class RFCNPyramid(PositionSensitiveDetector):
    """Score maps on every level of a pyramid, of one set of weights."""

    def __init__(self, classes: Sequence[str], config: RFCNPyramidConfig) -> None:
        trunk = Pyramid(config, config.p6)
        parts = region_parts(config)
        parts["roi_targets"] = targets_of(config, parts["roi_targets"])
        roi = RoIRule(
            "pool", config.k, strides=trunk.roi_strides, level=level_rule(config, trunk.roi_strides)
        )
        super().__init__(
            classes,
            pyramid_preprocess(config.backbone, config.size),
            config,
            trunk=trunk,
            rpn=rpn_of(config, trunk.strides, trunk.width),
            head=nn.Identity(),
            predictor=nn.Identity(),
            roi=roi,
            **parts,
        )
        self.rpn_levels, self.first_score = len(trunk.strides), 0
        self.score = ScoreMaps(trunk.width, len(classes), config)
        self.parts = part_rule(config, config.inclusive)


# -- the models -----------------------------------------------------------------------------------


def _register(backbone: str, size: str, *published: Published) -> Any:
    return register_model(
        method="R-FCN",
        arxiv="1605.06409",
        year=2016,
        family="two-stage",
        title="R-FCN: Object Detection via Region-based Fully Convolutional Networks",
        backbone=backbone,
        size=size,
        published=published,
    )


@_register(
    "ResNet-50",
    "shorter side 600",
    Published("VOC07 test (07+12)", "mAP@0.5", 77.4, source="the release, mean of 5 runs"),
)
def rfcn_r50(classes: Sequence[str], **options: Any) -> RFCN:
    """R-FCN on ResNet-50 with a dilated conv5."""
    return RFCN(classes, RFCNConfig.of(**{"backbone": "resnet50", **options}))


@_register(
    "ResNet-101",
    "shorter side 600",
    Published("VOC07 test (07+12)", "mAP@0.5", 79.5, 5.9, "K40", "table 3; 0.17 s"),
    Published("COCO test-dev", "AP", 29.9, 9.0, source="as surveyed"),
    Published("COCO test-dev (trainval)", "AP", 29.2, source="the paper, table 6"),
)
def rfcn_r101(classes: Sequence[str], **options: Any) -> RFCN:
    """R-FCN on ResNet-101 with a dilated conv5."""
    return RFCN(classes, RFCNConfig.of(**options))


@_register("ResNet-50", "shorter side 800")
def rfcn_r50_fpn(classes: Sequence[str], **options: Any) -> RFCNPyramid:
    """Position-sensitive heads on a feature pyramid; a combination of ours."""
    own = {"backbone": "resnet50", "conv_width": 256}
    return RFCNPyramid(classes, RFCNPyramidConfig.of(**{**own, **options}))


@_register("EfficientNet-Lite0", "shorter side 320")
def rfcn320_efficientnet_lite0(classes: Sequence[str], **options: Any) -> RFCN:
    """A light form for small machines: one map of stride 16, anchors from 16 pixels on."""
    own = {
        "backbone": "timm/tf_efficientnet_lite0", "size": 320, "res5": "conv4", "rpn_width": 256,
        "conv_width": 256, "train_scheme": "joint", "anchor_sizes": (16, 32, 64, 128, 256),
        "rpn_border": False, "proposals_detect": (1000, 300), "proposals_loss": (1000, 300),
    }  # fmt: skip
    return RFCN(classes, RFCNConfig.of(**{**own, **options}))
