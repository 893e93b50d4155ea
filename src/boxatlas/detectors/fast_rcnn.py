"""Fast R-CNN. Girshick 2015, arXiv 1504.08083.

R-CNN runs its network on every proposal. Here the convolutions run once on the whole image, each
proposal (RoI) is pooled from their map to a fixed size, and the fully connected layers end in two
outputs that are trained together: class and box. No SVMs, no features on disk; training in one
stage, through all layers. Proposals still come from outside (selective search, or a file).

Shape letters: B images, P RoIs of an image, R = B * P, K classes, S scales, D width of fc7.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxatlas.backbones.choice import BackboneChoices, TrunkChoices
from boxatlas.boxes.nms import SuppressionChoices
from boxatlas.errors import InputError
from boxatlas.options import AtLeastOne, Options, Pixels, idea
from boxatlas.parts.base import ClassRows, Phase, Raw, Track
from boxatlas.parts.fits.described import described
from boxatlas.parts.fits.labelled_boxes import ImageLoader, LabelledBoxes
from boxatlas.parts.fits.svm import SVMRule, mine
from boxatlas.parts.region.detector import RegionDetector
from boxatlas.parts.region.heads import BoxPredictor, TwoFC, per_roi
from boxatlas.parts.region.pyramid import HEADS, SIDE, Pyramid, PyramidChoices
from boxatlas.parts.region.roi import RoIChoices, pool_from, with_image
from boxatlas.parts.region.single_level import (
    STRIDE,
    SingleLevelChoices,
    split_backbone,
    trained_layers,
)
from boxatlas.registry import Method, Published
from boxatlas.structures import Batch, Frame

METHOD = Method("Fast R-CNN", "Fast R-CNN", "1504.08083", 2015, "two-stage")


class FastChoices(Options):
    """Fast R-CNN's ideas, on whatever trunk."""

    gone: ClassVar[Mapping[str, Any]] = {"svm_c": 1e-3}

    proposals: AtLeastOne = idea(2000, "figure 3: how many of an image are looked at")
    training: Literal["multi_task", "staged", "classification"] = idea(
        "multi_task", "table 6: class and box together, one after the other, or classes alone"
    )
    classifier: Literal["softmax", "svm"] = idea("softmax", "table 8: or SVMs on fc7")


_LOW = "section 2.3: least overlap of a background RoI"
_DIFFICULT = "table 1: VOC's difficult objects are trained (off where the ignored are crowds)"


class Config(
    BackboneChoices, TrunkChoices, SingleLevelChoices, FastChoices, RoIChoices, SuppressionChoices
):
    """Fast R-CNN on one map, and the paper's values of its parts' choices."""

    scales: tuple[Pixels, ...] = idea(
        (600,),
        "table 7: shorter sides; of several, each RoI takes the one nearest to 224 pixels",
        min_length=1,
    )
    truncated_svd: tuple[AtLeastOne, AtLeastOne] | None = idea(
        None, "section 3.1: ranks of fc6 and fc7; the paper's are 1024 and 256"
    )

    background_low = idea(0.1, _LOW)
    learn_difficult = idea(True, _DIFFICULT)
    roi_count = 64  # section 2.3: 128 RoIs of two images
    box_width = 4096

    backbone = "vgg16"
    size = (600, 1000)
    nms_iou = 0.3


class PyramidConfig(
    BackboneChoices, TrunkChoices, PyramidChoices, FastChoices, RoIChoices, SuppressionChoices
):
    """Fast R-CNN on a pyramid (FPN, table 2)."""

    background_low = idea(0.0, _LOW)
    learn_difficult = idea(False, _DIFFICULT)
    proposals = 1000

    def idle(self) -> dict[str, str]:
        return super().idle() | {"p6": "P6 serves an RPN, and there is none"}


if TYPE_CHECKING:
    from boxatlas.parts.region.detector import RegionConfig

    class _Config(RegionConfig, FastChoices): ...


class FromProposals(RegionDetector):
    """A region detector whose proposals come from outside, softmax or SVMs on its last features,
    which are `width` wide."""

    config: _Config  # pyright: ignore[reportIncompatibleVariableOverride]
    svm_weight: Tensor
    svm_bias: Tensor
    svm_fitted: Tensor

    def __init__(
        self,
        classes: Sequence[str],
        config: FastChoices,
        *,
        trunk: nn.Module,
        head: nn.Module,
        width: int,
        roi_strides: Sequence[int],
        roi_side: int,
    ) -> None:
        assert isinstance(config, RoIChoices)
        super().__init__(
            classes,
            config,
            trunk=trunk,
            rpn=None,
            head=head,
            predictor=BoxPredictor(config, width, len(classes)),
            roi_strides=roi_strides,
            roi_side=roi_side,
        )
        self.takes_proposals = self.config.proposals
        if self.config.classifier == "svm":
            self.register_buffer("svm_weight", torch.zeros(self.num_classes, width))
            self.register_buffer("svm_bias", torch.zeros(self.num_classes))
            self.register_buffer("svm_fitted", torch.tensor(False))

    def describe_rois(self, features: list[Tensor], boxes: Tensor) -> Tensor:
        """Boxes [B, P, 4] -> fc7 [R, D]."""
        return self.head(self.pool(features, boxes))

    def heads(self, features: list[Tensor], boxes: Tensor, limits: Tensor | None = None) -> Raw:
        """As `RegionDetector.heads`, plus "margins" [B, P, K] when the classifier is an SVM."""
        seen = self.describe_rois(features, boxes)
        logits, deltas = self.predictor(seen)
        if self.config.training == "classification":
            deltas = deltas * 0.0
        raw = per_roi(logits, deltas, boxes)
        if self.config.classifier == "svm":
            raw["margins"] = F.linear(seen, self.svm_weight, self.svm_bias)
            raw["margins"] = raw["margins"].unflatten(0, boxes.shape[:2])
        return raw

    def forward(
        self, images: Tensor, frames: Sequence[Frame] | None = None, proposals: Tensor | None = None
    ) -> Raw:
        """As `RegionDetector.forward`, on the first `proposals` of those given."""
        if proposals is not None:
            proposals = proposals[:, : self.config.proposals]
        return super().forward(images, frames, proposals)

    def class_scores(self, raw: Raw) -> Tensor:
        """The softmax's; or once SVMs are fitted the logistic of their margins, 0.5 at 0."""
        if "margins" in raw and bool(self.svm_fitted):
            return raw["margins"].sigmoid()
        return super().class_scores(raw)

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        most = self.config.proposals
        if batch.proposals is not None and batch.valid is not None:
            batch = replace(batch, proposals=batch.proposals[:, :most], valid=batch.valid[:, :most])
        losses = super().loss(batch, generator)
        if self.config.training == "classification":
            del losses["roi_box"]
        return losses

    def trained_layers(self) -> tuple[str, ...]:
        """Name patterns of what is trained in the trunk."""
        return ("trunk.*",)

    def phases(self) -> list[Phase]:
        """Section 2.3 trains all at once; table 6 compares with boxes after classes."""
        body = (*self.trained_layers(), "head.*")
        if self.config.training == "staged":
            phases = [
                Phase("classes", (*body, "predictor.cls.*"), ("roi_cls",)),
                Phase("boxes", ("predictor.box.*",), ("roi_box",), init_from="classes"),
            ]
        elif self.config.training == "classification":
            phases = [Phase("train", (*body, "predictor.cls.*"))]
        else:
            phases = [Phase("train", (*body, "predictor.*"))]
        if self.config.classifier == "svm":
            phases.append(Phase("svms", init_from=phases[-1].name, fit=self.fit_svms))
        return phases

    def fit_svms(self, loader: ImageLoader, folder: Path, track: Track) -> None:
        """Section 5.4: SVMs on fc7 with hard negatives mined, as R-CNN trains them."""
        labelled = LabelledBoxes.of(loader, folder, self.num_classes, track)
        width = self.svm_weight.shape[1]
        cache = described(loader, folder, track, labelled, width, self._describe)
        weight, bias, scale = mine(cache, labelled.overlaps, labelled.own, SVMRule(), track)
        self.svm_weight.copy_(torch.from_numpy(weight) * scale)  # features go in as they are
        self.svm_bias.copy_(torch.from_numpy(bias))
        self.svm_fitted.fill_(True)
        cache.remove()

    def _describe(self, batch: Batch, boxes: list[Tensor]) -> list[Tensor]:
        """fc7 of each image's boxes."""
        maps = self.features(batch.images.to(self.device))
        rows = []
        for i, own in enumerate(boxes):
            own = self.inward(own.to(self.device)[None], batch.frames[i : i + 1])
            rows.append(self.describe_rois([m[i : i + 1] for m in maps], own))
        return rows

    def class_rows(self) -> dict[str, ClassRows]:
        rows = dict(super().class_rows())
        held = ("svm_weight", "svm_bias") if self.config.classifier == "svm" else ()
        return rows | {name: ClassRows(1, 0) for name in held}


class FastRCNN(FromProposals):
    """A classification network in two: convolutions for the image, fc6 and fc7 for a RoI."""

    config: Config  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, classes: Sequence[str], config: Config) -> None:
        if len(config.scales) > 1:  # the input has the largest; others are made of it
            largest = max(config.scales)
            config = config.model_copy(
                update={"size": (largest, round(largest * config.size[1] / config.size[0]))}
            )
        parts = split_backbone(config)
        super().__init__(
            classes,
            config,
            trunk=parts.trunk,
            head=parts.head,
            width=parts.head.width,
            roi_strides=(STRIDE,),
            roi_side=parts.side,
        )
        if config.truncated_svd is not None:
            if not isinstance(parts.head, TwoFC):
                problem = "only fc6 and fc7 are truncated"
                raise InputError(problem, field="truncated_svd", value=config.truncated_svd)
            self.head = TruncatedFC(parts.head, config.truncated_svd)

    def trained_layers(self) -> tuple[str, ...]:
        return trained_layers(self.config)

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

    def pool(self, features: list[Tensor], boxes: Tensor) -> Tensor:
        """Section 2.3: each RoI from the scale at which its area is nearest to 224 x 224."""
        if len(features) == 1:
            return super().pool(features, boxes)
        rois = with_image(boxes)
        area = (rois[:, 3:] - rois[:, 1:3]).prod(1)
        factors = rois.new_tensor(self.factors)
        level = (area[:, None] * factors**2 - 224.0**2).abs().argmin(1)
        scales = [factor / STRIDE for factor in self.factors]
        return pool_from(self.config, features, rois, level, scales, self.roi_side)


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


class FastPyramid(FromProposals):
    """A pyramid, RoI features of 7 x 7, two fully connected layers, classes and boxes."""

    config: PyramidConfig  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, classes: Sequence[str], config: PyramidConfig) -> None:
        trunk = Pyramid(config, p6=False)
        super().__init__(
            classes,
            config,
            trunk=trunk,
            head=HEADS[config.box_head](trunk.width, SIDE, config.box_width),
            width=config.box_width,
            roi_strides=trunk.roi_strides,
            roi_side=SIDE,
        )


# -- the models -----------------------------------------------------------------------------------


@METHOD.model(
    "VGG-16",
    "shorter side 600",
    Published("VOC07 test (07)", "mAP@0.5", 66.9, 3.1, "K40", "table 1; 0.32 s, no proposals"),
    Published("VOC07 test (07+12)", "mAP@0.5", 70.0, source="table 1"),
    Published("VOC12 test (07++12)", "mAP@0.5", 68.4, source="table 3"),
)
def fast_rcnn_vgg16(classes: Sequence[str], **options: Any) -> FastRCNN:
    """Fast R-CNN on VGG-16, the paper's L."""
    return FastRCNN(classes, Config.of(options))


@METHOD.model(
    "CaffeNet", "shorter side 600", Published("VOC07 test (07)", "mAP@0.5", 57.1, source="table 6")
)
def fast_rcnn_alexnet(classes: Sequence[str], **options: Any) -> FastRCNN:
    """Fast R-CNN on CaffeNet, the paper's S."""
    return FastRCNN(classes, Config.of(options, backbone="caffenet"))


@METHOD.model(
    "ResNet-50",
    "shorter side 800",
    Published("COCO minival", "AP", 33.9, source="FPN table 2 (c)"),
    Published("COCO val2017", "AP", 37.8, source="Detectron2's zoo"),
)
def fast_rcnn_r50_fpn(classes: Sequence[str], **options: Any) -> FastPyramid:
    """Fast R-CNN on ResNet-50 with a feature pyramid."""
    return FastPyramid(classes, PyramidConfig.of(options))


@METHOD.model("EfficientNet-Lite0", "shorter side 320")
def fast_rcnn320_efficientnet_lite0(classes: Sequence[str], **options: Any) -> FastRCNN:
    """A light form for small machines: one map of stride 16."""
    own = Config.of(
        options,
        backbone="timm/tf_efficientnet_lite0",
        size=320,
        box_width=512,
        roi_op="align",
        dropout=0.0,
        proposals=1000,
        background_low=0.0,
    )
    return FastRCNN(classes, own)
