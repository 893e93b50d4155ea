"""The region proposal network. Ren et al. 2015, arXiv 1506.01497, section 3.1.

Shape letters: B images, A anchors (all levels), a anchors in a cell, M objects, P proposals.
Boxes are xyxy in pixels of the network's input.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from boxatlas.boxes.anchors import (
    AnchorCache,
    AnchorChoices,
    cell_anchors,
    image_strides,
    pyramid_anchors,
)
from boxatlas.boxes.coders import DeltaCoder
from boxatlas.boxes.matching import Matches, match_thresholds
from boxatlas.boxes.nms import Proposals, proposal_nms, top_per_level
from boxatlas.boxes.sampling import sample
from boxatlas.errors import InputError
from boxatlas.options import (
    AtLeastOne,
    Fraction,
    Layers,
    NotNegative,
    Options,
    Positive,
    Width,
    habit,
    idea,
    setting,
)
from boxatlas.structures import Targets

OneSize = Annotated[tuple[Positive, ...], Field(min_length=1)]  # several of one level


class RPNChoices(Options):
    """Anchors, targets and selection; with `AnchorChoices` what every method with an RPN has."""

    rpn_cls: Literal["sigmoid", "softmax"] = idea(
        "sigmoid", "Faster R-CNN section 3.1.1: a softmax pair, or logistic regression"
    )
    rpn_border: bool = idea(
        False, "Faster R-CNN section 3.3 drops anchors that cross the border; FPN section 4.1 keeps"
    )

    anchor_sizes: tuple[Positive | OneSize, ...] = setting(
        (32, 64, 128, 256, 512),
        "side of each level's square anchor, in pixels; of all, where there is one level",
        min_length=1,
    )
    rpn_width: Width | None = setting(
        None, "channels of the RPN's 3x3 convolutions; None: those of its maps"
    )
    rpn_convs: Layers = setting(1, "3x3 convolutions before the RPN's outputs", ge=1)
    rpn_count: AtLeastOne = setting(256, "anchors of an image that are trained")
    rpn_positive_iou: Fraction = setting(
        0.7, "Faster R-CNN section 3.1.2: IoU with an object from which an anchor is positive", gt=0
    )
    rpn_background_iou: Fraction = setting(
        0.3, "Faster R-CNN section 3.1.2: IoU below which an anchor is background"
    )
    rpn_positive_fraction: Fraction = setting(
        0.5, "largest part of positives among trained anchors"
    )
    proposals_loss: tuple[AtLeastOne, AtLeastOne] = setting(
        (2000, 2000), "proposals of a level before, of an image after suppression, when training"
    )
    proposals_detect: tuple[AtLeastOne, AtLeastOne] = setting(
        (1000, 1000), "proposals of a level before, of an image after suppression, when detecting"
    )
    rpn_nms: Fraction = setting(0.7, "of two proposals that overlap more, the better one stays")
    min_size: NotNegative = setting(0.0, "smallest side of a proposal, in pixels of the input")

    anchor_base: AtLeastOne | None = habit(
        None, "side of the inclusive base box that anchors are grown from; None: they have none"
    )
    rpn_beta: NotNegative = habit(1 / 9, "where the RPN's smooth L1 turns linear; 0: L1")
    rpn_score: Fraction = habit(0.0, "least probability of a proposal; 0: any")
    min_size_first: bool = habit(
        False, "`min_size` counts pixels of the source and acts before the best are chosen"
    )

    @model_validator(mode="after")
    def _rpn_rules(self) -> Self:
        if self.rpn_background_iou > self.rpn_positive_iou:
            raise ValueError(
                f"rpn_background_iou {self.rpn_background_iou} is above "
                f"rpn_positive_iou {self.rpn_positive_iou}"
            )
        for name, (before, after) in (
            ("proposals_loss", self.proposals_loss),
            ("proposals_detect", self.proposals_detect),
        ):
            if after > before:
                raise ValueError(
                    f"{name} ({before}, {after}): more are kept after suppression than before"
                )
        return self


class AnchorOutputs(NamedTuple):
    """What an RPN says of its anchors: per level logits [B, A_l] and deltas [B, A_l, 4]; all
    anchors [A, 4]."""

    logits: list[Tensor]
    deltas: list[Tensor]
    anchors: Tensor


class Ranked(NamedTuple):
    """What enters suppression: boxes [B, S, 4], their logits [B, S], usable [B, S] (may be a
    proposal at all), level [S]."""

    boxes: Tensor
    scores: Tensor
    usable: Tensor
    level: Tensor


class RPNHead(nn.Module):
    """A 3x3 convolution, then objectness and box deltas by 1x1, shared over the levels.

    cls "sigmoid" has one logit an anchor; "softmax" two, all background logits first (the paper).
    """

    def __init__(
        self,
        channels: int,
        width: int,
        per_cell: int,
        cls: Literal["sigmoid", "softmax"] = "sigmoid",
        convs: int = 1,
    ) -> None:
        super().__init__()
        self.softmax = cls == "softmax"
        self.conv = nn.ModuleList(
            nn.Conv2d(channels if i == 0 else width, width, 3, padding=1) for i in range(convs)
        )
        self.cls = nn.Conv2d(width, per_cell * (2 if self.softmax else 1), 1)
        self.box = nn.Conv2d(width, per_cell * 4, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """-> per level cls [B, a or 2a, h, w] and box [B, 4a, h, w]."""
        scores, deltas = [], []
        for x in maps:
            for conv in self.conv:
                x = F.relu(conv(x), inplace=True)
            scores.append(self.cls(x))
            deltas.append(self.box(x))
        return scores, deltas

    def rows(self, scores: list[Tensor], deltas: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Per level objectness logits [B, h*w*a] and deltas [B, h*w*a, 4]: row, column, anchor.

        The logit of a softmax pair is the difference of its two.
        """
        flat_scores, flat_deltas = [], []
        for score, delta in zip(scores, deltas, strict=True):
            if self.softmax:
                background, thing = score.chunk(2, dim=1)
                score = thing - background
            flat_scores.append(score.permute(0, 2, 3, 1).flatten(1))
            flat_deltas.append(delta.permute(0, 2, 3, 1).reshape(delta.shape[0], -1, 4))
        return flat_scores, flat_deltas


def anchor_sizes(config: RPNChoices, levels: int) -> list[list[float]]:
    """The anchors' sizes on each level; one level has them all.

    Raises InputError where they do not fit the levels.
    """
    assert isinstance(config, AnchorChoices)
    rows = [list(s) if isinstance(s, tuple) else [s] for s in config.anchor_sizes]
    rows = [[size * factor for size in row for factor in config.anchor_scales] for row in rows]
    if levels == 1:
        return [[size for row in rows for size in row]]
    if len(rows) != levels or len({len(row) for row in rows}) != 1:
        problem = f"needs a size, or equally many, for each of {levels} levels"
        raise InputError(problem, field="anchor_sizes", value=config.anchor_sizes)
    return rows


def anchors_of(
    config: RPNChoices,
    sizes: Sequence[Sequence[float]],
    strides: Sequence[int],
    grids: Sequence[tuple[int, int]],
    image: tuple[int, int],
) -> Tensor:
    """Anchors [A, 4] of each level's sizes and stride, for maps of these (rows, columns) and an
    input of `image` (height, width)."""
    assert isinstance(config, AnchorChoices)
    cells = [
        cell_anchors(
            row,
            config.anchor_ratios,
            rounded=config.anchor_rounded or config.anchor_base is not None,
            base_size=config.anchor_base,
            order=config.anchor_order,
        )
        for row in sizes
    ]
    steps: list[float | tuple[float, float]] = list(strides)
    if config.anchor_stride == "image // grid":
        steps = list(image_strides(grids, image))
    return pyramid_anchors(cells, grids, steps)


class RPN(nn.Module):
    """Anchors, head, targets and selection, over maps of `channels` and `strides`.

    coder: how deltas are written, and whether corners are pixels that belong to a box. Raises
    InputError where `anchor_sizes` do not fit the levels.
    """

    def __init__(
        self, config: RPNChoices, coder: DeltaCoder, channels: int, strides: Sequence[int]
    ) -> None:
        super().__init__()
        self.config, self.coder, self.strides = config, coder, tuple(strides)
        assert isinstance(config, AnchorChoices)
        sizes = anchor_sizes(config, len(self.strides))
        self.head = RPNHead(
            channels,
            config.rpn_width or channels,
            len(sizes[0]) * len(config.anchor_ratios),
            config.rpn_cls,
            config.rpn_convs,
        )
        self.anchors = AnchorCache(partial(anchors_of, config, sizes, self.strides))

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> AnchorOutputs:
        """Maps of an input of `size` (height, width) -> what is said of every anchor."""
        logits, deltas = self.head.rows(*self.head(maps))
        return AnchorOutputs(logits, deltas, self.anchors(maps, size))

    def best(
        self, rows: AnchorOutputs, before: int, limits: Tensor, scales: Tensor | None = None
    ) -> Ranked:
        """The `before` best boxes of each level, as they enter suppression; see `select`."""
        config, inclusive = self.config, self.coder.inclusive
        levels = [level.shape[1] for level in rows.logits]
        logit, delta = torch.cat(rows.logits, 1), torch.cat(rows.deltas, 1)
        edge = limits.repeat(1, 2)[:, None] - int(inclusive)
        side: Tensor | float = config.min_size
        if config.min_size_first:
            side = config.min_size * (1.0 if scales is None else scales[:, None])
            every = torch.minimum(self.coder.decode(delta, rows.anchors).clamp(min=0), edge)
            logit = logit.masked_fill(~_sides_reach(every, side, inclusive), float("-inf"))
        index, level = top_per_level(logit, levels, before)
        delta = delta.gather(1, index[..., None].expand(-1, -1, 4))
        box, score = self.coder.decode(delta, rows.anchors[index]), logit.gather(1, index)
        box = torch.minimum(box.clamp(min=0), edge)
        usable = _sides_reach(box, side, inclusive) & score.isfinite()
        if config.rpn_score > 0:
            usable &= score.sigmoid() >= config.rpn_score
        return Ranked(box, score, usable, level)

    @torch.no_grad()
    def select(
        self,
        rows: AnchorOutputs,
        counts: tuple[int, int],
        limits: Tensor,
        scales: Tensor | None = None,
    ) -> Proposals:
        """-> proposals [B, P, 4], their logits [B, P] and valid [B, P], best first.

        counts: the best of each level that enter suppression, and P, those of an image that stay.
        limits [B, 2]: width and height of each image's content, to which boxes are clipped; scales
        [B]: pixels of the input for one of the source.
        """
        ranked = self.best(rows, counts[0], limits, scales)
        return proposal_nms(
            ranked.boxes,
            ranked.scores,
            self.config.rpn_nms,
            counts[1],
            usable=ranked.usable,
            level=ranked.level,
            inclusive=self.coder.inclusive,
        )

    def matches(self, anchors: Tensor, targets: Targets, limits: Tensor) -> Matches:
        """Section 3.1.2: an object from IoU 0.7 on or where none is nearer, background below 0.3.

        anchors [A, 4]; those that cross the content's border (limits [B, 2]: width, height) may be
        left out.
        """
        config, usable = self.config, None
        if config.rpn_border:
            inside = (anchors[:, :2] >= 0).all(1)
            edge = anchors[None, :, 2:] + int(self.coder.inclusive)
            usable = inside & (edge <= limits[:, None]).all(-1)
        return match_thresholds(
            anchors,
            targets.boxes,
            targets.valid & ~targets.ignore,
            config.rpn_positive_iou,
            config.rpn_background_iou,
            low_quality="argmax",
            usable=usable,
            inclusive=self.coder.inclusive,
        )

    def loss(
        self,
        rows: AnchorOutputs,
        targets: Targets,
        limits: Tensor,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Objectness: mean over the sampled anchors; boxes: smooth L1 of positives / sampled."""
        config, anchors = self.config, rows.anchors
        logit, delta = torch.cat(rows.logits, 1), torch.cat(rows.deltas, 1)
        matches = self.matches(anchors, targets, limits)
        drawn = sample(
            matches.positive,
            matches.negative,
            config.rpn_count,
            config.rpn_positive_fraction,
            generator,
        )
        positive, negative = drawn.masks(logit.shape[1])
        chosen = positive | negative
        count = chosen.sum().clamp(min=1)
        cls = F.binary_cross_entropy_with_logits(
            logit[chosen], positive[chosen].to(logit.dtype), reduction="sum"
        )
        image, anchor = positive.nonzero(as_tuple=True)
        wanted = self.coder.encode(
            targets.boxes[image, matches.index[image, anchor]], anchors[anchor]
        )
        box = F.smooth_l1_loss(delta[image, anchor], wanted, beta=config.rpn_beta, reduction="sum")
        return {"rpn_cls": cls / count, "rpn_box": box / count}


def _sides_reach(boxes: Tensor, side: Tensor | float, inclusive: bool) -> Tensor:
    """[B, P, 4] -> [B, P]: both sides are at least `side`, which may be [B, 1]."""
    return (boxes[..., 2:] - boxes[..., :2] + int(inclusive)).amin(-1) >= side
