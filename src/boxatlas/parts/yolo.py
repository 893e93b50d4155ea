"""What YOLO, YOLOv2, YOLO9000 and YOLOv3 share: settings, backbones, how boxes become detections.

Shape letters: B images, A priors of a cell, K classes, H x W cells, N candidates over all images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from boxatlas.backbones.darknet import (
    INPUTS,
    STAGES,
    Darknet,
    EpsPlace,
    Norm,
    initialise,
    norm_layer,
)
from boxatlas.backbones.timm_features import PREFIX, TimmFeatures, normalisation
from boxatlas.boxes.formats import cxcywh_to_xyxy
from boxatlas.boxes.nms import Candidates, Found, class_nms
from boxatlas.boxes.yolo import PriorCoder, Truth
from boxatlas.errors import InputError
from boxatlas.images import Preprocess
from boxatlas.options import Options, convention, switch
from boxatlas.parts.base import Detector, Raw
from boxatlas.structures import Batch, Detections, Frame

_SMALLEST = 0.001  # of the input: objects with a smaller side are not learned, as in Darknet
SIZES = tuple(range(320, 609, 32))  # multi-scale training: {320, 352, ..., 608}


def wide(channels: int, width: float) -> int:
    """A published number of channels times `width`, as a multiple of 8."""
    return max(8, round(channels * width / 8) * 8)


class YoloConfig(Options):
    """What the family has in common."""

    size: int | tuple[int, int] = convention(416, "input (height, width), a multiple of 32")
    backbone: str = convention("darknet19", 'a Darknet network or "timm/NAME"')
    pretrained: bool = convention(False, "the backbone starts from ImageNet weights")
    fold_norms: bool = convention(False, "a timm network's batch norms go into its convolutions")
    width: float = convention(1.0, "multiple of the detector's own channels (light forms)", gt=0)
    resize: Literal["stretch", "letterbox"] = convention("stretch", "how an image is fitted")
    norm_eps: float = convention(1e-5, "of batch norm", ge=0)
    norm_place: EpsPlace = convention("inside_root", "where that epsilon goes")
    score: float = convention(0.005, "a detection must score more than this", ge=0)
    nms_iou: float = convention(0.45, "of two boxes of a class that overlap more, one stays", ge=0)
    max_detections: int = convention(1000, "boxes that stay, per image, over all classes", ge=1)

    @property
    def shape(self) -> tuple[int, int]:
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def norm(self) -> Norm:
        return norm_layer(self.norm_eps, self.norm_place)

    def wide(self, channels: int) -> int:
        """A published number of channels, by the option `width`."""
        return wide(channels, self.width)


class PriorConfig(YoloConfig):
    """What YOLOv2 and its successors have in common."""

    multi_scale: bool = switch(True, "inputs of 320 to 608, changed every 10 steps")
    largest_last: int = convention(
        0, "of multi_scale: last steps at the largest size (Darknet since January 2017: 200)", ge=0
    )


def backbone_of(
    config: YoloConfig, strides: Sequence[int], norm: Norm | None, weights: str | None = None
) -> tuple[Darknet | TimmFeatures, dict[str, Any]]:
    """(the backbone, how its inputs are normalised). weights: the file that `pretrained` means."""
    name = config.backbone
    if name.startswith(PREFIX):
        mean, std = normalisation(name)
        made = TimmFeatures(name, strides, pretrained=config.pretrained, fold=config.fold_norms)
        return made, {"mean": mean, "std": std}
    if name not in STAGES:
        known = ", ".join(STAGES)
        raise InputError(
            "no such backbone", field="backbone", value=name, hint=f"{known} or timm/NAME"
        )
    made = Darknet(name, strides, norm=norm)
    if config.pretrained:
        made.load_pretrained(weights)
    return made, dict(INPUTS)


def preprocess_of(config: YoloConfig, normal: dict[str, Any]) -> Preprocess:
    """Pixels in 0..1 as Darknet resizes them: bilinear with corners on corners, grey beside."""
    return Preprocess.of(
        size=config.shape,
        resize=config.resize,
        align_corners=True,
        truncate=True,
        pad_value=(0.5, 0.5, 0.5),
        **normal,
    )


def check_size(config: YoloConfig, multiple: int) -> None:
    """Raise InputError for an input that the network's strides do not divide."""
    if any(side % multiple or side < multiple for side in config.shape):
        raise InputError(f"must be a multiple of {multiple}", field="size", value=config.size)


def truth_of(batch: Batch, smallest: float = _SMALLEST) -> Truth:
    """A batch's objects as the losses take them; those to ignore (difficult) are not learned."""
    targets = batch.targets
    height, width = batch.images.shape[-2:]
    return Truth.of_pixels(
        targets.boxes, targets.labels, targets.valid & ~targets.ignore, (height, width), smallest
    )


def mean_losses(losses: dict[str, Tensor], images: int) -> dict[str, Tensor]:
    """Sums over the batch -> what one step of the optimizer sees: divided by its images."""
    return {name: value / max(images, 1) for name, value in losses.items()}


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


class YoloDetector(Detector):
    """A detector whose choice of boxes, `stay`, is made in input pixels."""

    config: YoloConfig  # pyright: ignore[reportIncompatibleVariableOverride]

    def stay(
        self, raw: Raw, score: float | None = None, max_detections: int | None = None
    ) -> list[Found]:
        """Each image's boxes, best first, in input pixels."""
        raise TypeError(f"{type(self).__name__} does not define stay")

    @torch.no_grad()
    def postprocess(
        self,
        raw: Raw,
        frames: Sequence[Frame],
        *,
        score: float | None = None,
        max_detections: int | None = None,
    ) -> list[Detections]:
        """What stays, in the source images."""
        found = self.stay(raw, score, max_detections)
        return [
            Detections(
                frame.undo(one.boxes.cpu()),
                one.scores.cpu(),
                one.labels.cpu(),
                self.classes,
                frame.source,
            )
            for one, frame in zip(found, frames, strict=True)
        ]


class PriorDetector(YoloDetector):
    """A detector whose maps hold, for each prior of each cell, x, y, w, h, objectness, classes.

    A method defines `maps`, `class_scores`, `anchor_count` (of all maps), `anchor_unit` (the input
    pixels that 1 stands for in the option `anchors`) and, where a box bears one label, `scored`.
    """

    config: PriorConfig  # pyright: ignore[reportIncompatibleVariableOverride]
    coder: PriorCoder

    @property
    def largest_last(self) -> int:
        return self.config.largest_last

    def maps(self, raw: Raw) -> list[Map]:
        """The raw outputs, map by map in the published order."""
        raise TypeError(f"{type(self).__name__} does not define maps")

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

    def training_sizes(self) -> list[tuple[int, int]]:
        """Input sizes for multi-scale training."""
        return [(side, side) for side in SIZES] if self.config.multi_scale else []

    def stay(
        self, raw: Raw, score: float | None = None, max_detections: int | None = None
    ) -> list[Found]:
        """One threshold on objectness, then only what passed is decoded, then one NMS.

        Each image's boxes, best first, in input pixels. The published threshold is exceeded; one
        that a caller gives is reached.
        """
        config = self.config
        least = just_above(config.score) if score is None else score
        found = [self.candidates(one, least) for one in self.maps(raw)]
        boxes = torch.cat([b for b, _ in found])
        chosen = Candidates(*(torch.cat(part) for part in zip(*(c for _, c in found), strict=True)))
        limit = config.max_detections if max_detections is None else max_detections
        images = len(next(iter(raw.values())))
        return class_nms(chosen, boxes, images, config.nms_iou, total=limit)

    def candidates(self, one: Map, score: float) -> tuple[Tensor, Candidates]:
        """(boxes [N, 4] xyxy in input pixels, what they are) of one map."""
        logit = math.log(score / (1 - score)) if 0 < score < 1 else -math.inf if score <= 0 else 99
        image, prior, row, column = (one.numbers[:, :, 4] >= logit - 1e-6).nonzero(as_tuple=True)
        rows = one.numbers.permute(0, 1, 3, 4, 2)[image, prior, row, column].float()
        index, label, value = self.scored(rows[:, 5:], rows[:, 4].sigmoid(), score)
        cell = torch.stack([column, row], -1)
        grid = (one.numbers.shape[-2], one.numbers.shape[-1])
        numbers = self.coder.activate(rows[:, :5], 1)
        boxes = self.coder.decode(numbers, cell, one.priors.to(rows)[prior], grid)
        boxes = cxcywh_to_xyxy(boxes) * boxes.new_tensor([one.input[1], one.input[0]] * 2)
        return boxes[index], Candidates(image[index], index, label, value)


def just_above(score: float) -> float:
    """The smallest float32 that exceeds a threshold: Darknet compares by `>`."""
    return float(np.nextafter(np.float32(score), np.float32(np.inf)))


def head(channels: int, outputs: int) -> nn.Conv2d:
    """The last layer of a map: 1x1, linear, with a bias."""
    made = nn.Conv2d(channels, outputs, 1)
    initialise(made)
    return made
