"""The region proposal network. Ren et al. 2015, arXiv 1506.01497, section 3.1.

Shape letters: B images, A anchors (all levels), a anchors in a cell, M objects, P proposals.
Boxes are xyxy in pixels of the network's input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxatlas.boxes.anchors import AnchorCache, AnchorRule
from boxatlas.boxes.coders import DeltaCoder
from boxatlas.boxes.matching import match_thresholds
from boxatlas.boxes.nms import Proposals, proposal_nms, top_per_level
from boxatlas.boxes.sampling import sample
from boxatlas.structures import Targets


class Anchors(AnchorCache):
    """The anchors that a rule spells."""

    def __init__(self, rule: AnchorRule) -> None:
        super().__init__(rule.make)
        self.rule = rule


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
            flat_deltas.append(delta.permute(0, 2, 3, 1).reshape(len(delta), -1, 4))
        return flat_scores, flat_deltas


@dataclass(frozen=True)
class RPNTargets:
    """How anchors learn: section 3.1.2 and the conventions of the programs."""

    high: float = 0.7
    low: float = 0.3
    low_quality: Literal["argmax", "argmax_including_zero", "claim"] = "argmax"
    low_quality_min_iou: float = 0.0
    border: bool = False  # True: anchors that cross the image's border learn nothing
    count: int = 256
    positive_fraction: float = 0.5
    beta: float = 1 / 9
    inclusive: bool = False
    box_weight: float = 1.0  # equation 1's lambda, beside a mean over the anchors drawn


@dataclass(frozen=True)
class RPNSelection:
    """Which anchors become proposals: the best `before` of each level, NMS, the best `after`.

    min_score: the least probability of an object (0: any). min_size: the least side in pixels of
    the input, or with `source_size` of the source; `small_first`: what is smaller goes before the
    best are chosen (py-faster-rcnn), not after.
    """

    before: int = 1000
    after: int = 1000
    nms: float = 0.7
    min_size: float = 0.0
    inclusive: bool = False
    min_score: float = 0.0
    source_size: bool = False
    small_first: bool = False


class RPN(nn.Module):
    """Anchors, head, targets and selection."""

    def __init__(
        self,
        channels: int,
        width: int,
        rule: AnchorRule,
        *,
        cls: Literal["sigmoid", "softmax"] = "sigmoid",
        convs: int = 1,
        coder: DeltaCoder,
        targets: RPNTargets,
    ) -> None:
        super().__init__()
        self.head = RPNHead(channels, width, rule.per_cell, cls, convs)
        self.anchors = Anchors(rule)
        self.coder, self.targets = coder, targets

    def forward(
        self, maps: Sequence[Tensor], size: tuple[int, int]
    ) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """-> per level logits [B, A_l] and deltas [B, A_l, 4], and all anchors [A, 4]."""
        logits, deltas = self.head.rows(*self.head(maps))
        return logits, deltas, self.anchors(maps, size)

    @torch.no_grad()
    def select(
        self,
        logits: list[Tensor],
        deltas: list[Tensor],
        anchors: Tensor,
        limits: Tensor,
        rule: RPNSelection,
        scales: Tensor | None = None,
    ) -> Proposals:
        """-> proposals [B, P, 4], their logits [B, P] and valid [B, P], best first, P = rule.after.

        limits [B, 2]: width and height of each image's content, to which boxes are clipped; scales
        [B]: pixels of the input for one of the source.
        """
        counts = [level.shape[1] for level in logits]
        logit, delta = torch.cat(logits, 1), torch.cat(deltas, 1)
        edge = limits.repeat(1, 2)[:, None] - int(rule.inclusive)
        side = rule.min_size * (scales[:, None] if rule.source_size and scales is not None else 1.0)
        if rule.small_first:
            every = torch.minimum(self.coder.decode(delta, anchors).clamp(min=0), edge)
            small = ~_sides_reach(every, side, rule.inclusive)
            logit = logit.masked_fill(small, float("-inf"))
        index, level = top_per_level(logit, counts, rule.before)
        delta = delta.gather(1, index[..., None].expand(-1, -1, 4))
        box, score = self.coder.decode(delta, anchors[index]), logit.gather(1, index)
        box = torch.minimum(box.clamp(min=0), edge)
        usable = _sides_reach(box, side, rule.inclusive) & score.isfinite()
        if rule.min_score > 0:
            usable &= score.sigmoid() >= rule.min_score
        return proposal_nms(
            box, score, rule.nms, rule.after, usable=usable, level=level, inclusive=rule.inclusive
        )

    def loss(
        self,
        logits: list[Tensor],
        deltas: list[Tensor],
        anchors: Tensor,
        targets: Targets,
        limits: Tensor,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Objectness: mean over the sampled anchors; boxes: smooth L1 of positives / sampled."""
        rule = self.targets
        logit, delta = torch.cat(logits, 1), torch.cat(deltas, 1)
        usable = None
        if rule.border:
            inside = (anchors[:, :2] >= 0).all(1)
            edge = anchors[None, :, 2:] + int(rule.inclusive)
            usable = inside & (edge <= limits[:, None]).all(-1)
        matches = match_thresholds(
            anchors,
            targets.boxes,
            targets.valid & ~targets.ignore,
            rule.high,
            rule.low,
            low_quality=rule.low_quality,
            low_quality_min_iou=rule.low_quality_min_iou,
            usable=usable,
            inclusive=rule.inclusive,
        )
        drawn = sample(
            matches.positive, matches.negative, rule.count, rule.positive_fraction, generator
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
        box = F.smooth_l1_loss(delta[image, anchor], wanted, beta=rule.beta, reduction="sum")
        return {"rpn_cls": cls / count, "rpn_box": box / count * rule.box_weight}


def _sides_reach(boxes: Tensor, side: Tensor | float, inclusive: bool) -> Tensor:
    """[B, P, 4] -> [B, P]: both sides are at least `side`, which may be [B, 1]."""
    return (boxes[..., 2:] - boxes[..., :2] + int(inclusive)).amin(-1) >= side
