"""Fast R-CNN. Girshick 2015, arXiv 1504.08083.

R-CNN runs its network on every proposal. Here the convolutions run once on the whole image, each
proposal (RoI) is pooled from their map to a fixed size, and the fully connected layers end in two
outputs that learn together: class and box. No SVMs, no features on disk; training in one stage,
through all layers. Proposals still come from outside (selective search, or a file).

Shape letters: B images, P RoIs of an image, R = B * P, K classes, S scales, D width of fc7.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxatlas.backbones.choice import pyramid_preprocess
from boxatlas.detectors.fpn import (
    Pyramid,
    PyramidConfig,
    box_head,
    box_predictor,
    head_parts,
    pyramid_roi,
)
from boxatlas.errors import InputError
from boxatlas.ops.roi import pyramid_pool
from boxatlas.options import Options, convention, switch
from boxatlas.parts.base import ClassRows, Phase, Raw, Track
from boxatlas.parts.fits.feature_cache import FeatureCache
from boxatlas.parts.fits.labelled_boxes import Windows
from boxatlas.parts.fits.svm import SVMRule, mine
from boxatlas.parts.region.detector import RegionDetector
from boxatlas.parts.region.heads import TwoFC, per_roi
from boxatlas.parts.region.single_level import (
    OneMapConfig,
    cut,
    learned_layers,
    one_map_parts,
    one_map_preprocess,
)
from boxatlas.registry import Published, register_model
from boxatlas.structures import Batch, Frame


class FastChoices(Options):
    """Fast R-CNN's choices."""

    proposals: int = switch(2000, "figure 3: how many of an image are looked at", ge=1)
    background_low: float = switch(0.1, "section 2.3: least overlap of a background RoI", ge=0)
    learn_difficult: bool = switch(
        True, "table 1: VOC's difficult objects are learned (off where the ignored are crowds)"
    )
    training: Literal["multi_task", "staged", "classification"] = switch(
        "multi_task", "table 6: class and box together, one after the other, or classes alone"
    )
    classifier: Literal["softmax", "svm"] = switch("softmax", "table 8: or SVMs on fc7")
    svm_c: float = convention(1e-3, "C of the SVMs", gt=0)


class FromProposals(RegionDetector):
    """A region detector whose proposals come from outside, softmax or SVMs on its last features."""

    svm_weight: Tensor
    svm_bias: Tensor
    svm_fitted: Tensor

    @property
    def choices(self) -> FastChoices:
        assert isinstance(self.config, FastChoices)
        return self.config

    def add_choices(self, width: int) -> None:
        """Called once, at the end of __init__; width: of the features that SVMs would see."""
        config = self.choices
        self.takes_proposals = config.proposals
        self.roi_targets = replace(
            self.roi_targets,
            learn_ignored=config.learn_difficult,
            low=0.0 if self.roi_targets.sampler == "ohem" else config.background_low,
        )
        if config.classifier == "svm":
            self.register_buffer("svm_weight", torch.zeros(self.num_classes, width))
            self.register_buffer("svm_bias", torch.zeros(self.num_classes))
            self.register_buffer("svm_fitted", torch.tensor(False))

    def describe_rois(self, features: list[Tensor], boxes: Tensor) -> Tensor:
        """Boxes [B, P, 4] -> fc7 [R, D]."""
        return self.head(self.roi.pool(features, boxes))

    def heads(self, features: list[Tensor], boxes: Tensor, limits: Tensor | None = None) -> Raw:
        """As every region detector's; with SVMs, their margins [B, P, K] too."""
        seen = self.describe_rois(features, boxes)
        logits, deltas = self.predictor(seen)
        if self.choices.training == "classification":
            deltas = deltas * 0.0
        raw = per_roi(logits, deltas, boxes)
        if self.choices.classifier == "svm":
            raw["margins"] = F.linear(seen, self.svm_weight, self.svm_bias)
            raw["margins"] = raw["margins"].unflatten(0, boxes.shape[:2])
        return raw

    def forward(
        self,
        images: Tensor,
        frames: Sequence[Frame] | None = None,
        proposals: Tensor | None = None,
    ) -> Raw:
        """As every region detector's, on the first `proposals` of those given."""
        if proposals is not None:
            proposals = proposals[:, : self.choices.proposals]
        return super().forward(images, frames, proposals)

    def class_scores(self, raw: Raw) -> Tensor:
        """The softmax's; or once SVMs are fitted the logistic of their margins, 0.5 at 0."""
        if "margins" in raw and bool(self.svm_fitted):
            return raw["margins"].sigmoid()
        return super().class_scores(raw)

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        most = self.choices.proposals
        if batch.proposals is not None and batch.valid is not None:
            batch = replace(batch, proposals=batch.proposals[:, :most], valid=batch.valid[:, :most])
        losses = super().loss(batch, generator)
        if self.choices.training == "classification":
            del losses["roi_box"]
        return losses

    def learned(self) -> tuple[str, ...]:
        """Name patterns of what learns in the trunk."""
        return ("trunk.*",)

    def phases(self) -> list[Phase]:
        """Section 2.3 learns all at once; table 6 compares with learning boxes after classes."""
        body = (*self.learned(), "head.*")
        if self.choices.training == "staged":
            made = [
                Phase("classes", (*body, "predictor.cls.*"), ("roi_cls",)),
                Phase("boxes", ("predictor.box.*",), ("roi_box",), init_from="classes"),
            ]
        elif self.choices.training == "classification":
            made = [Phase("train", (*body, "predictor.cls.*"))]
        else:
            made = [Phase("train", (*body, "predictor.*"))]
        if self.choices.classifier == "svm":
            made.append(Phase("svms", init_from=made[-1].name, fit=self.fit_svms))
        return made

    def fit_svms(self, loader: Any, folder: Path, track: Track) -> None:
        """Section 5.4: SVMs on fc7 with hard negatives mined, as R-CNN trains them."""
        windows = Windows.of(loader, folder, self.num_classes, track)
        width = self.svm_weight.shape[1]
        cache = FeatureCache(folder, windows.counts.tolist(), width)
        size = getattr(loader, "batch_size", 1)
        start = cache.done // size
        cache.done = start * size  # whole batches
        shown = track(range(start, len(loader)), cache.announced())
        for _, batch in zip(shown, loader.epoch(0, start=start), strict=True):
            maps = self.features(batch.images.to(self.device))
            for i in range(len(batch)):
                boxes = torch.from_numpy(windows.boxes[cache.of(cache.done)]).to(self.device)
                boxes = self._inward(boxes[None], batch.frames[i : i + 1])
                rows = self.describe_rois([m[i : i + 1] for m in maps], boxes)
                cache.add(rows.cpu().half().numpy())
        cache.commit()
        rule = SVMRule(C=self.choices.svm_c)
        weight, bias, scale = mine(cache, windows.overlaps, windows.own, rule, track)
        self.svm_weight.copy_(torch.from_numpy(weight) * scale)  # features go in as they are
        self.svm_bias.copy_(torch.from_numpy(bias))
        self.svm_fitted.fill_(True)
        cache.remove()

    def class_rows(self) -> dict[str, ClassRows]:
        rows = dict(super().class_rows())
        held = ("svm_weight", "svm_bias") if self.choices.classifier == "svm" else ()
        return rows | {name: ClassRows(1, 0) for name in held}


class FastConfig(FastChoices, OneMapConfig):
    """Fast R-CNN on one map."""

    scales: tuple[int, ...] = switch(
        (600,), "table 7: shorter sides; of several, each RoI takes the one nearest to 224 pixels"
    )
    truncated_svd: tuple[int, int] | None = switch(
        None, "section 3.1: ranks of fc6 and fc7; the paper's are 1024 and 256"
    )
    roi_count: int = convention(64, "RoIs that learn, per image")


class FastRCNN(FromProposals):
    """A classification network cut in two: convolutions for the image, fc6 and fc7 for a RoI."""

    config: FastConfig

    def __init__(self, classes: Sequence[str], config: FastConfig) -> None:
        if len(config.scales) > 1:  # the input has the largest; others are made of it
            largest = max(config.scales)
            config = config.model_copy(
                update={"size": (largest, round(largest * config.size[1] / config.size[0]))}
            )
        parts = cut(config)
        predictor = box_predictor(config, parts.head.width, len(classes))
        super().__init__(
            classes,
            one_map_preprocess(config),
            config,
            rpn=None,
            predictor=predictor,
            **one_map_parts(config, parts),
        )
        self.add_choices(parts.head.width)
        if config.truncated_svd is not None:
            if not isinstance(self.head, TwoFC):
                raise InputError(
                    "only fc6 and fc7 are truncated",
                    field="truncated_svd",
                    value=config.truncated_svd,
                )
            self.head = TruncatedFC(self.head, config.truncated_svd)

    def learned(self) -> tuple[str, ...]:
        return learned_layers(self.config)

    # -- several scales -----------------------------------------------------------------------

    @property
    def factors(self) -> list[float]:
        """Each scale's size beside that of the input."""
        return [side / max(self.config.scales) for side in self.config.scales]

    def features(self, images: Tensor) -> list[Tensor]:
        """The map of each scale; smaller ones see the input resized."""
        maps = []
        for factor in self.factors:
            seen = images
            if factor != 1.0:
                size = [max(1, round(side * factor)) for side in images.shape[-2:]]
                seen = F.interpolate(images, size, mode="bilinear", antialias=True)
            maps += self.trunk(seen)
        return maps

    def describe_rois(self, features: list[Tensor], boxes: Tensor) -> Tensor:
        """Section 2.3: each RoI from the scale at which its area is nearest to 224 x 224."""
        if len(features) == 1:
            return super().describe_rois(features, boxes)
        rois, rule = self.roi.rois(boxes), self.roi
        area = (rois[:, 3:] - rois[:, 1:3]).prod(1)
        factors = rois.new_tensor(self.factors)
        level = (area[:, None] * factors**2 - 224.0**2).abs().argmin(1)
        pooled = pyramid_pool(
            features,
            [f / rule.strides[0] for f in self.factors],
            rois,
            level,
            rule.size,
            op="pool" if rule.op == "pool" else "align",
            sampling_ratio=rule.sampling_ratio,
            aligned=rule.aligned,
        )
        return self.head(pooled)


class TruncatedFC(nn.Module):
    """fc6 and fc7 as two thin layers each (section 3.1): W = U S V is U after S V.

    Made from a trained head, or to be filled from a file; t (u + v) parameters instead of u v.
    """

    def __init__(self, head: TwoFC, ranks: tuple[int, int]) -> None:
        super().__init__()
        self.width, self.dropout = head.width, head.dropout
        for name, rank in zip(("fc6", "fc7"), ranks, strict=True):
            layer: nn.Linear = getattr(head, name)
            rank = min(rank, *layer.weight.shape)
            thin = nn.Linear(layer.in_features, rank, bias=False)
            wide = nn.Linear(rank, layer.out_features)
            self.add_module(f"{name}_L", thin)
            self.add_module(f"{name}_U", wide)

    @torch.no_grad()
    def take(self, head: TwoFC) -> None:
        """The truncated SVD of a trained head's layers."""
        for name in ("fc6", "fc7"):
            layer: nn.Linear = getattr(head, name)
            thin, wide = getattr(self, f"{name}_L"), getattr(self, f"{name}_U")
            u, s, v = torch.linalg.svd(layer.weight, full_matrices=False)
            rank = len(thin.weight)
            thin.weight.copy_(s[:rank, None] * v[:rank])
            wide.weight.copy_(u[:, :rank])
            wide.bias.copy_(layer.bias)

    def forward(self, rois: Tensor) -> Tensor:
        x = rois.flatten(1)
        for name in ("fc6", "fc7"):
            thin, wide = getattr(self, f"{name}_L"), getattr(self, f"{name}_U")
            x = F.dropout(F.relu(wide(thin(x)), inplace=True), self.dropout, self.training)
        return x


def truncated(model: FastRCNN, ranks: tuple[int, int] = (1024, 256)) -> FastRCNN:
    """A trained detector with fc6 and fc7 replaced by their truncated SVD (section 3.1)."""
    assert isinstance(model.head, TwoFC)
    options = {**model.options, "truncated_svd": tuple(ranks)}
    config = model.config.model_copy(update={"truncated_svd": tuple(ranks)})
    made = FastRCNN(model.classes, config)
    made.name, made.options, made.preprocess = model.name, options, model.preprocess
    made.load_state_dict(model.state_dict(), strict=False)
    assert isinstance(made.head, TruncatedFC)
    made.head.take(model.head)
    return made.to(model.device)


class FastPyramidConfig(FastChoices, PyramidConfig):
    """Fast R-CNN on a pyramid (FPN, table 2)."""


class FastPyramid(FromProposals):
    """A pyramid, RoI features of 7 x 7, two fully connected layers, classes and boxes."""

    def __init__(self, classes: Sequence[str], config: FastPyramidConfig) -> None:
        trunk = Pyramid(config, "none")
        super().__init__(
            classes,
            pyramid_preprocess(config.backbone, config.size),
            config,
            trunk=trunk,
            rpn=None,
            head=box_head(config, trunk.width),
            predictor=box_predictor(config, config.box_width, len(classes)),
            roi=pyramid_roi(config, trunk.roi_strides),
            **head_parts(config),
        )
        self.add_choices(config.box_width)


# -- the models -----------------------------------------------------------------------------------


def _register(backbone: str, size: str, *published: Published) -> Any:
    return register_model(
        method="Fast R-CNN",
        title="Fast R-CNN",
        arxiv="1504.08083",
        year=2015,
        family="two-stage",
        backbone=backbone,
        size=size,
        published=published,
    )


@_register(
    "VGG-16",
    "shorter side 600",
    Published("VOC07 test (07)", "mAP@0.5", 66.9, 3.1, "K40", "table 1; 0.32 s, no proposals"),
    Published("VOC07 test (07+12)", "mAP@0.5", 70.0, source="table 1"),
    Published("VOC12 test (07++12)", "mAP@0.5", 68.4, source="table 3"),
)
def fast_rcnn_vgg16(classes: Sequence[str], **options: Any) -> FastRCNN:
    """Fast R-CNN on VGG-16, the paper's L."""
    return FastRCNN(classes, FastConfig.of(**options))


@_register(
    "CaffeNet", "shorter side 600", Published("VOC07 test (07)", "mAP@0.5", 57.1, source="table 6")
)
def fast_rcnn_alexnet(classes: Sequence[str], **options: Any) -> FastRCNN:
    """Fast R-CNN on CaffeNet, the paper's S."""
    return FastRCNN(classes, FastConfig.of(**{"backbone": "caffenet", **options}))


@_register(
    "ResNet-50",
    "shorter side 800",
    Published("COCO minival", "AP", 33.9, source="FPN table 2 (c)"),
    Published("COCO val2017", "AP", 37.8, source="Detectron2's zoo"),
)
def fast_rcnn_r50_fpn(classes: Sequence[str], **options: Any) -> FastPyramid:
    """Fast R-CNN on ResNet-50 with a feature pyramid."""
    own = {"background_low": 0.0, "learn_difficult": False, "proposals": 1000}
    return FastPyramid(classes, FastPyramidConfig.of(**{**own, **options}))


@_register("EfficientNet-Lite0", "shorter side 320")
def fast_rcnn320_efficientnet_lite0(classes: Sequence[str], **options: Any) -> FastRCNN:
    """A light form for small machines: one map of stride 16."""
    own = {
        "backbone": "timm/tf_efficientnet_lite0",
        "size": 320,
        "box_width": 512,
        "roi_op": "align",
        "dropout": 0.0,
        "proposals": 1000,
        "background_low": 0.0,
    }
    return FastRCNN(classes, FastConfig.of(**{**own, **options}))
