"""What two-stage detectors share: features -> proposals -> RoI features -> head -> detections.

A region detector composes `features`, `propose` and `heads`; each can be called and compared by
itself. Shape letters: B images, P proposals of an image, R = B * P RoIs, K classes (background is
column 0 of the K + 1 logits), M objects.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxatlas.boxes.coders import DeltaCoder
from boxatlas.boxes.formats import pyramid_level
from boxatlas.boxes.nms import batched_nms
from boxatlas.images import Preprocess
from boxatlas.losses.ohem import hardest
from boxatlas.ops.roi import pyramid_pool
from boxatlas.options import Options
from boxatlas.parts.base import ClassRows, Detector, Raw, clipped
from boxatlas.parts.region.heads import BoxPredictor, per_roi
from boxatlas.parts.region.rpn import RPN, RPNSelection
from boxatlas.parts.region.search import searched
from boxatlas.parts.region.targets import (
    HeadBatch,
    RoITargets,
    SampledRoIs,
    all_rois,
    delta_column,
    roi_losses,
    sample_rois,
    take,
)
from boxatlas.structures import Batch, Detections, Frame, Targets


class Proposals(NamedTuple):
    """boxes [B, P, 4] in input pixels, logits [B, P], valid [B, P]; they carry no gradient."""

    boxes: Tensor
    logits: Tensor
    valid: Tensor


@dataclass(frozen=True)
class LevelRule:
    """Which map a RoI is pooled from; the fields are those of `boxes.pyramid_level`."""

    k_min: int = 2
    k_max: int = 5
    k0: int = 4
    canonical_size: float = 224.0
    inclusive: bool = False
    epsilon_inside_log: float = 0.0
    epsilon_outside_log: float = 1e-6
    add_k0_inside_floor: bool = True


@dataclass(frozen=True)
class RoIRule:
    """How a RoI is pooled: the operator, its grid, and the strides of the maps it may come from.

    op "warp" aligns a RoI whose corners were rounded to cells first (Dai et al. 2016). reduce: what
    becomes of the samples in a bin of "align" and "warp".
    """

    op: Literal["align", "pool", "warp"] = "align"
    size: int = 7
    sampling_ratio: int = 2
    aligned: bool = False
    strides: tuple[int, ...] = (4, 8, 16, 32)
    level: LevelRule = LevelRule()
    reduce: Literal["average", "max"] = "average"

    def pool(self, maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """Boxes [B, P, 4] -> [B * P, C, size, size]."""
        rois = self.rois(boxes)
        levels, scales = self.levels(rois[:, 1:]), [1 / s for s in self.strides]
        if self.op == "warp":
            scale = rois.new_tensor(scales)[levels, None]
            rois = torch.cat([rois[:, :1], (rois[:, 1:] * scale).round() / scale], 1)
        # The largest of n x n samples: a grid n times as fine, of one sample a cell.
        finer = max(self.sampling_ratio, 2) if self.reduce == "max" and self.op != "pool" else 1
        pooled = pyramid_pool(
            maps[: len(scales)],
            scales,
            rois,
            levels,
            self.size * finer,
            op="pool" if self.op == "pool" else "align",
            sampling_ratio=self.sampling_ratio if finer == 1 else 1,
            aligned=self.aligned,
        )
        return pooled if finer == 1 else F.max_pool2d(pooled, finer)

    def rois(self, boxes: Tensor) -> Tensor:
        """Boxes [B, P, 4] -> [R, 5], the image's number first."""
        image = torch.arange(len(boxes), device=boxes.device, dtype=boxes.dtype)
        image = image[:, None, None].expand(*boxes.shape[:2], 1)
        return torch.cat([image, boxes], -1).reshape(-1, 5)

    def levels(self, boxes: Tensor) -> Tensor:
        """Boxes [R, 4] -> [R]: which of the maps each is pooled from."""
        if len(self.strides) == 1:
            return torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
        rule = self.level
        return -rule.k_min + pyramid_level(
            boxes,
            rule.k_min,
            rule.k_max,
            rule.k0,
            rule.canonical_size,
            inclusive=rule.inclusive,
            epsilon_inside_log=rule.epsilon_inside_log,
            epsilon_outside_log=rule.epsilon_outside_log,
            add_k0_inside_floor=rule.add_k0_inside_floor,
        )


@dataclass(frozen=True)
class DetectRule:
    """From scored boxes to detections.

    inclusive: corners are pixels that belong to a box, whose width is x2 - x1 + 1; boxes are then
    decoded and suppressed in the source's own pixels, as the first programs do.
    """

    score: float = 0.05
    nms: float = 0.5
    max_detections: int = 100
    min_size: float = 0.0
    inclusive: bool = False


class RegionDetector(Detector):
    """A trunk, an RPN (or proposals from outside), RoI pooling and a head.

    trunk: images -> maps for the RPN, fine to coarse; the first of them serve the RoIs. head: RoI
    features -> vectors for `predictor`. Methods with other heads override `heads` and `head_loss`.
    """

    def __init__(
        self,
        classes: Sequence[str],
        preprocess: Preprocess,
        config: Options,
        *,
        trunk: nn.Module,
        rpn: RPN | None,
        head: nn.Module,
        predictor: nn.Module,
        roi: RoIRule,
        coder: DeltaCoder,
        roi_targets: RoITargets,
        detect_rule: DetectRule,
        select_in_loss: RPNSelection | None = None,
        select_in_detect: RPNSelection | None = None,
    ) -> None:
        super().__init__(classes, preprocess, config)
        self.trunk, self.rpn, self.head, self.predictor = trunk, rpn, head, predictor
        self.takes_proposals = 0 if rpn is not None else 2000
        self.class_agnostic = bool(getattr(config, "class_agnostic", False))
        self.roi, self.coder = roi, coder
        self.roi_targets, self.detect_rule = roi_targets, detect_rule
        self.select_in_loss = select_in_loss or RPNSelection(2000, 2000)
        self.select_in_detect = select_in_detect or RPNSelection(1000, 1000)

    # -- the parts ----------------------------------------------------------------------------

    def features(self, images: Tensor) -> list[Tensor]:
        return self.trunk(images)

    def rpn_features(self, images: Tensor) -> list[Tensor]:
        """`features`, or as much of them as `rpn_maps` looks at."""
        return self.features(images)

    def rpn_maps(self, features: list[Tensor]) -> list[Tensor]:
        """Those of the features that the RPN looks at."""
        return features

    def propose(
        self, features: list[Tensor], frames: Sequence[Frame] | None, size: tuple[int, int]
    ) -> Proposals:
        """The RPN's best boxes as `detect` uses them; size: height, width of the input."""
        if self.rpn is None:
            raise ValueError(f"{self.name or 'this detector'} takes its proposals from outside")
        logits, deltas, anchors = self.rpn(self.rpn_maps(features), size)
        limits = content_limits(features[0], frames, size)
        rule, scale = self.select_in_detect, image_scales(features[0], frames)
        return Proposals(*self.rpn.select(logits, deltas, anchors, limits, rule, scale))

    def propose_all(self, table: Any, folder: Path, track: Any) -> dict[str, Any]:
        """Image path -> proposals [P, 4] in source pixels, for a later phase of training.

        As many as the heads learn from; what is done is kept in `folder` and found there again.
        """
        from boxatlas.proposing import stored

        maker = copy.copy(self)
        maker.select_in_detect = replace(self.select_in_loss, before=1 << 30)
        return stored(maker, table.paths, folder, track, self.select_in_loss.after)

    def heads(self, features: list[Tensor], boxes: Tensor, limits: Tensor | None = None) -> Raw:
        """Boxes [B, P, 4] -> logits [B, P, K + 1] and deltas [B, P, D, 4] (see BoxPredictor).

        limits [B, 2]: width and height of each image's content, for heads that move boxes; what
        they call "proposals" then stands in for the boxes given.
        """
        logits, deltas = self.predictor(self.head(self.roi.pool(features, boxes)))
        return per_roi(logits, deltas, boxes)

    def forward(
        self,
        images: Tensor,
        frames: Sequence[Frame] | None = None,
        proposals: Tensor | None = None,
    ) -> Raw:
        """-> logits [B, P, K + 1], deltas [B, P, D, 4], proposals [B, P, 4], valid [B, P]."""
        features = self.features(images)
        if proposals is None and self.rpn is None:
            proposals = searched(images, frames, self.preprocess, most=self.takes_proposals)
        if proposals is None:
            size = (images.shape[-2], images.shape[-1])
            proposals, _, valid = self.propose(features, frames, size)
        else:
            valid = (proposals[..., 2:] > proposals[..., :2]).all(-1)
            proposals = self._inward(proposals, frames)
        limits = content_limits(images, frames, (images.shape[-2], images.shape[-1]))
        raw = self.heads(features, proposals, limits)
        return {"proposals": proposals, "valid": valid, **raw, **self.extra_raw(features)}

    def probe(self, images: Tensor) -> list[Tensor]:
        """The RPN's raw outputs, and the heads' on fixed boxes: what comes before any choice."""
        features = self.features(images)
        size = (images.shape[-2], images.shape[-1])
        found: list[Tensor] = []
        if self.rpn is not None:
            logits, deltas, _ = self.rpn(self.rpn_maps(features), size)
            found += [*logits, *deltas]
        corner = torch.linspace(0, 0.6, 4, device=images.device)
        corners = torch.cartesian_prod(corner, corner)
        boxes = torch.cat([corners, corners + 0.4], 1) * corners.new_tensor([*size[::-1]] * 2)
        found += list(self.heads(features, boxes.expand(len(images), -1, -1)).values())
        return found

    def extra_raw(self, features: list[Tensor]) -> Raw:
        """What `postprocess` needs beside the boxes (a mask branch keeps its features)."""
        return {}

    def training_sizes(self) -> list[tuple[int, int]]:
        """Sizes of the input that training changes among; none: one."""
        sizes: Sequence[int] = getattr(self.config, "train_sizes", ())
        return [(side, self.preprocess.size[1]) for side in sizes]

    # -- learning -----------------------------------------------------------------------------

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """The RPN's on its anchors and the heads' on its proposals; or, where the batch holds
        proposals, the heads' alone, on those."""
        if self.rpn is not None and batch.proposals is None:
            return self._losses_of_all(batch, generator)
        if batch.proposals is None or batch.valid is None:
            raise ValueError("this method learns from proposals, and the batch holds none")
        boxes, targets = self._inward(batch.proposals, batch.frames), self._inward_targets(batch)
        features, limits = self.features(batch.images), limits_of(batch)
        return self.head_loss(HeadBatch(features, boxes, batch.valid, targets, limits, generator))

    def loss_terms(
        self, batch: Batch, terms: Sequence[str], generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Where only the RPN learns, its maps and its losses are all that is computed."""
        if self.rpn is None or not set(terms) <= {"rpn_cls", "rpn_box"}:
            return self.loss(batch, generator)
        maps = self.rpn_maps(self.rpn_features(batch.images))
        logits, deltas, anchors = self.rpn(maps, size_of(batch))
        return self.rpn.loss(
            logits, deltas, anchors, self._inward_targets(batch), limits_of(batch), generator
        )

    def _losses_of_all(self, batch: Batch, generator: torch.Generator | None) -> dict[str, Tensor]:
        assert self.rpn is not None
        features, targets = self.features(batch.images), self._inward_targets(batch)
        limits = limits_of(batch)
        logits, deltas, anchors = self.rpn(self.rpn_maps(features), size_of(batch))
        losses = self.rpn.loss(logits, deltas, anchors, targets, limits, generator)
        boxes, _, valid = self.rpn.select(
            [x.detach() for x in logits],
            [x.detach() for x in deltas],
            anchors,
            limits,
            self.select_in_loss,
            image_scales(batch.images, batch.frames),
        )
        given = HeadBatch(features, boxes, valid, targets, limits, generator)
        return {**losses, **self.head_loss(given)}

    def _inward_targets(self, batch: Batch) -> Targets:
        return replace(batch.targets, boxes=self._inward(batch.targets.boxes, batch.frames))

    def head_loss(self, given: HeadBatch) -> dict[str, Tensor]:
        """What the heads lose on the RoIs that are drawn."""
        return self.box_loss(given.features, self.draw(given))

    def draw(self, given: HeadBatch) -> SampledRoIs:
        """The RoIs to learn from: a random draw, or those of largest loss."""
        if self.roi_targets.sampler == "ohem":
            return self.hardest(given)
        return sample_rois(
            self.roi_targets, given.boxes, given.valid, given.targets, given.generator
        )

    def box_loss(self, features: list[Tensor], rois: SampledRoIs) -> dict[str, Tensor]:
        """Cross-entropy, mean over the RoIs; smooth L1 of the positives' own class / RoIs."""
        cls, box = self._losses(features, rois)
        count = (rois.labels >= 0).sum().clamp(min=1)
        return {"roi_cls": cls.sum() / count, "roi_box": box.sum() / count}

    @torch.no_grad()
    def hardest(self, given: HeadBatch) -> SampledRoIs:
        """OHEM: the `count` RoIs of each image whose loss is largest."""
        rois = all_rois(self.roi_targets, given.boxes, given.valid, given.targets)
        cls, box = self._losses(given.features, rois)
        return take(rois, hardest(cls + box, rois.labels >= 0, self.roi_targets.count))

    def _losses(self, features: list[Tensor], rois: SampledRoIs) -> tuple[Tensor, Tensor]:
        raw = self.heads(features, rois.boxes)
        return roi_losses(
            raw["logits"],
            raw["deltas"],
            rois,
            self.coder,
            self.roi_targets.beta,
            self.class_agnostic,
        )

    def _inward(self, boxes: Tensor, frames: Sequence[Frame] | None) -> Tensor:
        """Continuous boxes [B, P, 4] of the input as this detector counts pixels."""
        return boxes - self._pixel(boxes, frames) if self.detect_rule.inclusive else boxes

    def outward(self, boxes: Tensor, frames: Sequence[Frame] | None) -> Tensor:
        """This detector's own boxes [B, P, 4] as continuous ones of the input."""
        return boxes + self._pixel(boxes, frames) if self.detect_rule.inclusive else boxes

    def _pixel(self, like: Tensor, frames: Sequence[Frame] | None) -> Tensor:
        """[B, 1, 4]: how far a pixel of the source reaches; without frames the input is it."""
        scales = [(1.0, 1.0)] if frames is None else [f.scale for f in frames]
        return like.new_tensor([[[0.0, 0.0, *scale]] for scale in scales])

    # -- detecting ----------------------------------------------------------------------------

    def postprocess(
        self,
        raw: Raw,
        frames: Sequence[Frame],
        *,
        score: float | None = None,
        max_detections: int | None = None,
    ) -> list[Detections]:
        rule = self.detect_rule
        threshold = rule.score if score is None else score
        most = rule.max_detections if max_detections is None else max_detections
        scores = self.class_scores(raw)  # [B, P, K]
        # The published threshold is exceeded; one that a caller gives is reached.
        hit = scores > threshold if score is None else scores >= threshold
        image, row, label = (hit & raw["valid"][..., None]).nonzero(as_tuple=True)
        found = scores[image, row, label]
        column = delta_column(label, raw["deltas"].shape[2], self.class_agnostic, self.num_classes)
        boxes = self._decoded(raw, image, row, column, frames)
        if rule.min_size > 0:
            fit = (boxes[:, 2:] - boxes[:, :2] >= rule.min_size).all(1)
            image, label, found, boxes = image[fit], label[fit], found[fit], boxes[fit]
        group = image * self.num_classes + label
        keep = batched_nms(boxes, found, group, rule.nms, inclusive=rule.inclusive)
        packed = torch.cat([boxes[keep], label[keep, None].to(boxes.dtype)], 1)
        return self._packed(image[keep], packed, found[keep], frames, most)

    def _decoded(
        self, raw: Raw, image: Tensor, row: Tensor, column: Tensor, frames: Sequence[Frame]
    ) -> Tensor:
        """Boxes [N, 4] in input pixels clipped to the content; inclusive ones in the source's."""
        delta, given = raw["deltas"][image, row, column], raw["proposals"][image, row]
        if self.detect_rule.inclusive:
            shift = given.new_tensor([f.offset for f in frames])[image].repeat(1, 2)
            scale = given.new_tensor([f.scale for f in frames])[image].repeat(1, 2)
            limit = given.new_tensor([[f.source[1] - 1.0, f.source[0] - 1.0] for f in frames])
            boxes = self.coder.decode(delta, (given - shift) / scale)
            return torch.minimum(boxes.clamp(min=0), limit[image].repeat(1, 2))
        return clipped(self.coder.decode(delta, given), frames, image)

    def class_scores(self, raw: Raw) -> Tensor:
        """[B, P, K]: the probability of each class, background left out."""
        return raw["logits"].softmax(-1)[..., 1:]

    def _packed(
        self, image: Tensor, packed: Tensor, found: Tensor, frames: Sequence[Frame], most: int
    ) -> list[Detections]:
        results = []
        pixel = packed.new_tensor([0.0, 0.0, 1.0, 1.0])
        counts = torch.bincount(image, minlength=len(frames)).tolist()
        order = torch.argsort(image, stable=True)
        for frame, rows in zip(frames, order.split(counts), strict=True):
            rows = rows[:most]
            boxes = packed[rows, :4]
            boxes = boxes + pixel if self.detect_rule.inclusive else frame.undo(boxes.float())
            results.append(
                Detections(
                    boxes.float().cpu(),
                    found[rows].float().cpu(),
                    packed[rows, 4].long().cpu(),
                    self.classes,
                    frame.source,
                )
            )
        return results

    def class_rows(self) -> Mapping[str, ClassRows]:
        rows = {}
        for name, module in self.named_modules():
            if isinstance(module, BoxPredictor):
                per_class = module.box.out_features > (1 + module.offset) * 4
                for leaf in ("weight", "bias"):
                    rows[f"{name}.cls.{leaf}"] = ClassRows(1, 1)
                    if per_class:
                        rows[f"{name}.box.{leaf}"] = ClassRows(1, module.offset, 4)
        return rows


def content_limits(like: Tensor, frames: Sequence[Frame] | None, size: tuple[int, int]) -> Tensor:
    """[B, 2]: width and height that each image's content reaches within the input."""
    if frames is None:
        return like.new_tensor([[size[1], size[0]]]).expand(len(like), 2)
    return like.new_tensor(
        [[f.offset[0] + f.content[1], f.offset[1] + f.content[0]] for f in frames]
    )


def size_of(batch: Batch) -> tuple[int, int]:
    """Height and width of the input."""
    return batch.images.shape[-2], batch.images.shape[-1]


def limits_of(batch: Batch) -> Tensor:
    """`content_limits` of a batch."""
    return content_limits(batch.images, batch.frames, size_of(batch))


def image_scales(like: Tensor, frames: Sequence[Frame] | None) -> Tensor:
    """[B]: how many pixels of the input one of the source's became."""
    if frames is None:
        return like.new_ones(len(like))
    return like.new_tensor([min(f.scale) for f in frames])
