"""M2Det: a detector on a multi-level feature pyramid. Zhao et al. 2018, arXiv 1811.04533.

The pyramids of SSD and FPN take each scale from one layer of a backbone made for classification.
M2Det builds its own: two maps of the backbone are fused into a base feature; eight thin U-shapes in
a row, each fed with that feature and the largest map of the one before, give eight pyramids from
shallow to deep; and of each scale the maps of all eight are joined and weighed by channel. SSD's
predictors read the result.

Shape letters: B images, A default boxes, K classes, N candidates over all images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from boxatlas.backbones.choice import BackboneChoices
from boxatlas.backbones.resnet import ResNet
from boxatlas.backbones.vgg import VGG16, VGGChoices
from boxatlas.boxes.matching import MatchChoices
from boxatlas.boxes.nms import Candidates, SuppressionChoices, soft_nms
from boxatlas.images import InputChoices
from boxatlas.necks.mlfpn import MLFPN, MLFPNChoices
from boxatlas.options import AtLeastOne, Fraction, idea, setting
from boxatlas.parts.default_boxes import (
    DefaultBoxChoices,
    DefaultBoxes,
    Ratios,
    Sizes,
    Step,
    even_steps,
    option_or_table,
)
from boxatlas.parts.dense import DenseChoices, Grid, grids_of
from boxatlas.parts.single_shot import MultiboxChoices, SingleShot, backbone_of
from boxatlas.registry import Method, Published

METHOD = Method(
    "M2Det",
    "M2Det: A Single-Shot Object Detector based on Multi-Level Feature Pyramid Network",
    "1811.04533",
    2018,
    "one-stage",
)
FAINTEST = 0.001  # a box whose score Soft-NMS lowers below this is no detection (authors' code)


class Config(
    BackboneChoices,
    InputChoices,
    SuppressionChoices,
    DenseChoices,
    DefaultBoxChoices,
    MatchChoices,
    MultiboxChoices,
    VGGChoices,
    MLFPNChoices,
):
    """The ideas of tables 2 and 3; backbone: vgg16, resnet101 or "timm/NAME"."""

    gone: ClassVar[Mapping[str, Any]] = {"boxes": "coco", "soft_least": FAINTEST}

    tums: Annotated[int, Field(ge=1, le=100)] = idea(8, "table 3: U-shapes in a row")
    scales: Annotated[int, Field(ge=2, le=20)] = idea(6, "section 3.2: maps of a pyramid")
    planes: Annotated[int, Field(ge=2, le=4096, multiple_of=2)] = idea(
        256, "table 3: channels inside a U-shape"
    )
    base_feature: bool = idea(True, "table 2: FFMv2; off: a U-shape reads the one before it alone")
    sfam: bool = idea(True, "table 2: attention on each scale; off: joined as they are")

    soft_nms: Literal["off", "linear", "gaussian"] = setting(
        "linear", "section 4.1: scores of overlapping boxes fall; off: the boxes go"
    )
    soft_iou: Fraction = setting(0.3, "overlap from which scores fall (linear Soft-NMS)")
    per_class: AtLeastOne = setting(50, "boxes of a class that stay after Soft-NMS, per image")

    size = 320
    backbone = "vgg16"
    score = 0.05  # section 4.1
    nms_iou = 0.45
    max_detections = 200

    @model_validator(mode="after")
    def _one_leach(self) -> Config:
        # The paper's first U-shape reads a wider base feature than the others.
        if self.shared_leach and self.form == "paper" and self.base_feature and self.tums > 1:
            raise ValueError('shared_leach needs form="released"')
        return self

    def idle(self) -> dict[str, str]:
        why = super().idle()
        if self.tums == 1:
            why["base_feature"] = "there is one U-shape, which reads the base feature anyway"
        if not self.sfam:
            why["sfam_ratio"] = "sfam is off"
        if self.soft_nms == "off":
            why["per_class"] = "soft_nms is off"
        else:
            why["nms_iou"] = "scores fall instead: soft_nms"
        if self.soft_nms != "linear":
            why["soft_iou"] = "only soft_nms linear has a threshold"
        return why


class M2Det(SingleShot):
    """Two maps of the backbone, one of stride 8, the deepest -> MLFPN -> predictors."""

    config: Config

    def __init__(self, classes: Sequence[str], config: Config) -> None:
        backbone, preprocess = backbone_of(
            config,
            config.shape,
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
        table: Ratios = [(2.0, 3.0)] * config.scales
        ratios = option_or_table(config.ratios, table, "ratios")
        boxes = DefaultBoxes(config, ratios, default_sizes(config), default_steps)
        super().__init__(classes, preprocess, config, backbone, neck, neck.channels, boxes)

    def suppress(self, candidates: Candidates, boxes: Tensor, most: int) -> tuple[Tensor, Tensor]:
        """Soft-NMS within each class of each image, then each class's best: (rows, scores)."""
        config = self.config
        if config.soft_nms == "off":
            return super().suppress(candidates, boxes, most)
        groups = candidates.image * self.num_classes + candidates.label
        enter = _best_of_each(groups, candidates.score, config.candidates or len(groups))
        rows, scores = soft_nms(
            boxes[enter],
            candidates.score[enter],
            groups[enter],
            method=config.soft_nms,
            threshold=config.soft_iou,
            min_score=FAINTEST,
        )
        rows = enter[rows]
        stay = _best_of_each(groups[rows], scores, config.per_class)
        stay = stay[scores[stay].sort(descending=True, stable=True).indices]
        return rows[stay], scores[stay]


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


def default_sizes(config: Config) -> Sizes:
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


def _published(single: float, fps: float, many: float) -> tuple[Published, Published]:
    """Table 1: AP at one scale with its speed, and at many."""
    data, paper = "COCO test-dev", "the paper, table 1"
    return (
        Published(data, "AP", single, fps, "Titan X", paper),
        Published(f"{data}, many scales", "AP", many, source=paper),
    )


@METHOD.model("VGG-16", "320", *_published(33.5, 33.4, 38.9))
def m2det320_vgg16(classes: Sequence[str], **options: Any) -> M2Det:
    """M2Det at 320x320 on VGG-16: six scales, 12810 default boxes."""
    return M2Det(classes, Config.of(options, size=320))


@METHOD.model("ResNet-101", "320", *_published(34.3, 21.7, 39.7))
def m2det320_r101(classes: Sequence[str], **options: Any) -> M2Det:
    """M2Det at 320x320 on ResNet-101."""
    return M2Det(classes, Config.of(options, size=320, backbone="resnet101"))


@METHOD.model("VGG-16", "512", *_published(37.6, 18.0, 42.9))
def m2det512_vgg16(classes: Sequence[str], **options: Any) -> M2Det:
    """M2Det at 512x512 on VGG-16: six scales, 32760 default boxes."""
    return M2Det(classes, Config.of(options, size=512))


@METHOD.model("ResNet-101", "512", *_published(38.8, 15.8, 43.9))
def m2det512_r101(classes: Sequence[str], **options: Any) -> M2Det:
    """M2Det at 512x512 on ResNet-101."""
    return M2Det(classes, Config.of(options, size=512, backbone="resnet101"))


@METHOD.model("VGG-16", "800", *_published(41.0, 11.8, 44.2))
def m2det800_vgg16(classes: Sequence[str], **options: Any) -> M2Det:
    """M2Det at 800x800 on VGG-16: six scales, 80208 default boxes."""
    return M2Det(classes, Config.of(options, size=800))


@METHOD.model("ResNet-101", "800")
def m2det800_r101(classes: Sequence[str], **options: Any) -> M2Det:
    """M2Det at 800x800 on ResNet-101, which no table reports."""
    return M2Det(classes, Config.of(options, size=800, backbone="resnet101"))
