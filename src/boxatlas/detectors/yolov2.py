"""YOLOv2. Redmon & Farhadi 2016, "YOLO9000: Better, Faster, Stronger", arXiv 1612.08242, 2 and 3.

YOLO is fast, but it misses objects and places boxes poorly: one class a cell, boxes out of nothing.
YOLOv2 drops the fully connected layers: Darknet-19 gives a 13 x 13 map (at 416), each cell predicts
from five priors, clusters of the training boxes' shapes: where in the cell the centre lies (a
sigmoid), how much larger the box is than the prior (an exponential), objectness and, for each
prior, classes. A passthrough brings the 26 x 26 map in. Training changes the size every 10 batches.

Table 2 of the paper is a row of ideas here; without `anchor_boxes` it is YOLO again.
Shape letters: B images, A priors of a cell, K classes, H x W cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from boxatlas.backbones.choice import BackboneChoices
from boxatlas.backbones.darknet import Conv, DarknetNormChoices, Norm, norm_layer
from boxatlas.backbones.timm_features import PREFIX
from boxatlas.boxes.nms import SuppressionChoices
from boxatlas.boxes.yolo import Anchors, Objects, PriorChoices, PriorCoder
from boxatlas.detectors.yolov1 import Config as YOLOv1Config
from boxatlas.detectors.yolov1 import YOLOv1
from boxatlas.losses.yolo import (
    EARLY_PULL,
    ClassLoss,
    Losses,
    ObjectnessChoices,
    RegionChoices,
    SquareScales,
    region_choice,
    region_loss,
    softmax_classes,
)
from boxatlas.ops.reorg import Reorg, ReorgChoices
from boxatlas.options import Layers, Options, Pixels, idea, setting
from boxatlas.parts.base import ClassRows, Detector, Raw
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

METHOD = Method("YOLOv2", "YOLO9000: Better, Faster, Stronger", "1612.08242", 2016, "one-stage")

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


class YOLOv2Choices(Options):
    """What YOLOv2's network and its successor's are made by; the ideas are rows of table 2."""

    batch_norm: bool = idea(True, "table 2: off: convolutions have biases, as in YOLO")
    hires_classifier: bool = idea(
        True, "table 2: ImageNet weights fine-tuned at 448; off: those of 224"
    )
    anchor_boxes: bool = idea(
        True, "table 2, with 'convolutional': off: YOLO's own fully connected layers and loss"
    )
    new_network: bool = idea(True, "table 2: the backbone is Darknet-19; off: YOLO's Extraction")
    dimension_priors: bool = idea(
        True, "table 2: priors are clusters of boxes; off: nine picked by hand"
    )
    location_prediction: bool = idea(
        True, "table 2: a centre is a sigmoid within its cell; off: an offset, as in an RPN"
    )
    passthrough: bool = idea(True, "table 2: the map of stride 16 is joined to the last")
    hires_detector: bool = idea(True, "table 2's last row: detection at 544; off: at 416")

    # Not `InputChoices`: a size may be left to `hires_detector`.
    size: Pixels | tuple[Pixels, Pixels] | None = setting(
        None, "input in pixels: a side, or (height, width), of multiples of 32; none: 544 or 416"
    )
    anchor_set: Literal["auto", "voc", "coco"] = setting(
        "auto", "data whose published clusters are the priors; auto: coco for 80 classes, else voc"
    )
    release: Literal["paper", "later"] = setting(
        "paper", "later: a 1x1 convolution before the passthrough and the public weights' priors"
    )
    tower: Layers = setting(2, "3x3 convolutions of 1024 channels before the passthrough joins")
    joined: int = setting(
        1024,
        "channels of the 3x3 convolution after the passthrough; 0: there is none",
        ge=0,
        le=8192,
    )

    def idle(self) -> dict[str, str]:
        assert isinstance(self, BackboneChoices)
        assert isinstance(self, PriorChoices)
        why = super().idle()
        backbone = named_backbone(self.backbone, self.new_network)
        if backbone != named_backbone("auto", self.new_network):
            why["new_network"] = f"the option backbone says {backbone}"
        if backbone != "darknet19":  # whether it starts from weights at all, training may yet say
            why["hires_classifier"] = "only Darknet-19 has ImageNet weights of two sizes"
        given = isinstance(self.anchors, tuple)
        if given:
            why["dimension_priors"] = "the option anchors gives the priors"
        if given or not self.dimension_priors:
            why["anchor_set"] = "the priors are not the published clusters"
            if not self.passthrough:
                why["release"] = "there are neither published priors nor a passthrough"
        if self.size is not None:
            why["hires_detector"] = "the option size gives the input"
        squeezed = self.passthrough and self.release == "later"
        if not (self.tower or self.joined or squeezed):
            reason = "there is no convolution between the backbone and the last layer"
            why |= {"width": reason} | (
                {"batch_norm": reason} if backbone.startswith(PREFIX) else {}
            )
        return why

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the input."""
        size = (544 if self.hires_detector else 416) if self.size is None else self.size
        return (size, size) if isinstance(size, int) else size


class Config(
    BackboneChoices,
    SuppressionChoices,
    DarknetNormChoices,
    YOLOChoices,
    MultiScaleChoices,
    PriorChoices,
    SquareScales,
    ObjectnessChoices,
    RegionChoices,
    ReorgChoices,
    YOLOv2Choices,
):
    """Every choice of YOLOv2."""

    backbone = setting("auto", 'auto: by new_network; a Darknet network or "timm/NAME"')
    anchors = setting(
        None, "(width, height) of each prior in cells; none: as published; data: clusters"
    )
    multi_scale = idea(True, "table 2: training changes inputs among 320 to 608 every 10 steps")
    objectness_target = idea("iou", "section 2: as in YOLO the IoU, or 1")
    score = 0.005
    nms_iou = 0.45
    max_detections = 1000

    def idle(self) -> dict[str, str]:
        why = super().idle()
        if self.anchor_boxes:
            return why
        of_yolo = {*YOLOv1Config.model_fields, "anchor_boxes", "new_network"}
        reason = "without anchor_boxes this is YOLO, which has no such choice"
        gone = {name: reason for name in type(self).model_fields if name not in of_yolo}
        return gone | {name: why[name] for name in ("fold_norms", "new_network") if name in why}


def named_backbone(backbone: str, new_network: bool) -> str:
    """The backbone that "auto" means, or the one that is named."""
    return ("darknet19" if new_network else "extraction") if backbone == "auto" else backbone


def priors_of(config: Any, classes: int) -> Anchors:
    """(width, height) in cells: as given, picked by hand, or the published clusters."""
    if isinstance(config.anchors, tuple):
        return config.anchors
    if not config.dimension_priors:
        return HAND_PICKED
    data = config.anchor_set
    if data == "auto":
        data = "coco" if classes == 80 else "voc"
    return PRIORS[config.release, data]


class YOLOv2(PriorDetector):
    """Backbone -> two convolutions, joined by the passthrough -> one map of numbers.

    config: of YOLOv2's groups, and others where a method extends it.
    """

    priors: Tensor
    anchor_unit = 32

    def __init__(self, classes: Sequence[str], config: Any) -> None:
        name = named_backbone(config.backbone, config.new_network)
        config = config.model_copy(update={"backbone": name})
        norm = norm_layer(config.norm_eps, config.norm_place) if config.batch_norm else None
        strides = (16, 32) if config.passthrough else (32,)
        early = name == "darknet19" and not config.hires_classifier
        super().__init__(classes, config, strides, norm, weights="darknet19_224" if early else None)
        self.coder = PriorCoder("cell" if config.location_prediction else "prior")
        self.shapes = priors_of(config, len(classes))
        self.register_buffer("priors", torch.tensor(self.shapes), persistent=False)
        self._layers(norm)

    def _layers(self, norm: Norm | None) -> None:
        """What follows the backbone: tower, squeeze, reorg, join, head."""
        config, width = self.config, layer_width(1024, self.config.width)
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
                squeezed = layer_width(64, config.width)
                self.squeeze = Conv(fine, squeezed, 1, norm=norm)
                fine = squeezed
            channels += 4 * fine
        self.join = None
        if config.joined:
            self.join = Conv(channels, layer_width(config.joined, config.width), 3, norm=norm)
            channels = self.join.width
        self.head = prior_head(channels, len(self.shapes) * (5 + self.num_classes))

    def forward(
        self, images: Tensor, frames: Sequence[Frame] | None = None, proposals: Tensor | None = None
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

    def prior_choice(self, objects: Objects, index: int, layer: Map, boxes: Tensor) -> Tensor:
        return region_choice(objects, layer.priors, boxes, self.config.match)

    def class_scores(self, logits: Tensor) -> Tensor:
        """A softmax over the classes of each prior."""
        return logits.softmax(1)

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Boxes and objectness by squares, classes by a softmax, over the whole map."""
        (layer,) = self.maps(self(batch.images))
        numbers = self.coder.activate(layer.numbers.float(), 2)
        losses = self.region_losses(numbers, objects_of(batch), len(batch), softmax_classes)
        return mean_losses(losses, len(batch))

    def region_losses(
        self, numbers: Tensor, objects: Objects, images: int, class_loss: ClassLoss
    ) -> Losses:
        """`region_loss` of activated numbers [B, A, 5 + K, H, W] in a step on so many images."""
        config = self.config
        early = int(self.images_seen) + images < config.prior_loss_images
        return region_loss(
            numbers,
            objects,
            self.priors,
            self.coder,
            class_loss=class_loss,
            object_scale=config.object_scale,
            noobject_scale=config.noobject_scale,
            class_scale=config.class_scale,
            coord_scale=config.coord_scale,
            ignore_iou=config.ignore_iou,
            objectness_target=config.objectness_target,
            small_boxes=config.small_boxes,
            match=config.match,
            early=EARLY_PULL if early else 0.0,
        )

    def class_rows(self) -> dict[str, ClassRows]:
        rows = ClassRows(len(self.priors), 5)
        return {"head.weight": rows, "head.bias": rows}


def build(classes: Sequence[str], options: dict[str, Any], **own: Any) -> Detector:
    """YOLOv2, or above table 2's row "anchor boxes" YOLO with the rows it has already.

    own: the model's own values; a user's `options` win.
    """
    config = Config.of(options, **own)
    if config.anchor_boxes:
        return YOLOv2(classes, config)
    if "size" in own:  # YOLO's own, 448, is a multiple of 64 too
        config = Config.of(options, **{**own, "size": -(-own["size"] // 64) * 64})
    return BeforeAnchorBoxes(classes, config)


class BeforeAnchorBoxes(YOLOv1):
    """Table 2 to the left of "anchor boxes": YOLO, with the rows that it has already."""

    def __init__(self, classes: Sequence[str], rows: Config) -> None:
        given = {name: getattr(rows, name) for name in rows.model_fields_set}
        if rows.size is None:
            given.pop("size", None)
        values = {name: given[name] for name in YOLOv1Config.model_fields if name in given}
        values |= {
            "backbone": named_backbone(rows.backbone, rows.new_network),
            "batch_norm": rows.batch_norm,
            "dropout": 0.0 if rows.batch_norm else 0.5,
            "hidden": layer_width(4096, rows.width),
        }
        super().__init__(classes, YOLOv1Config.of(values))
        self.rows = rows

    def idle(self) -> dict[str, str]:
        return self.rows.idle()


# -- the models -----------------------------------------------------------------------------------


@METHOD.model(
    "Darknet-19",
    "544",
    Published("VOC07 test (07+12), 416", "mAP@0.5", 76.8, 67, "Titan X", "table 3"),
    Published("VOC07 test (07+12), 544", "mAP@0.5", 78.6, 40, "Titan X", "table 3"),
    Published("COCO test-dev", "AP", 21.6, source="table 5"),
)
def yolov2(classes: Sequence[str], **options: Any) -> Detector:
    """YOLOv2 at 544x544 (any multiple of 32 by `size`): five priors a cell, passthrough."""
    return build(classes, options)


@METHOD.model(
    "8 convolutions",
    "416",
    Published("VOC07 test (07+12)", "mAP@0.5", 57.1, source="authors' site"),
)
def yolov2_tiny(classes: Sequence[str], **options: Any) -> Detector:
    """Tiny YOLOv2: eight 3x3 convolutions, no passthrough."""
    own: dict[str, Any] = {"joined": 512, "release": "later"} if len(classes) == 80 else {}
    return build(
        classes, options, backbone="darknet_tiny", passthrough=False, tower=0, size=416, **own
    )


@METHOD.model("EfficientNet-Lite0", "320")
def yolov2_efficientnet_lite0(classes: Sequence[str], **options: Any) -> Detector:
    """A light YOLOv2 at 320x320: a small backbone, a quarter of the detector's channels."""
    return build(
        classes,
        options,
        backbone="timm/tf_efficientnet_lite0",
        width=0.25,
        size=320,
        multi_scale=False,
    )
