"""M2Det: a detector on a multi-level feature pyramid. Zhao et al. 2018, arXiv 1811.04533.

The pyramids of SSD and FPN take each scale from one layer of a backbone made for classification.
M2Det builds its own: two maps of the backbone are fused into a base feature; eight thin U-shapes in
a row, each fed with that feature and the largest map of the one before, give eight pyramids from
shallow to deep; and of each scale the maps of all eight are joined and weighed by channel. SSD's
predictors read the result.

Shape letters: B images, A default boxes, K classes, N candidates over all images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from boxatlas.backbones.resnet import ResNet
from boxatlas.backbones.vgg import VGG16
from boxatlas.boxes.nms import Candidates, Found, soft_nms
from boxatlas.necks.mlfpn import MLFPN, Form
from boxatlas.options import convention, switch
from boxatlas.parts.default_boxes import (
    SingleShot,
    SingleShotConfig,
    Step,
    Tables,
    backbone_of,
    even_steps,
    given,
    per_cell,
)
from boxatlas.parts.dense import DenseHead, Grid, Predictor, grids_of
from boxatlas.registry import Published, register_model


class M2DetConfig(SingleShotConfig):
    """Every choice of M2Det."""

    size: int | tuple[int, int] = convention(320, "input (height, width)")
    backbone: str = convention("vgg16", 'vgg16, resnet101 or "timm/NAME"')

    # The paper's own ablations (tables 2 and 3).
    tums: int = switch(8, "table 3: U-shapes in a row", ge=1)
    scales: int = switch(6, "section 3.2: maps of a pyramid", ge=2)
    planes: int = switch(256, "table 3: channels inside a U-shape", ge=2)
    base_feature: bool = switch(True, "table 2: FFMv2; off: a U-shape reads the one before alone")
    sfam: bool = switch(True, "table 2: attention on each scale; off: joined as they are")

    # Which boxes become detections.
    score: float = convention(0.05, "a class must score more than this", ge=0, le=1)
    soft_nms: Literal["off", "linear", "gaussian"] = convention(
        "linear", "section 4.1: scores of overlapping boxes fall; off: the boxes go"
    )
    soft_iou: float = convention(0.3, "overlap from which they fall (linear)", ge=0, le=1)
    soft_least: float = convention(0.001, "a box whose score falls below this goes", ge=0)
    per_class: int = convention(50, "boxes of a class that stay, per image", ge=1)

    # How programs differ.
    form: Form = convention("paper", "of the U-shapes; released: as the authors' code has them")
    shared_leach: bool = convention(False, "one convolution narrows the base feature for all")
    shared_sfam: bool = convention(False, "one attention for all scales")
    sfam_ratio: int = convention(16, "by what the attention narrows", ge=1)
    norm_largest: bool = convention(False, "batch norm on the finest scale")
    ceil_pools: tuple[int, ...] = convention((1, 2, 3, 4), "VGG's pools that round up")


class M2Det(SingleShot):
    """Two maps of the backbone, one of stride 8, the deepest -> MLFPN -> predictors."""

    config: M2DetConfig

    def __init__(self, classes: Sequence[str], config: M2DetConfig) -> None:
        backbone, preprocess = backbone_of(
            config,
            (8, 32),
            resnet101=resnet101,
            vgg16=lambda: VGG16(("conv4_3", "fc7"), ceil_pools=config.ceil_pools),
        )
        neck = MLFPN(
            backbone.channels[0],
            backbone.channels[1],
            min(grids_of(backbone, config.shape)[0]),
            tums=config.tums,
            scales=config.scales,
            width=config.planes,
            form=config.form,
            base=config.base_feature,
            sfam=config.sfam,
            ratio=config.sfam_ratio,
            shared_leach=config.shared_leach,
            shared_sfam=config.shared_sfam,
            norm_largest=config.norm_largest,
        )
        ratios = given(config.ratios, [(2.0, 3.0)] * config.scales, "ratios")
        super().__init__(
            classes,
            preprocess,
            config,
            backbone=backbone,
            neck=neck,
            head=DenseHead(neck.channels, per_cell(ratios), len(classes) + 1, Predictor),
            ratios=ratios,
            sizes=default_sizes(config),
            steps=default_steps,
        )

    def suppress(
        self, chosen: Candidates, boxes: Tensor, images: int, total: int | None
    ) -> list[Found]:
        """Soft-NMS within each class of each image, then each class's and each image's best."""
        config = self.config
        if config.soft_nms == "off":
            return super().suppress(chosen, boxes, images, total)
        groups = chosen.image * self.num_classes + chosen.label
        enters = _best_of_each(groups, chosen.score, config.candidates or len(groups))
        rows, scores = soft_nms(
            boxes[enters],
            chosen.score[enters],
            groups[enters],
            method=config.soft_nms,
            threshold=config.soft_iou,
            min_score=config.soft_least,
        )
        rows = enters[rows]
        stays = _best_of_each(groups[rows], scores, config.per_class)
        stays = stays[scores[stays].sort(descending=True, stable=True).indices]
        rows, scores = rows[stays], scores[stays]
        found = []
        for image in range(images):
            own = (chosen.image[rows] == image).nonzero()[:, 0][:total]
            at = rows[own]
            found.append(Found(boxes[at], scores[own], chosen.label[at], chosen.row[at]))
        return found


def _best_of_each(groups: Tensor, scores: Tensor, limit: int) -> Tensor:
    """Indices of the `limit` best of each group."""
    order = scores.sort(descending=True, stable=True).indices
    order = order[groups[order].sort(stable=True).indices]
    _, inverse, sizes = torch.unique_consecutive(
        groups[order], return_inverse=True, return_counts=True
    )
    rank = torch.arange(len(order), device=order.device) - (sizes.cumsum(0) - sizes)[inverse]
    return order[rank < limit]


def resnet101() -> ResNet:
    """ResNet-101 whose C4 keeps C3's stride, so that C5 has 16 and not 32."""
    trunk = ResNet("resnet101", stages=(3, 5), norm=torch.nn.BatchNorm2d)
    block: Any = trunk.layer3[0]  # pyright: ignore
    block.conv2.stride = block.downsample[0].stride = (1, 1)
    trunk.strides = [8, 16]
    return trunk


# -- the tables of the authors' code ---------------------------------------------------------------


def default_sizes(config: M2DetConfig) -> Tables:
    """(min sizes, max sizes) in pixels: 15 % to 105 % of the input, the first by its size.

    8 % at 320, 6 % at 512, 4 % at 800; pixels are rounded to two decimals.
    """
    side, levels = min(config.shape), config.scales
    first = 0.08 if side <= 400 else 0.06 if side <= 640 else 0.04
    edges = [first, *(0.15 + 0.9 * i / max(1, levels - 1) for i in range(levels))]
    pixels = [round(edge * side, 2) for edge in edges]
    return pixels[:-1], list(pixels[1:])


def default_steps(grids: Sequence[Grid], image: tuple[int, int]) -> list[Step]:
    """Pixels between centres: input / map, which the code's configs round by hand."""
    if [row for row, _ in grids] == [40, 20, 10, 5, 3, 1] and image == (320, 320):
        return [8, 16, 32, 64, 107, 320]
    if [row for row, _ in grids] == [100, 50, 25, 13, 7, 5] and image == (800, 800):
        return [8, 16, 32, 62, 115, 160]
    return even_steps(grids, image)


# -- the models -----------------------------------------------------------------------------------


def _register(
    backbone: str, size: str, single: float | None, fps: float | None, many: float | None
) -> Any:
    data, gpu, paper = "COCO test-dev", "Titan X", "the paper, table 1"
    rows = []
    if single is not None:
        rows.append(Published(data, "AP", single, fps, gpu, paper))
    if many is not None:
        rows.append(Published(f"{data}, many scales", "AP", many, source=paper))
    return register_model(
        method="M2Det",
        title="M2Det: A Single-Shot Object Detector based on Multi-Level Feature Pyramid Network",
        arxiv="1811.04533",
        year=2018,
        family="one-stage",
        backbone=backbone,
        size=size,
        published=rows,
    )


def _build(classes: Sequence[str], defaults: dict[str, Any], options: dict[str, Any]) -> M2Det:
    own = {"boxes": "coco", **defaults}
    return M2Det(classes, M2DetConfig.of(**{**own, **options}))


@_register("VGG-16", "320", 33.5, 33.4, 38.9)
def m2det320_vgg16(classes: Sequence[str], **options: Any) -> M2Det:
    """M2Det at 320x320 on VGG-16: six scales, 12810 default boxes."""
    return _build(classes, {"size": 320}, options)


@_register("ResNet-101", "320", 34.3, 21.7, 39.7)
def m2det320_r101(classes: Sequence[str], **options: Any) -> M2Det:
    """M2Det at 320x320 on ResNet-101."""
    return _build(classes, {"size": 320, "backbone": "resnet101"}, options)


@_register("VGG-16", "512", 37.6, 18.0, 42.9)
def m2det512_vgg16(classes: Sequence[str], **options: Any) -> M2Det:
    """M2Det at 512x512 on VGG-16: six scales, 32760 default boxes."""
    return _build(classes, {"size": 512}, options)


@_register("ResNet-101", "512", 38.8, 15.8, 43.9)
def m2det512_r101(classes: Sequence[str], **options: Any) -> M2Det:
    """M2Det at 512x512 on ResNet-101."""
    return _build(classes, {"size": 512, "backbone": "resnet101"}, options)


@_register("VGG-16", "800", 41.0, 11.8, 44.2)
def m2det800_vgg16(classes: Sequence[str], **options: Any) -> M2Det:
    """M2Det at 800x800 on VGG-16: six scales, 80208 default boxes."""
    return _build(classes, {"size": 800}, options)


@_register("ResNet-101", "800", None, None, None)
def m2det800_r101(classes: Sequence[str], **options: Any) -> M2Det:
    """M2Det at 800x800 on ResNet-101, which no table reports."""
    return _build(classes, {"size": 800, "backbone": "resnet101"}, options)
