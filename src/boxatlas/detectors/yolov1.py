"""YOLO: You Only Look Once. Redmon et al. 2015, arXiv 1506.02640 (CVPR 2016).

Detection as one regression: the image is cut into 7 x 7 cells; the cell that holds an object's
centre predicts its class, and one of the cell's boxes (the one that fits best) its place, size and
a confidence that should equal the IoU. A network of 24 convolutions ends in two fully connected
layers that see the whole image.

Two networks bear the name: the paper's, and the one that was released ("released": batch norm, a
locally connected layer, three boxes a cell).
Shape letters: B images, S cells of the grid, N boxes of a cell, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from boxatlas.backbones.darknet import SLOPE, Conv, Darknet, initialise
from boxatlas.boxes.formats import cxcywh_to_xyxy
from boxatlas.boxes.nms import Found, above, class_nms
from boxatlas.errors import InputError
from boxatlas.losses.yolo import Cells, grid_loss
from boxatlas.ops.local import LocallyConnected
from boxatlas.options import convention, switch
from boxatlas.parts.base import Raw
from boxatlas.parts.yolo import (
    YoloConfig,
    YoloDetector,
    backbone_of,
    check_size,
    just_above,
    mean_losses,
    preprocess_of,
    truth_of,
)
from boxatlas.registry import Published, register_model
from boxatlas.structures import Batch, Frame

_SMALLEST = 0.005  # of the image: objects with a smaller side are not learned


class YOLOv1Config(YoloConfig):
    """Every choice of YOLO."""

    size: int | tuple[int, int] = convention(448, "input, a square")
    backbone: str = convention("extraction", 'extraction, yolov1_tiny, ... or "timm/NAME"')
    variant: Literal["paper", "released"] = convention(
        "paper", "released: sets the four options after it as yolov1.weights has them"
    )
    boxes_per_cell: int | None = convention(None, "2; released: 3", ge=1)
    head: Literal["fc", "local", "direct"] | None = convention(
        None, "fc: 4096 wide; released: local, 256 filters a cell; direct: neither (tiny)"
    )
    batch_norm: bool | None = switch(None, "YOLOv2's table 2: off in the paper; released: on")
    input_range: Literal["-1..1", "0..1"] | None = convention(None, "-1..1; released: 0..1")
    hidden: int = convention(4096, "of the first fully connected layer", ge=1)
    dropout: float = convention(0.5, "section 2.2: after the first fully connected layer", ge=0)
    score: float = convention(0.001, "a detection must score more than this", ge=0)
    nms_iou: float = switch(0.5, "section 2.3: adds 2 to 3 mAP; 1: off", ge=0)
    confidence_target: Literal["iou", "one"] = switch("iou", "section 2: confidence is the IoU")
    coord_scale: float = switch(5.0, "section 2.2: lambda coord", ge=0)
    noobject_scale: float = switch(0.5, "section 2.2: lambda noobj", ge=0)
    square_root: bool = switch(True, "section 2.2: square roots of width and height")
    responsible: Literal["iou_then_rmse", "iou_only"] = convention(
        "iou_then_rmse", "the responsible box where none overlaps"
    )

    @property
    def boxes(self) -> int:
        return self.boxes_per_cell or (3 if self.variant == "released" else 2)

    @property
    def top(self) -> str:
        return self.head or ("local" if self.variant == "released" else "fc")

    @property
    def normed(self) -> bool:
        return self.variant == "released" if self.batch_norm is None else self.batch_norm

    @property
    def centred(self) -> bool:
        return (self.input_range or ("0..1" if self.variant == "released" else "-1..1")) != "0..1"


class YOLOv1(YoloDetector):
    """Backbone -> convolutions -> fully connected layers -> all numbers of all cells."""

    config: YOLOv1Config  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, classes: Sequence[str], config: YOLOv1Config) -> None:
        norm = config.norm() if config.normed else None
        tiny = config.backbone == "yolov1_tiny"
        stride = 64 if tiny else 32
        check_size(config, 64)
        if config.shape[0] != config.shape[1]:
            raise InputError("must be a square", field="size", value=config.size)
        backbone, normal = backbone_of(config, (stride,), norm)
        if isinstance(backbone, Darknet) and config.centred:
            normal = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
        super().__init__(classes, preprocess_of(config, normal), config)
        self.backbone = backbone
        self.side = config.shape[0] // 64
        last = config.wide(256 if tiny else 1024)
        channels = backbone.channels[0]
        if tiny:
            self.convs = nn.Sequential(Conv(channels, last, 3, norm=norm))
        else:
            self.convs = nn.Sequential(
                Conv(channels, last, 3, norm=norm),
                Conv(last, last, 3, 2, norm=norm),
                Conv(last, last, 3, norm=norm),
                Conv(last, last, 3, norm=norm),
            )
        cells = self.side * self.side
        self.top = self._top(last, cells * (self.num_classes + 5 * config.boxes))

    def _top(self, channels: int, outputs: int) -> nn.Sequential:
        """From the last map to the numbers of all cells."""
        config, cells = self.config, self.side * self.side
        first: list[nn.Module] = []
        features = channels * cells
        if config.top == "local":
            filters = config.wide(256)
            local = LocallyConnected(channels, filters, 3, (self.side, self.side))
            first = [local, nn.LeakyReLU(SLOPE), nn.Flatten(), nn.Dropout(config.dropout)]
            features = filters * cells
        elif config.top == "fc":
            hidden = nn.Linear(features, config.hidden)
            initialise(hidden)
            first = [nn.Flatten(), hidden, nn.LeakyReLU(SLOPE), nn.Dropout(config.dropout)]
            features = config.hidden
        else:
            first = [nn.Flatten()]
        last = nn.Linear(features, outputs)
        initialise(last)
        return nn.Sequential(*first, last)

    def forward(
        self,
        images: Tensor,
        frames: Sequence[Frame] | None = None,
        proposals: Tensor | None = None,
    ) -> Raw:
        """raw [B, S * (K + 5 N)]: classes of all cells, then confidences, then boxes.

        A box is x and y within its cell and the square roots of width and height.
        """
        if images.shape[-2:] != self.config.shape:
            raise ValueError(f"made for {self.config.shape}, got {tuple(images.shape[-2:])}")
        (x,) = self.backbone(images)
        return {"raw": self.top(self.convs(x).contiguous())}

    def decode(self, raw: Raw) -> tuple[Tensor, Tensor, Tensor]:
        """(boxes [B, S * N, 4] cxcywh as fractions, confidence [B, S * N], class scores
        [B, S * N, K]), row by row, column, box."""
        output, count, boxes = raw["raw"].float(), self.side**2, self.config.boxes
        split = [count * self.num_classes, count * boxes, count * boxes * 4]
        classes, confidence, numbers = output.split(split, 1)
        numbers = numbers.reshape(len(output), count, boxes, 4)
        cell = torch.arange(count, device=output.device)
        corner = torch.stack([cell % self.side, cell // self.side], -1)[:, None]
        size = numbers[..., 2:]
        size = size * size if self.config.square_root else size
        place = torch.cat([(numbers[..., :2] + corner) / self.side, size], -1).flatten(1, 2)
        classes = classes.reshape(len(output), count, 1, -1)
        scores = confidence.reshape(len(output), count, boxes, 1) * classes
        return place, confidence, scores.flatten(1, 2)

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Equation 3. Of the objects of one cell a random one is learned."""
        truth = truth_of(batch, _SMALLEST)
        priority = None
        if generator is not None:
            priority = torch.rand(
                truth.labels.shape, generator=generator, device=generator.device
            ).to(batch.images.device)
        config = self.config
        losses = grid_loss(
            self(batch.images)["raw"],
            Cells.of(truth, self.side, priority),
            config.boxes,
            coord_scale=config.coord_scale,
            noobject_scale=config.noobject_scale,
            square_root=config.square_root,
            confidence_target=config.confidence_target,
            responsible=config.responsible,
        )
        return mean_losses(losses, len(batch))

    def stay(
        self, raw: Raw, score: float | None = None, max_detections: int | None = None
    ) -> list[Found]:
        """Score = confidence * class, then NMS within each class (section 2.3); input pixels."""
        config = self.config
        boxes, _, scores = self.decode(raw)
        least = just_above(config.score) if score is None else score
        chosen = above(scores, least, or_equal=True)
        height, width = config.shape
        place = cxcywh_to_xyxy(boxes[chosen.image, chosen.row])
        place = place * place.new_tensor([width, height, width, height])
        limit = config.max_detections if max_detections is None else max_detections
        return class_nms(chosen, place, len(boxes), config.nms_iou, total=limit)


# -- the models -----------------------------------------------------------------------------------


def _register(backbone: str, *published: Published) -> Any:
    return register_model(
        method="YOLO",
        title="You Only Look Once: Unified, Real-Time Object Detection",
        arxiv="1506.02640",
        year=2015,
        family="one-stage",
        backbone=backbone,
        size="448",
        published=published,
    )


@_register(
    "24 convolutions",
    Published("VOC07 test (07+12)", "mAP@0.5", 63.4, 45, "Titan X", "table 1"),
    Published("VOC12 test", "mAP@0.5", 57.9, source="table 3"),
)
def yolov1(classes: Sequence[str], **options: Any) -> YOLOv1:
    """YOLO at 448x448: 7x7 cells, two boxes and one object a cell."""
    return YOLOv1(classes, YOLOv1Config.of(**options))


@_register(
    "8 convolutions",
    Published("VOC07 test (07+12)", "mAP@0.5", 52.7, 155, "Titan X", "table 1 (9 convolutions)"),
)
def yolov1_tiny(classes: Sequence[str], **options: Any) -> YOLOv1:
    """Fast YOLO as released: 8 convolutions with batch norm, one fully connected layer."""
    own = {"backbone": "yolov1_tiny", "head": "direct", "batch_norm": True, "input_range": "0..1"}
    return YOLOv1(classes, YOLOv1Config.of(**{**own, **options}))
