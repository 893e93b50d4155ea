"""RefineDet: Single-Shot Refinement Neural Network. Zhang et al. 2017, arXiv 1711.06897.

Two-stage detectors are accurate since they first drop the easy background and adjust the boxes.
RefineDet does that within one pass: an anchor refinement module (ARM) on the backbone's maps says
object or not and moves each anchor; transfer connection blocks (TCB) turn the same maps, coarse to
fine, into those that the object detection module (ODM) reads; and the ODM classifies and moves the
refined anchors once more. Anchors that the ARM is 99 % sure are background detect nothing, and are
no negatives in training.

Shape letters: B images, A anchors, K classes, N candidates over all images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from boxatlas.backbones.caffe_resnet import CaffeResNetChoices, caffe_resnet101
from boxatlas.backbones.choice import BackboneChoices
from boxatlas.backbones.vgg import VGG16, VGGChoices
from boxatlas.boxes.matching import IGNORED, Assigned, MatchChoices
from boxatlas.boxes.nms import Candidates, SuppressionChoices
from boxatlas.images import InputChoices
from boxatlas.losses.refinement import RefinementChoices, refinement_loss
from boxatlas.necks.extra_maps import ExtraLayer, plain_layer
from boxatlas.necks.residual import EachMap, Residual
from boxatlas.necks.transfer import TransferConnection
from boxatlas.ops.norm import L2Norm, L2NormChoices
from boxatlas.options import Width, idea, setting
from boxatlas.parts.base import Raw
from boxatlas.parts.default_boxes import (
    DefaultBoxChoices,
    DefaultBoxes,
    Ratios,
    Step,
    option_or_table,
)
from boxatlas.parts.dense import DenseChoices, DenseHead, Grid, Predictor
from boxatlas.parts.single_shot import MultiboxChoices, SingleShot, backbone_of
from boxatlas.registry import Method, Published
from boxatlas.structures import Batch, Frame

METHOD = Method(
    "RefineDet",
    "Single-Shot Refinement Neural Network for Object Detection",
    "1711.06897",
    2017,
    "one-stage",
)
STRIDES = (8, 16, 32, 64)
SIZES = (32.0, 64.0, 128.0, 256.0)  # section 3.1: of each map's anchors, four times the stride


class Config(
    BackboneChoices,
    InputChoices,
    SuppressionChoices,
    DenseChoices,
    DefaultBoxChoices,
    MatchChoices,
    MultiboxChoices,
    RefinementChoices,
    VGGChoices,
    L2NormChoices,
    CaffeResNetChoices,
):
    """The ideas of table 4; backbone: vgg16, resnet101 or "timm/NAME"."""

    gone: ClassVar[Mapping[str, Any]] = {"boxes": "voc"}

    negative_filter: Annotated[float, Field(gt=0, le=1)] | None = idea(
        0.99, "section 3.2: background above this is filtered; null: nothing is"
    )
    two_step: bool = idea(True, "section 3.1: the second step starts from refined anchors")
    tcb: Literal["deconvolution", "none"] = idea(
        "deconvolution", "section 3.1: transfer connection blocks; none: both read the same maps"
    )
    transfer_width: Width = setting(256, "section 3.1: channels of the transfer connection blocks")

    size = 320
    backbone = "vgg16"
    score = 0.01  # SSD, section 3.7, as are the next two
    nms_iou = 0.45
    max_detections = 200

    def idle(self) -> dict[str, str]:
        why = super().idle()
        if self.tcb == "none":
            why["transfer_width"] = "tcb is none: there are no such blocks"
        return why


class Sources(nn.Module):
    """The backbone's three maps, normalised where `norms` says so, and one of half the last."""

    def __init__(self, norms: Sequence[nn.Module], extra: nn.Module) -> None:
        super().__init__()
        self.norms, self.extra = EachMap(norms), extra

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return [*self.norms(maps), self.extra(maps[-1])]


class RefineDet(SingleShot):
    """Backbone -> four maps -> ARM; the same maps -> TCB -> ODM, on anchors that the ARM moved."""

    config: Config

    def __init__(self, classes: Sequence[str], config: Config) -> None:
        backbone, preprocess = backbone_of(
            config,
            config.shape,
            STRIDES[:3],
            vgg16=lambda: VGG16(
                ("conv4_3", "conv5_3", "fc7"), fc="strided", ceil_pools=config.ceil_pools
            ),
            resnet101=lambda: caffe_resnet101((3, 4, 5), config.residual_stride, config.bn_eps),
        )
        vgg, deep = config.backbone == "vgg16", config.backbone == "resnet101"
        # Without a block before its predictors the ARM reads the maps themselves, each of a scale
        # of its own: section 3.1 sets VGG's first two to 10 and 8.
        scales = (None, None, None) if deep else (10.0, 8.0, None if vgg else 8.0)
        norms = [
            nn.Identity()
            if scale is None
            else L2Norm(channels, scale, config.norm_eps, config.norm_place)
            for channels, scale in zip(backbone.channels, scales, strict=True)
        ]
        last = backbone.channels[-1]
        extra = (
            Residual(last, 128, 512, stride=2, eps=config.bn_eps)
            if deep
            else plain_layer(last, ExtraLayer(256, 512))
        )
        sources = [*backbone.channels, 512]
        table: Ratios = [(2.0,)] * 4  # section 3.1
        ratios = option_or_table(config.ratios, table, "ratios")
        boxes = DefaultBoxes(config, ratios, (list(SIZES), [None] * 4), _steps)
        tcb = config.tcb == "deconvolution"
        transfer = TransferConnection(sources, config.transfer_width, norm=not vgg) if tcb else None
        seen = sources if transfer is None else transfer.channels
        # On ResNet a residual block stands before each pair of predictors.
        before_arm = _modules(sources, config.bn_eps, deep)
        before_odm = _modules(seen, config.bn_eps, deep)
        if deep:
            sources = seen = [1024] * 4
        neck, inside = Sources(norms, extra), config.log_epsilon
        super().__init__(
            classes, preprocess, config, backbone, neck, seen, boxes, log_epsilon=inside
        )
        self.arm = DenseHead(sources, boxes.per_cell, 2, Predictor)
        self.transfer, self.before_arm, self.before_odm = transfer, before_arm, before_odm

    def forward(
        self, images: Tensor, frames: Sequence[Frame] | None = None, proposals: Tensor | None = None
    ) -> Raw:
        """logits [B, A, K + 1], deltas [B, A, 4], anchors [A, 4], and the first step's
        arm_logits [B, A, 2], arm_deltas [B, A, 4]; deltas start from the anchors it refined.
        """
        maps = self.features(images)
        arm_logits, arm_deltas = self.arm(self.before_arm(maps))
        seen = maps if self.transfer is None else self.transfer(maps)
        logits, deltas = self.head(self.before_odm(seen))
        return {
            "logits": logits,
            "deltas": deltas,
            "anchors": self.anchors(maps, images),
            "arm_logits": arm_logits,
            "arm_deltas": arm_deltas,
        }

    @property
    def least(self) -> float:
        """The objectness below which an anchor is easy background."""
        return 1.0 - (self.config.negative_filter or 1.0)

    @torch.no_grad()
    def assigned(self, batch: Batch) -> list[Assigned]:
        """The anchors of the first step, and what it makes of them: the second step's.

        The second step learns nothing from background that the first is sure of.
        """
        raw, targets = self(batch.images), batch.targets
        anchors, valid = raw["anchors"], self.trained_on(targets)
        first = self.matches(anchors, targets.boxes, valid)
        start = self.coder.decode(raw["arm_deltas"], anchors) if self.config.two_step else anchors
        second = self.matches(start, targets.boxes, valid) if self.config.two_step else first
        objectness = raw["arm_logits"].softmax(dim=-1)[..., 1]
        easy = second.negative & (objectness < self.least)
        index = second.index.masked_fill(easy, IGNORED)
        return [
            Assigned("anchors", anchors, first.index),
            Assigned("refined anchors", start, index),
        ]

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Equation 1: both steps' confidence and localisation, each by its own positives."""
        raw, targets, config = self(batch.images), batch.targets, self.config
        losses = refinement_loss(
            raw["arm_logits"],
            raw["arm_deltas"],
            raw["logits"],
            raw["deltas"],
            raw["anchors"],
            targets.boxes,
            targets.labels,
            self.trained_on(targets),
            self.matches,
            self.coder,
            two_step=config.two_step,
            least=self.least,
            filter_negatives=config.negative_filter is not None,
            filter_positives=config.filter_positives,
            ratio=config.negatives,
            ranking="label" if config.filter_positives else "background",
            neg_overlap=config.match_iou,
            mine_over=config.mine_over,
            ignored=self.ignored(targets),
        )
        weight = config.loc_weight
        return {
            "arm_classification": losses.arm.classes,
            "arm_localisation": weight * losses.arm.box,
            "classification": losses.odm.classes,
            "localisation": weight * losses.odm.box,
        }

    def scores(self, raw: Raw) -> Tensor:
        """Anchors that the ARM calls background have no class."""
        scores = super().scores(raw)
        if self.config.negative_filter is None:
            return scores
        objectness = raw["arm_logits"].float().softmax(dim=-1)[..., 1:]
        return scores * (objectness >= self.least)

    def decode(self, raw: Raw, candidates: Candidates) -> Tensor:
        """Anchors moved by the first step, then by the second."""
        if self.config.two_step:
            deltas = raw["arm_deltas"][candidates.image, candidates.row].float()
            start = self.coder.decode(deltas, raw["anchors"][candidates.row])
        else:
            start = raw["anchors"][candidates.row]
        return self.coder.decode(raw["deltas"][candidates.image, candidates.row].float(), start)


def _steps(grids: Sequence[Grid], image: tuple[int, int]) -> list[Step]:
    return [float(s) for s in STRIDES]


def _modules(channels: Sequence[int], eps: float, deep: bool) -> EachMap:
    return EachMap([Residual(c, eps=eps) if deep else nn.Identity() for c in channels])


# -- the models -----------------------------------------------------------------------------------


_README = "README of the authors' repository"
_PAPER = "the paper, table 1"
_GPU = "Titan X, batch 1"
_COCO = "COCO test-dev"


@METHOD.model(
    "VGG-16",
    "320",
    Published(_COCO, "AP", 29.4, 38.7, _GPU, "the paper, table 2"),
    Published("VOC07 test (07+12)", "mAP@0.5", 80.0, 40.3, _GPU, _PAPER),
    Published("VOC12 test (07++12)", "mAP@0.5", 78.1, 40.3, _GPU, _PAPER),
    Published(f"{_COCO}, many scales", "AP", 35.2, source=_README),
)
def refinedet320_vgg16(classes: Sequence[str], **options: Any) -> RefineDet:
    """RefineDet at 320x320 on VGG-16: four maps, 6375 anchors."""
    return RefineDet(classes, Config.of(options, size=320))


@METHOD.model(
    "VGG-16",
    "512",
    Published(_COCO, "AP", 33.0, 22.3, _GPU, "the paper, table 2"),
    Published("VOC07 test (07+12)", "mAP@0.5", 81.8, 24.1, _GPU, _PAPER),
    Published("VOC12 test (07++12)", "mAP@0.5", 80.1, 24.1, _GPU, _PAPER),
    Published(f"{_COCO}, many scales", "AP", 37.6, source=_README),
)
def refinedet512_vgg16(classes: Sequence[str], **options: Any) -> RefineDet:
    """RefineDet at 512x512 on VGG-16: four maps, 16320 anchors."""
    return RefineDet(classes, Config.of(options, size=512))


@METHOD.model(
    "ResNet-101",
    "320",
    Published(_COCO, "AP", 32.0, source=_README),
    Published(f"{_COCO}, many scales", "AP", 38.6, source=_README),
)
def refinedet320_r101(classes: Sequence[str], **options: Any) -> RefineDet:
    """RefineDet at 320x320 on ResNet-101, with a residual block before each pair of predictors."""
    return RefineDet(classes, Config.of(options, size=320, backbone="resnet101"))


@METHOD.model(
    "ResNet-101",
    "512",
    Published(_COCO, "AP", 36.4, source=_README),
    Published(f"{_COCO}, many scales", "AP", 41.8, source=_README),
)
def refinedet512_r101(classes: Sequence[str], **options: Any) -> RefineDet:
    """RefineDet at 512x512 on ResNet-101."""
    return RefineDet(classes, Config.of(options, size=512, backbone="resnet101"))
