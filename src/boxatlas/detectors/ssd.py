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

import torch
from torch import Tensor

from boxatlas.backbones.timm_features import PREFIX, TimmFeatures, normalisation
from boxatlas.backbones.vgg import VGG16
from boxatlas.boxes.anchors import DefaultBoxLevel, default_boxes
from boxatlas.boxes.coders import CLAMP, DeltaCoder
from boxatlas.boxes.matching import Matches, match_argmax_per_object, match_bipartite
from boxatlas.detectors.dense import (
    DenseConfig,
    DenseDetector,
    DenseHead,
    Grid,
    LitePredictor,
    Predictor,
    grids_of,
)
from boxatlas.errors import InputError
from boxatlas.images import Preprocess
from boxatlas.losses.multibox import multibox_loss
from boxatlas.necks.extra_maps import ExtraMaps, plan
from boxatlas.ops.norm import L2Norm
from boxatlas.options import convention, switch
from boxatlas.registry import Published, register_model
from boxatlas.structures import Batch


class SSDConfig(DenseConfig):
    """Every choice of SSD. Sizes and steps are pixels of the input."""

    size: int | tuple[int, int] = convention(300, "input (height, width)")
    backbone: str = convention("vgg16", 'vgg16, mobilenet_v3_large or "timm/NAME"')
    pretrained: bool = convention(False, "the backbone starts from ImageNet weights")
    fold_norms: bool = convention(
        False, "a timm backbone's norms are folded into its convolutions before it learns"
    )
    lite: bool = convention(False, "depthwise-separable extra layers and predictors (SSDlite)")
    stride8: bool = convention(True, "the first map has stride 8, not 16 (for small objects)")
    reduced_tail: bool = convention(True, "MobileNetV3 with half as many last channels")

    # The paper's own ablations.
    atrous: bool = switch(True, "table 2: fc6 dilated, pool5 of stride 1; off: full fc6, fc7")
    ratio_2: bool = switch(True, "table 2: default boxes of 2:1 and 1:2")
    ratio_3: bool = switch(True, "table 2: default boxes of 3:1 and 1:3")
    boxes_on_first_map: Literal[4, 6] = switch(4, "section 3.1: boxes in a cell of the first map")
    l2norm: bool = switch(True, "section 3.1: conv4_3 is scaled to a learned norm, 20 at first")
    negatives: float = switch(3.0, "section 2.2: hard negatives for each positive", ge=0)
    match_iou: float = switch(0.5, "section 2.2: a default box above this overlap is positive")
    loc_weight: float = switch(1.0, "equation 1: alpha, the weight of the localisation loss", ge=0)

    # How programs differ.
    boxes: Literal["voc", "coco", "lite"] = convention("voc", "which published table of sizes")
    min_sizes: tuple[float, ...] | None = convention(None, "of each map; None: the table's")
    max_sizes: tuple[float, ...] | None = convention(None, "of each map; None: the next min size")
    ratios: tuple[tuple[float, ...], ...] | None = convention(
        None, "of each map; None: the table's"
    )
    steps: tuple[float, ...] | None = convention(None, "between centres; None: input / map")
    offset: float = convention(0.5, "of the first centre, in steps")
    clip_boxes: Literal["none", "each", "size"] = convention("none", "cut default boxes: see boxes")
    truncate_sizes: bool = convention(False, "sizes lose their fractions, as in Caffe")
    ceil_pools: tuple[int, ...] = convention((1, 2, 3, 4), "VGG's pools that round up")
    norm_eps: float = convention(1e-10, "of the L2 norm")
    norm_place: Literal[
        "inside_root", "added_to_root", "norm_clamped_below", "clamp_sum_of_squares"
    ] = convention("inside_root", "where that epsilon goes")
    unit_trunk: bool = convention(False, "conv4_3 at unit length also goes on to conv5_1")
    match: Literal["bipartite", "argmax"] = convention("bipartite", "argmax: as the ports do")
    difficult: Literal["keep", "drop"] = convention("keep", "difficult objects in training")
    variances: tuple[float, float, float, float] = convention((0.1, 0.1, 0.2, 0.2), "of the code")
    clamp_deltas: bool = convention(False, "decoded boxes grow at most 62.5 times")

    @property
    def shape(self) -> tuple[int, int]:
        return (self.size, self.size) if isinstance(self.size, int) else self.size


class SSD(DenseDetector):
    """Backbone -> two or three maps -> extra, coarser maps -> a predictor on each."""

    config: SSDConfig

    def __init__(self, classes: Sequence[str], config: SSDConfig) -> None:
        backbone, preprocess = backbone_of(config)
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
        # A cell holds two squares and two boxes for each ratio.
        head = DenseHead(
            neck.channels,
            [2 + 2 * len(r) for r in ratios],
            len(classes) + 1,
            LitePredictor if config.lite else Predictor,
        )
        super().__init__(
            classes, preprocess, config, backbone=backbone, neck=neck, head=head,
            coder=DeltaCoder.from_variances(
                config.variances, clamp=CLAMP if config.clamp_deltas else None
            ),
        )  # fmt: skip
        self.ratios = ratios
        self.min_sizes, self.max_sizes = default_sizes(config, levels)

    def make_anchors(self, grids: Sequence[Grid], image: tuple[int, int]) -> Tensor:
        """The default boxes of section 2.2, [A, 4] xyxy in pixels."""
        steps = self.config.steps or default_steps(self.config, grids, image)
        parts = zip(grids, steps, self.min_sizes, self.max_sizes, self.ratios, strict=True)
        levels = [
            DefaultBoxLevel(grid, step, low, high, ratios, self.config.offset)
            for grid, step, low, high, ratios in parts
        ]
        return default_boxes(
            levels, image, clip=self.config.clip_boxes, truncate_sizes=self.config.truncate_sizes
        )

    def matches(self, anchors: Tensor, boxes: Tensor, valid: Tensor) -> Matches:
        """Which object each default box answers for (section 2.2, matching strategy)."""
        if self.config.match == "argmax":
            return match_argmax_per_object(anchors, boxes, valid, self.config.match_iou)
        return match_bipartite(anchors, boxes, valid, self.config.match_iou)

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Equation 1: confidence over positives and hard negatives, localisation over positives."""
        raw, targets = self(batch.images), batch.targets
        valid = targets.valid
        if self.config.difficult == "drop":
            valid = valid & ~targets.ignore
        matches = self.matches(raw["anchors"], targets.boxes, valid)
        found = multibox_loss(
            raw["logits"], raw["deltas"], matches, raw["anchors"], targets.boxes, targets.labels,
            self.coder, ratio=self.config.negatives, neg_overlap=self.config.match_iou,
        )  # fmt: skip
        box = self.config.loc_weight * found.box
        return {"classification": found.classes, "localisation": box}


# -- the tables of section 3 ----------------------------------------------------------------------


def default_sizes(config: SSDConfig, levels: int) -> tuple[list[float], list[float]]:
    """(min sizes, max sizes) of each map in pixels: equation 4 as the authors' scripts round it.

    The first map has a size of its own; the others run from `low` to 90 % of the input in whole
    percents, and each map's max size is the next one's min. "lite": 20 % to 95 %, then 100 %.
    """
    side = min(config.shape)
    if config.boxes == "lite":
        low, high = [20 + 75 * i / max(1, levels - 1) for i in range(levels)], 100.0
    else:
        large = side >= 512
        table = {"voc": (7, 15) if large else (10, 20), "coco": (4, 10) if large else (7, 15)}
        first, start = table[config.boxes]
        step = (90 - start) // max(1, levels - 2)
        low, high = (
            [first, *(start + step * i for i in range(levels - 1))],
            start + step * (levels - 1),
        )
    edges = [percent * side / 100 for percent in (*low, high)]
    mins = _given(config.min_sizes, edges[:-1], "min_sizes")
    return mins, _given(config.max_sizes, [*mins[1:], edges[-1]], "max_sizes")


def default_ratios(config: SSDConfig, levels: int) -> list[tuple[float, ...]]:
    """The aspect ratios of each map: 2 and 3, but 2 alone on the finest and the two coarsest."""
    whole = config.boxes == "lite"
    rows = [(2.0, 3.0) if whole or i < levels - 2 else (2.0,) for i in range(levels)]
    rows[0] = (2.0,) if config.boxes_on_first_map == 4 else (2.0, 3.0)
    rows = _given(config.ratios, rows, "ratios")
    kept = {2.0: config.ratio_2, 3.0: config.ratio_3}
    return [tuple(r for r in row if kept.get(r, True)) for row in rows]


def default_steps(
    config: SSDConfig, grids: Sequence[Grid], image: tuple[int, int]
) -> list[float | tuple[float, float]]:
    """Pixels between centres: input / map, except SSD300's, which the scripts give by hand."""
    if config.steps is not None:
        return _given(config.steps, list(grids), "steps")
    if config.boxes != "lite" and image == (300, 300) and [g[0] for g in grids] == _GRIDS_300:
        return [8, 16, 32, 64, 100, 300]
    return [(image[0] / rows, image[1] / columns) for rows, columns in grids]


_GRIDS_300 = [38, 19, 10, 5, 3, 1]


def _given(given: Sequence[Any] | None, table: Sequence[Any], field: str) -> list[Any]:
    if given is None:
        return list(table)
    if len(given) != len(table):
        raise InputError(f"needs one for each of the {len(table)} maps", field=field, value=given)
    return list(given)


def backbone_of(config: SSDConfig) -> tuple[Any, Preprocess]:
    """The backbone at the strides SSD reads, and what its weights expect of an image."""
    half = (0.5, 0.5, 0.5)
    if config.backbone == "vgg16":
        maps = ["conv4_3", "fc7"] if config.atrous else ["conv4_3", "conv5_3", "fc7"]
        backbone = VGG16(
            maps[not config.stride8 :],
            fc="atrous" if config.atrous else "full",
            ceil_pools=config.ceil_pools,
            unit_conv4_3=config.unit_trunk,
        )
        mean, std, scale = (123.0, 117.0, 104.0), (1.0, 1.0, 1.0), 1.0
    elif config.backbone == "mobilenet_v3_large":
        from boxatlas.backbones.mobilenet_v3 import MobileNetV3Large

        if config.stride8:
            raise InputError("this backbone starts at stride 16", field="stride8", value=True)
        backbone = MobileNetV3Large(reduced_tail=config.reduced_tail)
        mean, std, scale = half, half, 1 / 255
    elif config.backbone.startswith(PREFIX):
        strides = (8, 16, 32) if config.stride8 else (16, 32)
        backbone = TimmFeatures(
            config.backbone, strides, pretrained=config.pretrained, fold=config.fold_norms
        )
        (mean, std), scale = normalisation(config.backbone), 1 / 255
    else:
        raise InputError(
            "no such backbone", field="backbone", value=config.backbone,
            hint="vgg16, mobilenet_v3_large or timm/NAME",
        )  # fmt: skip
    if config.pretrained and not isinstance(backbone, TimmFeatures):
        backbone.load_pretrained()
    return backbone, Preprocess(size=config.shape, mean=mean, std=std, scale=scale)


# -- the models -----------------------------------------------------------------------------------

_TITLE = "SSD: Single Shot MultiBox Detector"


def _register(backbone: str, size: str, *published: Published) -> Any:
    return register_model(
        method="SSD", title=_TITLE, arxiv="1512.02325", year=2015, family="one-stage",
        backbone=backbone, size=size, published=published,
    )  # fmt: skip


def _build(classes: Sequence[str], defaults: dict[str, Any], options: dict[str, Any]) -> SSD:
    return SSD(classes, SSDConfig.of(**{**defaults, **options}))


_README = "README of the authors' repository"


@_register(
    "VGG-16", "300",
    Published("VOC07 test (07+12)", "mAP@0.5", 77.2, 46, "Titan X, batch 1", _README),
    Published("COCO test-dev2015", "AP", 25.1, source=_README),
)  # fmt: skip
def ssd300_vgg16(classes: Sequence[str], **options: Any) -> SSD:
    """SSD at 300x300: six maps, 8732 default boxes."""
    return _build(classes, {"size": 300}, options)


@_register(
    "VGG-16", "512",
    Published("VOC07 test (07+12)", "mAP@0.5", 79.8, 19, "Titan X, batch 1", _README),
    Published("COCO test-dev2015", "AP", 28.8, source=_README),
)  # fmt: skip
def ssd512_vgg16(classes: Sequence[str], **options: Any) -> SSD:
    """SSD at 512x512: seven maps, 24564 default boxes."""
    return _build(classes, {"size": 512}, options)


_LITE: dict[str, Any] = {
    "size": 320, "lite": True, "score": 0.001, "nms_iou": 0.55, "candidates": 300,
    "max_detections": 300,
}  # fmt: skip


@_register(
    "MobileNetV3-Large", "320",
    Published("COCO val2017", "AP", 21.3, source="torchvision"),
)  # fmt: skip
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
