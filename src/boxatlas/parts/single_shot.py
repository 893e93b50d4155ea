"""What the detectors on default boxes share: SSD's matching, mining and loss; their backbones.

SSD, DSSD, FSSD, DSOD, RFBNet, RefineDet and M2Det differ in backbone, neck, head and tables and say
so in their own files. Shape letters: B images, A default boxes, K classes, M objects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from boxatlas.backbones.choice import BackboneChoices
from boxatlas.backbones.darknet import INPUTS, STAGES, Darknet
from boxatlas.backbones.dsod import DSODNet
from boxatlas.backbones.mobilenet_v1 import MobileNetV1
from boxatlas.backbones.mobilenet_v3 import MobileNetV3Large
from boxatlas.backbones.resnet import ResNet
from boxatlas.backbones.timm_features import PREFIX, TimmFeatures, normalisation
from boxatlas.backbones.vgg import VGG16
from boxatlas.boxes.coders import CLAMP, DeltaCoder
from boxatlas.boxes.matching import (
    Assigned,
    MatchChoices,
    Matches,
    match_argmax_per_object,
    match_bipartite,
)
from boxatlas.errors import InputError
from boxatlas.images import Preprocess
from boxatlas.losses.multibox import multibox_loss
from boxatlas.options import NotNegative, Options, Positive, habit, idea, setting
from boxatlas.parts.default_boxes import DefaultBoxes
from boxatlas.parts.dense import DenseDetector, DenseHead, Grid, MakePredictor, Predictor
from boxatlas.structures import Batch, Targets

PaperBackbone = (
    VGG16 | ResNet | MobileNetV1 | MobileNetV3Large | DSODNet
)  # what the papers built on
Backbone = PaperBackbone | TimmFeatures | Darknet


class MultiboxChoices(Options):
    """SSD's training: what default boxes answer for, which are background, how a box is written."""

    negatives: NotNegative = idea(3.0, "SSD, section 2.2: hard negatives for each positive", le=1e6)
    loc_weight: NotNegative = idea(1.0, "SSD, equation 1: weight of the localisation loss")
    match: Literal["bipartite", "argmax"] = habit(
        "bipartite",
        "an object's own default box: by bipartite matching, or its nearest, as the ports do",
    )
    mine_over: Literal["image", "batch"] = setting(
        "image",
        "SSD, section 2.2: hard negatives are counted and drawn in each image, so that one without "
        "objects teaches nothing; over the batch it does",
    )
    difficult: Literal["keep", "drop", "ignore"] = setting(
        "keep",
        "difficult objects and crowds are trained on as others; left out, so that they are "
        "background; or ignored: their boxes are neither",
    )
    variances: tuple[Positive, Positive, Positive, Positive] = habit(
        (0.1, 0.1, 0.2, 0.2), "divisors of a box code's x, y, width and height"
    )
    clamp_deltas: bool = habit(
        False, "a decoded box is at most 62.5 times as wide and as high as its default box"
    )


class SingleShot(DenseDetector):
    """A dense detector on default boxes, with a predictor on each map of so many `channels`.

    Its config has `DefaultBoxChoices`, `MatchChoices` and `MultiboxChoices` too.
    log_epsilon is added inside the logarithm of the box code.
    """

    def __init__(
        self,
        classes: Sequence[str],
        preprocess: Preprocess,
        config: Any,
        backbone: nn.Module,
        neck: nn.Module | None,
        channels: Sequence[int],
        boxes: DefaultBoxes,
        *,
        predictor: MakePredictor | Sequence[MakePredictor] = Predictor,
        log_epsilon: float = 0.0,
    ) -> None:
        code: MultiboxChoices = config
        clamp = CLAMP if code.clamp_deltas else None
        super().__init__(
            classes,
            preprocess,
            config,
            backbone=backbone,
            neck=neck,
            head=DenseHead(channels, boxes.per_cell, len(classes) + 1, predictor),
            coder=DeltaCoder.from_variances(code.variances, clamp=clamp, log_epsilon=log_epsilon),
        )
        self.boxes = boxes

    def make_anchors(self, grids: Sequence[Grid], image: tuple[int, int]) -> Tensor:
        """The default boxes of SSD, section 2.2: [A, 4] xyxy in pixels."""
        return self.boxes.make(grids, image)

    def matches(self, anchors: Tensor, boxes: Tensor, valid: Tensor) -> Matches:
        """Which object each default box answers for (SSD, section 2.2, matching strategy).

        anchors [A, 4] or [B, A, 4], boxes [B, M, 4], valid [B, M].
        """
        choices: MultiboxChoices = self.config
        overlap: MatchChoices = self.config
        if choices.match == "argmax":
            return match_argmax_per_object(anchors, boxes, valid, overlap.match_iou)
        return match_bipartite(anchors, boxes, valid, overlap.match_iou)

    def trained_on(self, targets: Targets) -> Tensor:
        """[B, M] bool: the objects that the losses are computed for."""
        choices: MultiboxChoices = self.config
        valid = targets.valid
        return valid & ~targets.ignore if choices.difficult == "drop" else valid

    def ignored(self, targets: Targets) -> Tensor | None:
        """[B, M] bool: the objects whose boxes are neither objects nor background; None: none."""
        choices: MultiboxChoices = self.config
        return targets.ignore if choices.difficult == "ignore" else None

    @torch.no_grad()
    def assigned(self, batch: Batch) -> list[Assigned]:
        anchors, targets = self(batch.images)["anchors"], batch.targets
        matches = self.matches(anchors, targets.boxes, self.trained_on(targets))
        return [Assigned("default boxes", anchors, matches.index)]

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """SSD, equation 1: confidence over positives and hard negatives, localisation."""
        return self.multibox(self(batch.images), batch.targets)

    def multibox(self, raw: Mapping[str, Tensor], targets: Targets) -> dict[str, Tensor]:
        """Equation 1 of raw outputs: "logits" [B, A, C], "deltas" [B, A, 4], "anchors" [A, 4]."""
        choices: MultiboxChoices = self.config
        overlap: MatchChoices = self.config
        losses = multibox_loss(
            raw["logits"],
            raw["deltas"],
            self.matches(raw["anchors"], targets.boxes, self.trained_on(targets)),
            raw["anchors"],
            targets.boxes,
            targets.labels,
            self.coder,
            ratio=choices.negatives,
            neg_overlap=overlap.match_iou,
            mine_over=choices.mine_over,
            ignored=self.ignored(targets),
        )
        box = choices.loc_weight * losses.box
        return {"classification": losses.classes, "localisation": box}


# -- backbones -------------------------------------------------------------------------------------

_SMALLEST = 32  # side of an input: the deepest map has a cell then
_CAFFE_RGB = {"mean": (123.0, 117.0, 104.0), "std": (1.0, 1.0, 1.0), "scale": 1.0}
_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "scale": 1 / 255}
_HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "scale": 1 / 255}
_INPUTS = {
    "vgg16": _CAFFE_RGB,
    "resnet101": _IMAGENET,
    "mobilenet_v3_large": _HALF,
    "mobilenet_v1": _IMAGENET,
    "dsod": _CAFFE_RGB,
}


def backbone_of(
    choices: BackboneChoices,
    shape: tuple[int, int],
    strides: Sequence[int],
    **makers: Callable[[], PaperBackbone],
) -> tuple[Backbone, Preprocess]:
    """The backbone that is chosen, and what its weights expect of an image.

    shape: of the input, at least 32 a side. strides: of the maps of a timm or Darknet backbone;
    makers: of the paper's backbones, by name. Raises InputError naming the option.
    """
    name, pretrained = choices.backbone, choices.pretrained
    if min(shape) < _SMALLEST:
        raise InputError(f"must be at least {_SMALLEST}", field="size", value=min(shape))
    if name.startswith(PREFIX):
        features = TimmFeatures(name, strides, pretrained=pretrained, fold=choices.fold_norms)
        mean, std = normalisation(name)
        return features, Preprocess.of(size=shape, mean=mean, std=std, scale=1 / 255)
    backbone: PaperBackbone | Darknet
    if name in makers:
        backbone, inputs = makers[name](), _INPUTS[name]
    elif name in STAGES:
        backbone, inputs = Darknet(name, strides), {**INPUTS, "scale": 1 / 255}
    else:
        problem = "no such backbone"
        hint = ", ".join([*makers, *STAGES, "or timm/NAME"])
        raise InputError(problem, field="backbone", value=name, hint=hint)
    if pretrained:
        if isinstance(backbone, MobileNetV1 | DSODNet):
            problem = f"there are no ImageNet weights for {name}"
            hint = "pretrained=false, or a timm backbone"
            raise InputError(problem, field="pretrained", value=True, hint=hint)
        backbone.load_pretrained()
    return backbone, Preprocess.of(size=shape, **inputs)
