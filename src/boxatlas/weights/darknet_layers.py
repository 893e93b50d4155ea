"""Networks of ours as the layers of Darknet: the order of a file of weights, and a .cfg to run it.

Public: Layer, layers_of, sections_of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from boxatlas.backbones.darknet import Classifier, Conv, Darknet, DarknetBlock, Pool, parts_of
from boxatlas.backbones.darknet_file import Part, conv_parts
from boxatlas.detectors.yolo9000 import YOLO9000
from boxatlas.detectors.yolov1 import YOLOv1
from boxatlas.detectors.yolov2 import YOLOv2
from boxatlas.detectors.yolov3 import SpatialPyramid, YOLOv3
from boxatlas.errors import InputError
from boxatlas.ops.local import LocallyConnected

Section = tuple[str, dict[str, str]]


@dataclass
class Layer:
    """One of Darknet's layers in a network of ours.

    parts: its tensors in a file's order. module: whose output is the layer's; with `before` it is
    that module's input (a concatenation has no module of its own).
    """

    kind: str
    options: dict[str, str]
    parts: list[Part] = field(default_factory=list)
    module: nn.Module | None = None
    before: bool = False


class _Layers(list[Layer]):
    """Layers in the making."""

    def put(
        self, kind: str, module: nn.Module | None = None, *, before: bool = False, **options: Any
    ) -> None:
        text = {key: str(value) for key, value in options.items()}
        self.append(Layer(kind, text, [], module, before))

    @property
    def last(self) -> int:
        return len(self) - 1

    def route(self, source: int) -> None:
        """The output of one earlier layer again."""
        self.put(
            "route", self[source].module, before=self[source].before, layers=source - len(self)
        )

    def conv(self, conv: Conv) -> None:
        """A convolution with what follows it."""
        own = dict(conv.named_children())
        layer = own["conv"]
        assert isinstance(layer, nn.Conv2d)
        norm: dict[str, Any] = {"batch_normalize": 1} if "norm" in own else {}
        self._convolution(layer, conv, "leaky" if "act" in own else "linear", **norm)
        self[-1].parts = parts_of(conv, f"layer{self.last}")

    def head(self, layer: nn.Conv2d) -> None:
        """A map's last layer."""
        self._convolution(layer, layer, "linear")
        self[-1].parts = conv_parts(layer, None, f"layer{self.last}")

    def _convolution(
        self, layer: nn.Conv2d, module: nn.Module, activation: str, **norm: Any
    ) -> None:
        shape: dict[str, Any] = {"size": layer.kernel_size[0], "stride": layer.stride[0], "pad": 1}
        filters = layer.out_channels
        self.put("convolutional", module, **norm, filters=filters, **shape, activation=activation)

    def any(self, module: nn.Module) -> None:
        """A block of ours, as one layer or several."""
        if isinstance(module, Conv):
            self.conv(module)
        elif isinstance(module, Pool):
            self.put("maxpool", module, size=module.kernel, stride=module.stride)
        elif isinstance(module, nn.Upsample):
            self.put("upsample", module, stride=2)
        elif isinstance(module, DarknetBlock):
            self.conv(module.squeeze)
            self.conv(module.expand)
            source: dict[str, Any] = {"from": -3}
            self.put("shortcut", module, **source, activation="linear")
        elif isinstance(module, SpatialPyramid):
            for i, pool in enumerate(module.pools):
                if i:
                    self.route(len(self) - 2 * i)
                self.any(pool)
            self.put("route", module, layers="-1,-3,-5,-6")
        elif isinstance(module, nn.Sequential):
            for part in module:
                self.any(part)
        else:
            raise InputError(f"{type(module).__name__} has no layer in Darknet", field="backbone")

    def backbone(self, network: nn.Module) -> list[int]:
        """The layers of a backbone; the number of the layer of each map it returns."""
        if not isinstance(network, Darknet):
            raise InputError(
                "Darknet has no such backbone", field="backbone", value=type(network).__name__
            )
        ends = []
        for stage in network.stages[: max(network._wanted) + 1]:
            self.any(stage)
            ends.append(self.last)
        return [ends[index] for index in network._wanted]


def layers_of(network: nn.Module) -> list[Layer]:
    """A network of ours as Darknet's layers. Raises InputError where it has none."""
    layers = _Layers()
    if isinstance(network, YOLOv1):
        _yolov1(layers, network)
    elif isinstance(network, YOLOv2):
        _yolov2(layers, network)
    elif isinstance(network, YOLOv3):
        _yolov3(layers, network)
    elif isinstance(network, Darknet):
        layers.backbone(network)
    elif isinstance(network, Classifier):
        layers.backbone(network.backbone)
        if network.pool_first:
            layers.put("avgpool", network.head, before=True)
        layers.conv(network.head)
        if not network.pool_first:
            layers.put("avgpool", network)
        layers.put("softmax", groups=1)
    else:
        raise InputError(
            "is not a network of Darknet's", field="model", value=type(network).__name__
        )
    return layers


def _yolov1(layers: _Layers, network: YOLOv1) -> None:
    config = network.config
    if config.centred:
        height, width = config.shape
        size: dict[str, Any] = {"crop_width": width, "crop_height": height}
        noise: dict[str, Any] = {"flip": 0, "angle": 0, "saturation": 1.5, "exposure": 1.5}
        layers.put("crop", network.backbone, before=True, **size, **noise)
    layers.backbone(network.backbone)
    layers.any(network.convs)
    parts = list(network.top)
    for i, part in enumerate(parts):
        if isinstance(part, LocallyConnected):
            shape: dict[str, Any] = {
                "size": part.kernel,
                "stride": 1,
                "pad": 1,
                "filters": part.filters,
            }
            layers.put("local", parts[i + 1], **shape, activation="leaky")
            where = f"layer{layers.last}"
            layers[-1].parts = [(f"{where}.bias", part.bias), (f"{where}.weight", part.weight)]
        elif isinstance(part, nn.Linear):
            leaky = i + 1 < len(parts)
            module, kind = (parts[i + 1], "leaky") if leaky else (part, "linear")
            layers.put("connected", module, output=part.out_features, activation=kind)
            where = f"layer{layers.last}"
            matrix = (f"{where}.weight matrix", part.weight)
            layers[-1].parts = [(f"{where}.bias", part.bias), matrix]
        elif isinstance(part, nn.Dropout):
            layers.put("dropout", part, probability=part.p)
    layers.put(
        "detection",
        classes=network.num_classes,
        coords=4,
        rescore=int(config.confidence_target == "iou"),
        side=network.side,
        num=config.boxes,
        softmax=0,
        sqrt=int(config.square_root),
        jitter=0.2,
        object_scale=1,
        noobject_scale=config.noobject_scale,
        class_scale=1,
        coord_scale=config.coord_scale,
    )


def _yolov2(layers: _Layers, network: YOLOv2) -> None:
    config = network.config
    ends = layers.backbone(network.backbone)
    layers.any(network.tower)
    if config.passthrough:
        main = layers.last
        layers.route(ends[0])
        if network.squeeze is not None:
            layers.conv(network.squeeze)
        layers.put("reorg", network.reorg, stride=2)
        after = network.join if network.join is not None else network.head
        layers.put("route", after, before=True, layers=f"-1,{main - len(layers)}")
    if network.join is not None:
        layers.conv(network.join)
    layers.head(network.head)
    more: dict[str, Any] = {"tree": "classes.tree"} if isinstance(network, YOLO9000) else {}
    layers.put(
        "region",
        anchors=_pairs(network.shapes),
        bias_match=int(config.match == "prior"),
        classes=network.num_classes,
        coords=4,
        num=len(network.priors),
        softmax=1,
        jitter=0.2,
        rescore=int(config.objectness_target == "iou"),
        object_scale=config.object_scale,
        noobject_scale=config.noobject_scale,
        class_scale=config.class_scale,
        coord_scale=config.coord_scale,
        absolute=1,
        thresh=config.ignore_iou,
        random=int(config.multi_scale),
        **more,
    )


def _yolov3(layers: _Layers, network: YOLOv3) -> None:
    config = network.config
    ends = layers.backbone(network.backbone)[::-1]
    middle = 0
    for i, tower in enumerate(network.towers):
        if i:
            layers.route(middle)
            layers.any(network.laterals[i - 1])
            layers.put("route", tower, before=True, layers=f"-1,{ends[i]}")
        layers.any(tower.body)  # pyright: ignore[reportArgumentType]
        middle = layers.last
        layers.any(tower.last)  # pyright: ignore[reportArgumentType]
        layers.head(network.heads[i])  # pyright: ignore[reportArgumentType]
        layers.put(
            "yolo",
            mask=",".join(map(str, network.mask[i])),
            anchors=_pairs(config.shapes()),
            classes=network.num_classes,
            num=len(network.anchors),
            jitter=0.3,
            ignore_thresh=config.ignore_iou,
            truth_thresh=config.truth_iou,
            random=int(config.multi_scale),
        )


def _pairs(anchors: Sequence[Sequence[float]]) -> str:
    return ",".join(f"{value:.9g}" for pair in anchors for value in pair)


def sections_of(network: nn.Module, size: tuple[int, int]) -> list[Section]:
    """The whole cfg of a network, with what Darknet needs to run it."""
    net = {
        "batch": "1",
        "subdivisions": "1",
        "width": str(size[1]),
        "height": str(size[0]),
        "channels": "3",
        "momentum": "0.9",
        "decay": "0.0005",
        "learning_rate": "0.001",
        "max_batches": "500200",
        "policy": "constant",
    }
    return [("net", net), *((layer.kind, layer.options) for layer in layers_of(network))]
