"""YOLOv2. Redmon & Farhadi 2016, "YOLO9000: Better, Faster, Stronger", arXiv 1612.08242, 2 and 3.

YOLO is fast, but it misses objects and places boxes poorly: one class a cell, boxes out of nothing.
YOLOv2 drops the fully connected layers: Darknet-19 gives a 13 x 13 map (at 416), each cell predicts
from five priors, clusters of the training boxes' shapes: where in the cell the centre lies (a
sigmoid), how much larger the box is than the prior (an exponential), objectness and, for each
prior, classes. A passthrough brings the 26 x 26 map in. Training changes the size every 10 batches.

Table 2 of the paper is a row of switches here; without `anchor_boxes` it is YOLO again.
Shape letters: B images, A priors of a cell, K classes, H x W cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from boxatlas.backbones.darknet import Conv
from boxatlas.boxes.yolo import PriorCoder
from boxatlas.detectors.yolov1 import YOLOv1, YOLOv1Config
from boxatlas.losses.yolo import region_loss
from boxatlas.ops.reorg import Order, Reorg
from boxatlas.options import convention, switch
from boxatlas.parts.base import ClassRows, Detector, Raw
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

Anchors = tuple[tuple[float, float], ...]

# Priors as (width, height) in cells of 32 pixels, by release and data.
PRIORS: dict[tuple[str, str], Anchors] = {
    ("paper", "voc"): ((1.08, 1.19), (3.42, 4.41), (6.63, 11.38), (9.42, 5.11), (16.62, 10.52)),
    ("paper", "coco"): ((0.738768, 0.874946), (2.42204, 2.65704), (4.30971, 7.04493),
                        (10.246, 4.59428), (12.6868, 11.8741)),
    ("later", "voc"): ((1.3221, 1.73145), (3.19275, 4.00944), (5.05587, 8.09892),
                       (9.47112, 4.84053), (11.2364, 10.0071)),
    ("later", "coco"): ((0.57273, 0.677385), (1.87446, 2.06253), (3.33843, 5.47434),
                        (7.88282, 3.52778), (9.77052, 9.16828)),
}  # fmt: skip
# Boxes picked by hand: Faster R-CNN's nine (128, 256, 512 pixels at three ratios, on images of 600)
# in cells of an input of 416. The paper does not say which it used.
HAND_PICKED: Anchors = tuple(
    (side * 416 / 600 / 32 / ratio**0.5, side * 416 / 600 / 32 * ratio**0.5)
    for side in (128, 256, 512)
    for ratio in (0.5, 1.0, 2.0)
)
_EARLY = 0.01  # weight of the pull towards the priors in the first images


class YOLOv2Config(PriorConfig):
    """Every choice of YOLOv2; the first ten are table 2's rows, each on as in its last column."""

    batch_norm: bool = switch(True, "table 2: off: biases, as in YOLO")
    hires_classifier: bool = switch(True, "table 2: backbone fine-tuned at 448 before detection")
    anchor_boxes: bool = switch(
        True, "table 2, with 'convolutional': off: YOLO's own head and loss"
    )
    new_network: bool = switch(True, "table 2: Darknet-19; off: YOLO's Extraction")
    dimension_priors: bool = switch(True, "table 2: clusters; off: nine boxes picked by hand")
    location_prediction: bool = switch(True, "table 2: sigmoids in the cell; off: as in RPN")
    passthrough: bool = switch(True, "table 2: the finer map joined to the last")
    multi_scale: bool = switch(True, "table 2: inputs of 320 to 608, changed every 10 steps")
    hires_detector: bool = switch(True, "table 2's last row: detection at 544; off: at 416")
    objectness_target: Literal["iou", "one"] = switch("iou", "section 2: as in YOLO the IoU")

    size: int | tuple[int, int] | None = convention(None, "input; None: by hires_detector")  # pyright: ignore[reportIncompatibleVariableOverride]
    backbone: str = convention("auto", 'by new_network; a Darknet network or "timm/NAME"')
    anchors: Anchors | Literal["data"] | None = convention(
        None, "(width, height) in cells; None: as published; data: clusters, found in training"
    )
    anchor_set: Literal["auto", "voc", "coco"] = convention("auto", "auto: coco for 80 classes")
    release: Literal["paper", "later"] = convention(
        "paper", "later: a 1x1x64 before the passthrough, other priors (the public weights)"
    )
    tower: int = convention(2, "3x3x1024 convolutions before the passthrough joins", ge=0)
    joined: int = convention(1024, "channels of the 3x3 convolution after it; 0: there is none")
    reorg_order: Order = convention("darknet", "how the passthrough takes a map apart")
    small_boxes: bool = convention(False, "box losses weighed by 2 - width * height (since 2017)")
    prior_loss_images: int = convention(12800, "images in which boxes are pulled to priors", ge=0)
    ignore_iou: float = convention(0.6, "boxes that overlap more learn no objectness", ge=0)
    match: Literal["prior", "prediction"] = convention("prior", "what an object's shape is put to")
    object_scale: float = convention(5.0, "of objectness where an object is", ge=0)
    noobject_scale: float = convention(1.0, "of objectness elsewhere", ge=0)
    class_scale: float = convention(1.0, "of the classes", ge=0)
    coord_scale: float = convention(1.0, "of the boxes", ge=0)

    @property
    def shape(self) -> tuple[int, int]:
        own = 544 if self.hires_detector else 416
        size = own if self.size is None else self.size
        return (size, size) if isinstance(size, int) else size

    def priors(self, classes: int) -> Anchors:
        """Explicit, hand-picked, or the published clusters."""
        if isinstance(self.anchors, tuple):
            return self.anchors
        if not self.dimension_priors:
            return HAND_PICKED
        data = self.anchor_set
        if data == "auto":
            data = "coco" if classes == 80 else "voc"
        return PRIORS[self.release, data]

    def resolved(self) -> YOLOv2Config:
        """With the backbone that `new_network` means."""
        if self.backbone != "auto":
            return self
        return self.model_copy(
            update={"backbone": "darknet19" if self.new_network else "extraction"}
        )


class YOLOv2(PriorDetector):
    """Backbone -> two convolutions, joined by the passthrough -> one map of numbers."""

    config: YOLOv2Config  # pyright: ignore[reportIncompatibleVariableOverride]
    priors: Tensor
    anchor_unit = 32

    def __init__(self, classes: Sequence[str], config: YOLOv2Config) -> None:
        config = config.resolved()
        check_size(config, 32)
        norm = config.norm() if config.batch_norm else None
        strides = (16, 32) if config.passthrough else (32,)
        weights = "darknet19_224" if not config.hires_classifier else None
        backbone, normal = backbone_of(
            config, strides, norm, weights if config.backbone == "darknet19" else None
        )
        super().__init__(classes, preprocess_of(config, normal), config)
        self.backbone = backbone
        self.coder = PriorCoder("cell" if config.location_prediction else "prior")
        priors = config.priors(len(classes))
        self.register_buffer("priors", torch.tensor(priors), persistent=False)
        self._build(len(priors), norm)

    def _build(self, priors: int, norm: Any) -> None:
        config, width = self.config, self.config.wide(1024)
        channels = self.backbone.channels[-1]
        convs: list[nn.Module] = []
        for _ in range(config.tower):
            convs.append(Conv(channels, width, 3, norm=norm))
            channels = width
        self.tower = nn.Sequential(*convs)
        self.squeeze = None
        self.reorg = Reorg(2, config.reorg_order)
        if config.passthrough:
            fine = self.backbone.channels[0]
            if config.release == "later":
                self.squeeze = Conv(fine, config.wide(64), 1, norm=norm)
                fine = config.wide(64)
            channels += 4 * fine
        self.join = None
        if config.joined:
            self.join = Conv(channels, config.wide(config.joined), 3, norm=norm)
            channels = self.join.width
        self.head = head(channels, priors * (5 + self.num_classes))

    def forward(
        self,
        images: Tensor,
        frames: Sequence[Frame] | None = None,
        proposals: Tensor | None = None,
    ) -> Raw:
        """raw [B, A * (5 + K), H, W]: for each prior x, y, w, h, objectness, classes."""
        maps = self.backbone(images)
        x = self.tower(maps[-1])
        if self.config.passthrough:
            fine = maps[0] if self.squeeze is None else self.squeeze(maps[0])
            x = torch.cat([self.reorg(fine), x], 1)
        if self.join is not None:
            x = self.join(x)
        return {"raw": self.head(x)}

    @property
    def anchor_count(self) -> int:
        return len(self.priors)

    def maps(self, raw: Raw) -> list[Map]:
        x = raw["raw"]
        numbers = x.unflatten(1, (len(self.priors), -1))
        return [Map(numbers, self.priors, 32)]

    def class_scores(self, logits: Tensor) -> Tensor:
        """A softmax over the classes of each prior."""
        return logits.softmax(1)

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Boxes and objectness by squares, classes by a softmax, over the whole map."""
        (one,) = self.maps(self(batch.images))
        found = self.coder.activate(one.numbers.float(), 2)
        losses = region_loss(
            found, truth_of(batch), one.priors, self.coder, **self.loss_options(len(batch))
        )
        return mean_losses(losses, len(batch))

    def loss_options(self, images: int) -> dict[str, Any]:
        """The scales and rules of the region loss, at this point of training."""
        config = self.config
        early = int(self.images_seen) + images < config.prior_loss_images
        return {
            "object_scale": config.object_scale,
            "noobject_scale": config.noobject_scale,
            "class_scale": config.class_scale,
            "coord_scale": config.coord_scale,
            "ignore_iou": config.ignore_iou,
            "objectness_target": config.objectness_target,
            "small_boxes": config.small_boxes,
            "match": config.match,
            "early": _EARLY if early else 0.0,
        }

    def class_rows(self) -> dict[str, ClassRows]:
        rows = ClassRows(len(self.priors), 5)
        return {"head.weight": rows, "head.bias": rows}


def build(classes: Sequence[str], defaults: dict[str, Any], options: dict[str, Any]) -> Detector:
    """The model of these options: above table 2's row "anchor boxes" it is YOLO, with the rows."""
    config = YOLOv2Config.of(**{**defaults, **options})
    if config.anchor_boxes:
        return YOLOv2(classes, config)
    given = {"hidden": config.wide(4096), **defaults, **options}
    if "size" in defaults and "size" not in options:
        given["size"] = -(-defaults["size"] // 64) * 64  # YOLO's own layers halve the map again
    shared = {name: value for name, value in given.items() if name in YOLOv1Config.model_fields}
    rows = {
        "backbone": config.resolved().backbone,
        "batch_norm": config.batch_norm,
        "dropout": 0.0 if config.batch_norm else 0.5,
    }
    return YOLOv1(classes, YOLOv1Config.of(**{**shared, **rows}))


# -- the models -----------------------------------------------------------------------------------


def _register(backbone: str, size: str, *published: Published) -> Any:
    return register_model(
        method="YOLOv2",
        title="YOLO9000: Better, Faster, Stronger",
        arxiv="1612.08242",
        year=2016,
        family="one-stage",
        backbone=backbone,
        size=size,
        published=published,
    )


@_register(
    "Darknet-19",
    "544",
    Published("VOC07 test (07+12), 416", "mAP@0.5", 76.8, 67, "Titan X", "table 3"),
    Published("VOC07 test (07+12), 544", "mAP@0.5", 78.6, 40, "Titan X", "table 3"),
    Published("COCO test-dev", "AP", 21.6, source="table 5"),
)
def yolov2(classes: Sequence[str], **options: Any) -> Detector:
    """YOLOv2 at 544x544 (any multiple of 32 by `size`): five priors a cell, passthrough."""
    return build(classes, {}, options)


@_register(
    "8 convolutions",
    "416",
    Published("VOC07 test (07+12)", "mAP@0.5", 57.1, source="authors' site"),
)
def yolov2_tiny(classes: Sequence[str], **options: Any) -> Detector:
    """Tiny YOLOv2: eight 3x3 convolutions, no passthrough."""
    own: dict[str, Any] = {
        "backbone": "darknet_tiny",
        "passthrough": False,
        "tower": 0,
        "size": 416,
    }
    if len(classes) == 80:
        own |= {"joined": 512, "release": "later"}
    return build(classes, own, options)


@_register("EfficientNet-Lite0", "320")
def yolov2_efficientnet_lite0(classes: Sequence[str], **options: Any) -> Detector:
    """A light YOLOv2 at 320x320: a small backbone, a quarter of the detector's channels."""
    own = {"backbone": "timm/tf_efficientnet_lite0", "width": 0.25, "size": 320}
    return build(classes, {**own, "multi_scale": False}, options)
