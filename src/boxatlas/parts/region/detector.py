"""What two-stage detectors share: features -> proposals -> RoI features -> head -> detections.

A region detector composes `features`, `propose` and `heads`; each can be called and compared by
itself. Shape letters: B images, P proposals of an image, R = B * P RoIs, K classes (background is
column 0 of the K + 1 logits), D box columns, M objects, N detections.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from boxatlas.backbones.choice import BackboneChoices, TrunkChoices, pyramid_preprocess
from boxatlas.boxes.matching import Assigned
from boxatlas.boxes.nms import Proposals, SuppressionChoices, batched_nms
from boxatlas.losses.ohem import hardest
from boxatlas.options import Options
from boxatlas.parts.base import ClassRows, Detector, Raw, clipped
from boxatlas.parts.region.heads import BoxPredictor, per_roi
from boxatlas.parts.region.roi import RoIChoices, box_coder, pool_rois
from boxatlas.parts.region.rpn import RPN, AnchorOutputs
from boxatlas.parts.region.search import selective_search_proposals, with_proposals
from boxatlas.parts.region.targets import (
    HeadBatch,
    SampledRoIs,
    assigned_rois,
    delta_column,
    draw_rois,
    label_rois,
    roi_losses,
    take,
)
from boxatlas.structures import Batch, Detections, Frame, Targets, detections_of

if TYPE_CHECKING:

    class RegionConfig(TrunkChoices, RoIChoices, SuppressionChoices):
        """What every region detector's config holds; each lists these groups itself."""


class RegionDetector(Detector):
    """A trunk, an RPN (or proposals from outside), RoI pooling and a head.

    trunk: images -> maps for the RPN, fine to coarse; the first of them, of `roi_strides`, serve
    the RoIs, which are pooled to roi_side x roi_side. head: RoI features -> vectors for
    `predictor`. Methods with other heads override `heads` and `head_loss`; one without an RPN sets
    `takes_proposals`.
    """

    config: RegionConfig

    def __init__(
        self,
        classes: Sequence[str],
        config: Options,
        *,
        trunk: nn.Module,
        rpn: RPN | None,
        head: nn.Module,
        predictor: nn.Module,
        roi_strides: Sequence[int],
        roi_side: int,
    ) -> None:
        assert isinstance(config, BackboneChoices)
        assert isinstance(config, TrunkChoices)
        super().__init__(classes, pyramid_preprocess(config.backbone, config.size), config)
        self.trunk, self.rpn, self.head, self.predictor = trunk, rpn, head, predictor
        self.roi_strides, self.roi_side = tuple(roi_strides), roi_side
        self.coder = box_coder(self.config, self.config.roi_weights)

    # -- the parts ----------------------------------------------------------------------------

    def features(self, images: Tensor) -> list[Tensor]:
        """Images [B, 3, h, w] -> the maps that RPN and RoIs look at."""
        return self.trunk(images)

    def rpn_features(self, images: Tensor) -> list[Tensor]:
        """`features`, or as much of them as `rpn_maps` looks at."""
        return self.features(images)

    def rpn_maps(self, features: list[Tensor]) -> list[Tensor]:
        """Those of the features that the RPN looks at."""
        return features

    def propose(
        self,
        features: list[Tensor],
        frames: Sequence[Frame] | None,
        size: tuple[int, int],
        counts: tuple[int, int] | None = None,
    ) -> Proposals:
        """The RPN's best boxes in input pixels, their logits as scores; they carry no gradient.

        size: height, width of the input. counts: how many before and after suppression; None: as
        `detect` uses them.
        """
        if self.rpn is None:
            raise ValueError(f"{self.name or 'this detector'} takes its proposals from outside")
        rows = self.rpn(self.rpn_maps(features), size)
        limits = content_limits(features[0], frames, size)
        scales = image_scales(features[0], frames)
        return self.rpn.select(rows, counts or self.rpn.config.proposals_detect, limits, scales)

    def heads(self, features: list[Tensor], boxes: Tensor, limits: Tensor | None = None) -> Raw:
        """Boxes [B, P, 4] -> logits [B, P, K + 1] and deltas [B, P, D, 4] (see BoxPredictor).

        limits [B, 2]: width and height of each image's content, for heads that move boxes; what
        they call "proposals" then stands in for the boxes given.
        """
        logits, deltas = self.predictor(self.head(self.pool(features, boxes)))
        return per_roi(logits, deltas, boxes)

    def pool(self, features: list[Tensor], boxes: Tensor) -> Tensor:
        """Boxes [B, P, 4] -> RoI features [R, C, side, side]."""
        return pool_rois(self.config, features, boxes, self.roi_strides, self.roi_side)

    def forward(
        self, images: Tensor, frames: Sequence[Frame] | None = None, proposals: Tensor | None = None
    ) -> Raw:
        """-> logits [B, P, K + 1], deltas [B, P, D, 4], proposals [B, P, 4], valid [B, P]."""
        features, size = self.features(images), (images.shape[-2], images.shape[-1])
        if proposals is None and self.rpn is None:
            proposals = selective_search_proposals(
                images, frames, self.preprocess, most=self.takes_proposals
            )
        if proposals is None:
            proposals, _, valid = self.propose(features, frames, size)
        else:
            valid = (proposals[..., 2:] > proposals[..., :2]).all(-1)
            proposals = self.inward(proposals, frames)
        raw = self.heads(features, proposals, content_limits(images, frames, size))
        return {"proposals": proposals, "valid": valid, **raw, **self.extra_raw(features)}

    def probe(self, images: Tensor) -> list[Tensor]:
        """The RPN's raw outputs, and the heads' on fixed boxes: what comes before any choice."""
        features = self.features(images)
        size = (images.shape[-2], images.shape[-1])
        outputs: list[Tensor] = []
        if self.rpn is not None:
            rows = self.rpn(self.rpn_maps(features), size)
            outputs += [*rows.logits, *rows.deltas]
        corner = torch.linspace(0, 0.6, 4, device=images.device)
        corners = torch.cartesian_prod(corner, corner)
        boxes = torch.cat([corners, corners + 0.4], 1) * corners.new_tensor([*size[::-1]] * 2)
        outputs += list(self.heads(features, boxes.expand(len(images), -1, -1)).values())
        return outputs

    def extra_raw(self, features: list[Tensor]) -> Raw:
        """What `postprocess` needs beside the boxes (a mask branch keeps its features)."""
        return {}

    def training_sizes(self) -> list[tuple[int, int]]:
        return [(side, self.preprocess.size[1]) for side in self.config.train_sizes]

    # -- training -----------------------------------------------------------------------------

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """The RPN's on its anchors and the heads' on its proposals; or, where the batch holds
        proposals, the heads' alone, on those."""
        batch = self.counted(batch)
        features, limits = self.features(batch.images), limits_of(batch)
        losses: dict[str, Tensor] = {}
        if self.rpn is not None and batch.proposals is None:
            rows = self.rpn(self.rpn_maps(features), size_of(batch))
            losses = self.rpn_loss(rows, batch, generator)
            scales = image_scales(batch.images, batch.frames)
            boxes, _, valid = self.rpn.select(rows, self.rpn.config.proposals_loss, limits, scales)
        elif batch.proposals is not None and batch.valid is not None:
            boxes, valid = batch.proposals, batch.valid
        else:
            raise ValueError("this method learns from proposals, and the batch holds none")
        given = HeadBatch(features, boxes, valid, batch.targets, limits, generator)
        return {**losses, **self.head_loss(given)}

    def loss_terms(
        self, batch: Batch, terms: Sequence[str], generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Where only the RPN is trained, its maps and its losses are all that is computed."""
        if self.rpn is None or not set(terms) <= {"rpn_cls", "rpn_box"}:
            return self.loss(batch, generator)
        rows = self.rpn(self.rpn_maps(self.rpn_features(batch.images)), size_of(batch))
        return self.rpn_loss(rows, self.counted(batch), generator)

    @torch.no_grad()
    def assigned(self, batch: Batch) -> list[Assigned]:
        """The RPN's anchors; then the RoIs, with the objects among them: of the batch's proposals,
        else of what these weights propose."""
        batch = with_proposals(self.counted(batch), self)
        features, limits = self.features(batch.images), limits_of(batch)
        boxes, valid, steps = batch.proposals, batch.valid, []
        if self.rpn is not None:
            rows = self.rpn(self.rpn_maps(features), size_of(batch))
            index = self.rpn.matches(rows.anchors, batch.targets, limits).index
            anchors = self.outward(rows.anchors[None], batch.frames)
            steps.append(Assigned("anchors", anchors.expand(len(batch), -1, -1), index))
            if boxes is None:
                scales = image_scales(batch.images, batch.frames)
                counts = self.rpn.config.proposals_loss
                boxes, _, valid = self.rpn.select(rows, counts, limits, scales)
        assert boxes is not None
        assert valid is not None
        given = HeadBatch(features, boxes, valid, batch.targets, limits, None)
        return steps + self.assigned_rois(given, batch.frames)

    def assigned_rois(self, given: HeadBatch, frames: Sequence[Frame]) -> list[Assigned]:
        """The RoIs that the heads may be trained on, stage by stage."""
        rois = self.label(given.boxes, given.valid, given.targets)
        return [assigned_rois("RoIs", rois, self.outward(rois.boxes, frames))]

    def rpn_loss(
        self, rows: AnchorOutputs, batch: Batch, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """The RPN's losses on a batch as `counted` has it."""
        assert self.rpn is not None
        return self.rpn.loss(rows, batch.targets, limits_of(batch), generator)

    def head_loss(self, given: HeadBatch) -> dict[str, Tensor]:
        """The losses of the heads on the RoIs that are drawn."""
        return self.box_loss(given.features, self.draw(given))

    def label(self, boxes: Tensor, valid: Tensor, targets: Targets) -> SampledRoIs:
        """Proposals [B, P, 4] with valid [B, P], and the objects, as RoIs that may be trained."""
        config = self.config
        return label_rois(
            boxes,
            valid,
            targets,
            positive_iou=config.roi_positive_iou,
            background_low=0.0 if config.sampler == "ohem" else config.background_low,
            learn_difficult=config.learn_difficult,
            inclusive=config.inclusive,
        )

    def draw(self, given: HeadBatch) -> SampledRoIs:
        """The RoIs to train on: a random draw, or those of largest loss."""
        config, rois = self.config, self.label(given.boxes, given.valid, given.targets)
        if config.sampler == "ohem":
            return self.hardest(given.features, rois)
        return draw_rois(rois, config.roi_count, config.roi_positive_fraction, given.generator)

    def box_loss(self, features: list[Tensor], rois: SampledRoIs) -> dict[str, Tensor]:
        """Cross-entropy, mean over the RoIs; smooth L1 of the positives' own class / RoIs."""
        cls, box = self.each_loss(features, rois)
        count = (rois.labels >= 0).sum().clamp(min=1)
        return {"roi_cls": cls.sum() / count, "roi_box": box.sum() / count}

    @torch.no_grad()
    def hardest(self, features: list[Tensor], rois: SampledRoIs) -> SampledRoIs:
        """OHEM: the `roi_count` RoIs of each image whose loss is largest."""
        cls, box = self.each_loss(features, rois)
        return take(rois, hardest(cls + box, rois.labels >= 0, self.config.roi_count))

    def each_loss(self, features: list[Tensor], rois: SampledRoIs) -> tuple[Tensor, Tensor]:
        """Every RoI's class and box loss, [B, S] each."""
        raw, config = self.heads(features, rois.boxes), self.config
        return roi_losses(
            raw["logits"], raw["deltas"], rois, self.coder, config.roi_beta, config.class_agnostic
        )

    # -- how pixels are counted -----------------------------------------------------------------

    def inward(self, boxes: Tensor, frames: Sequence[Frame] | None) -> Tensor:
        """Continuous boxes [B, P, 4] of the input as this detector counts pixels."""
        return boxes - source_pixel(boxes, frames) if self.config.inclusive else boxes

    def outward(self, boxes: Tensor, frames: Sequence[Frame] | None) -> Tensor:
        """This detector's own boxes [B, P, 4] as continuous ones of the input."""
        return boxes + source_pixel(boxes, frames) if self.config.inclusive else boxes

    def counted(self, batch: Batch) -> Batch:
        """A batch whose boxes are as this detector counts pixels."""
        targets, given = batch.targets, batch.proposals
        return replace(
            batch,
            targets=replace(targets, boxes=self.inward(targets.boxes, batch.frames)),
            proposals=None if given is None else self.inward(given, batch.frames),
        )

    # -- detecting ----------------------------------------------------------------------------

    def postprocess(
        self,
        raw: Raw,
        frames: Sequence[Frame],
        *,
        score: float | None = None,
        max_detections: int | None = None,
    ) -> list[Detections]:
        """Boxes of a class above `score` are moved, clipped, and suppressed within their class."""
        config, scores = self.config, self.class_scores(raw)
        # The published threshold is exceeded; one that a caller gives is reached.
        hit = scores > config.score if score is None else scores >= score
        image, row, label = (hit & raw["valid"][..., None]).nonzero(as_tuple=True)
        chance = scores[image, row, label]
        deltas = raw["deltas"]
        column = delta_column(label, deltas.shape[2], config.class_agnostic, self.num_classes)
        given, delta = raw["proposals"][image, row], deltas[image, row, column]
        if config.inclusive:
            boxes = self.decode_in_source(given, delta, image, frames)
        else:
            boxes = clipped(self.coder.decode(delta, given), frames, image)
        if config.min_detection > 0:
            fit = (boxes[:, 2:] - boxes[:, :2] >= config.min_detection).all(1)
            image, label, chance, boxes = image[fit], label[fit], chance[fit], boxes[fit]
        group = image * self.num_classes + label
        keep = batched_nms(boxes, chance, group, config.nms_iou, inclusive=config.inclusive)
        boxes = boxes[keep]
        if config.inclusive:  # continuous, and in the source's own pixels already
            boxes = boxes + boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
            frames = [Frame(frame.source, frame.source) for frame in frames]
        most = config.max_detections if max_detections is None else max_detections
        return detections_of(
            boxes, chance[keep], label[keep], image[keep], frames, self.classes, most
        )

    def decode_in_source(
        self, boxes: Tensor, deltas: Tensor, image: Tensor, frames: Sequence[Frame]
    ) -> Tensor:
        """Boxes [N, 4] of images [N], moved by deltas and clipped, in pixels of their sources.

        The first programs decode and suppress there, where a pixel is 1 wide.
        """
        shift = boxes.new_tensor([f.offset for f in frames])[image].repeat(1, 2)
        scale = boxes.new_tensor([f.scale for f in frames])[image].repeat(1, 2)
        limit = boxes.new_tensor([[f.source[1] - 1.0, f.source[0] - 1.0] for f in frames])
        moved = self.coder.decode(deltas, (boxes - shift) / scale)
        return torch.minimum(moved.clamp(min=0), limit[image].repeat(1, 2))

    def class_scores(self, raw: Raw) -> Tensor:
        """[B, P, K]: the probability of each class, background left out."""
        return raw["logits"].softmax(-1)[..., 1:]

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


def source_pixel(like: Tensor, frames: Sequence[Frame] | None) -> Tensor:
    """[B, 1, 4]: how far a pixel of the source reaches; without frames the input is it."""
    scales = [(1.0, 1.0)] if frames is None else [f.scale for f in frames]
    return like.new_tensor([[[0.0, 0.0, *scale]] for scale in scales])
