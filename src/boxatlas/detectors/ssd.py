"""SSD: Single Shot MultiBox Detector. Liu et al. 2015, arXiv 1512.02325 (ECCV 2016).

One network looks at the image once: every cell of six (seven at 512) maps of falling resolution
holds a few default boxes of fixed shapes, and a 3x3 convolution says for each box the class and how
to shift and stretch it. SSDlite (MobileNetV2, arXiv 1801.04381, section 6.2) makes those
convolutions and the extra layers depthwise-separable.

Shape letters: B images, A default boxes, K classes, M objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from boxatlas.backbones.vgg import VGG16
from boxatlas.errors import InputError
from boxatlas.necks.extra_maps import ExtraMaps, plan
from boxatlas.ops.norm import L2Norm
from boxatlas.options import convention, switch
from boxatlas.parts.default_boxes import (
    NormPlace,
    SingleShot,
    SingleShotConfig,
    Tables,
    backbone_of,
    even_steps,
    given,
    per_cell,
    percents,
    ssd_ratios,
    ssd_sizes,
    ssd_steps,
)
from boxatlas.parts.dense import DenseHead, LitePredictor, Predictor, grids_of
from boxatlas.registry import Published, register_model


class SSDConfig(SingleShotConfig):
    """Every choice of SSD. Sizes and steps are pixels of the input."""

    backbone: str = convention("vgg16", 'vgg16, mobilenet_v3_large or "timm/NAME"')
    lite: bool = convention(False, "depthwise-separable extra layers and predictors (SSDlite)")
    stride8: bool = convention(True, "the first map has stride 8, not 16 (for small objects)")
    reduced_tail: bool = convention(True, "MobileNetV3 with half as many last channels")

    # The paper's own ablations.
    atrous: bool = switch(True, "table 2: fc6 dilated, pool5 of stride 1; off: full fc6, fc7")
    ratio_2: bool = switch(True, "table 2: default boxes of 2:1 and 1:2")
    ratio_3: bool = switch(True, "table 2: default boxes of 3:1 and 1:3")
    boxes_on_first_map: Literal[4, 6] = switch(4, "section 3.1: boxes in a cell of the first map")
    l2norm: bool = switch(True, "section 3.1: conv4_3 is scaled to a learned norm, 20 at first")

    # How programs differ.
    boxes: Literal["voc", "coco", "lite"] = convention("voc", "which published table of sizes")  # pyright: ignore[reportIncompatibleVariableOverride]
    ceil_pools: tuple[int, ...] = convention((1, 2, 3, 4), "VGG's pools that round up")
    norm_eps: float = convention(1e-10, "of the L2 norm")
    norm_place: NormPlace = convention("inside_root", "where that epsilon goes")
    unit_trunk: bool = convention(False, "conv4_3 at unit length also goes on to conv5_1")


class SSD(SingleShot):
    """Backbone -> two or three maps -> extra, coarser maps -> a predictor on each."""

    config: SSDConfig

    def __init__(self, classes: Sequence[str], config: SSDConfig) -> None:
        backbone, preprocess = ssd_backbone(config)
        neck = ExtraMaps(
            backbone.channels,
            plan(grids_of(backbone, config.shape)[-1], config.lite),
            lite=config.lite,
            # Only VGG, which has no batch norm, gives its finest map another scale than the rest.
            norm=L2Norm(512, scale=20.0, eps=config.norm_eps, eps_place=config.norm_place)
            if config.l2norm and config.backbone == "vgg16" and config.stride8
            else None,
        )
        levels = len(neck.channels)
        ratios = default_ratios(config, levels)
        head = DenseHead(
            neck.channels,
            per_cell(ratios),
            len(classes) + 1,
            LitePredictor if config.lite else Predictor,
        )
        super().__init__(
            classes,
            preprocess,
            config,
            backbone=backbone,
            neck=neck,
            head=head,
            ratios=ratios,
            sizes=default_sizes(config, levels),
            steps=even_steps if config.boxes == "lite" else ssd_steps,
        )


# -- the tables of section 3 ----------------------------------------------------------------------


def default_sizes(config: SSDConfig, levels: int) -> Tables:
    """(min sizes, max sizes) of each map in pixels; "lite": 20 % to 95 %, then 100 %."""
    if config.boxes != "lite":
        return ssd_sizes(config, levels)
    lows = [20 + 75 * i / max(1, levels - 1) for i in range(levels)]
    return percents([*lows, 100.0], min(config.shape))


def default_ratios(config: SSDConfig, levels: int) -> list[tuple[float, ...]]:
    """The aspect ratios of each map; SSDlite has both on every map but perhaps the first."""
    rows = ssd_ratios(config, levels, config.boxes_on_first_map)
    if config.boxes == "lite":
        rows = given(config.ratios, [rows[0], *[(2.0, 3.0)] * (levels - 1)], "ratios")
    kept = {2.0: config.ratio_2, 3.0: config.ratio_3}
    return [tuple(r for r in row if kept.get(r, True)) for row in rows]


def ssd_backbone(config: SSDConfig) -> Any:
    """(the backbone at the strides SSD reads, its preprocess)."""

    def vgg16() -> VGG16:
        maps = ["conv4_3", "fc7"] if config.atrous else ["conv4_3", "conv5_3", "fc7"]
        return VGG16(
            maps[not config.stride8 :],
            fc="atrous" if config.atrous else "full",
            ceil_pools=config.ceil_pools,
            unit_conv4_3=config.unit_trunk,
        )

    def mobilenet_v3_large() -> Any:
        from boxatlas.backbones.mobilenet_v3 import MobileNetV3Large

        if config.stride8:
            raise InputError("this backbone starts at stride 16", field="stride8", value=True)
        return MobileNetV3Large(reduced_tail=config.reduced_tail)

    strides = (8, 16, 32) if config.stride8 else (16, 32)
    return backbone_of(config, strides, vgg16=vgg16, mobilenet_v3_large=mobilenet_v3_large)


# -- the models -----------------------------------------------------------------------------------

_TITLE = "SSD: Single Shot MultiBox Detector"


def _register(backbone: str, size: str, *published: Published) -> Any:
    return register_model(
        method="SSD",
        title=_TITLE,
        arxiv="1512.02325",
        year=2015,
        family="one-stage",
        backbone=backbone,
        size=size,
        published=published,
    )


def _build(classes: Sequence[str], defaults: dict[str, Any], options: dict[str, Any]) -> SSD:
    return SSD(classes, SSDConfig.of(**{**defaults, **options}))


_README = "README of the authors' repository"


@_register(
    "VGG-16",
    "300",
    Published("VOC07 test (07+12)", "mAP@0.5", 77.2, 46, "Titan X, batch 1", _README),
    Published("COCO test-dev2015", "AP", 25.1, 43, source=f"{_README}; FPS as surveys have it"),
)
def ssd300_vgg16(classes: Sequence[str], **options: Any) -> SSD:
    """SSD at 300x300: six maps, 8732 default boxes."""
    return _build(classes, {"size": 300}, options)


@_register(
    "VGG-16",
    "512",
    Published("VOC07 test (07+12)", "mAP@0.5", 79.8, 19, "Titan X, batch 1", _README),
    Published("COCO test-dev2015", "AP", 28.8, 22, source=f"{_README}; FPS as surveys have it"),
)
def ssd512_vgg16(classes: Sequence[str], **options: Any) -> SSD:
    """SSD at 512x512: seven maps, 24564 default boxes."""
    return _build(classes, {"size": 512}, options)


_LITE: dict[str, Any] = {
    "size": 320,
    "lite": True,
    "score": 0.001,
    "nms_iou": 0.55,
    "candidates": 300,
    "max_detections": 300,
}


@_register(
    "MobileNetV3-Large",
    "320",
    Published("COCO val2017", "AP", 21.3, source="torchvision"),
)
def ssdlite320_mobilenet_v3_large(classes: Sequence[str], **options: Any) -> SSD:
    """SSDlite at 320x320: six maps from stride 16, 3234 default boxes."""
    own = {"backbone": "mobilenet_v3_large", "stride8": False, "boxes": "lite"}
    return _build(classes, {**_LITE, **own, "boxes_on_first_map": 6}, options)


@_register("EfficientNet-Lite0", "320")
def ssdlite320_efficientnet_lite0(classes: Sequence[str], **options: Any) -> SSD:
    """The light default: SSDlite at 320x320 with a map of stride 8 for small objects.

    `stride8=False` gives the six maps from stride 16 of SSDlite's own table.
    """
    plain = options.get("stride8") is False
    own = {"boxes": "lite", "boxes_on_first_map": 6} if plain else {"boxes": "coco"}
    return _build(classes, {**_LITE, "backbone": "timm/tf_efficientnet_lite0", **own}, options)
