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
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from boxatlas.backbones.choice import (
    BackboneChoices,
    TrunkChoices,
    pyramid_backbone,
    pyramid_preprocess,
)
from boxatlas.boxes.anchors import AnchorChoices, cell_anchors, image_strides, pyramid_anchors
from boxatlas.boxes.coders import CLAMP, DeltaCoder
from boxatlas.boxes.matching import (
    Assigned,
    MatchChoices,
    Matches,
    ignore_inside,
    match_thresholds,
)
from boxatlas.boxes.nms import Candidates, SuppressionChoices, batched_nms, best_sigmoid_above
from boxatlas.losses.focal import NormaliseChoices, focal_loss, focal_star_loss, image_weights
from boxatlas.losses.regression import giou_loss, smooth_l1
from boxatlas.necks.fpn import FPN, CoarseLevelChoices
from boxatlas.options import (
    AtLeastOne,
    Fraction,
    Layers,
    NotNegative,
    Positive,
    Width,
    idea,
    setting,
)
from boxatlas.parts.base import ClassRows, Raw
from boxatlas.parts.default_boxes import option_or_table
from boxatlas.parts.dense import DenseChoices, DenseDetector, Grid, Head, flat
from boxatlas.registry import Method, Published
from boxatlas.structures import Batch, Frame, Targets

METHOD = Method(
    "RetinaNet", "Focal Loss for Dense Object Detection", "1708.02002", 2017, "one-stage"
)
Positives = tuple[Tensor, Tensor, Tensor]  # image, anchor, class of each
BETA = 0.11  # where smooth L1 turns linear, as in Detectron
GROUPS = 32  # of a group norm


class Config(
    BackboneChoices,
    TrunkChoices,
    SuppressionChoices,
    DenseChoices,
    AnchorChoices,
    MatchChoices,
    CoarseLevelChoices,
    NormaliseChoices,
):
    """The ideas of table 1 and appendix A; widths and sizes beside them."""

    gone: ClassVar[Mapping[str, Any]] = {"box_beta": BETA}

    cls_loss: Literal["focal", "ce", "focal_star", "ohem", "ohem_1_3"] = idea(
        "focal", "table 1 (a, d) and appendix A: the loss of the classes; ce is gamma 0"
    )
    alpha: Fraction | None = idea(
        0.25, "table 1 (a, b): weight of objects; null: objects and background weigh alike"
    )
    gamma: NotNegative = idea(2.0, "table 1 (b), equation 5: focusing")
    star_beta: Annotated[float, Field(ge=-10, le=10)] = idea(
        1.0, "appendix A, table 3: beta of focal_star, a shift of its logits"
    )
    ohem_batch: AtLeastOne = idea(128, "table 1 (d): anchors of an image that OHEM trains on")
    ohem_nms: Fraction = idea(
        0.5, "table 1 (d): OHEM's suppression among the anchors of largest loss"
    )
    prior_pi: Annotated[float, Field(gt=0, lt=1)] | None = idea(
        0.01, "section 3.3: the first probability of an object; null: 0.5, which diverges"
    )
    anchor_scales = idea(
        (1.0, 2 ** (1 / 3), 2 ** (2 / 3)),
        "table 1 (c): sizes of a level's anchors, as factors of 4 strides",
    )
    anchor_ratios = idea((0.5, 1.0, 2.0), "table 1 (c): heights over widths of the anchors")

    width: Width = setting(256, "channels of the pyramid and the subnets")
    head_convs: Layers = setting(4, "3x3 convolutions of a subnet before its output")
    head_norm: Literal["none", "group"] = setting("none", "norms in the subnets")
    anchor_sizes: tuple[tuple[Positive, ...], ...] | None = setting(
        None, "pixels, the anchors' sizes of each level; null: 4 strides times the scales"
    )
    background_iou: Fraction = setting(
        0.4, "section 4: below this overlap an anchor is background; up to match_iou, ignored"
    )
    low_quality: Literal["off", "argmax"] = setting(
        "off", "argmax: the anchors nearest to an object are its own, whatever the overlap"
    )
    box_loss: Literal["smooth_l1", "l1", "giou"] = setting("smooth_l1", "the loss of the boxes")
    level_candidates: AtLeastOne = setting(1000, "section 4: best of a level that are decoded")

    candidates = None
    clip_before_nms = True
    anchor_order = "size,ratio"

    @model_validator(mode="after")
    def _fit(self) -> Config:
        if self.cls_loss == "focal_star" and self.gamma == 0:
            raise ValueError("cls_loss focal_star needs a gamma above 0")
        if self.head_norm == "group" and self.width % GROUPS:
            raise ValueError(f"head_norm group needs a width that is a multiple of {GROUPS}")
        if self.anchor_sizes is not None and len({len(row) for row in self.anchor_sizes}) != 1:
            raise ValueError("anchor_sizes must hold equally many sizes for each level")
        return self

    def idle(self) -> dict[str, str]:
        why = super().idle()
        if self.cls_loss not in ("focal", "focal_star"):
            why["gamma"] = f"cls_loss {self.cls_loss} does not focus"
        if self.cls_loss != "focal_star":
            why["star_beta"] = "only cls_loss focal_star has a beta"
        if self.cls_loss not in ("ohem", "ohem_1_3"):
            why |= dict.fromkeys(("ohem_batch", "ohem_nms"), "only cls_loss ohem mines")
        if self.anchor_sizes is not None:
            why["anchor_scales"] = "the option anchor_sizes gives the sizes"
        if self.head_convs == 0:
            why["head_norm"] = "the subnets have no convolutions but the last"
        return why


class Subnet(nn.Module):
    """Convolutions 3x3 with ReLU, then the output's 3x3; the same weights on every level."""

    def __init__(self, width: int, convs: int, out: int, norm: str, bias: float = 0.0) -> None:
        super().__init__()
        group = norm == "group"

        def layer() -> nn.Sequential:
            conv = nn.Conv2d(width, width, 3, padding=1, bias=not group)
            return nn.Sequential(conv, *([nn.GroupNorm(GROUPS, width)] if group else []), nn.ReLU())

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


class RetinaHead(Head):
    """The class subnet and the box subnet (section 4, figure 3).

    maps [B, width, h, w] -> logits [B, A, K] and deltas [B, A, 4]: level, row, column, anchor.
    """

    def __init__(self, config: Config, per_cell: int, classes: int) -> None:
        super().__init__()
        self.per_cell, self.classes = per_cell, classes
        pi = config.prior_pi
        bias = 0.0 if pi is None else -math.log((1 - pi) / pi)
        shape = (config.width, config.head_convs)
        self.cls = Subnet(*shape, per_cell * classes, config.head_norm, bias)
        self.box = Subnet(*shape, per_cell * 4, config.head_norm)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        logits = torch.cat([flat(self.cls(x), self.classes) for x in maps], 1)
        return logits, torch.cat([flat(self.box(x), 4) for x in maps], 1)

    def class_rows(self, prefix: str = "head.") -> dict[str, ClassRows]:
        """The last convolution of the class subnet."""
        rows = ClassRows(self.per_cell, 0)
        return {f"{prefix}cls.out.{leaf}": rows for leaf in ("weight", "bias")}


class RetinaNet(DenseDetector):
    """C3, C4, C5 -> P3..P7 -> nine anchors a position, a sigmoid for each class."""

    config: Config

    def __init__(self, classes: Sequence[str], config: Config) -> None:
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
        strides = [*backbone.strides, 2 * backbone.strides[-1], 4 * backbone.strides[-1]]
        octaves = [tuple(4 * step * scale for scale in config.anchor_scales) for step in strides]
        sizes = option_or_table(config.anchor_sizes, octaves, "anchor_sizes")
        per_cell = len(sizes[0]) * len(config.anchor_ratios)
        super().__init__(
            classes,
            pyramid_preprocess(config.backbone, config.size),
            config,
            backbone=backbone,
            neck=neck,
            head=RetinaHead(config, per_cell, len(classes)),
            coder=DeltaCoder(clamp=CLAMP),
            background=False,
        )
        self.anchor_sizes, self.strides, self.per_cell = sizes, strides, per_cell

    def training_sizes(self) -> list[tuple[int, int]]:
        """Sizes of the input that training changes among (section 5.3, scale jitter); none: one."""
        return [(side, self.config.size[1]) for side in self.config.train_sizes]

    def make_anchors(self, grids: Sequence[Grid], image: tuple[int, int]) -> Tensor:
        """Section 4, anchors: about 100,000 for 600 pixels."""
        config = self.config
        cells = [
            cell_anchors(
                sizes,
                config.anchor_ratios,
                rounded=config.anchor_rounded,
                order=config.anchor_order,
            )
            for sizes in self.anchor_sizes
        ]
        fixed = config.anchor_stride == "fixed"
        return pyramid_anchors(cells, grids, self.strides if fixed else image_strides(grids, image))

    def forward(
        self, images: Tensor, frames: Sequence[Frame] | None = None, proposals: Tensor | None = None
    ) -> Raw:
        """logits [B, A, K], deltas [B, A, 4], anchors [A, 4], levels [5]: anchors of each level."""
        maps = self.features(images)
        logits, deltas = self.head(maps)
        counts = [m.shape[-2] * m.shape[-1] * self.per_cell for m in maps]
        levels = torch.stack([torch.full((), n, device=images.device) for n in counts])
        anchors = self.anchors(maps, images)
        return {"logits": logits, "deltas": deltas, "anchors": anchors, "levels": levels}

    def matches(self, anchors: Tensor, targets: Targets) -> Matches:
        """Section 4, assignment: an object from IoU 0.5, background below 0.4, ignored between.

        An anchor on an object that is to be ignored (difficult, crowd) is trained neither as an
        object nor as background.
        """
        matches = match_thresholds(
            anchors,
            targets.boxes,
            targets.valid & ~targets.ignore,
            self.config.match_iou,
            self.config.background_iou,
            low_quality=self.config.low_quality,
        )
        return ignore_inside(matches, anchors, targets.boxes, targets.ignore)

    @torch.no_grad()
    def assigned(self, batch: Batch) -> list[Assigned]:
        maps = self.features(batch.images)
        anchors = self.anchors(maps, batch.images)
        return [Assigned("anchors", anchors, self.matches(anchors, batch.targets).index)]

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Focal loss over all anchors and smooth L1 of the positives, each over the positives."""
        raw, targets = self(batch.images), batch.targets
        matches = self.matches(raw["anchors"], targets)
        image, anchor, owner = matches.pairs()
        weight = image_weights(matches.positive.sum(1), self.config.normalise)
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
            hardest = self.hardest(raw, matches, positives)
            ignored = ~hardest
            weight = 1 / hardest.sum(1).clamp(min=1).to(weight) / len(weight)
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
        beta = BETA if self.config.box_loss == "smooth_l1" else 0.0
        return smooth_l1(deltas, self.coder.encode(wanted, anchors), beta, "none").sum(-1)

    def candidates(self, raw: Raw, score: float | None) -> Candidates:
        """Section 4, inference: of what passes the threshold the 1,000 best of each level."""
        threshold = self.config.score if score is None else score
        return best_sigmoid_above(
            raw["logits"].float(),
            threshold,
            self.config.level_candidates,
            raw["levels"].tolist(),
            or_equal=score is not None,
        )

    def entering(self, raw: Raw, scores: Tensor) -> Tensor:
        """The best of each level, over all classes."""
        _, classes, anchors = scores.shape
        ends = raw["levels"].cumsum(0)
        level = (torch.arange(anchors, device=scores.device) >= ends[:, None]).int().sum(0)
        most = torch.sym_min(self.config.level_candidates, classes * anchors)
        enters = torch.zeros_like(scores, dtype=torch.bool)
        for i in range(raw["levels"].shape[0]):
            here = level == i
            best = torch.where(here, scores, -1.0).flatten(1).topk(most, dim=1).values
            enters |= here & (scores >= best[:, -1, None, None])
        return enters


def _highest(values: Tensor, allowed: Tensor, count: int | Tensor) -> Tensor:
    """[B, A] bool: of each row's allowed values the `count` (a number, or [B, 1]) largest."""
    order = values.masked_fill(~allowed, -torch.inf).argsort(dim=1, descending=True)
    return allowed & (order.argsort(dim=1) < count)


# -- the models -----------------------------------------------------------------------------------


def _table_1e(rows: dict[int, tuple[float, int]]) -> list[Published]:
    """Shorter side: (AP on COCO test-dev, milliseconds on an M40)."""
    return [
        Published(
            f"COCO test-dev, size {side}", "AP", ap, round(1000 / ms, 1), "M40", "table 1 (e)"
        )
        for side, (ap, ms) in rows.items()
    ]


@METHOD.model(
    "ResNet-50",
    "shorter side 400 to 800",
    *_table_1e(
        {800: (35.7, 153), 700: (35.1, 121), 600: (34.3, 98), 500: (32.5, 72), 400: (30.5, 64)}
    ),
)
def retinanet_r50_fpn(classes: Sequence[str], **options: Any) -> RetinaNet:
    """RetinaNet on ResNet-50; size=400, 500, 600, 700 or 800 as published."""
    return RetinaNet(classes, Config.of(options))


@METHOD.model(
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
    return RetinaNet(classes, Config.of(options, backbone="resnet101"))


@METHOD.model(
    "ResNet-50", "shorter side 800", Published("COCO val2017", "AP", 41.5, source="torchvision")
)
def retinanet_r50_fpn_v2(classes: Sequence[str], **options: Any) -> RetinaNet:
    """Group norm in the subnets and the GIoU loss, as in ATSS (1912.02424)."""
    config = Config.of(options, norm="batch", head_norm="group", box_loss="giou")
    return RetinaNet(classes, config)


@METHOD.model("EfficientNet-Lite0", "shorter side 320")
def retinanet320_efficientnet_lite0_fpn(classes: Sequence[str], **options: Any) -> RetinaNet:
    """A light RetinaNet of 96 channels for small machines; anchors from 16 pixels on."""
    own: dict[str, Any] = {
        "backbone": "timm/tf_efficientnet_lite0",
        "size": 320,
        "width": 96,
        "head_convs": 3,
        "low_quality": "argmax",
        "anchor_sizes": tuple(
            tuple(2 * s * 2 ** (k / 3) for k in range(3)) for s in (8, 16, 32, 64, 128)
        ),
    }
    return RetinaNet(classes, Config.of(options, **own))
