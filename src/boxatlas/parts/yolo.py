"""What YOLO, YOLOv2, YOLO9000 and YOLOv3 share: backbones, inputs, how boxes become detections.

Shape letters: B images, A priors of a cell, K classes, H x W cells, N candidates over all images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from boxatlas.backbones.choice import BackboneChoices
from boxatlas.backbones.darknet import INPUTS, STAGES, Darknet, Norm, initialise
from boxatlas.backbones.timm_features import PREFIX, TimmFeatures, normalisation
from boxatlas.boxes.formats import cxcywh_to_xyxy
from boxatlas.boxes.matching import BACKGROUND, IGNORED, Assigned
from boxatlas.boxes.nms import Candidates, batched_nms
from boxatlas.boxes.yolo import Objects, PriorCoder
from boxatlas.errors import InputError
from boxatlas.images import Preprocess
from boxatlas.losses.yolo import assign, best_overlap
from boxatlas.options import Count, Options, idea, setting
from boxatlas.parts.base import Detector, Raw
from boxatlas.structures import Batch, Detections, Frame, detections_of

Resize = Literal["stretch", "letterbox"]
_SMALLEST = 0.001  # of the input: objects with a smaller side are not trained
_SIZES = tuple((side, side) for side in range(320, 609, 32))  # {320, 352, ..., 608}


class YOLOChoices(Options):
    """What `YOLODetector` and `layer_width` read."""

    resize: Resize = setting("stretch", "how an image is fitted to the input")
    width: float = setting(
        1.0, "channels of the detector's own layers, as a multiple of the published", gt=0, le=16
    )


class MultiScaleChoices(Options):
    """Training at several sizes of input, which `PriorDetector` has."""

    multi_scale: bool = idea(True, "training changes inputs among 320 to 608 every 10 steps")
    largest_last: Count = setting(
        0, "last steps of multi-scale training that are all at the largest size"
    )

    def idle(self) -> dict[str, str]:
        why = {} if self.multi_scale else {"largest_last": "multi_scale is off: one size"}
        return super().idle() | why


def layer_width(published: int, width: float) -> int:
    """A published number of channels times `width`, as a multiple of 8."""
    return max(8, round(published * width / 8) * 8)


def yolo_backbone(
    choices: BackboneChoices, strides: Sequence[int], norm: Norm | None, weights: str | None = None
) -> tuple[Darknet | TimmFeatures, dict[str, Any]]:
    """(a Darknet network or one of timm, how its inputs are normalised).

    weights: the entry of `darknet.PRETRAINED` that `pretrained` means, where not the network's own.
    Raises InputError for an unknown name.
    """
    name = choices.backbone
    if name.startswith(PREFIX):
        mean, std = normalisation(name)
        features = TimmFeatures(
            name, strides, pretrained=choices.pretrained, fold=choices.fold_norms
        )
        return features, {"mean": mean, "std": std}
    if name not in STAGES:
        known = ", ".join(STAGES)
        raise InputError(
            "no such backbone", field="backbone", value=name, hint=f"{known} or timm/NAME"
        )
    darknet = Darknet(name, strides, norm=norm)
    if choices.pretrained:
        darknet.load_pretrained(weights)
    return darknet, dict(INPUTS)


def objects_of(batch: Batch, smallest: float = _SMALLEST) -> Objects:
    """A batch's objects as the losses take them, without those to ignore (difficult, crowd)."""
    targets = batch.targets
    height, width = batch.images.shape[-2:]
    return Objects.of_pixels(
        targets.boxes, targets.labels, targets.valid & ~targets.ignore, (height, width), smallest
    )


def mean_losses(losses: dict[str, Tensor], images: int) -> dict[str, Tensor]:
    """Sums over the batch -> what one step of the optimizer sees: divided by its images."""
    return {name: value / max(images, 1) for name, value in losses.items()}


class YOLODetector(Detector):
    """A backbone, and boxes that are chosen in input pixels: a method defines `candidates`.

    Its config holds `BackboneChoices`, `YOLOChoices`, `SuppressionChoices` and `shape`, the input's
    height and width. strides: of the backbone's maps; multiple: what divides a side; weights: as
    `yolo_backbone` takes them; centred: a Darknet network's inputs lie in -1..1. Raises InputError
    for a size that the strides do not divide.
    """

    config: Any  # a union of groups, for which Python has no type

    def __init__(
        self,
        classes: Sequence[str],
        config: Any,
        strides: Sequence[int],
        norm: Norm | None,
        *,
        multiple: int = 32,
        weights: str | None = None,
        centred: bool = False,
    ) -> None:
        if any(side % multiple for side in config.shape):
            raise InputError(f"must be a multiple of {multiple}", field="size", value=config.shape)
        backbone, normalised = yolo_backbone(config, strides, norm, weights)
        if centred and isinstance(backbone, Darknet):
            normalised = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
        # Bilinear with corners on corners, grey beside.
        preprocess = Preprocess.of(
            size=config.shape,
            resize=config.resize,
            align_corners=True,
            truncate=True,
            pad_value=(0.5, 0.5, 0.5),
            **normalised,
        )
        super().__init__(classes, preprocess, config)
        self.backbone = backbone

    def candidates(self, raw: Raw, score: float) -> tuple[Candidates, Tensor]:
        """Classes of boxes that score at least `score`: (what they are, boxes [N, 4] xyxy in
        input pixels)."""
        raise TypeError(f"{type(self).__name__} does not define candidates")

    def every_box(self, raw: Raw) -> tuple[Tensor, Tensor]:
        """All boxes [B, S, 4] xyxy in input pixels, with all scores [B, S, K]: what `candidates`
        chooses from, for graphs that cannot choose so early."""
        raise TypeError(f"{type(self).__name__} does not define every_box")

    @torch.no_grad()
    def postprocess(
        self,
        raw: Raw,
        frames: Sequence[Frame],
        *,
        score: float | None = None,
        max_detections: int | None = None,
    ) -> list[Detections]:
        """Suppression within each class, and the best of each image.

        The published threshold is exceeded; one that a caller gives is reached.
        """
        config = self.config
        least = just_above(config.score) if score is None else score
        (image, _, label, scores), boxes = self.candidates(raw, least)
        most = config.max_detections if max_detections is None else max_detections
        group = image * self.num_classes + label
        rows = batched_nms(boxes, scores, group, config.nms_iou, limit=most)
        rest = (scores[rows], label[rows], image[rows], frames, self.classes, most)
        return detections_of(boxes[rows], *rest)


class Map(NamedTuple):
    """One map of a detector: numbers [B, A, 5 + K, H, W] as the network gives them, its priors
    [A, 2] in cells, and the input pixels under a cell."""

    numbers: Tensor
    priors: Tensor
    stride: int

    @property
    def input(self) -> tuple[int, int]:
        rows, columns = self.numbers.shape[-2:]
        return rows * self.stride, columns * self.stride


class PriorDetector(YOLODetector):
    """A detector whose maps hold, for each prior of each cell, x, y, w, h, objectness, classes.

    A method defines `maps`, `class_scores`, `anchor_count` (of all maps), `anchor_unit` (the input
    pixels that 1 stands for in the option `anchors`) and, where a box bears one label, `scored`.
    Its config holds `MultiScaleChoices` too.
    """

    coder: PriorCoder

    def training_sizes(self) -> list[tuple[int, int]]:
        return list(_SIZES) if self.config.multi_scale else []

    @property
    def largest_last(self) -> int:
        return self.config.largest_last

    def maps(self, raw: Raw) -> list[Map]:
        """The raw outputs, map by map in the published order."""
        raise TypeError(f"{type(self).__name__} does not define maps")

    def prior_choice(self, objects: Objects, index: int, layer: Map, boxes: Tensor) -> Tensor:
        """[B, M]: the prior of map `index` that each object takes in its own cell, -1 = none.
        boxes [B, A, H, W, 4]: what the map predicts."""
        raise TypeError(f"{type(self).__name__} does not define prior_choice")

    @torch.no_grad()
    def assigned(self, batch: Batch) -> list[Assigned]:
        """Each map's priors, at the middle of their cells. One whose predicted box overlaps an
        object enough learns nothing of there being none: it is ignored."""
        raw, objects, steps = self(batch.images), objects_of(batch), []
        for i, layer in enumerate(self.maps(raw)):
            numbers = self.coder.activate(layer.numbers[:, :, :5].float(), 2)
            boxes = self.coder.decode_map(numbers, layer.priors)
            count, priors, rows, columns = shape = boxes.shape[:4]
            choice = self.prior_choice(objects, i, layer, boxes)
            places = assign(objects, choice, (count, priors, rows, columns))
            near = best_overlap(boxes, objects, self.least_overlap)[0] > self.least_overlap
            index = torch.where(near.view(shape), IGNORED, BACKGROUND)
            index[places.at] = places.item
            name = f"priors of stride {layer.stride}"
            steps.append(Assigned(name, resting(layer).flatten(0, 2), index.flatten(1)))
        return steps

    @property
    def least_overlap(self) -> float:
        """The IoU with an object above which a predicted box is not taught to be background."""
        return self.config.ignore_iou

    def class_scores(self, logits: Tensor) -> Tensor:
        """Logits [N, K] -> the probability of each class where there is an object."""
        raise TypeError(f"{type(self).__name__} does not define class_scores")

    def scored(
        self, logits: Tensor, objectness: Tensor, score: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Classes of boxes: logits [N, K], objectness [N] -> (row, label, score) at `score` or
        above. Objectness times each class's probability: a box may bear several labels."""
        scores = objectness[:, None] * self.class_scores(logits)
        row, label = (scores >= score).nonzero(as_tuple=True)
        return row, label, scores[row, label]

    def candidates(self, raw: Raw, score: float) -> tuple[Candidates, Tensor]:
        """One threshold on objectness; only what passes it is decoded."""
        by_map = [self._of_map(layer, score) for layer in self.maps(raw)]
        parts = zip(*(candidates for candidates, _ in by_map), strict=True)
        return Candidates(*map(torch.cat, parts)), torch.cat([boxes for _, boxes in by_map])

    def every_box(self, raw: Raw) -> tuple[Tensor, Tensor]:
        boxes, scores = [], []
        for layer in self.maps(raw):
            numbers = self.coder.activate(layer.numbers.float(), 2)
            place = cxcywh_to_xyxy(self.coder.decode_map(numbers, layer.priors))
            side = place.new_tensor([layer.input[1], layer.input[0]] * 2)
            boxes.append((place * side).flatten(1, 3))
            rows = numbers.movedim(2, -1).flatten(1, 3)  # [B, A * H * W, 5 + K]
            chance = self.class_scores(rows[..., 5:].flatten(0, 1)).unflatten(0, rows.shape[:2])
            scores.append(rows[..., 4:5] * chance)
        return torch.cat(boxes, 1), torch.cat(scores, 1)

    def _of_map(self, layer: Map, score: float) -> tuple[Candidates, Tensor]:
        logit = math.log(score / (1 - score)) if 0 < score < 1 else -math.inf if score <= 0 else 99
        sure = layer.numbers[:, :, 4] >= logit - 1e-6
        image, prior, row, column = sure.nonzero(as_tuple=True)
        rows = layer.numbers.permute(0, 1, 3, 4, 2)[image, prior, row, column].float()
        index, label, value = self.scored(rows[:, 5:], rows[:, 4].sigmoid(), score)
        cell = torch.stack([column, row], -1)
        grid = (layer.numbers.shape[-2], layer.numbers.shape[-1])
        numbers = self.coder.activate(rows[:, :5], 1)
        boxes = self.coder.decode(numbers, cell, layer.priors.to(rows)[prior], grid)
        boxes = cxcywh_to_xyxy(boxes) * boxes.new_tensor([layer.input[1], layer.input[0]] * 2)
        return Candidates(image[index], index, label, value), boxes[index]


def resting(layer: Map) -> Tensor:
    """The priors in the middle of every cell: [A, H, W, 4] xyxy in input pixels."""
    rows, columns = layer.numbers.shape[-2:]
    still = PriorCoder("prior")  # at 0 its boxes are the priors themselves
    zeros = layer.priors.new_zeros(1, len(layer.priors), 4, rows, columns)
    boxes = cxcywh_to_xyxy(still.decode_map(zeros, layer.priors))[0]
    return boxes * boxes.new_tensor([layer.input[1], layer.input[0]] * 2)


def just_above(score: float) -> float:
    """The smallest float32 that exceeds a threshold."""
    return float(np.nextafter(np.float32(score), np.float32(np.inf)))


def prior_head(channels: int, outputs: int) -> nn.Conv2d:
    """The last layer of a map: 1x1, linear, with a bias."""
    layer = nn.Conv2d(channels, outputs, 1)
    initialise(layer)
    return layer
