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

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from boxatlas.backbones.choice import BackboneChoices
from boxatlas.backbones.darknet import SLOPE, Conv, DarknetNormChoices, initialise, norm_layer
from boxatlas.backbones.timm_features import PREFIX
from boxatlas.boxes.formats import cxcywh_to_xyxy
from boxatlas.boxes.matching import BACKGROUND, Assigned
from boxatlas.boxes.nms import Candidates, SuppressionChoices, above
from boxatlas.boxes.yolo import Objects
from boxatlas.errors import InputError
from boxatlas.images import InputChoices
from boxatlas.losses.yolo import Cells, SquareScales, grid_loss
from boxatlas.ops.local import LocallyConnected
from boxatlas.options import Fraction, Width, idea, setting
from boxatlas.parts.base import Raw
from boxatlas.parts.yolo import YOLOChoices, YOLODetector, layer_width, mean_losses, objects_of
from boxatlas.registry import Method, Published
from boxatlas.structures import Batch, Frame

METHOD = Method(
    "YOLO",
    "You Only Look Once: Unified, Real-Time Object Detection",
    "1506.02640",
    2015,
    "one-stage",
)
_SMALLEST = 0.005  # of the image: objects with a smaller side are not trained


class Config(
    BackboneChoices, InputChoices, SuppressionChoices, DarknetNormChoices, YOLOChoices, SquareScales
):
    """YOLO's ideas, and how the paper's network and the released one differ."""

    batch_norm: bool | None = idea(
        None, "YOLOv2's table 2: batch norm in every convolution; none: as the variant"
    )
    confidence_target: Literal["iou", "one"] = idea(
        "iou", "section 2: confidence is the IoU; or 1 where there is an object"
    )
    square_root: bool = idea(True, "section 2.2: square roots of width and height are predicted")
    nms_iou = idea(0.5, "section 2.3: suppression above this IoU adds 2 to 3 mAP; 1: off")
    coord_scale = idea(5.0, "section 2.2: lambda coord, the weight of the losses of boxes")
    noobject_scale = idea(0.5, "section 2.2: lambda noobj, the weight of confidence elsewhere")

    size = setting(448, "input in pixels: the side, a multiple of 32; of yolov1_tiny: of 64")
    backbone = setting("extraction", 'extraction, yolov1_tiny, ... or "timm/NAME"')
    variant: Literal["paper", "released"] = setting(
        "paper", "whose network gives batch_norm, boxes_per_cell, head and input_range their values"
    )
    boxes_per_cell: int | None = setting(
        None, "boxes of a cell; none: 2, or 3 in the released network", ge=1, le=100
    )
    head: Literal["fc", "local", "direct"] | None = setting(
        None,
        "layers before the last: fc (paper), local (released: 256 filters a cell) or none (direct)",
    )
    input_range: Literal["-1..1", "0..1"] | None = setting(
        None, "values of a pixel in a Darknet network; none: -1..1, or 0..1 as released"
    )
    hidden: Width = setting(4096, "outputs of the first fully connected layer")
    dropout: Fraction = setting(0.5, "section 2.2: dropout before the last layer")
    score = 0.001
    max_detections = 1000

    gone: ClassVar[Mapping[str, Any]] = {"responsible": "iou_then_rmse"}

    def idle(self) -> dict[str, str]:
        why, top = super().idle(), self.top
        if top != "fc":
            why["hidden"] = f"the head {top} has no first fully connected layer"
        if top == "direct":
            why["dropout"] = "the head direct drops nothing"
        if self.backbone.startswith(PREFIX):
            why["input_range"] = "a timm backbone has a range of its own"
        of_the_variant = (self.batch_norm, self.boxes_per_cell, self.head, self.input_range)
        if None not in of_the_variant:
            why["variant"] = "batch_norm, boxes_per_cell, head and input_range are given"
        return why

    @property
    def boxes(self) -> int:
        """Boxes of a cell."""
        return self.boxes_per_cell or (3 if self.variant == "released" else 2)

    @property
    def top(self) -> str:
        """The layers before the last, as `head` calls them."""
        return self.head or ("local" if self.variant == "released" else "fc")

    @property
    def normed(self) -> bool:
        """Whether convolutions have batch norms."""
        return self.variant == "released" if self.batch_norm is None else self.batch_norm

    @property
    def centred(self) -> bool:
        """Whether a Darknet network's inputs lie in -1..1."""
        return (self.input_range or ("0..1" if self.variant == "released" else "-1..1")) != "0..1"


class YOLOv1(YOLODetector):
    """Backbone -> convolutions -> fully connected layers -> all numbers of all cells."""

    def __init__(self, classes: Sequence[str], config: Config) -> None:
        norm = norm_layer(config.norm_eps, config.norm_place) if config.normed else None
        tiny = config.backbone == "yolov1_tiny"
        if config.shape[0] != config.shape[1]:
            raise InputError("must be a square", field="size", value=config.size)
        stride = 64 if tiny else 32
        super().__init__(classes, config, (stride,), norm, multiple=stride, centred=config.centred)
        self.side = -(-config.shape[0] // 64)  # of 13 columns, at 416, the strided layer makes 7
        last = layer_width(256 if tiny else 1024, config.width)
        channels = self.backbone.channels[0]
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
            filters = layer_width(256, config.width)
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
        self, images: Tensor, frames: Sequence[Frame] | None = None, proposals: Tensor | None = None
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
        numbers = numbers.reshape(output.shape[0], count, boxes, 4)
        cell = torch.arange(count, device=output.device)
        corner = torch.stack([cell % self.side, cell // self.side], -1)[:, None]
        size = numbers[..., 2:]
        size = size * size if self.config.square_root else size
        place = torch.cat([(numbers[..., :2] + corner) / self.side, size], -1).flatten(1, 2)
        classes = classes.reshape(output.shape[0], count, 1, -1)
        scores = confidence.reshape(output.shape[0], count, boxes, 1) * classes
        return place, confidence, scores.flatten(1, 2)

    @torch.no_grad()
    def assigned(self, batch: Batch) -> list[Assigned]:
        """Each cell and its object. Of several in one cell, of which training draws one, the first
        in the list is shown."""
        objects = objects_of(batch, _SMALLEST)
        number = torch.arange(objects.labels.shape[1], device=batch.images.device)
        numbered = Objects(objects.boxes, number.expand_as(objects.labels), objects.valid)
        cells = Cells.of(numbered, self.side)
        index = torch.where(cells.object, cells.label, BACKGROUND)
        height, width = batch.images.shape[-2:]
        at = torch.arange(self.side**2, device=batch.images.device)
        corner = torch.stack([at % self.side, at // self.side], 1)
        squares = torch.cat([corner, corner + 1], 1) / self.side
        boxes = squares * squares.new_tensor([width, height, width, height])
        return [Assigned("cells", boxes, index)]

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Equation 3. Of the objects of one cell a random one is trained."""
        objects = objects_of(batch, _SMALLEST)
        priority = None
        if generator is not None:
            priority = torch.rand(
                objects.labels.shape, generator=generator, device=generator.device
            ).to(batch.images.device)
        config = self.config
        losses = grid_loss(
            self(batch.images)["raw"],
            Cells.of(objects, self.side, priority),
            config.boxes,
            coord_scale=config.coord_scale,
            noobject_scale=config.noobject_scale,
            square_root=config.square_root,
            confidence_target=config.confidence_target,
        )
        return mean_losses(losses, len(batch))

    def every_box(self, raw: Raw) -> tuple[Tensor, Tensor]:
        boxes, _, scores = self.decode(raw)
        height, width = self.config.shape
        return cxcywh_to_xyxy(boxes) * boxes.new_tensor([width, height, width, height]), scores

    def candidates(self, raw: Raw, score: float) -> tuple[Candidates, Tensor]:
        """Confidence times class (section 2.3) at `score` or above."""
        boxes, scores = self.every_box(raw)
        candidates = above(scores, score, or_equal=True)
        return candidates, boxes[candidates.image, candidates.row]


# -- the models -----------------------------------------------------------------------------------


@METHOD.model(
    "24 convolutions",
    "448",
    Published("VOC07 test (07+12)", "mAP@0.5", 63.4, 45, "Titan X", "table 1"),
    Published("VOC12 test", "mAP@0.5", 57.9, source="table 3"),
)
def yolov1(classes: Sequence[str], **options: Any) -> YOLOv1:
    """YOLO at 448x448: 7x7 cells, two boxes and one object a cell."""
    return YOLOv1(classes, Config.of(options))


@METHOD.model(
    "8 convolutions",
    "448",
    Published("VOC07 test (07+12)", "mAP@0.5", 52.7, 155, "Titan X", "table 1 (9 convolutions)"),
)
def yolov1_tiny(classes: Sequence[str], **options: Any) -> YOLOv1:
    """Fast YOLO as released: 8 convolutions with batch norm, one fully connected layer."""
    config = Config.of(
        options, backbone="yolov1_tiny", head="direct", batch_norm=True, input_range="0..1"
    )
    return YOLOv1(classes, config)
