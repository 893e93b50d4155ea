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

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from boxatlas.backbones.vgg import VGG16
from boxatlas.boxes.nms import Candidates
from boxatlas.losses.refinement import refinement_loss
from boxatlas.necks.extra_maps import ExtraLayer, plain_layer
from boxatlas.necks.residual import EachMap, Residual
from boxatlas.necks.transfer import TransferConnection
from boxatlas.ops.norm import L2Norm
from boxatlas.options import convention, switch
from boxatlas.parts.base import Raw
from boxatlas.parts.default_boxes import (
    NormPlace,
    SingleShot,
    SingleShotConfig,
    Step,
    backbone_of,
    caffe_resnet101,
    given,
    per_cell,
)
from boxatlas.parts.dense import DenseHead, Grid, Predictor
from boxatlas.registry import Published, register_model
from boxatlas.structures import Batch, Frame

STRIDES = (8, 16, 32, 64)
SIZES = (32.0, 64.0, 128.0, 256.0)  # section 3.1: of each map's anchors, four times the stride


class RefineDetConfig(SingleShotConfig):
    """Every choice of RefineDet."""

    size: int | tuple[int, int] = convention(320, "input (height, width)")
    backbone: str = convention("vgg16", 'vgg16, resnet101 or "timm/NAME"')

    # The paper's own ablations (table 4).
    negative_filter: float | None = switch(
        0.99, "section 3.2: background above this is filtered; null: nothing is", gt=0, le=1
    )
    two_step: bool = switch(True, "section 3.1: the second step starts from refined anchors")
    tcb: Literal["deconvolution", "none"] = switch(
        "deconvolution", "section 3.1: transfer connection blocks; none: both read the same maps"
    )

    # How programs differ.
    filter_positives: bool = convention(False, "the filter takes positives too (in a port)")
    log_epsilon: float = convention(0.0, "inside the logarithm of the box code (in a port)", ge=0)
    ceil_pools: tuple[int, ...] = convention((1, 2, 3, 4), "VGG's pools that round up")
    norm_eps: float = convention(1e-10, "of the L2 norm")
    norm_place: NormPlace = convention("inside_root", "where that epsilon goes")
    bn_eps: float = convention(1e-5, "of ResNet's batch norms")
    residual_stride: Literal["1x1", "3x3"] = convention("1x1", "which convolution strides")


class Sources(nn.Module):
    """The backbone's three maps, normalised where `norms` says so, and one of half the last."""

    def __init__(self, norms: Sequence[nn.Module], extra: nn.Module) -> None:
        super().__init__()
        self.norms, self.extra = EachMap(norms), extra

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return [*self.norms(maps), self.extra(maps[-1])]


class RefineDet(SingleShot):
    """Backbone -> four maps -> ARM; the same maps -> TCB -> ODM, on anchors that the ARM moved."""

    config: RefineDetConfig

    def __init__(self, classes: Sequence[str], config: RefineDetConfig) -> None:
        backbone, preprocess = backbone_of(
            config,
            STRIDES[:3],
            vgg16=lambda: VGG16(
                ("conv4_3", "conv5_3", "fc7"), fc="strided", ceil_pools=config.ceil_pools
            ),
            resnet101=lambda: caffe_resnet101((3, 4, 5), config.residual_stride, config.bn_eps),
        )
        vgg, deep = config.backbone == "vgg16", config.backbone == "resnet101"
        place: dict[str, Any] = {"eps": config.norm_eps, "eps_place": config.norm_place}
        # Without a block before its predictors the ARM reads the maps themselves, each of a scale
        # of its own: section 3.1 sets VGG's first two to 10 and 8.
        scales = (None, None, None) if deep else (10.0, 8.0, None if vgg else 8.0)
        norms = [
            nn.Identity() if scale is None else L2Norm(channels, scale, **place)
            for channels, scale in zip(backbone.channels, scales, strict=True)
        ]
        last = backbone.channels[-1]
        extra = (
            Residual(last, 128, 512, stride=2, eps=config.bn_eps)
            if deep
            else plain_layer(last, ExtraLayer(256, 512))
        )
        sources = [*backbone.channels, 512]
        ratios = given(config.ratios, [(2.0,)] * 4, "ratios")
        tcb = config.tcb == "deconvolution"
        transfer = TransferConnection(sources, norm=not vgg) if tcb else None
        seen = sources if transfer is None else transfer.channels
        # On ResNet a residual block stands before each pair of predictors.
        before_arm = _modules(sources, config.bn_eps, deep)
        before_odm = _modules(seen, config.bn_eps, deep)
        if deep:
            sources = seen = [1024] * 4
        super().__init__(
            classes,
            preprocess,
            config,
            backbone=backbone,
            neck=Sources(norms, extra),
            head=DenseHead(seen, _boxes(ratios, config), len(classes) + 1, Predictor),
            ratios=ratios,
            sizes=(list(SIZES), [None] * 4),
            steps=_steps,
        )
        self.arm = DenseHead(sources, _boxes(ratios, config), 2, Predictor)
        self.transfer, self.before_arm, self.before_odm = transfer, before_arm, before_odm
        self.coder = replace(self.coder, log_epsilon=config.log_epsilon)

    def forward(
        self,
        images: Tensor,
        frames: Sequence[Frame] | None = None,
        proposals: Tensor | None = None,
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

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Equation 1: both steps' confidence and localisation, each by its own positives."""
        raw, targets, config = self(batch.images), batch.targets, self.config
        found = refinement_loss(
            raw["arm_logits"],
            raw["arm_deltas"],
            raw["logits"],
            raw["deltas"],
            raw["anchors"],
            targets.boxes,
            targets.labels,
            self.learned(targets),
            self.matches,
            self.coder,
            two_step=config.two_step,
            least=self.least,
            filter_negatives=config.negative_filter is not None,
            filter_positives=config.filter_positives,
            ratio=config.negatives,
            ranking="label" if config.filter_positives else "background",
            neg_overlap=config.match_iou,
        )
        weight = config.loc_weight
        return {
            "arm_classification": found.arm.classes,
            "arm_localisation": weight * found.arm.box,
            "classification": found.odm.classes,
            "localisation": weight * found.odm.box,
        }

    def candidates(self, raw: Raw, score: float | None) -> Candidates:
        """Anchors that the ARM calls background have no class."""
        if self.config.negative_filter is not None:
            objectness = raw["arm_logits"].float().softmax(dim=-1)[..., 1]
            logits = raw["logits"].clone()
            logits[..., 1:].masked_fill_((objectness < self.least)[..., None], -torch.inf)
            raw = {**raw, "logits": logits}
        return super().candidates(raw, score)

    def decode(self, raw: Raw, chosen: Candidates) -> Tensor:
        """Anchors moved by the first step, then by the second."""
        if self.config.two_step:
            deltas = raw["arm_deltas"][chosen.image, chosen.row].float()
            start = self.coder.decode(deltas, raw["anchors"][chosen.row])
        else:
            start = raw["anchors"][chosen.row]
        return self.coder.decode(raw["deltas"][chosen.image, chosen.row].float(), start)


def _boxes(ratios: Sequence[tuple[float, ...]], config: RefineDetConfig) -> list[int]:
    """Anchors in a cell of each map: one square and two for each ratio."""
    upper = config.max_sizes or (None,) * len(ratios)
    return [n + (m is not None) for n, m in zip(per_cell(ratios, 1), upper, strict=True)]


def _steps(grids: Sequence[Grid], image: tuple[int, int]) -> list[Step]:
    return [float(s) for s in STRIDES]


def _modules(channels: Sequence[int], eps: float, deep: bool) -> EachMap:
    return EachMap([Residual(c, eps=eps) if deep else nn.Identity() for c in channels])


# -- the models -----------------------------------------------------------------------------------


def _register(backbone: str, size: str, *published: Published) -> Any:
    return register_model(
        method="RefineDet",
        title="Single-Shot Refinement Neural Network for Object Detection",
        arxiv="1711.06897",
        year=2017,
        family="one-stage",
        backbone=backbone,
        size=size,
        published=published,
    )


def _build(classes: Sequence[str], defaults: dict[str, Any], options: dict[str, Any]) -> RefineDet:
    return RefineDet(classes, RefineDetConfig.of(**{**defaults, **options}))


_README = "README of the authors' repository"
_PAPER = "the paper, table 1"
_GPU = "Titan X, batch 1"
_COCO = "COCO test-dev"


@_register(
    "VGG-16",
    "320",
    Published(_COCO, "AP", 29.4, 38.7, _GPU, "the paper, table 2"),
    Published("VOC07 test (07+12)", "mAP@0.5", 80.0, 40.3, _GPU, _PAPER),
    Published("VOC12 test (07++12)", "mAP@0.5", 78.1, 40.3, _GPU, _PAPER),
    Published(f"{_COCO}, many scales", "AP", 35.2, source=_README),
)
def refinedet320_vgg16(classes: Sequence[str], **options: Any) -> RefineDet:
    """RefineDet at 320x320 on VGG-16: four maps, 6375 anchors."""
    return _build(classes, {"size": 320}, options)


@_register(
    "VGG-16",
    "512",
    Published(_COCO, "AP", 33.0, 22.3, _GPU, "the paper, table 2"),
    Published("VOC07 test (07+12)", "mAP@0.5", 81.8, 24.1, _GPU, _PAPER),
    Published("VOC12 test (07++12)", "mAP@0.5", 80.1, 24.1, _GPU, _PAPER),
    Published(f"{_COCO}, many scales", "AP", 37.6, source=_README),
)
def refinedet512_vgg16(classes: Sequence[str], **options: Any) -> RefineDet:
    """RefineDet at 512x512 on VGG-16: four maps, 16320 anchors."""
    return _build(classes, {"size": 512}, options)


@_register(
    "ResNet-101",
    "320",
    Published(_COCO, "AP", 32.0, source=_README),
    Published(f"{_COCO}, many scales", "AP", 38.6, source=_README),
)
def refinedet320_r101(classes: Sequence[str], **options: Any) -> RefineDet:
    """RefineDet at 320x320 on ResNet-101, with a residual block before each pair of predictors."""
    return _build(classes, {"size": 320, "backbone": "resnet101"}, options)


@_register(
    "ResNet-101",
    "512",
    Published(_COCO, "AP", 36.4, source=_README),
    Published(f"{_COCO}, many scales", "AP", 41.8, source=_README),
)
def refinedet512_r101(classes: Sequence[str], **options: Any) -> RefineDet:
    """RefineDet at 512x512 on ResNet-101."""
    return _build(classes, {"size": 512, "backbone": "resnet101"}, options)
