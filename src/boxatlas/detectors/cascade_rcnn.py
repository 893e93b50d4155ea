"""Cascade R-CNN. Cai & Vasconcelos 2017, arXiv 1712.00726; with masks 2019, arXiv 1906.09756.

A detector trained to call a box right at IoU 0.5 makes noisy boxes; trained at 0.7 it overfits,
since few proposals are that good. But a regressor's output boxes are better than its input, so that
heads in a row can each be trained at a higher threshold on the boxes of the one before: the right
samples exist at every stage. Scores of a box are the mean of all stages'.

Shape letters: B images, P boxes of an image, K classes, D box columns, T stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from boxatlas.backbones.choice import BackboneChoices, TrunkChoices
from boxatlas.boxes.anchors import AnchorChoices
from boxatlas.boxes.matching import Assigned
from boxatlas.boxes.nms import SuppressionChoices
from boxatlas.errors import InputError
from boxatlas.options import Options, idea
from boxatlas.parts.base import Raw
from boxatlas.parts.region.detector import RegionDetector
from boxatlas.parts.region.heads import BoxPredictor, per_roi
from boxatlas.parts.region.masks import MaskBranch, MaskChoices, WithMasks
from boxatlas.parts.region.pyramid import HEADS, LIGHT, SIDE, Pyramid, PyramidChoices
from boxatlas.parts.region.roi import RoIChoices, box_coder
from boxatlas.parts.region.rpn import RPN, RPNChoices
from boxatlas.parts.region.stages import StageChoices, goes_on, mean_scores, with_gradient
from boxatlas.parts.region.targets import (
    HeadBatch,
    SampledRoIs,
    assigned_rois,
    delta_column,
    draw_rois,
    label_rois,
    roi_losses,
)
from boxatlas.registry import Method, Published
from boxatlas.structures import Frame, Targets

METHOD = Method(
    "Cascade R-CNN",
    "Cascade R-CNN: Delving into High Quality Object Detection",
    "1712.00726",
    2017,
    "two-stage",
)
MASKS = Method(
    "Cascade Mask R-CNN",
    "Cascade R-CNN: High Quality Object Detection and Instance Segmentation",
    "1906.09756",
    2019,
    "two-stage",
)


class CascadeChoices(Options):
    """The cascade's ideas; before the groups that it speaks of in `idle`."""

    stages: int = idea(3, "table 4: heads in a row", ge=1, le=4)
    iou_thresholds: tuple[Annotated[float, Field(gt=0, le=1)], ...] = idea(
        (0.5, 0.6, 0.7, 0.75), "table 3: from which overlap on each stage calls a box right"
    )
    stage_statistics: bool = idea(True, "table 3: each stage has a box code of its own scale")
    score_stages: Literal["mean", "last"] = idea("mean", "table 2: whose scores count")
    mode: Literal["cascade", "iterative", "integral"] = idea(
        "cascade", "table 1: or one head run repeatedly, or a classifier for each threshold"
    )

    def idle(self) -> dict[str, str]:
        assert isinstance(self, StageChoices)
        why = super().idle() | {"roi_positive_iou": "each stage has its own in iou_thresholds"}
        if self.stages == 1:
            alone = ("stage_statistics", "score_stages", "mode")
            why |= dict.fromkeys(alone, "there is one stage")
        elif self.mode == "integral":
            why["score_stages"] = "mode integral takes the mean"
        if self.mode != "cascade":
            why["stage_statistics"] = f"mode {self.mode} has one box code"
        if self.resample:  # so do later stages, whatever the first does
            why.pop("roi_positive_fraction", None)
        return why


class Config(
    CascadeChoices,
    BackboneChoices,
    TrunkChoices,
    PyramidChoices,
    AnchorChoices,
    RPNChoices,
    RoIChoices,
    StageChoices,
    SuppressionChoices,
):
    """The cascade on Faster R-CNN with a pyramid."""

    roi_op = "align"
    class_agnostic = True


class Stage(NamedTuple):
    """What one stage was given and said: boxes [B, P, 4], logits [B, P, K + 1], deltas
    [B, P, D, 4], and the boxes that it made of them, [B, P, 4], which carry no gradient."""

    boxes: Tensor
    logits: Tensor
    deltas: Tensor
    refined: Tensor


class CascadeRCNN(RegionDetector):
    """Faster R-CNN on a pyramid with T heads in a row."""

    config: Config  # pyright: ignore[reportIncompatibleVariableOverride]
    head: nn.ModuleList
    predictor: nn.ModuleList

    def __init__(self, classes: Sequence[str], config: Config) -> None:
        _check_stages(config)
        trunk, heads = Pyramid(config), 1 if config.mode == "iterative" else config.stages
        super().__init__(
            classes,
            config,
            trunk=trunk,
            rpn=RPN(config, box_coder(config), trunk.width, trunk.strides),
            head=nn.ModuleList(
                HEADS[config.box_head](trunk.width, SIDE, config.box_width) for _ in range(heads)
            ),
            predictor=nn.ModuleList(
                BoxPredictor(config, config.box_width, len(classes)) for _ in range(heads)
            ),
            roi_strides=trunk.roi_strides,
            roi_side=SIDE,
        )
        self.integral = config.mode == "integral"  # else each stage goes on from the one before
        own = config.stage_statistics and config.mode == "cascade"
        self.coders = [
            box_coder(config, config.stage_weights[t if own else 0]) for t in range(config.stages)
        ]
        self.coder = self.coders[0 if self.integral else config.stages - 1]

    # -- the stages ---------------------------------------------------------------------------

    def stage(
        self, features: list[Tensor], boxes: Tensor, t: int, gradient: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Stage t on boxes [B, P, 4] -> logits [B, P, K + 1], deltas [B, P, D, 4].

        gradient: the part of it that goes on to the features.
        """
        t = min(t, len(self.head) - 1)
        pooled = with_gradient(self.pool(features, boxes), gradient)
        logits, deltas = self.predictor[t](self.head[t](pooled))
        raw = per_roi(logits, deltas, boxes)
        return raw["logits"], raw["deltas"]

    def refine(
        self, boxes: Tensor, logits: Tensor, deltas: Tensor, t: int, limits: Tensor | None
    ) -> Tensor:
        """The boxes [B, P, 4] that stage t makes of those that it was given, within limits."""
        config, best = self.config, logits[..., 1:].argmax(-1)
        column = delta_column(best, deltas.shape[2], config.class_agnostic, self.num_classes)
        own = deltas.detach().gather(2, column[..., None, None].expand(-1, -1, 1, 4))[:, :, 0]
        moved = self.coders[t].decode(own, boxes)
        if limits is None:
            return moved
        edge = limits.repeat(1, 2)[:, None] - int(config.inclusive)
        return torch.minimum(moved.clamp(min=0), edge)

    def run(
        self, features: list[Tensor], boxes: Tensor, limits: Tensor | None = None
    ) -> list[Stage]:
        """All stages in a row, each on the boxes of the one before (integral: on the same)."""
        stages = []
        for t in range(self.config.stages):
            logits, deltas = self.stage(features, boxes, t)
            refined = self.refine(boxes, logits, deltas, t, limits)
            stages.append(Stage(boxes, logits, deltas, refined))
            boxes = boxes if self.integral else refined
        return stages

    def heads(self, features: list[Tensor], boxes: Tensor, limits: Tensor | None = None) -> Raw:
        """Boxes [B, P, 4] -> scores [B, P, K + 1] of all stages (background first), and the last
        stage's deltas [B, P, D, 4] with the boxes that it was given, as "proposals"."""
        stages = self.run(features, boxes, limits)
        last = stages[0] if self.integral else stages[-1]
        return {
            "scores": self.ensemble(features, stages),
            "deltas": last.deltas,
            "proposals": last.boxes,
        }

    def ensemble(self, features: list[Tensor], stages: Sequence[Stage]) -> Tensor:
        """[B, P, K + 1]: section 4.2's mean over the stages of their classifiers.

        Every head sees the boxes of the last stage, or (`score_boxes` "own") its own.
        """
        config = self.config
        if config.score_stages == "last" and not self.integral:
            return stages[-1].logits.softmax(-1)
        logits = [stage.logits for stage in stages]
        if config.score_boxes == "last" and config.mode == "cascade":
            boxes = stages[-1].boxes
            logits[:-1] = [self.stage(features, boxes, t)[0] for t in range(len(stages) - 1)]
        return mean_scores(config, logits)

    def class_scores(self, raw: Raw) -> Tensor:
        return raw["scores"][..., 1:]

    # -- training -----------------------------------------------------------------------------

    def label(self, boxes: Tensor, valid: Tensor, targets: Targets, t: int = 0) -> SampledRoIs:
        """As stage t labels: at its own threshold; later ones leave no gap below it."""
        config = self.config
        low = 0.0 if t or config.sampler == "ohem" else config.background_low
        return label_rois(
            boxes,
            valid,
            targets,
            positive_iou=config.iou_thresholds[t],
            background_low=low,
            learn_difficult=config.learn_difficult,
            append_objects=config.append_objects if t else True,
            inclusive=config.inclusive,
        )

    def relabel(self, rois: SampledRoIs, targets: Targets, t: int) -> SampledRoIs:
        """The same boxes, labelled at stage t's threshold."""
        config = self.config
        return label_rois(
            rois.boxes,
            rois.labels >= 0,
            targets,
            positive_iou=config.iou_thresholds[t],
            learn_difficult=config.learn_difficult,
            append_objects=False,
            inclusive=config.inclusive,
        )

    def head_loss(self, given: HeadBatch) -> dict[str, Tensor]:
        """Equation 6 (one term of each kind for every stage): each head on the boxes of the head
        before, labelled anew at its threshold."""
        return self.stage_losses(given, self.draw(given))[0]

    def stage_losses(
        self, given: HeadBatch, rois: SampledRoIs
    ) -> tuple[dict[str, Tensor], list[SampledRoIs]]:
        """The losses of all stages from the first one's RoIs, and the RoIs that each was given."""
        config = self.config
        losses: dict[str, Tensor] = {}
        seen = [rois]
        for t in range(len(self.head)):
            if self.integral and t:
                rois = self.relabel(rois, given.targets, t)
            logits, deltas = self.stage(given.features, rois.boxes, t, config.stage_gradients[t])
            cls, box = roi_losses(
                logits, deltas, rois, self.coders[t], config.roi_beta, config.class_agnostic
            )
            count = (rois.labels >= 0).sum().clamp(min=1) / config.stage_losses[t]
            losses[f"stage{t + 1}_cls"] = cls.sum() / count
            if t == 0 or not self.integral:
                losses[f"stage{t + 1}_box"] = box.sum() / count
            if not self.integral and t + 1 < len(self.head):
                rois = self.passed_on(given, rois, logits, deltas, t)
                seen.append(rois)
        return losses, seen

    def assigned_rois(self, given: HeadBatch, frames: Sequence[Frame]) -> list[Assigned]:
        """Each stage's RoIs at its own threshold; later ones are the boxes of the stage before."""
        rois, steps = self.label(given.boxes, given.valid, given.targets), []
        for t in range(len(self.head)):
            if self.integral and t:
                rois = self.relabel(rois, given.targets, t)
            name = f"RoIs of stage {t + 1}, IoU {self.config.iou_thresholds[t]:g}"
            steps.append(assigned_rois(name, rois, self.outward(rois.boxes, frames)))
            if not self.integral and t + 1 < len(self.head):
                logits, deltas = self.stage(given.features, rois.boxes, t)
                rois = self.passed_on(given, rois, logits, deltas, t)
        return steps

    @torch.no_grad()
    def passed_on(
        self, given: HeadBatch, rois: SampledRoIs, logits: Tensor, deltas: Tensor, t: int
    ) -> SampledRoIs:
        """The RoIs of stage t + 1: stage t's boxes, but for those that were right already."""
        config, targets = self.config, given.targets
        moved = self.refine(rois.boxes, logits.detach(), deltas, t, given.limits)
        valid = (moved[..., 2:] > moved[..., :2]).all(-1) & (rois.labels >= 0)
        valid &= goes_on(config, rois.boxes, targets, config.inclusive)
        later = self.label(moved, valid, targets, t + 1)
        if not config.resample:
            return later
        return draw_rois(later, config.roi_count, config.roi_positive_fraction, given.generator)

    def each_loss(self, features: list[Tensor], rois: SampledRoIs) -> tuple[Tensor, Tensor]:
        """Per-RoI losses of stage 1 [B, S], which rank hard examples."""
        logits, deltas = self.stage(features, rois.boxes, 0)
        config = self.config
        return roi_losses(
            logits, deltas, rois, self.coders[0], config.roi_beta, config.class_agnostic
        )


def _check_stages(config: Config) -> None:
    """Raise InputError where an option lacks a value for a stage."""
    values: dict[str, tuple[object, ...]] = {
        "iou_thresholds": config.iou_thresholds,
        "stage_weights": config.stage_weights,
        "stage_gradients": config.stage_gradients,
        "stage_losses": config.stage_losses,
    }
    for name, row in values.items():
        if len(row) < config.stages:
            raise InputError(
                f"needs a value for each of {config.stages} stages", field=name, value=row
            )


class MaskConfig(
    CascadeChoices,
    BackboneChoices,
    TrunkChoices,
    PyramidChoices,
    AnchorChoices,
    RPNChoices,
    RoIChoices,
    StageChoices,
    SuppressionChoices,
    MaskChoices,
):
    """The cascade's choices, and the mask branch's."""

    mask_stages: Literal["first", "last", "all"] = idea(
        "all", "1906.09756, figure 6: which stages a mask branch is trained beside"
    )
    roi_op = idea("align", "table 2c of Mask R-CNN: how a RoI is pooled")
    roi_reduce = idea("average", "table 2c of Mask R-CNN: what becomes of the samples in a bin")
    class_agnostic = True


class CascadeMaskRCNN(WithMasks, CascadeRCNN):
    """A mask branch beside one stage or beside each; detections' masks are the mean of all."""

    config: MaskConfig  # pyright: ignore[reportIncompatibleVariableOverride]
    mask_side = 14

    def __init__(self, classes: Sequence[str], config: MaskConfig) -> None:
        super().__init__(classes, config)  # pyright: ignore[reportArgumentType] more groups
        self.mask = self.branch(config.width, self.mask_side)
        more = len(self.head) - 1 if config.mask_stages == "all" else 0
        self.more_masks = nn.ModuleList(
            self.branch(config.width, self.mask_side) for _ in range(more)
        )

    def masks(
        self, features: list[Tensor], boxes: Tensor, branch: MaskBranch | None = None
    ) -> Tensor:
        """Boxes [B, P, 4] -> mask logits [B, P, maps, m, m], of several branches their mean's."""
        if branch is not None or len(self.more_masks) == 0:
            return super().masks(features, boxes, branch)
        seen = self.mask_features(features, boxes)
        logits = torch.stack([branch(seen) for branch in (self.mask, *self.more_masks)])
        if self.config.mask_loss == "softmax":
            mean = logits.softmax(2).mean(0).log()
        else:
            mean = torch.logit(logits.sigmoid().mean(0), eps=1e-6)
        return mean.view(*boxes.shape[:2], *mean.shape[1:])

    def head_loss(self, given: HeadBatch) -> dict[str, Tensor]:
        """The cascade's, and a mask term for every stage with a branch, on that stage's RoIs."""
        losses, seen = self.stage_losses(given, self.draw(given))
        branches = [self.mask, *self.more_masks]
        shown = {"first": seen[:1], "last": seen[-1:], "all": seen}[self.config.mask_stages]
        for t, (branch, rois) in enumerate(zip(branches, shown, strict=False)):
            assert isinstance(branch, MaskBranch)
            name = "mask" if len(branches) == 1 else f"stage{t + 1}_mask"
            losses[name] = self.mask_loss(given.features, rois, given.targets, branch)
        return losses


# -- the models -----------------------------------------------------------------------------------


@METHOD.model(
    "ResNet-50",
    "shorter side 800",
    Published("COCO val2017", "AP", 40.3, 8.7, "Titan Xp", "the release"),
)
def cascade_rcnn_r50_fpn(classes: Sequence[str], **options: Any) -> CascadeRCNN:
    """Cascade R-CNN on ResNet-50 with a feature pyramid."""
    return CascadeRCNN(classes, Config.of(options))


@METHOD.model(
    "ResNet-101",
    "shorter side 800",
    Published("COCO test-dev", "AP", 42.8, 7.1, "Titan Xp", "table 5; 0.14 s"),
)
def cascade_rcnn_r101_fpn(classes: Sequence[str], **options: Any) -> CascadeRCNN:
    """Cascade R-CNN on ResNet-101 with a feature pyramid."""
    return CascadeRCNN(classes, Config.of(options, backbone="resnet101"))


@MASKS.model(
    "ResNet-50",
    "shorter side 800",
    Published("COCO val2017", "AP", 42.1, source="Detectron2's zoo, 1x"),
    Published("COCO val2017", "mask AP", 36.4, source="Detectron2's zoo, 1x"),
)
def cascade_mask_rcnn_r50_fpn(classes: Sequence[str], **options: Any) -> CascadeMaskRCNN:
    """Cascade R-CNN with masks on ResNet-50 with a feature pyramid."""
    return CascadeMaskRCNN(classes, MaskConfig.of(options))


@MASKS.model(
    "ResNet-101",
    "shorter side 800",
    Published("COCO val2017", "AP", 43.3, source="the authors' port to Detectron"),
    Published("COCO val2017", "mask AP", 37.1, source="the authors' port to Detectron"),
)
def cascade_mask_rcnn_r101_fpn(classes: Sequence[str], **options: Any) -> CascadeMaskRCNN:
    """Cascade R-CNN with masks on ResNet-101 with a feature pyramid."""
    return CascadeMaskRCNN(classes, MaskConfig.of(options, backbone="resnet101"))


@METHOD.model("EfficientNet-Lite0", "shorter side 320")
def cascade_rcnn320_efficientnet_lite0_fpn(classes: Sequence[str], **options: Any) -> CascadeRCNN:
    """A light pyramid of 128 channels for small machines, 320 pixels."""
    return CascadeRCNN(classes, Config.of(options, **LIGHT))


@MASKS.model("EfficientNet-Lite0", "shorter side 320")
def cascade_mask_rcnn320_efficientnet_lite0_fpn(
    classes: Sequence[str], **options: Any
) -> CascadeMaskRCNN:
    """A light cascade with masks, at 320 pixels: one branch of two convolutions for all stages."""
    own = {**LIGHT, "mask_convs": 2, "mask_width": 128, "mask_stages": "first"}
    return CascadeMaskRCNN(classes, MaskConfig.of(options, **own))
