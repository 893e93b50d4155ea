"""RetinaNet. Lin, Goyal, Girshick, He, Dollar 2017, "Focal Loss for Dense Object Detection",
arXiv 1708.02002.

A one-stage detector looks at 100,000 anchors of which a handful hold objects, and the easy rest
drowns them. Instead of mining (SSD) the loss itself is changed: the focal loss weighs each
cross-entropy term by (1 - p_t)^gamma, so that every anchor takes part and the easy ones hardly
count. The network is plain: a pyramid P3 to P7 and two small subnets, shared over the levels.

Shape letters: B images, A anchors, K classes (one sigmoid each, no background), M objects.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import field_validator
from torch import Tensor, nn

from boxatlas.backbones.choice import pyramid_backbone, pyramid_preprocess, side_limits
from boxatlas.boxes.anchors import AnchorRule
from boxatlas.boxes.coders import CLAMP, DeltaCoder
from boxatlas.boxes.matching import Matches, ignore_inside, match_thresholds
from boxatlas.boxes.nms import Candidates, batched_nms, best_sigmoid_above
from boxatlas.losses.focal import focal_loss, focal_star_loss
from boxatlas.losses.regression import giou_loss, smooth_l1
from boxatlas.necks.fpn import FPN
from boxatlas.options import AtLeastOne, convention, switch
from boxatlas.parts.base import ClassRows, Raw
from boxatlas.parts.dense import DenseConfig, DenseDetector, Grid, flat
from boxatlas.registry import Published, register_model
from boxatlas.structures import Batch, Frame, Targets

Positives = tuple[Tensor, Tensor, Tensor]


class RetinaNetConfig(DenseConfig):
    """Every choice of RetinaNet."""

    size: tuple[int, int] = convention(
        (800, 1333), "shorter side, and the longer one's limit; one number s: s and 5/3 s"
    )
    train_sizes: tuple[AtLeastOne, ...] = convention(
        (), "shorter sides that training changes among"
    )
    backbone: str = convention("resnet50", 'resnet50, resnet101, ... or "timm/NAME"')
    pretrained: bool = convention(False, "the backbone starts from ImageNet weights")

    # The paper's own ablations.
    cls_loss: Literal["focal", "ce", "focal_star", "ohem", "ohem_1_3"] = switch(
        "focal", "table 1 (a, d) and appendix A; ce is gamma 0"
    )
    alpha: float | None = switch(0.25, "table 1 (a, b): weight of objects; none: no weights")
    gamma: float = switch(2.0, "table 1 (b), equation 5: focusing", ge=0)
    star_beta: float = switch(1.0, "appendix A, table 3: beta of focal_star")
    ohem_batch: int = switch(128, "table 1 (d): anchors of an image that learn", ge=1)
    ohem_nms: float = switch(0.5, "table 1 (d): suppression among them, by their loss", ge=0)
    prior_pi: float | None = switch(
        0.01, "section 3.3: the first probability of an object; none: 0.5, which diverges"
    )
    anchor_scales: tuple[float, ...] = switch(
        (1.0, 2 ** (1 / 3), 2 ** (2 / 3)), "table 1 (c): sizes of a level, in octaves"
    )
    anchor_ratios: tuple[float, ...] = switch((0.5, 1.0, 2.0), "table 1 (c): heights over widths")

    # How programs differ.
    p6_from: Literal["c5", "p5"] = convention("c5", "what P6 is computed from")
    relu_before_p7: bool = convention(True, "P7 from relu(P6)")
    norm: Literal["frozen", "batch"] = convention("frozen", "the ResNet's batch norms")
    norm_eps: float = convention(1e-5, "their epsilon")
    stride_in_1x1: bool = convention(False, "the original ResNet's place of the stride")
    fold_norms: bool = convention(False, "a timm network's batch norms go into its convolutions")
    width: int = convention(256, "channels of the pyramid and the subnets", ge=1)
    head_convs: int = convention(4, "3x3 convolutions of a subnet", ge=0)
    head_norm: Literal["none", "group"] = convention("none", "norms in the subnets")
    anchor_sizes: tuple[tuple[float, ...], ...] | None = convention(
        None, "of each level, in pixels; none: 4 strides times the scales"
    )
    anchor_rounded: bool = convention(False, "corners rounded to whole pixels")
    anchor_stride: Literal["fixed", "image // grid"] = convention("fixed", "stride of the anchors")
    anchor_order: Literal["ratio,size", "size,ratio"] = convention("size,ratio", "in a cell")
    match_iou: float = convention(0.5, "from here on an anchor answers for an object", ge=0)
    background_iou: float = convention(0.4, "below it is background; between, ignored", ge=0)
    low_quality: Literal["off", "argmax"] = convention(
        "off", "argmax: the anchors nearest to an object are its own, whatever the overlap"
    )
    box_loss: Literal["smooth_l1", "l1", "giou"] = convention("smooth_l1", "of the boxes")
    box_beta: float = convention(0.11, "where smooth L1 turns linear", ge=0)
    normalise: Literal["image", "batch"] = convention(
        "image", "sums are divided by the positives of an image, then averaged; or of the batch"
    )
    score: float = convention(0.05, "a class must score more than this", ge=0, le=1)
    nms_iou: float = convention(0.5, "of two boxes of a class that overlap more, one stays", ge=0)
    candidates: int | None = convention(None, "boxes of a class that enter suppression", ge=1)
    level_candidates: int = convention(1000, "best of a level that are decoded", ge=1)
    max_detections: int = convention(100, "boxes that stay, per image", ge=1)
    clip_before_nms: bool = convention(True, "boxes are cut to the input before suppression")

    _one_number = field_validator("size", mode="before")(side_limits)


class Subnet(nn.Module):
    """Convolutions 3x3 with ReLU, then the output's 3x3; the same weights on every level."""

    def __init__(self, width: int, convs: int, out: int, norm: str, bias: float = 0.0) -> None:
        super().__init__()
        group = norm == "group"

        def layer() -> nn.Sequential:
            conv = nn.Conv2d(width, width, 3, padding=1, bias=not group)
            return nn.Sequential(conv, *([nn.GroupNorm(32, width)] if group else []), nn.ReLU())

        self.convs = nn.Sequential(*(layer() for _ in range(convs)))
        self.out = nn.Conv2d(width, out, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        assert self.out.bias is not None
        nn.init.constant_(self.out.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.convs(x))


class RetinaHead(nn.Module):
    """The class subnet and the box subnet (section 4, figure 3).

    maps [B, width, h, w] -> logits [B, A, K] and deltas [B, A, 4]: level, row, column, anchor.
    """

    def __init__(self, config: RetinaNetConfig, per_cell: int, classes: int) -> None:
        super().__init__()
        self.per_cell, self.classes = per_cell, classes
        pi = config.prior_pi
        bias = 0.0 if pi is None else -math.log((1 - pi) / pi)
        made = (config.width, config.head_convs)
        self.cls = Subnet(*made, per_cell * classes, config.head_norm, bias)
        self.box = Subnet(*made, per_cell * 4, config.head_norm)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        logits = torch.cat([flat(self.cls(x), self.classes) for x in maps], 1)
        return logits, torch.cat([flat(self.box(x), 4) for x in maps], 1)

    def class_rows(self) -> dict[str, ClassRows]:
        rows = ClassRows(self.per_cell, 0)
        return {f"head.cls.out.{leaf}": rows for leaf in ("weight", "bias")}


class RetinaNet(DenseDetector):
    """C3, C4, C5 -> P3..P7 -> nine anchors a position, a sigmoid for each class."""

    config: RetinaNetConfig

    def __init__(self, classes: Sequence[str], config: RetinaNetConfig) -> None:
        backbone = pyramid_backbone(
            config.backbone,
            (3, 4, 5),
            pretrained=config.pretrained,
            norm=config.norm,
            norm_eps=config.norm_eps,
            stride_in_1x1=config.stride_in_1x1,
            fold=config.fold_norms,
        )
        neck = FPN(
            backbone.channels,
            config.width,
            extra=config.p6_from,
            relu_before_p7=config.relu_before_p7,
        )
        rule = anchor_rule(config, backbone.strides)
        super().__init__(
            classes,
            pyramid_preprocess(config.backbone, config.size),
            config,
            backbone=backbone,
            neck=neck,
            head=RetinaHead(config, rule.per_cell, len(classes)),
            coder=DeltaCoder(clamp=CLAMP),
            background=False,
        )
        self.rule = rule

    def training_sizes(self) -> list[tuple[int, int]]:
        """Sizes of the input that training changes among (section 5.3, scale jitter); none: one."""
        return [(side, self.config.size[1]) for side in self.config.train_sizes]

    def make_anchors(self, grids: Sequence[Grid], image: tuple[int, int]) -> Tensor:
        """Section 4, anchors: about 100,000 for 600 pixels."""
        return self.rule.make(grids, image)

    def forward(
        self,
        images: Tensor,
        frames: Sequence[Frame] | None = None,
        proposals: Tensor | None = None,
    ) -> Raw:
        """logits [B, A, K], deltas [B, A, 4], anchors [A, 4], levels [5]: anchors of each level."""
        maps = self.features(images)
        logits, deltas = self.head(maps)
        counts = [m.shape[-2] * m.shape[-1] * self.rule.per_cell for m in maps]
        levels = torch.tensor(counts, device=images.device)
        anchors = self.anchors(maps, images)
        return {"logits": logits, "deltas": deltas, "anchors": anchors, "levels": levels}

    def matches(self, anchors: Tensor, targets: Targets) -> Matches:
        """Section 4, assignment: an object from IoU 0.5, background below 0.4, ignored between.

        Objects that are to be ignored (difficult, crowd) are learned neither as objects nor as
        background.
        """
        found = match_thresholds(
            anchors,
            targets.boxes,
            targets.valid & ~targets.ignore,
            self.config.match_iou,
            self.config.background_iou,
            low_quality=self.config.low_quality,
        )
        return ignore_inside(found, anchors, targets.boxes, targets.ignore)

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Focal loss over all anchors and smooth L1 of the positives, each over the positives."""
        raw, targets = self(batch.images), batch.targets
        matches = self.matches(raw["anchors"], targets)
        image, anchor, owner = matches.pairs()
        count = matches.positive.sum(1)
        if self.config.normalise == "image":
            weight = 1 / count.clamp(min=1).float() / len(count)
        else:
            weight = (1 / count.sum().clamp(min=1).float()).expand(len(count))
        positives = (image, anchor, targets.labels[image, owner])
        box = self.box_losses(raw, image, anchor, targets.boxes[image, owner])
        return {
            "classification": self.class_loss(raw, matches, positives, weight),
            "box": (box * weight[image]).sum(),
        }

    def class_loss(
        self, raw: Raw, matches: Matches, positives: Positives, weight: Tensor
    ) -> Tensor:
        """The loss of section 3 or one of those it is compared with; weight [B] of each image."""
        config, logits = self.config, raw["logits"]
        ignored = ~(matches.positive | matches.negative)
        if config.cls_loss == "focal_star":
            return focal_star_loss(
                logits,
                positives,
                alpha=config.alpha,
                gamma=config.gamma,
                beta=config.star_beta,
                weight=weight,
                ignore=ignored,
            )
        gamma = config.gamma if config.cls_loss == "focal" else 0.0
        if config.cls_loss.startswith("ohem"):
            learns = self.hardest(raw, matches, positives)
            ignored = ~learns
            weight = 1 / learns.sum(1).clamp(min=1).to(weight) / len(weight)
        return focal_loss(
            logits, positives, alpha=config.alpha, gamma=gamma, weight=weight, ignore=ignored
        )

    @torch.no_grad()
    def hardest(self, raw: Raw, matches: Matches, positives: Positives) -> Tensor:
        """[B, A] bool: OHEM's mini-batch (section 5.1): the anchors of largest loss after NMS.

        ohem_1_3 takes at most a quarter positives and three times as many negatives.
        """
        config = self.config
        ignored = ~(matches.positive | matches.negative)
        loss = focal_loss(
            raw["logits"],
            positives,
            alpha=config.alpha,
            gamma=0.0,
            ignore=ignored,
            reduction="none",
        ).sum(-1)
        image, anchor = (~ignored).nonzero(as_tuple=True)
        whole = config.cls_loss == "ohem_1_3"
        kept = batched_nms(
            raw["anchors"][anchor],
            loss[image, anchor],
            image,
            config.ohem_nms,
            limit=None if whole else config.ohem_batch,
        )
        stays = torch.zeros_like(ignored)
        stays[image[kept], anchor[kept]] = True
        if not whole:
            return stays
        positive = _highest(loss, stays & matches.positive, config.ohem_batch // 4)
        most = (3 * positive.sum(1, keepdim=True)).clamp(min=1)
        return positive | _highest(loss, stays & matches.negative, most)

    def box_losses(self, raw: Raw, image: Tensor, anchor: Tensor, wanted: Tensor) -> Tensor:
        """[P]: the box loss of each positive (image, anchor) whose object is `wanted` [P, 4]."""
        anchors = raw["anchors"][anchor]
        deltas = raw["deltas"][image, anchor].to(anchors.dtype)  # not in half precision
        if self.config.box_loss == "giou":
            return giou_loss(self.coder.decode(deltas, anchors), wanted, "none")
        beta = self.config.box_beta if self.config.box_loss == "smooth_l1" else 0.0
        return smooth_l1(deltas, self.coder.encode(wanted, anchors), beta, "none").sum(-1)

    def candidates(self, raw: Raw, score: float | None) -> Candidates:
        """Section 4, inference: of what passes the threshold the 1,000 best of each level."""
        threshold = self.limits.score if score is None else score
        return best_sigmoid_above(
            raw["logits"].float(),
            threshold,
            self.config.level_candidates,
            raw["levels"].tolist(),
            or_equal=score is not None,
        )


def _highest(values: Tensor, allowed: Tensor, count: int | Tensor) -> Tensor:
    """[B, A] bool: of each row's allowed values the `count` (a number, or [B, 1]) largest."""
    order = values.masked_fill(~allowed, -torch.inf).argsort(dim=1, descending=True)
    return allowed & (order.argsort(dim=1) < count)


def anchor_rule(config: RetinaNetConfig, strides: Sequence[int]) -> AnchorRule:
    """Anchors of 32 to 512 pixels on P3 to P7, at three sizes an octave and three ratios."""
    steps = [*strides, 2 * strides[-1], 4 * strides[-1]]
    sizes = config.anchor_sizes or tuple(
        tuple(4 * step * scale for scale in config.anchor_scales) for step in steps
    )
    return AnchorRule(
        sizes,
        config.anchor_ratios,
        tuple(steps),
        rounded=config.anchor_rounded,
        stride=config.anchor_stride,
        order=config.anchor_order,
    )


# -- the models -----------------------------------------------------------------------------------


def _register(backbone: str, size: str, *published: Published) -> Any:
    return register_model(
        method="RetinaNet",
        title="Focal Loss for Dense Object Detection",
        arxiv="1708.02002",
        year=2017,
        family="one-stage",
        backbone=backbone,
        size=size,
        published=published,
    )


def _table_1e(rows: dict[int, tuple[float, int]]) -> list[Published]:
    """Shorter side: (AP on COCO test-dev, milliseconds on an M40)."""
    return [
        Published(
            f"COCO test-dev, size {side}", "AP", ap, round(1000 / ms, 1), "M40", "table 1 (e)"
        )
        for side, (ap, ms) in rows.items()
    ]


def _build(classes: Sequence[str], defaults: dict[str, Any], options: dict[str, Any]) -> RetinaNet:
    return RetinaNet(classes, RetinaNetConfig.of(**{**defaults, **options}))


@_register(
    "ResNet-50",
    "shorter side 400 to 800",
    *_table_1e(
        {800: (35.7, 153), 700: (35.1, 121), 600: (34.3, 98), 500: (32.5, 72), 400: (30.5, 64)}
    ),
)
def retinanet_r50_fpn(classes: Sequence[str], **options: Any) -> RetinaNet:
    """RetinaNet on ResNet-50; size=400, 500, 600, 700 or 800 as published."""
    return _build(classes, {}, options)


@_register(
    "ResNet-101",
    "shorter side 400 to 800",
    *_table_1e(
        {800: (37.8, 198), 700: (37.1, 154), 600: (36.0, 122), 500: (34.4, 90), 400: (31.9, 81)}
    ),
    Published(
        "COCO test-dev, size 800, scale jitter, 1.5 schedules",
        "AP",
        39.1,
        5.0,
        source="table 2; speed as surveyed",
    ),
)
def retinanet_r101_fpn(classes: Sequence[str], **options: Any) -> RetinaNet:
    """RetinaNet on ResNet-101; size=400, 500, 600, 700 or 800 as published."""
    return _build(classes, {"backbone": "resnet101"}, options)


@_register(
    "ResNet-50", "shorter side 800", Published("COCO val2017", "AP", 41.5, source="torchvision")
)
def retinanet_r50_fpn_v2(classes: Sequence[str], **options: Any) -> RetinaNet:
    """Group norm in the subnets and the GIoU loss, as in ATSS (1912.02424)."""
    own = {"norm": "batch", "head_norm": "group", "box_loss": "giou"}
    return _build(classes, own, options)


@_register("EfficientNet-Lite0", "shorter side 320")
def retinanet320_efficientnet_lite0_fpn(classes: Sequence[str], **options: Any) -> RetinaNet:
    """A light RetinaNet of 96 channels for small machines; anchors from 16 pixels on."""
    own = {
        "backbone": "timm/tf_efficientnet_lite0",
        "size": 320,
        "width": 96,
        "head_convs": 3,
        "low_quality": "argmax",
        "anchor_sizes": tuple(
            tuple(2 * s * 2 ** (k / 3) for k in range(3)) for s in (8, 16, 32, 64, 128)
        ),
    }
    return _build(classes, own, options)
