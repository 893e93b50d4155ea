"""SSD: Single Shot MultiBox Detector. Liu et al. 2015, arXiv 1512.02325 (ECCV 2016).

One network looks at the image once: every cell of six (seven at 512) maps of falling resolution
holds a few default boxes of fixed shapes, and a 3x3 convolution says for each box the class and how
to shift and stretch it. SSDlite (MobileNetV2, arXiv 1801.04381, section 6.2) makes those
convolutions and the extra layers depthwise-separable.

Shape letters: B images, A default boxes, K classes, M objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from boxatlas.backbones.choice import BackboneChoices
from boxatlas.backbones.mobilenet_v3 import MobileNetV3Large
from boxatlas.backbones.vgg import VGG16, UnitTrunkChoices, VGGChoices
from boxatlas.boxes.matching import MatchChoices
from boxatlas.boxes.nms import SuppressionChoices
from boxatlas.errors import InputError
from boxatlas.images import InputChoices, Preprocess
from boxatlas.necks.extra_maps import ExtraMaps, plan
from boxatlas.ops.norm import L2Norm, L2NormChoices
from boxatlas.options import idea, setting
from boxatlas.parts.default_boxes import (
    DefaultBoxChoices,
    DefaultBoxes,
    FirstMapChoices,
    Ratios,
    Sizes,
    TableChoices,
    even_steps,
    option_or_table,
    percents,
    ssd_ratios,
    ssd_sizes,
    ssd_steps,
)
from boxatlas.parts.dense import DenseChoices, LitePredictor, Predictor, grids_of
from boxatlas.parts.single_shot import Backbone, MultiboxChoices, SingleShot, backbone_of
from boxatlas.registry import Method, Published

METHOD = Method("SSD", "SSD: Single Shot MultiBox Detector", "1512.02325", 2015, "one-stage")


class Config(
    BackboneChoices,
    InputChoices,
    SuppressionChoices,
    DenseChoices,
    DefaultBoxChoices,
    TableChoices,
    FirstMapChoices,
    MatchChoices,
    MultiboxChoices,
    VGGChoices,
    UnitTrunkChoices,
    L2NormChoices,
):
    """SSD's ideas, and SSDlite's; backbone: vgg16, mobilenet_v3_large or "timm/NAME"."""

    atrous: bool = idea(True, "table 2: fc6 dilated, pool5 of stride 1; off: full fc6, fc7")
    ratio_2: bool = idea(True, "table 2: default boxes of 2:1 and 1:2")
    ratio_3: bool = idea(True, "table 2: default boxes of 3:1 and 1:3")
    l2norm: bool = idea(True, "section 3.1: conv4_3 is scaled to a trained norm, 20 at first")

    lite: bool = setting(False, "depthwise-separable extra layers and predictors (SSDlite)")
    stride8: bool = setting(True, "the first map has stride 8, not 16 (for small objects)")
    reduced_tail: bool = setting(True, "MobileNetV3 has half as many channels in its last layers")

    backbone = "vgg16"
    score = 0.01  # section 3.7, as are the next two
    nms_iou = 0.45
    max_detections = 200

    def idle(self) -> dict[str, str]:
        why = super().idle()
        if None in (self.ratios, self.steps):  # which SSDlite's table gives too
            why.pop("boxes", None)
        if self.backbone != "vgg16":
            why |= dict.fromkeys(("atrous", "l2norm"), "only the backbone vgg16 has fc6, conv4_3")
        elif not self.stride8:
            why["l2norm"] = "without stride8 no predictor reads conv4_3"
        if self.backbone != "mobilenet_v3_large":
            why["reduced_tail"] = "only the backbone mobilenet_v3_large has such a tail"
        if not self.ratio_3:
            why["boxes_on_first_map"] = "its boxes 5 and 6 have the ratio 3, which is off"
        for name, ratio in (("ratio_2", 2.0), ("ratio_3", 3.0)):
            rows = default_ratios(self.model_copy(update={name: True}), self.levels)
            if not any(ratio in row for row in rows):
                why[name] = "no map has this ratio anyway"
        return why

    @property
    def levels(self) -> int:
        """How many maps there are: the backbone's, from stride 8 or 16 on, and the extra ones."""
        last = 16 if self.backbone == "vgg16" and self.atrous else 32
        side = -(-min(self.shape) // last)
        return self.stride8 + last // 16 + len(plan((side, side), self.lite))


class SSD(SingleShot):
    """Backbone -> two or three maps -> extra, coarser maps -> a predictor on each."""

    config: Config

    def __init__(self, classes: Sequence[str], config: Config) -> None:
        backbone, preprocess = ssd_backbone(config)
        neck = ssd_neck(config, backbone)
        levels = len(neck.channels)
        ratios, sizes = default_ratios(config, levels), default_sizes(config, levels)
        steps = even_steps if config.boxes == "lite" else ssd_steps
        boxes = DefaultBoxes(config, ratios, sizes, steps)
        kind = LitePredictor if config.lite else Predictor
        super().__init__(
            classes, preprocess, config, backbone, neck, neck.channels, boxes, predictor=kind
        )


def ssd_backbone(config: Config) -> tuple[Backbone, Preprocess]:
    """The backbone at the strides that SSD reads, and what it expects of an image."""

    def vgg16() -> VGG16:
        maps = ["conv4_3", "fc7"] if config.atrous else ["conv4_3", "conv5_3", "fc7"]
        return VGG16(
            maps[not config.stride8 :],
            fc="atrous" if config.atrous else "full",
            ceil_pools=config.ceil_pools,
            unit_conv4_3=config.unit_trunk,
        )

    def mobilenet_v3_large() -> MobileNetV3Large:
        if config.stride8:
            raise InputError("this backbone starts at stride 16", field="stride8", value=True)
        return MobileNetV3Large(reduced_tail=config.reduced_tail)

    strides = (8, 16, 32) if config.stride8 else (16, 32)
    return backbone_of(
        config, config.shape, strides, vgg16=vgg16, mobilenet_v3_large=mobilenet_v3_large
    )


def ssd_neck(config: Config, backbone: Backbone) -> ExtraMaps:
    """The extra layers of figure 2, and the norm of section 3.1."""
    # Only VGG, which has no batch norm, gives its finest map another scale than the rest.
    normed = config.l2norm and config.backbone == "vgg16" and config.stride8
    return ExtraMaps(
        backbone.channels,
        plan(grids_of(backbone, config.shape)[-1], config.lite),
        lite=config.lite,
        norm=L2Norm(512, 20.0, config.norm_eps, config.norm_place) if normed else None,
    )


# -- the tables of section 3 ----------------------------------------------------------------------


def default_sizes(config: Config, levels: int) -> Sizes:
    """(min sizes, max sizes) of each map in pixels; "lite": 20 % to 95 %, then 100 %."""
    if config.boxes != "lite":
        return ssd_sizes(config.boxes, config.shape, levels)
    lows = [20 + 75 * i / max(1, levels - 1) for i in range(levels)]
    return percents([*lows, 100.0], min(config.shape))


def default_ratios(config: Config, levels: int) -> Ratios:
    """The aspect ratios of each map; SSDlite has both on every map but perhaps the first."""
    rows = ssd_ratios(config.ratios, levels, config.boxes_on_first_map)
    if config.boxes == "lite":
        lite: Ratios = [rows[0], *[(2.0, 3.0)] * (levels - 1)]
        rows = option_or_table(config.ratios, lite, "ratios")
    kept = {2.0: config.ratio_2, 3.0: config.ratio_3}
    return [tuple(r for r in row if kept.get(r, True)) for row in rows]


# -- the models -----------------------------------------------------------------------------------

_README = "README of the authors' repository"


@METHOD.model(
    "VGG-16",
    "300",
    Published("VOC07 test (07+12)", "mAP@0.5", 77.2, 46, "Titan X, batch 1", _README),
    Published("COCO test-dev2015", "AP", 25.1, 43, source=f"{_README}; FPS as surveys have it"),
)
def ssd300_vgg16(classes: Sequence[str], **options: Any) -> SSD:
    """SSD at 300x300: six maps, 8732 default boxes."""
    return SSD(classes, Config.of(options, size=300))


@METHOD.model(
    "VGG-16",
    "512",
    Published("VOC07 test (07+12)", "mAP@0.5", 79.8, 19, "Titan X, batch 1", _README),
    Published("COCO test-dev2015", "AP", 28.8, 22, source=f"{_README}; FPS as surveys have it"),
)
def ssd512_vgg16(classes: Sequence[str], **options: Any) -> SSD:
    """SSD at 512x512: seven maps, 24564 default boxes."""
    return SSD(classes, Config.of(options, size=512))


_LITE: dict[str, Any] = {
    "size": 320,
    "lite": True,
    "score": 0.001,
    "nms_iou": 0.55,
    "candidates": 300,
    "max_detections": 300,
}
_LITE_BOXES: dict[str, Any] = {"boxes": "lite", "boxes_on_first_map": 6}


@METHOD.model(
    "MobileNetV3-Large", "320", Published("COCO val2017", "AP", 21.3, source="torchvision")
)
def ssdlite320_mobilenet_v3_large(classes: Sequence[str], **options: Any) -> SSD:
    """SSDlite at 320x320: six maps from stride 16, 3234 default boxes."""
    own = {**_LITE, **_LITE_BOXES, "backbone": "mobilenet_v3_large", "stride8": False}
    return SSD(classes, Config.of(options, **own))


@METHOD.model("EfficientNet-Lite0", "320")
def ssdlite320_efficientnet_lite0(classes: Sequence[str], **options: Any) -> SSD:
    """The light default: SSDlite at 320x320 with a map of stride 8 for small objects.

    `stride8=False` gives the six maps from stride 16 of SSDlite's own table.
    """
    boxes = {"boxes": "coco"} if Config.of(options).stride8 else _LITE_BOXES
    own = {**_LITE, **boxes, "backbone": "timm/tf_efficientnet_lite0"}
    return SSD(classes, Config.of(options, **own))
