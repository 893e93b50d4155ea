"""YOLOv3: An Incremental Improvement. Redmon & Farhadi 2018, arXiv 1804.02767.

YOLOv2 loses small objects on its one coarse map, and its softmax gives a box one class only. Here
are three maps (strides 32, 16, 8) of three priors each, every part of a prediction logistic. Each
map has a tower of convolutions; the tower's middle is up-sampled and joined to the next finer map
of Darknet-53. An object is learned at one place: in the cell of its centre, by the prior of all
nine whose shape is nearest; other boxes that overlap it well are neither right nor wrong.
Shape letters: B images, A priors of a cell, K classes, H x W cells of a map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from boxatlas.backbones.darknet import Conv, Norm, Pool
from boxatlas.boxes.yolo import Location, PriorCoder
from boxatlas.errors import InputError
from boxatlas.losses.yolo import BoxLoss, logistic_loss
from boxatlas.options import convention, switch
from boxatlas.parts.base import ClassRows, Raw
from boxatlas.parts.yolo import (
    Map,
    PriorConfig,
    PriorDetector,
    backbone_of,
    check_size,
    head,
    mean_losses,
    preprocess_of,
    truth_of,
)
from boxatlas.registry import Published, register_model
from boxatlas.structures import Batch, Frame

# (width, height) in pixels of the input, small to large; they do not change with its size.
ANCHORS = ((10, 13), (16, 30), (33, 23), (30, 61), (62, 45), (59, 119), (116, 90), (156, 198),
           (373, 326))  # fmt: skip
TINY_ANCHORS = ((10, 14), (23, 27), (37, 58), (81, 82), (135, 169), (344, 319))


class YOLOv3Config(PriorConfig):
    """Every choice of YOLOv3."""

    ignore_rule: Literal["iou", "none"] = switch("iou", "section 2.1: none: nothing is spared")
    anchor_match: Literal["best_of_all", "best_of_map"] = switch(
        "best_of_all", "section 2.1: one prior for each object; best_of_map: one on every map"
    )
    box_loss: BoxLoss = switch("paper", "section 2.1; squared or an IoU loss instead")
    objectness_target: Literal["one", "iou"] = switch("one", "section 2.1; section 5: not the IoU")
    class_loss: Literal["logistic", "softmax"] = switch("logistic", "section 2.2")
    multi_scale: bool = switch(True, "section 2.5: inputs of 320 to 608, changed every 10 steps")
    location: Location = switch("cell", 'section 4, tried without success: "linear", "prior"')
    focal: float = switch(0.0, "section 4, tried without success: gamma of a focal loss", ge=0)
    truth_iou: float = switch(1.0, "section 4, tried without success: 0.7 with ignore_iou=0.3")
    ignore_iou: float = switch(0.5, "section 2.1: boxes that overlap more are spared")

    size: int | tuple[int, int] = convention(416, "input, a multiple of 32; published: 320 to 608")
    backbone: str = convention("darknet53", 'a Darknet network or "timm/NAME"')
    resize: Literal["stretch", "letterbox"] = convention("letterbox", "how an image is fitted")
    form: Literal["full", "spp", "tiny"] = convention(
        "full", "the towers: with pools, or two short"
    )
    anchors: tuple[tuple[float, float], ...] | Literal["data"] | None = convention(
        None, "(width, height) in pixels; None: as published; data: clusters, found in training"
    )
    objectness_prior: float = convention(
        0.5,
        "the chance of an object that each box begins with; 0.5 is a bias of 0, as in Darknet",
        gt=0,
        lt=1,
    )
    masks: tuple[tuple[int, ...], ...] | None = convention(
        None, "which anchors each map has, coarse to fine; None: the largest to the coarsest"
    )

    @property
    def strides(self) -> tuple[int, ...]:
        """Coarse to fine, the published order."""
        return (32, 16) if self.form == "tiny" else (32, 16, 8)

    def shapes(self) -> tuple[tuple[float, float], ...]:
        if isinstance(self.anchors, tuple):
            return self.anchors
        return TINY_ANCHORS if self.form == "tiny" else ANCHORS

    def mask(self) -> list[list[int]]:
        """Anchors of each map, coarse to fine."""
        count, maps = len(self.shapes()), len(self.strides)
        if self.masks is None:
            each = count // maps
            made = [list(range(count - (i + 1) * each, count - i * each)) for i in range(maps)]
        else:
            made = [list(mask) for mask in self.masks]
        if len(made) != maps or not all(
            mask and 0 <= min(mask) <= max(mask) < count for mask in made
        ):
            raise InputError(
                f"{maps} maps need some of the {count} anchors each",
                field="masks",
                value=self.masks,
            )
        return made


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

    config: YOLOv3Config  # pyright: ignore[reportIncompatibleVariableOverride]
    anchors: Tensor

    def __init__(self, classes: Sequence[str], config: YOLOv3Config) -> None:
        check_size(config, 32)
        norm = config.norm()
        backbone, normal = backbone_of(config, config.strides[::-1], norm)
        super().__init__(classes, preprocess_of(config, normal), config)
        self.backbone = backbone
        self.coder = PriorCoder(config.location)
        self.mask = config.mask()
        self.register_buffer("anchors", torch.tensor(config.shapes()).float(), persistent=False)
        tiny = config.form == "tiny"
        prior = math.log(config.objectness_prior / (1 - config.objectness_prior))
        self.towers, self.laterals, self.heads = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        extra = 0
        for i, channels in enumerate(backbone.channels[::-1]):
            width = config.wide(512 >> i)
            if tiny:
                tower = self._tiny_tower(i, channels + extra, norm)
            else:
                tower = full_tower(channels + extra, width, norm, i == 0 and config.form == "spp")
            self.towers.append(tower)
            last = head(tower.last.width, len(self.mask[i]) * (5 + self.num_classes))
            assert last.bias is not None
            nn.init.constant_(last.bias[4 :: 5 + self.num_classes], prior)
            self.heads.append(last)
            if i + 1 < len(config.strides):
                inner = config.wide(256) if tiny else width
                extra = config.wide(128) if tiny else config.wide(256 >> i)
                self.laterals.append(
                    nn.Sequential(Conv(inner, extra, 1, norm=norm), nn.Upsample(scale_factor=2))
                )

    def _tiny_tower(self, i: int, channels: int, norm: Norm) -> Tower:
        wide = self.config.wide
        if i:
            return Tower([], Conv(channels, wide(256), 3, norm=norm))
        body = [Conv(channels, wide(256), 1, norm=norm)]
        return Tower(body, Conv(wide(256), wide(512), 3, norm=norm))

    def forward(
        self,
        images: Tensor,
        frames: Sequence[Frame] | None = None,
        proposals: Tensor | None = None,
    ) -> Raw:
        """raw0, raw1, raw2 (coarse to fine), each [B, A * (5 + K), H, W]: for each prior x, y, w,
        h, objectness, classes."""
        found: Raw = {}
        middle = None
        for i, x in enumerate(reversed(self.backbone(images))):
            if middle is not None:
                x = torch.cat([self.laterals[i - 1](middle), x], 1)
            middle, top = self.towers[i](x)
            found[f"raw{i}"] = self.heads[i](top)
        return found

    @property
    def anchor_count(self) -> int:
        return len(self.anchors)

    def maps(self, raw: Raw) -> list[Map]:
        made = []
        for i, stride in enumerate(self.config.strides):
            numbers = raw[f"raw{i}"].unflatten(1, (len(self.mask[i]), 5 + self.num_classes))
            made.append(Map(numbers, self.anchors[self.mask[i]] / stride, stride))
        return made

    def class_scores(self, logits: Tensor) -> Tensor:
        """Each class's own probability."""
        return logits.softmax(1) if self.config.class_loss == "softmax" else logits.sigmoid()

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Section 2.1 and 2.2, each map by itself, summed."""
        truth, config = truth_of(batch), self.config
        total: dict[str, Tensor] = {}
        for one, mask in zip(self.maps(self(batch.images)), self.mask, strict=True):
            losses = logistic_loss(
                one.numbers.float(),
                truth,
                self.anchors,
                mask,
                one.input,
                self.coder,
                ignore_iou=config.ignore_iou if config.ignore_rule == "iou" else 1.0,
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


def _register(backbone: str, size: str, *published: Published) -> Any:
    return register_model(
        method="YOLOv3",
        title="YOLOv3: An Incremental Improvement",
        arxiv="1804.02767",
        year=2018,
        family="one-stage",
        backbone=backbone,
        size=size,
        published=published,
    )


@_register(
    "Darknet-53",
    "416",
    Published("COCO test-dev, 608", "AP", 33.0, 19.8, "Titan X", "table 3; FPS as surveys have it"),
    Published("COCO test-dev, 608", "AP@0.5", 57.9, 20, "Titan X", "table 3, figure 3: 51 ms"),
    Published("COCO test-dev, 320", "AP", 28.2, 45, "Titan X", "figure 1: 22 ms"),
)
def yolov3(classes: Sequence[str], **options: Any) -> YOLOv3:
    """YOLOv3 at 416x416 (320, 608 or any multiple of 32 by `size`): three maps, nine priors."""
    return YOLOv3(classes, YOLOv3Config.of(**options))


@_register(
    "Darknet-53", "416", Published("COCO test-dev, 608", "AP@0.5", 60.6, source="authors' site")
)
def yolov3_spp(classes: Sequence[str], **options: Any) -> YOLOv3:
    """YOLOv3 with spatial pyramid pooling before the coarsest map."""
    return YOLOv3(classes, YOLOv3Config.of(**{"form": "spp", **options}))


@_register(
    "7 convolutions",
    "416",
    Published("COCO test-dev", "AP@0.5", 33.1, source="authors' site"),
)
def yolov3_tiny(classes: Sequence[str], **options: Any) -> YOLOv3:
    """Tiny YOLOv3: two maps, six priors."""
    own = {"backbone": "darknet_tiny", "form": "tiny"}
    return YOLOv3(classes, YOLOv3Config.of(**{**own, **options}))


@_register("EfficientNet-Lite0", "320")
def yolov3_efficientnet_lite0(classes: Sequence[str], **options: Any) -> YOLOv3:
    """A light YOLOv3 at 320x320: a small backbone, a quarter of the detector's channels.

    Its objectness begins at 0.01, so that a short training is not spent on unlearning the empty.
    """
    own = {
        "backbone": "timm/tf_efficientnet_lite0",
        "width": 0.25,
        "size": 320,
        "multi_scale": False,
        "objectness_prior": 0.01,
    }
    return YOLOv3(classes, YOLOv3Config.of(**{**own, **options}))
