"""What a source of public checkpoints says of one of its files: profile, classes, names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from boxatlas.errors import InputError
from boxatlas.registry import VOC_CLASSES

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Imported:
    """How a detector is made of a source's tensors.

    options: what `create_model` is given (the profile); preprocess: fields of the Preprocess that
    differ; classes: the names; name: our tensor's name -> the source's; reshape: a tensor of
    as many values but another shape takes ours; ignored: names that nothing here needs; convert:
    our name and the source's tensor -> ours, where its rows lie in another order.
    """

    options: dict[str, Any]
    classes: tuple[str, ...]
    name: Callable[[str], str]
    preprocess: dict[str, Any] = field(default_factory=dict)
    reshape: bool = False
    ignored: Callable[[str], bool] = field(default=lambda name: False)
    convert: Callable[[str, Tensor], Tensor] = field(default=lambda name, value: value)


@dataclass(frozen=True)
class Checkpoint:
    """A public checkpoint that can be imported.

    file: the publisher's name of it, or of the model where its page names no file; model: ours;
    data: what it learned; where: who has it; url: from where it can be fetched (a .tgz holds
    `file`), None: by hand only; megabytes: as published, of 2**20 bytes or of 10**6; checksum:
    "sha256:HEX" or "md5:HEX" of what the url gives, HEX as much of it as is published; licence: of
    the weights, or else of the repository that offers them.
    """

    file: str
    model: str
    data: str
    where: str
    url: str | None = None
    megabytes: float | None = None
    checksum: str | None = None
    licence: str = "not stated"


def class_names(count: int) -> tuple[str, ...]:
    """VOC's 20, COCO's 80 or its 90 with gaps; else made-up names."""
    if count == len(VOC_CLASSES):
        return VOC_CLASSES
    if count in (80, 90):
        from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

        names: Sequence[str] = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"][1:]
        if count == 80:
            return tuple(name for name in names if name != "N/A")
        return tuple(
            f"unused{i}" if name == "N/A" else name for i, name in enumerate(names, start=1)
        )
    return tuple(f"class{i}" for i in range(count))


def tensor_of(state: State, name: str) -> Tensor:
    """A tensor that tells sizes, or InputError: the file is not what it was said to be."""
    if name not in state:
        raise InputError("no such tensor: the file is not of this source and model", field=name)
    return state[name]


def ssd_sizes(state: State, conf: str, loc: str) -> tuple[int, int]:
    """(classes, boxes in a cell of the first map) from the first predictors' names."""
    boxes = tensor_of(state, loc).shape[0] // 4
    outputs = tensor_of(state, conf).shape[0]
    if boxes < 1 or outputs % boxes or outputs // boxes < 2:
        raise InputError("does not hold whole classes of boxes", field=conf, value=outputs)
    return outputs // boxes - 1, boxes


def classes_of_cells(state: State, cls: str, box: str) -> int:
    """Classes of a head without background, from its outputs' names: A K and 4 A rows."""
    boxes = tensor_of(state, box).shape[0] // 4
    outputs = tensor_of(state, cls).shape[0]
    if boxes < 1 or outputs % boxes:
        raise InputError("does not hold whole classes of boxes", field=cls, value=outputs)
    return outputs // boxes


# Where PyTorch ports keep VGG's layers: indices in one nn.Sequential.
VGG_INDEX: dict[str, int] = {
    "conv1_1": 0, "conv1_2": 2, "conv2_1": 5, "conv2_2": 7, "conv3_1": 10, "conv3_2": 12,
    "conv3_3": 14, "conv4_1": 17, "conv4_2": 19, "conv4_3": 21, "conv5_1": 24, "conv5_2": 26,
    "conv5_3": 28, "fc6": 31, "fc7": 33,
}  # fmt: skip


def port_name(vgg: str, extras: str, norm: str, cls: str, reg: str) -> Callable[[str], str]:
    """Our names of SSD on VGG -> those of ssd.pytorch and its descendants, by their prefixes."""

    def name(own: str) -> str:
        part, rest = own.split(".", 1)
        if part == "backbone":
            layer, leaf = rest.split(".")
            return f"{vgg}.{VGG_INDEX[layer]}.{leaf}"
        kind, rest = rest.split(".", 1)
        if kind == "norm":
            return f"{norm}.{rest}"
        if kind == "extras":
            layer, place, leaf = rest.split(".")
            return f"{extras}.{2 * int(layer) + int(place) // 2}.{leaf}"
        return f"{cls if kind == 'cls' else reg}.{rest}"

    return name
