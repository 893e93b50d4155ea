"""YOLOv3: An Incremental Improvement. Redmon & Farhadi 2018, arXiv 1804.02767.

YOLOv2 loses small objects on its one coarse map, and its softmax gives a box one class only. Here
are three maps (strides 32, 16, 8) of three priors each, every part of a prediction logistic. Each
map has a tower of convolutions; the tower's middle is up-sampled and joined to the next finer map
of Darknet-53. An object is trained at one place: in the cell of its centre, by the prior of all
nine whose shape is nearest; other boxes that overlap it well are neither right nor wrong.
Shape letters: B images, A priors of a cell, K classes, H x W cells of a map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from boxatlas.backbones.choice import BackboneChoices
from boxatlas.backbones.darknet import Conv, DarknetNormChoices, Norm, Pool, norm_layer
from boxatlas.boxes.nms import SuppressionChoices
from boxatlas.boxes.yolo import Location, Objects, PriorChoices, PriorCoder
from boxatlas.errors import InputError
from boxatlas.images import InputChoices
from boxatlas.losses.yolo import BoxLoss, ObjectnessChoices, logistic_choice, logistic_loss
from boxatlas.options import Count, Fraction, NotNegative, idea, setting
from boxatlas.parts.base import ClassRows, Raw
from boxatlas.parts.yolo import (
    Map,
    MultiScaleChoices,
    PriorDetector,
    YOLOChoices,
    layer_width,
    mean_losses,
    objects_of,
    prior_head,
)
from boxatlas.registry import Method, Published
from boxatlas.structures import Batch, Frame

METHOD = Method("YOLOv3", "YOLOv3: An Incremental Improvement", "1804.02767", 2018, "one-stage")

# (width, height) in pixels of the input, small to large; they do not change with its size.
ANCHORS = ((10, 13), (16, 30), (33, 23), (30, 61), (62, 45), (59, 119), (116, 90), (156, 198),
           (373, 326))  # fmt: skip
TINY_ANCHORS = ((10, 14), (23, 27), (37, 58), (81, 82), (135, 169), (344, 319))


class Config(
    BackboneChoices,
    InputChoices,
    SuppressionChoices,
    DarknetNormChoices,
    YOLOChoices,
    MultiScaleChoices,
    PriorChoices,
    ObjectnessChoices,
):
    """YOLOv3's ideas and the forms of its network."""

    ignore_rule: Literal["iou", "none"] = idea(
        "iou", "section 2.1: boxes that overlap an object well are spared; none: no box is"
    )
    ignore_iou = idea(0.5, "section 2.1: boxes that overlap an object by more than this are spared")
    anchor_match: Literal["best_of_all", "best_of_map"] = idea(
        "best_of_all", "section 2.1: one prior for each object; best_of_map: one on every map"
    )
    box_loss: BoxLoss = idea(
        "paper",
        "section 2.1: paper: cross-entropy of a centre, squares of sizes; all squared; an IoU loss",
    )
    objectness_target = idea("one", "section 2.1: objectness of an object's box; not the IoU")
    class_loss: Literal["logistic", "softmax"] = idea(
        "logistic", "section 2.2: classes are independent; or one softmax"
    )
    multi_scale = idea(True, "section 2.5: training changes inputs among 320 to 608 every 10 steps")
    location: Location = idea(
        "cell", "section 4, tried without success: centres are linear, or offsets from the prior"
    )
    focal: NotNegative = idea(
        0.0, "section 4, tried without success: gamma of a focal loss of objectness"
    )
    truth_iou: Fraction = idea(
        1.0,
        "section 4, tried without success: boxes over this IoU are trained as the object's; "
        "0.7, with ignore_iou 0.3",
    )

    size = setting(416, "input in pixels: a side, or (height, width), of multiples of 32")
    backbone = setting("darknet53", 'a Darknet network or "timm/NAME"')
    resize = "letterbox"
    form: Literal["full", "spp", "tiny"] = setting(
        "full", "layers before each map's output; spp: with pools; tiny: two short maps"
    )
    anchors = setting(
        None, "(width, height) of each prior in pixels; none: as published; data: clusters"
    )
    masks: tuple[tuple[Count, ...], ...] | None = setting(
        None, "anchors of each map, coarse to fine; none: the largest on the coarsest"
    )
    objectness_prior: float = setting(
        0.5, "chance of an object that each box begins with; 0.5 is a bias of 0", gt=0, lt=1
    )
    score = 0.005
    nms_iou = 0.45
    max_detections = 1000

    def idle(self) -> dict[str, str]:
        why = super().idle()
        if self.ignore_rule == "none":
            why["ignore_iou"] = "ignore_rule is none: no box is spared"
        elif self.ignore_iou == 1:
            why["ignore_rule"] = "no box overlaps an object by more than ignore_iou, 1"
        return why

    @property
    def strides(self) -> tuple[int, ...]:
        """Coarse to fine, the published order."""
        return (32, 16) if self.form == "tiny" else (32, 16, 8)

    def shapes(self) -> tuple[tuple[float, float], ...]:
        """(width, height) of every anchor in pixels: as given, or the published."""
        if isinstance(self.anchors, tuple):
            return self.anchors
        return TINY_ANCHORS if self.form == "tiny" else ANCHORS

    def mask(self) -> list[list[int]]:
        """Anchors of each map, coarse to fine. Raises InputError where a map has none."""
        count, maps = len(self.shapes()), len(self.strides)
        if self.masks is None:
            each, left = divmod(count, maps)
            if left or not each:
                problem = f"{maps} maps share them, equally many each; or give masks"
                raise InputError(problem, field="anchors", value=self.anchors)
            return [list(range(count - (i + 1) * each, count - i * each)) for i in range(maps)]
        if len(self.masks) != maps or not all(m and max(m) < count for m in self.masks):
            problem = f"{maps} maps need some of the {count} anchors each"
            raise InputError(problem, field="masks", value=self.masks)
        if any(len(set(mask)) < len(mask) for mask in self.masks):
            raise InputError("names an anchor twice for a map", field="masks", value=self.masks)
        return [list(mask) for mask in self.masks]


class SpatialPyramid(nn.Module):
    """The map beside its maxima over 13, 9 and 5 cells: [B, C, H, W] -> [B, 4C, H, W]."""

    def __init__(self) -> None:
        super().__init__()
        self.pools = nn.ModuleList(Pool(kernel, 1) for kernel in (5, 9, 13))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([*(pool(x) for pool in reversed(self.pools)), x], 1)


class Tower(nn.Module):
    """Convolutions before a map's output; `body`'s end also goes on to the next finer map."""

    def __init__(self, body: Sequence[nn.Module], last: Conv) -> None:
        super().__init__()
        self.body, self.last = nn.Sequential(*body), last

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        middle = self.body(x)
        return middle, self.last(middle)


def full_tower(channels: int, width: int, norm: Norm, pools: bool = False) -> Tower:
    """1x1 and 3x3 in turn, three of each; with pools after the third where the form has them."""
    wide = 2 * width
    body: list[nn.Module] = [Conv(channels, width, 1, norm=norm), Conv(width, wide, 3, norm=norm)]
    body.append(Conv(wide, width, 1, norm=norm))
    if pools:
        body += [SpatialPyramid(), Conv(4 * width, width, 1, norm=norm)]
    body += [Conv(width, wide, 3, norm=norm), Conv(wide, width, 1, norm=norm)]
    return Tower(body, Conv(width, wide, 3, norm=norm))


class YOLOv3(PriorDetector):
    """Backbone -> a tower for each map, coarse to fine, each fed by the one before -> numbers."""

    anchors: Tensor

    def __init__(self, classes: Sequence[str], config: Config) -> None:
        norm = norm_layer(config.norm_eps, config.norm_place)
        super().__init__(classes, config, config.strides[::-1], norm)
        self.coder = PriorCoder(config.location)
        self.mask = config.mask()
        self.register_buffer("anchors", torch.tensor(config.shapes()).float(), persistent=False)
        self.towers, self.laterals, self.heads = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        joined = 0  # channels that come from the coarser map
        for i, channels in enumerate(self.backbone.channels[::-1]):
            tower = self._tower(i, channels + joined, norm)
            self.towers.append(tower)
            self.heads.append(self._head(tower.last.width, len(self.mask[i])))
            if i + 1 < len(config.strides):
                inner, joined = self._lateral_widths(i)
                self.laterals.append(
                    nn.Sequential(Conv(inner, joined, 1, norm=norm), nn.Upsample(scale_factor=2))
                )

    def _tower(self, i: int, channels: int, norm: Norm) -> Tower:
        """The layers before the output of map i (0 = the coarsest), whose input has `channels`."""
        config = self.config
        if config.form != "tiny":
            width = layer_width(512 >> i, config.width)
            return full_tower(channels, width, norm, i == 0 and config.form == "spp")
        narrow, wide = layer_width(256, config.width), layer_width(512, config.width)
        if i:
            return Tower([], Conv(channels, narrow, 3, norm=norm))
        return Tower([Conv(channels, narrow, 1, norm=norm)], Conv(narrow, wide, 3, norm=norm))

    def _lateral_widths(self, i: int) -> tuple[int, int]:
        """Channels of the middle of map i's tower, and of what goes on to the next finer map."""
        if self.config.form == "tiny":
            return layer_width(256, self.config.width), layer_width(128, self.config.width)
        return layer_width(512 >> i, self.config.width), layer_width(256 >> i, self.config.width)

    def _head(self, channels: int, priors: int) -> nn.Conv2d:
        """The last layer of a map, objectness at `objectness_prior`."""
        chance = self.config.objectness_prior
        layer = prior_head(channels, priors * (5 + self.num_classes))
        assert layer.bias is not None
        nn.init.constant_(layer.bias[4 :: 5 + self.num_classes], math.log(chance / (1 - chance)))
        return layer

    def forward(
        self, images: Tensor, frames: Sequence[Frame] | None = None, proposals: Tensor | None = None
    ) -> Raw:
        """raw0, raw1, raw2 (coarse to fine), each [B, A * (5 + K), H, W]: for each prior x, y, w,
        h, objectness, classes."""
        raw: Raw = {}
        middle = None
        for i, x in enumerate(reversed(self.backbone(images))):
            if middle is not None:
                x = torch.cat([self.laterals[i - 1](middle), x], 1)
            middle, top = self.towers[i](x)
            raw[f"raw{i}"] = self.heads[i](top)
        return raw

    @property
    def anchor_count(self) -> int:
        return len(self.anchors)

    def maps(self, raw: Raw) -> list[Map]:
        maps = []
        for i, stride in enumerate(self.config.strides):
            numbers = raw[f"raw{i}"].unflatten(1, (len(self.mask[i]), 5 + self.num_classes))
            maps.append(Map(numbers, self.anchors[self.mask[i]] / stride, stride))
        return maps

    def prior_choice(self, objects: Objects, index: int, layer: Map, boxes: Tensor) -> Tensor:
        anchors = self.anchors / self.anchors.new_tensor(layer.input[::-1])
        return logistic_choice(objects, anchors, self.mask[index], self.config.anchor_match)

    @property
    def least_overlap(self) -> float:
        return self.config.ignore_iou if self.config.ignore_rule == "iou" else 1.0

    def class_scores(self, logits: Tensor) -> Tensor:
        """Each class's own probability."""
        return logits.softmax(1) if self.config.class_loss == "softmax" else logits.sigmoid()

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Section 2.1 and 2.2, each map by itself, summed."""
        objects, config = objects_of(batch), self.config
        total: dict[str, Tensor] = {}
        for layer, mask in zip(self.maps(self(batch.images)), self.mask, strict=True):
            losses = logistic_loss(
                layer.numbers.float(),
                objects,
                self.anchors,
                mask,
                layer.input,
                self.coder,
                ignore_iou=self.least_overlap,
                truth_iou=config.truth_iou,
                anchor_match=config.anchor_match,
                box_loss=config.box_loss,
                objectness_target=config.objectness_target,
                class_loss=config.class_loss,
                focal=config.focal,
            )
            total = {name: total.get(name, 0) + value for name, value in losses.items()}
        return mean_losses(total, len(batch))

    def class_rows(self) -> dict[str, ClassRows]:
        return {
            f"heads.{i}.{leaf}": ClassRows(len(mask), 5)
            for i, mask in enumerate(self.mask)
            for leaf in ("weight", "bias")
        }


# -- the models -----------------------------------------------------------------------------------


@METHOD.model(
    "Darknet-53",
    "416",
    Published("COCO test-dev, 608", "AP", 33.0, 19.8, "Titan X", "table 3; FPS as surveys have it"),
    Published("COCO test-dev, 608", "AP@0.5", 57.9, 20, "Titan X", "table 3, figure 3: 51 ms"),
    Published("COCO test-dev, 320", "AP", 28.2, 45, "Titan X", "figure 1: 22 ms"),
)
def yolov3(classes: Sequence[str], **options: Any) -> YOLOv3:
    """YOLOv3 at 416x416 (320, 608 or any multiple of 32 by `size`): three maps, nine priors."""
    return YOLOv3(classes, Config.of(options))


@METHOD.model(
    "Darknet-53", "416", Published("COCO test-dev, 608", "AP@0.5", 60.6, source="authors' site")
)
def yolov3_spp(classes: Sequence[str], **options: Any) -> YOLOv3:
    """YOLOv3 with spatial pyramid pooling before the coarsest map."""
    return YOLOv3(classes, Config.of(options, form="spp"))


@METHOD.model(
    "7 convolutions", "416", Published("COCO test-dev", "AP@0.5", 33.1, source="authors' site")
)
def yolov3_tiny(classes: Sequence[str], **options: Any) -> YOLOv3:
    """Tiny YOLOv3: two maps, six priors."""
    return YOLOv3(classes, Config.of(options, backbone="darknet_tiny", form="tiny"))


@METHOD.model("EfficientNet-Lite0", "320")
def yolov3_efficientnet_lite0(classes: Sequence[str], **options: Any) -> YOLOv3:
    """A light YOLOv3 at 320x320: a small backbone, a quarter of the detector's channels.

    Its objectness begins at 0.01, so that a short training is not spent on unlearning the empty.
    """
    config = Config.of(
        options,
        backbone="timm/tf_efficientnet_lite0",
        width=0.25,
        size=320,
        multi_scale=False,
        objectness_prior=0.01,
    )
    return YOLOv3(classes, config)
