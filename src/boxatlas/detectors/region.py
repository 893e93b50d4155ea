"""What two-stage detectors share: features -> proposals -> RoI features -> head -> detections.

A region detector composes `features`, `propose` and `heads`; each can be called and compared by
itself. Shape letters: B images, P proposals of an image, R = B * P RoIs, K classes (background is
column 0 of the K + 1 logits), M objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxatlas.boxes.coders import DeltaCoder
from boxatlas.boxes.formats import pyramid_level
from boxatlas.boxes.matching import match_thresholds
from boxatlas.boxes.nms import batched_nms
from boxatlas.boxes.sampling import sample
from boxatlas.detectors.base import ClassRows, Detector, Raw
from boxatlas.detectors.rpn import RPN, RPNSelection
from boxatlas.detectors.searched import searched
from boxatlas.images import Preprocess
from boxatlas.ops.roi import RoiOp, pyramid_pool
from boxatlas.options import Options
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
    """How a RoI is pooled: the operator, its grid, and the strides of the maps it may come from."""

    op: RoiOp = "align"
    size: int = 7
    sampling_ratio: int = 2
    aligned: bool = False
    strides: tuple[int, ...] = (4, 8, 16, 32)
    level: LevelRule = LevelRule()

    def pool(self, maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """Boxes [B, P, 4] -> [B * P, C, size, size]."""
        image = torch.arange(len(boxes), device=boxes.device, dtype=boxes.dtype)
        rois = torch.cat([image[:, None, None].expand(*boxes.shape[:2], 1), boxes], -1)
        rois = rois.reshape(-1, 5)
        if len(self.strides) == 1:
            levels = torch.zeros(len(rois), dtype=torch.int64, device=rois.device)
        else:
            rule = self.level
            levels = rule.k_min * -1 + pyramid_level(
                rois[:, 1:], rule.k_min, rule.k_max, rule.k0, rule.canonical_size,
                inclusive=rule.inclusive, epsilon_inside_log=rule.epsilon_inside_log,
                epsilon_outside_log=rule.epsilon_outside_log,
                add_k0_inside_floor=rule.add_k0_inside_floor,
            )  # fmt: skip
        return pyramid_pool(
            maps[: len(self.strides)], [1 / s for s in self.strides], rois, levels, self.size,
            op=self.op, sampling_ratio=self.sampling_ratio, aligned=self.aligned,
        )  # fmt: skip


@dataclass(frozen=True)
class RoITargets:
    """How RoIs learn (Fast R-CNN, section 2.3): thresholds, the draw, and the box loss.

    A RoI is positive from `high` on and background in [low, high). sampler "ohem" (Shrivastava et
    al. 2016) keeps the `count` RoIs of largest loss instead of a random draw.
    """

    high: float = 0.5
    low: float = 0.0
    count: int = 512
    positive_fraction: float = 0.25
    sampler: Literal["random", "ohem"] = "random"
    append_objects: bool = True
    beta: float = 1.0
    inclusive: bool = False


@dataclass(frozen=True)
class DetectRule:
    """From scored boxes to detections."""

    score: float = 0.05
    nms: float = 0.5
    max_detections: int = 100
    min_size: float = 0.0
    inclusive: bool = False


class SampledRoIs(NamedTuple):
    """What the heads learn from: boxes [B, S, 4], labels [B, S] (0 background, -1 padding),
    wanted [B, S, 4]: the object each positive answers for, index [B, S]: which object."""

    boxes: Tensor
    labels: Tensor
    wanted: Tensor
    index: Tensor


class TwoFC(nn.Module):
    """The box head of FPN: two fully connected layers (Lin et al. 2016, section 4.2)."""

    def __init__(self, channels: int, size: int, width: int = 1024) -> None:
        super().__init__()
        self.fc6 = nn.Linear(channels * size * size, width)
        self.fc7 = nn.Linear(width, width)
        self.width = width

    def forward(self, rois: Tensor) -> Tensor:
        """[R, C, size, size] -> [R, width]."""
        x = F.relu(self.fc6(rois.flatten(1)), inplace=True)
        return F.relu(self.fc7(x), inplace=True)


class BoxPredictor(nn.Module):
    """Class logits [R, K + 1] and deltas [R, D * 4].

    D is K, or 1 where a box serves every class (`class_agnostic`), and one more where the first is
    the background's, which nothing reads (`background_box`, a habit of many programs).
    """

    def __init__(
        self, width: int, classes: int, class_agnostic: bool = False, background_box: bool = False
    ) -> None:
        super().__init__()
        self.cls = nn.Linear(width, classes + 1)
        self.offset = int(background_box)
        self.box = nn.Linear(width, ((1 if class_agnostic else classes) + self.offset) * 4)
        for layer, std in ((self.cls, 0.01), (self.box, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.cls(x), self.box(x)


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
        self.roi, self.coder = roi, coder
        self.roi_targets, self.detect_rule = roi_targets, detect_rule
        self.select_in_loss = select_in_loss or RPNSelection(2000, 2000)
        self.select_in_detect = select_in_detect or RPNSelection(1000, 1000)

    # -- the parts ----------------------------------------------------------------------------

    def features(self, images: Tensor) -> list[Tensor]:
        return self.trunk(images)

    def propose(
        self, features: list[Tensor], frames: Sequence[Frame] | None, size: tuple[int, int]
    ) -> Proposals:
        """The RPN's best boxes as `detect` uses them; size: height, width of the input."""
        if self.rpn is None:
            raise ValueError(f"{self.name or 'this detector'} takes its proposals from outside")
        logits, deltas, anchors = self.rpn(features, size)
        limits = content_limits(features[0], frames, size)
        rule = self.select_in_detect
        return Proposals(*self.rpn.select(logits, deltas, anchors, limits, rule))

    def heads(self, features: list[Tensor], boxes: Tensor) -> Raw:
        """Boxes [B, P, 4] -> logits [B, P, K + 1] and deltas [B, P, D, 4] (see BoxPredictor)."""
        logits, deltas = self.predictor(self.head(self.roi.pool(features, boxes)))
        lead = boxes.shape[:2]
        return {"logits": logits.view(*lead, -1), "deltas": deltas.view(*lead, -1, 4)}

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
        raw = self.heads(features, proposals)
        return {**raw, "proposals": proposals, "valid": valid, **self.extra_raw(features)}

    def extra_raw(self, features: list[Tensor]) -> Raw:
        """What `postprocess` needs beside the boxes (a mask branch keeps its features)."""
        return {}

    # -- learning -----------------------------------------------------------------------------

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        features = self.features(batch.images)
        size = (batch.images.shape[-2], batch.images.shape[-1])
        losses: dict[str, Tensor] = {}
        if self.rpn is not None and batch.proposals is None:
            logits, deltas, anchors = self.rpn(features, size)
            limits = content_limits(batch.images, batch.frames, size)
            losses = self.rpn.loss(logits, deltas, anchors, batch.targets, limits, generator)
            boxes, _, valid = self.rpn.select(
                [x.detach() for x in logits], [x.detach() for x in deltas], anchors, limits,
                self.select_in_loss,
            )  # fmt: skip
        elif batch.proposals is not None and batch.valid is not None:
            boxes, valid = batch.proposals, batch.valid
        else:
            raise ValueError("this method learns from proposals, and the batch holds none")
        return {**losses, **self.head_loss(features, boxes, valid, batch.targets, generator)}

    def head_loss(
        self,
        features: list[Tensor],
        boxes: Tensor,
        valid: Tensor,
        targets: Targets,
        generator: torch.Generator | None,
    ) -> dict[str, Tensor]:
        """Cross-entropy, mean over the RoIs; smooth L1 of the positives' own class / RoIs."""
        if self.roi_targets.sampler == "ohem":
            rois = self.hardest(features, boxes, valid, targets)
        else:
            rois = sample_rois(self.roi_targets, boxes, valid, targets, generator)
        raw = self.heads(features, rois.boxes)
        cls, box = roi_losses(raw, rois, self.coder, self.roi_targets.beta)
        count = (rois.labels >= 0).sum().clamp(min=1)
        return {"roi_cls": cls.sum() / count, "roi_box": box.sum() / count}

    @torch.no_grad()
    def hardest(
        self, features: list[Tensor], boxes: Tensor, valid: Tensor, targets: Targets
    ) -> SampledRoIs:
        """OHEM: the `count` RoIs of each image whose loss is largest."""
        rule = self.roi_targets
        rois = all_rois(rule, boxes, valid, targets)
        cls, box = roi_losses(self.heads(features, rois.boxes), rois, self.coder, rule.beta)
        total = (cls + box).masked_fill(rois.labels < 0, float("-inf"))
        best = total.topk(min(rule.count, total.shape[1]), dim=1).indices
        return _take(rois, best)

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
        scores = self.class_scores(raw) * raw["valid"][..., None]  # [B, P, K]
        image, row, label = (scores > threshold).nonzero(as_tuple=True)
        found = scores[image, row, label]
        column = delta_column(label, raw["deltas"].shape[2], self.num_classes)
        delta = raw["deltas"][image, row, column]
        boxes = self.coder.decode(delta, raw["proposals"][image, row])
        limits = boxes.new_tensor([[f.content[1], f.content[0]] for f in frames])
        shift = boxes.new_tensor([f.offset for f in frames])[image].repeat(1, 2)
        edge = limits[image].repeat(1, 2) - int(rule.inclusive)
        boxes = torch.minimum((boxes - shift).clamp(min=0), edge) + shift
        if rule.min_size > 0:
            fit = (boxes[:, 2:] - boxes[:, :2] >= rule.min_size).all(1)
            image, label, found, boxes = image[fit], label[fit], found[fit], boxes[fit]
        group = image * self.num_classes + label
        keep = batched_nms(boxes, found, group, rule.nms, inclusive=rule.inclusive)
        packed = torch.cat([boxes[keep], label[keep, None].to(boxes.dtype)], 1)
        return self._packed(image[keep], packed, found[keep], frames, most)

    def class_scores(self, raw: Raw) -> Tensor:
        """[B, P, K]: the probability of each class, background left out."""
        return raw["logits"].softmax(-1)[..., 1:]

    def _packed(
        self, image: Tensor, packed: Tensor, found: Tensor, frames: Sequence[Frame], most: int
    ) -> list[Detections]:
        results = []
        counts = torch.bincount(image, minlength=len(frames)).tolist()
        order = torch.argsort(image, stable=True)
        for frame, rows in zip(frames, order.split(counts), strict=True):
            rows = rows[:most]
            results.append(
                Detections(
                    frame.undo(packed[rows, :4].float()).cpu(),
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


def delta_column(label: Tensor, columns: int, classes: int) -> Tensor:
    """Which of D box columns serves a class (0..K-1); the background's, where held, is the first."""
    if columns in (classes, classes + 1):
        return label + (columns - classes)
    return torch.full_like(label, columns - 1)


def content_limits(like: Tensor, frames: Sequence[Frame] | None, size: tuple[int, int]) -> Tensor:
    """[B, 2]: width and height that each image's content reaches within the input."""
    if frames is None:
        return like.new_tensor([[size[1], size[0]]]).expand(len(like), 2)
    return like.new_tensor(
        [[f.offset[0] + f.content[1], f.offset[1] + f.content[0]] for f in frames]
    )


def all_rois(rule: RoITargets, boxes: Tensor, valid: Tensor, targets: Targets) -> SampledRoIs:
    """Every proposal (and object, where they are appended) with its label and target."""
    usable = targets.valid & ~targets.ignore
    if rule.append_objects:
        boxes = torch.cat([targets.boxes, boxes], 1)
        valid = torch.cat([usable, valid], 1)
    matches = match_thresholds(boxes, targets.boxes, usable, rule.high, inclusive=rule.inclusive)
    label = matches.labels(targets.labels + 1, background=0)
    learns = valid & (matches.positive | (matches.iou >= rule.low))
    label = torch.where(learns, label, -1)
    index = matches.index.clamp(min=0)
    if targets.boxes.shape[1] == 0:
        wanted = boxes
    else:
        wanted = targets.boxes.gather(1, index[..., None].expand(-1, -1, 4))
    return SampledRoIs(boxes, label, wanted, index)


@torch.no_grad()
def sample_rois(
    rule: RoITargets,
    boxes: Tensor,
    valid: Tensor,
    targets: Targets,
    generator: torch.Generator | None = None,
) -> SampledRoIs:
    """Draw `count` RoIs an image, at most `positive_fraction` of them on objects."""
    rois = all_rois(rule, boxes, valid, targets)
    drawn = sample(rois.labels > 0, rois.labels == 0, rule.count, rule.positive_fraction, generator)
    taken = _take(rois, drawn.index)
    return taken._replace(labels=torch.where(drawn.valid, taken.labels, -1))


def _take(rois: SampledRoIs, index: Tensor) -> SampledRoIs:
    wide = index[..., None].expand(-1, -1, 4)
    return SampledRoIs(
        rois.boxes.gather(1, wide), rois.labels.gather(1, index), rois.wanted.gather(1, wide),
        rois.index.gather(1, index),
    )  # fmt: skip


def roi_losses(
    raw: Raw, rois: SampledRoIs, coder: DeltaCoder, beta: float
) -> tuple[Tensor, Tensor]:
    """Per-RoI class and box losses [B, S], 0 where a RoI is padding (or, for boxes, background)."""
    logits, labels = raw["logits"], rois.labels
    cls = F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=-1, reduction="none"
    ).view_as(labels)
    image, row = (labels > 0).nonzero(as_tuple=True)
    column = delta_column(labels[image, row] - 1, raw["deltas"].shape[2], logits.shape[-1] - 1)
    wanted = coder.encode(rois.wanted[image, row], rois.boxes[image, row])
    one = F.smooth_l1_loss(
        raw["deltas"][image, row, column], wanted, beta=beta, reduction="none"
    ).sum(-1)
    box = cls.new_zeros(labels.shape).index_put((image, row), one)
    return cls, box
