"""Cascade R-CNN. Cai & Vasconcelos 2017, arXiv 1712.00726; with masks 2019, arXiv 1906.09756.

A detector trained to call a box right at IoU 0.5 makes noisy boxes; trained at 0.7 it overfits,
since few proposals are that good. But a regressor's output boxes are better than its input, so that
heads in a row can each learn at a higher threshold from the boxes of the one before: the right
samples exist at every stage. Scores of a box are the mean of all stages'.

Shape letters: B images, P boxes of an image, K classes, T stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from boxatlas.boxes.formats import pairwise_iou
from boxatlas.detectors.fpn import (
    LIGHT,
    FasterRCNN,
    RegionConfig,
    box_head,
    box_predictor,
    coder_of,
)
from boxatlas.detectors.mask_rcnn import MaskChoices, WithMasks
from boxatlas.errors import InputError
from boxatlas.options import convention, switch
from boxatlas.parts.base import Raw
from boxatlas.parts.region.heads import per_roi
from boxatlas.parts.region.targets import (
    HeadBatch,
    RoITargets,
    SampledRoIs,
    all_rois,
    delta_column,
    roi_losses,
    sample_rois,
)
from boxatlas.registry import Published, register_model
from boxatlas.structures import Targets

Four = tuple[float, float, float, float]


class CascadeConfig(RegionConfig):
    """The cascade's choices."""

    stages: int = switch(3, "table 4: heads in a row", ge=1, le=4)
    iou_thresholds: tuple[float, ...] = switch(
        (0.5, 0.6, 0.7, 0.75), "table 3: from which overlap on each stage calls a box right"
    )
    stage_statistics: bool = switch(True, "table 3: each stage has a box code of its own scale")
    score_stages: Literal["mean", "last"] = switch("mean", "table 2: whose scores count")
    mode: Literal["cascade", "iterative", "integral"] = switch(
        "cascade", "table 1: or one head run repeatedly, or a classifier for each threshold"
    )

    class_agnostic: bool = convention(True, "one box for all classes")
    stage_weights: tuple[Four, ...] = convention(
        ((10, 10, 5, 5), (20, 20, 10, 10), (30, 30, 15, 15), (40, 40, 20, 20)),
        "of each stage's box code; without `stage_statistics` all have the first's",
    )
    score_boxes: Literal["last", "own"] = convention(
        "last", "heads score the last stage's boxes, or those that each was given"
    )
    score_of: Literal["probability", "logit"] = convention("probability", "what is averaged")
    stage_gradients: tuple[float, ...] = convention(
        (1, 0.5, 0.25, 0.125), "of each stage, into the trunk; its head learns in full"
    )
    stage_losses: tuple[float, ...] = convention((1, 1, 1, 1), "weights of the stages' losses")
    resample: bool = convention(False, "later stages draw from their boxes as the first does")
    append_objects: bool = convention(True, "later stages see the objects themselves too")
    drop_above: float | None = convention(0.95, "input overlap from which a box goes no further")
    clip_between: bool = convention(True, "boxes are clipped to the image between stages")


class Stage(NamedTuple):
    """What one stage was given and said: boxes [B, P, 4], logits [B, P, K + 1], deltas
    [B, P, D, 4], and the boxes that it made of them, [B, P, 4], which carry no gradient."""

    boxes: Tensor
    logits: Tensor
    deltas: Tensor
    refined: Tensor


class CascadeRCNN(FasterRCNN):
    """Faster R-CNN on a pyramid with T heads in a row."""

    config: CascadeConfig  # pyright: ignore[reportIncompatibleVariableOverride]
    head: nn.ModuleList
    predictor: nn.ModuleList

    def __init__(self, classes: Sequence[str], config: CascadeConfig) -> None:
        for name in ("iou_thresholds", "stage_weights", "stage_gradients", "stage_losses"):
            if len(getattr(config, name)) < config.stages:
                raise InputError(
                    f"needs a value for each of {config.stages} stages",
                    field=name,
                    value=getattr(config, name),
                )
        super().__init__(classes, config)
        heads = 1 if config.mode == "iterative" else config.stages
        self.head = nn.ModuleList(box_head(config, config.width) for _ in range(heads))
        self.predictor = nn.ModuleList(
            box_predictor(config, config.box_width, len(classes)) for _ in range(heads)
        )
        own = config.stage_statistics and config.mode == "cascade"
        weights = [config.stage_weights[t if own else 0] for t in range(config.stages)]
        self.coders = [coder_of(config, one) for one in weights]
        self.coder = self.coders[0 if config.mode == "integral" else config.stages - 1]

    # -- the stages ---------------------------------------------------------------------------

    def stage(
        self, features: list[Tensor], boxes: Tensor, t: int, gradient: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Stage t on boxes [B, P, 4] -> logits [B, P, K + 1], deltas [B, P, D, 4]."""
        t = min(t, len(self.head) - 1)
        pooled = self.roi.pool(features, boxes)
        if gradient != 1.0:  # the value stays, a part of the gradient goes on
            pooled = pooled * gradient + pooled.detach() * (1 - gradient)
        logits, deltas = self.predictor[t](self.head[t](pooled))
        raw = per_roi(logits, deltas, boxes)
        return raw["logits"], raw["deltas"]

    def refine(
        self, boxes: Tensor, logits: Tensor, deltas: Tensor, t: int, limits: Tensor | None
    ) -> Tensor:
        """The boxes that stage t makes of those that it was given."""
        best = logits[..., 1:].argmax(-1)
        column = delta_column(best, deltas.shape[2], self.class_agnostic, self.num_classes)
        own = deltas.detach().gather(2, column[..., None, None].expand(-1, -1, 1, 4))[:, :, 0]
        moved = self.coders[t].decode(own, boxes)
        if limits is None or not self.config.clip_between:
            return moved
        edge = limits.repeat(1, 2)[:, None] - int(self.config.inclusive)
        return torch.minimum(moved.clamp(min=0), edge)

    def run(
        self, features: list[Tensor], boxes: Tensor, limits: Tensor | None = None
    ) -> list[Stage]:
        """All stages in a row, each on the boxes of the one before (integral: on the same)."""
        done = []
        for t in range(self.config.stages):
            logits, deltas = self.stage(features, boxes, t)
            refined = self.refine(boxes, logits, deltas, t, limits)
            done.append(Stage(boxes, logits, deltas, refined))
            boxes = boxes if self.config.mode == "integral" else refined
        return done

    def heads(self, features: list[Tensor], boxes: Tensor, limits: Tensor | None = None) -> Raw:
        """Boxes [B, P, 4] -> scores [B, P, K + 1] of all stages (background first), and the last
        stage's deltas [B, P, D, 4] with the boxes that it was given, as "proposals"."""
        done = self.run(features, boxes, limits)
        last = done[0] if self.config.mode == "integral" else done[-1]
        return {
            "scores": self.ensemble(features, done),
            "deltas": last.deltas,
            "proposals": last.boxes,
        }

    def ensemble(self, features: list[Tensor], done: Sequence[Stage]) -> Tensor:
        """[B, P, K + 1]: section 4.2's mean over the stages of their classifiers.

        Every head sees the boxes of the last stage, or (`score_boxes` "own") its own.
        """
        config = self.config
        if config.score_stages == "last" and config.mode != "integral":
            return done[-1].logits.softmax(-1)
        logits = [one.logits for one in done]
        if config.score_boxes == "last" and config.mode == "cascade":
            logits[:-1] = [self.stage(features, done[-1].boxes, t)[0] for t in range(len(done) - 1)]
        if config.score_of == "logit":
            return torch.stack(logits).mean(0).softmax(-1)
        return torch.stack(logits).softmax(-1).mean(0)

    def class_scores(self, raw: Raw) -> Tensor:
        return raw["scores"][..., 1:]

    # -- learning -----------------------------------------------------------------------------

    def targets_of(self, t: int) -> RoITargets:
        """How stage t labels: at its own threshold, with no gap below it."""
        config = self.config
        high = config.iou_thresholds[0 if config.mode == "iterative" else t]
        return replace(
            self.roi_targets,
            high=high,
            low=0.0 if t else self.roi_targets.low,
            append_objects=config.append_objects if t else self.roi_targets.append_objects,
        )

    def head_loss(self, given: HeadBatch) -> dict[str, Tensor]:
        """Equation 6 (one term of each kind for every stage): each head on the boxes of the head
        before, labelled anew at its threshold."""
        return self.stage_losses(given, self.draw(given))[0]

    def stage_losses(
        self, given: HeadBatch, rois: SampledRoIs
    ) -> tuple[dict[str, Tensor], list[SampledRoIs]]:
        """The losses of all stages from the first one's RoIs, and what each stage learned from."""
        config = self.config
        losses: dict[str, Tensor] = {}
        seen = [rois]
        for t in range(len(self.head)):
            if config.mode == "integral" and t:
                rois = relabelled(rois, self.targets_of(t), given.targets)
            logits, deltas = self.stage(given.features, rois.boxes, t, config.stage_gradients[t])
            cls, box = roi_losses(
                logits, deltas, rois, self.coders[t], config.roi_beta, self.class_agnostic
            )
            count = (rois.labels >= 0).sum().clamp(min=1) / config.stage_losses[t]
            losses[f"stage{t + 1}_cls"] = cls.sum() / count
            if t == 0 or config.mode == "cascade":
                losses[f"stage{t + 1}_box"] = box.sum() / count
            if config.mode == "cascade" and t + 1 < len(self.head):
                rois = self.passed_on(given, rois, logits, deltas, t)
                seen.append(rois)
        return losses, seen

    @torch.no_grad()
    def passed_on(
        self, given: HeadBatch, rois: SampledRoIs, logits: Tensor, deltas: Tensor, t: int
    ) -> SampledRoIs:
        """What stage t + 1 learns from: stage t's boxes, but for those that were right already."""
        targets = given.targets
        moved = self.refine(rois.boxes, logits.detach(), deltas, t, given.limits)
        fine = (moved[..., 2:] > moved[..., :2]).all(-1) & (rois.labels >= 0)
        if self.config.drop_above is not None and targets.boxes.shape[1]:
            objects = targets.boxes * targets.valid[..., None]
            before = pairwise_iou(rois.boxes, objects, self.config.inclusive).amax(-1)
            fine &= before < self.config.drop_above
        rule = self.targets_of(t + 1)
        if self.config.resample:
            return sample_rois(rule, moved, fine, targets, given.generator)
        return all_rois(rule, moved, fine, targets)

    def _losses(self, features: list[Tensor], rois: SampledRoIs) -> tuple[Tensor, Tensor]:
        """Those of the first stage, by which hard examples are found."""
        logits, deltas = self.stage(features, rois.boxes, 0)
        return roi_losses(
            logits, deltas, rois, self.coders[0], self.config.roi_beta, self.class_agnostic
        )


def relabelled(rois: SampledRoIs, rule: RoITargets, targets: Targets) -> SampledRoIs:
    """The same boxes, labelled at another threshold."""
    bare = replace(rule, append_objects=False)
    return all_rois(bare, rois.boxes, rois.labels >= 0, targets)


class CascadeMaskConfig(MaskChoices, CascadeConfig):
    """Cascade R-CNN's choices, and the mask branch's."""

    mask_stages: Literal["first", "last", "all"] = switch(
        "all", "1906.09756, figure 6: which stages a mask branch learns beside"
    )


class CascadeMaskRCNN(WithMasks, CascadeRCNN):
    """A mask branch beside one stage or beside each; found boxes are drawn by the mean of all."""

    config: CascadeMaskConfig  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, classes: Sequence[str], config: CascadeMaskConfig) -> None:
        super().__init__(classes, config)
        self.add_masks(config.width, 14, 14)
        more = len(self.head) - 1 if config.mask_stages == "all" else 0
        self.more_masks = nn.ModuleList(self.branch(config.width, 14) for _ in range(more))

    def masks(self, features: list[Tensor], boxes: Tensor, branch: Any = None) -> Tensor:
        """Boxes [B, P, 4] -> mask logits [B, P, maps, m, m], of several branches their mean's."""
        if branch is not None or len(self.more_masks) == 0:
            return super().masks(features, boxes, branch)
        seen = self.mask_features(features, boxes)
        logits = torch.stack([one(seen) for one in (self.mask, *self.more_masks)])
        if self.config.mask_loss == "softmax":
            mean = logits.softmax(2).mean(0).log()
        else:
            mean = torch.logit(logits.sigmoid().mean(0), eps=1e-6)
        return mean.view(*boxes.shape[:2], *mean.shape[1:])

    def head_loss(self, given: HeadBatch) -> dict[str, Tensor]:
        """The cascade's, and a mask term for every stage with a branch, on that stage's RoIs."""
        losses, seen = self.stage_losses(given, self.draw(given))
        branches: list[Any] = [self.mask, *self.more_masks]
        shown = {"first": seen[:1], "last": seen[-1:], "all": seen}[self.config.mask_stages]
        for t, (branch, own) in enumerate(zip(branches, shown, strict=False)):
            name = "mask" if len(branches) == 1 else f"stage{t + 1}_mask"
            losses[name] = self.mask_loss(given.features, own, given.targets, branch)
        return losses


# -- the models -----------------------------------------------------------------------------------


def _register(
    title: str, arxiv: str, year: int, backbone: str, *published: Published, side: int = 800
) -> Any:
    method = "Cascade Mask R-CNN" if arxiv == _MASKS[1] else "Cascade R-CNN"
    return register_model(
        method=method,
        title=title,
        arxiv=arxiv,
        year=year,
        family="two-stage",
        backbone=backbone,
        size=f"shorter side {side}",
        published=published,
    )


_BOXES = ("Cascade R-CNN: Delving into High Quality Object Detection", "1712.00726", 2017)
_MASKS = (
    "Cascade R-CNN: High Quality Object Detection and Instance Segmentation",
    "1906.09756",
    2019,
)
_COMMON: dict[str, Any] = {"roi_op": "align"}


def _boxes(classes: Sequence[str], defaults: dict[str, Any], options: dict[str, Any]) -> Any:
    return CascadeRCNN(classes, CascadeConfig.of(**{**_COMMON, **defaults, **options}))


def _masks(classes: Sequence[str], defaults: dict[str, Any], options: dict[str, Any]) -> Any:
    return CascadeMaskRCNN(classes, CascadeMaskConfig.of(**{**_COMMON, **defaults, **options}))


@_register(
    *_BOXES, "ResNet-50", Published("COCO val2017", "AP", 40.3, 8.7, "Titan Xp", "the release")
)
def cascade_rcnn_r50_fpn(classes: Sequence[str], **options: Any) -> CascadeRCNN:
    """Cascade R-CNN on ResNet-50 with a feature pyramid."""
    return _boxes(classes, {}, options)


@_register(
    *_BOXES,
    "ResNet-101",
    Published("COCO test-dev", "AP", 42.8, 7.1, "Titan Xp", "table 5; 0.14 s"),
)
def cascade_rcnn_r101_fpn(classes: Sequence[str], **options: Any) -> CascadeRCNN:
    """Cascade R-CNN on ResNet-101 with a feature pyramid."""
    return _boxes(classes, {"backbone": "resnet101"}, options)


@_register(
    *_MASKS,
    "ResNet-50",
    Published("COCO val2017", "AP", 42.1, source="Detectron2's zoo, 1x"),
    Published("COCO val2017", "mask AP", 36.4, source="Detectron2's zoo, 1x"),
)
def cascade_mask_rcnn_r50_fpn(classes: Sequence[str], **options: Any) -> CascadeMaskRCNN:
    """Cascade R-CNN with masks on ResNet-50 with a feature pyramid."""
    return _masks(classes, {}, options)


@_register(
    *_MASKS,
    "ResNet-101",
    Published("COCO val2017", "AP", 43.3, source="the authors' port to Detectron"),
    Published("COCO val2017", "mask AP", 37.1, source="the authors' port to Detectron"),
)
def cascade_mask_rcnn_r101_fpn(classes: Sequence[str], **options: Any) -> CascadeMaskRCNN:
    """Cascade R-CNN with masks on ResNet-101 with a feature pyramid."""
    return _masks(classes, {"backbone": "resnet101"}, options)


@_register(*_BOXES, "EfficientNet-Lite0", side=320)
def cascade_rcnn320_efficientnet_lite0_fpn(classes: Sequence[str], **options: Any) -> CascadeRCNN:
    """A light pyramid of 128 channels for small machines, 320 pixels."""
    return _boxes(classes, LIGHT, options)


@_register(*_MASKS, "EfficientNet-Lite0", side=320)
def cascade_mask_rcnn320_efficientnet_lite0_fpn(
    classes: Sequence[str], **options: Any
) -> CascadeMaskRCNN:
    """The same with masks: one branch for all stages, of two convolutions."""
    own = {**LIGHT, "mask_convs": 2, "mask_width": 128, "mask_stages": "first"}
    return _masks(classes, own, options)
