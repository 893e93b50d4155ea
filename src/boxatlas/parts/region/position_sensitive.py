"""Score maps for each part of a RoI, and the vote of the parts. Dai et al. 2016, arXiv 1605.06409.

Shape letters: B images, P RoIs of an image, R = B * P, K classes, k parts a side, D box columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from boxatlas.errors import InputError
from boxatlas.ops.psroi import PSRoIRule, psroi_align, psroi_pool
from boxatlas.options import Options, Width, habit, idea, setting
from boxatlas.parts.base import ClassRows, Raw
from boxatlas.parts.region.detector import RegionDetector
from boxatlas.parts.region.heads import per_roi
from boxatlas.parts.region.roi import roi_levels, with_image
from boxatlas.parts.region.rpn import RPN


class PartChoices(Options):
    """The parts of a RoI and their score maps."""

    k: int = idea(7, "table 2: parts a side of a RoI", ge=1, le=32)
    train_scheme: Literal["alternating", "joint"] = idea(
        "alternating", "section 2: four steps with the RPN in turns, or all losses at once"
    )

    conv_width: Width = setting(1024, "channels of the 1x1 convolution before the score maps")

    vote: Literal["mean", "sum"] = habit("mean", "how the parts of a RoI vote")
    rounding: Literal["image", "map"] = habit(
        "image", "a RoI's corners are rounded to pixels of the image or to cells of the map"
    )


if TYPE_CHECKING:
    from boxatlas.parts.region.detector import RegionConfig

    class PartConfig(RegionConfig, PartChoices):
        """What the config of every detector with position-sensitive heads holds."""


class ScoreMaps(nn.Module):
    """Section 2: a 1x1 convolution, then k^2 maps for each class and each box coordinate."""

    def __init__(self, channels: int, classes: int, config: PartConfig) -> None:
        super().__init__()
        width, parts = config.conv_width, config.k**2
        self.columns = (1 if config.class_agnostic else classes) + int(config.background_box)
        self.reduce = nn.Conv2d(channels, width, 1)
        self.cls = nn.Conv2d(width, parts * (classes + 1), 1)
        self.box = nn.Conv2d(width, parts * 4 * self.columns, 1)
        for module in (self.reduce, self.cls, self.box):
            nn.init.normal_(module.weight, std=0.01)
            assert module.bias is not None
            nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, h, w] -> class maps [B, k^2 (K + 1), h, w] and box maps [B, 4 k^2 D, h, w]."""
        x = F.relu(self.reduce(x), inplace=True)
        return self.cls(x), self.box(x)


class PositionSensitiveDetector(RegionDetector):
    """An RPN, and score maps from which each RoI reads its votes.

    The trunk's first `rpn_levels` maps are the RPN's; scores are made of those from `first_score`
    on, one for each of `roi_strides`, with `channels`.
    """

    config: PartConfig  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(
        self,
        classes: Sequence[str],
        config: PartChoices,
        *,
        trunk: nn.Module,
        rpn: RPN,
        rpn_levels: int,
        first_score: int,
        channels: int,
        roi_strides: Sequence[int],
    ) -> None:
        super().__init__(
            classes,
            config,
            trunk=trunk,
            rpn=rpn,
            head=nn.Identity(),
            predictor=nn.Identity(),
            roi_strides=roi_strides,
            roi_side=config.k,
        )
        if self.config.roi_op == "warp":
            raise InputError("R-FCN pools or aligns", field="roi_op", value="warp")
        self.rpn_levels, self.first_score = rpn_levels, first_score
        self.score = ScoreMaps(channels, len(classes), self.config)
        if config.rounding == "map":
            self.parts = PSRoIRule("map", 0.0, 1.0, -1)
        else:
            self.parts = PSRoIRule(end_offset=float(self.config.inclusive))

    def features(self, images: Tensor) -> list[Tensor]:
        """The RPN's maps, then each level's class maps, then each level's box maps."""
        maps = self.trunk(images)
        last = self.first_score + len(self.roi_strides)
        scores = [self.score(x) for x in maps[self.first_score : last]]
        return [*maps[: self.rpn_levels], *(cls for cls, _ in scores), *(box for _, box in scores)]

    def rpn_features(self, images: Tensor) -> list[Tensor]:
        """The RPN's maps alone: no scores are made."""
        return self.trunk(images)[: self.rpn_levels]

    def rpn_maps(self, features: list[Tensor]) -> list[Tensor]:
        return features[: self.rpn_levels]

    def heads(self, features: list[Tensor], boxes: Tensor, limits: Tensor | None = None) -> Raw:
        """Equation 1 and the vote: boxes [B, P, 4] -> logits [B, P, K + 1], deltas [B, P, D, 4]."""
        cls, box = self.pooled(features, boxes)
        summed = self.config.vote == "sum"
        logits, deltas = (x.sum((2, 3)) if summed else x.mean((2, 3)) for x in (cls, box))
        return per_roi(logits, deltas, boxes)

    def pooled(self, features: list[Tensor], boxes: Tensor) -> tuple[Tensor, Tensor]:
        """What each part of each RoI says: [R, K + 1, k, k] and [R, 4 D, k, k]."""
        count, start = len(self.roi_strides), self.rpn_levels
        return (
            self._pool(features[start : start + count], boxes),
            self._pool(features[start + count :], boxes),
        )

    def _pool(self, maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
        config, k = self.config, self.config.k
        rois = with_image(boxes)
        levels = roi_levels(config, rois[:, 1:], self.roi_strides)
        out = maps[0].new_zeros(rois.shape[0], maps[0].shape[1] // k**2, k, k)
        for i, (level, stride) in enumerate(zip(maps, self.roi_strides, strict=True)):
            rows = (levels == i).nonzero()[:, 0] if len(maps) > 1 else slice(None)
            if config.roi_op == "align":
                part = psroi_align(level, rois[rows], k, 1 / stride)
            else:
                part = psroi_pool(level, rois[rows], k, 1 / stride, self.parts)
            if len(maps) == 1:
                return part
            out = out.index_put((rows,), part)  # pyright: ignore[reportArgumentType]
        return out

    def class_rows(self) -> dict[str, ClassRows]:
        parts, score = self.config.k**2, self.score
        rows = {f"score.cls.{leaf}": ClassRows(1, 1, parts) for leaf in ("weight", "bias")}
        if not self.config.class_agnostic:
            own = ClassRows(1, score.columns - self.num_classes, 4 * parts)
            rows |= {f"score.box.{leaf}": own for leaf in ("weight", "bias")}
        return rows
