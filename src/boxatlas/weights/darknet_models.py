"""Which model of ours a Darknet .cfg is: its sections say the options, then all are compared.

Public: recognised, Recognised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from boxatlas.backbones.darknet import NORM, STAGES, Darknet
from boxatlas.errors import InputError
from boxatlas.parts.yolo import layer_width
from boxatlas.weights.darknet_cfg import anchors_of, meaning, number, whole, wholes
from boxatlas.weights.darknet_layers import Section, layers_of
from boxatlas.zoo import build, class_names

_File = str | Path | None
_Model = tuple[str, dict[str, Any]]
_OUTPUTS = ("detection", "region", "yolo")


@dataclass(frozen=True)
class Recognised:
    """A cfg as a model of ours: name, number of classes, options, the files of its tree and of the
    nodes of the data's classes."""

    model: str
    classes: int
    options: dict[str, Any]
    tree: str | None = None
    map: str | None = None


def recognised(sections: Sequence[Section], file: _File = None) -> Recognised:
    """Which model of ours a cfg is. Raises InputError naming the first section that differs."""
    outputs = [section for section in sections if section[0] in _OUTPUTS]
    if not outputs:
        problem = "has no [yolo], [region] or [detection]: not a detector"
        raise InputError(problem, file=file, hint="a classifier's weights begin a training: init")
    kind, last = outputs[-1]
    count = whole(last, "classes", 20, file)
    size = whole(sections[0][1], "height", 0, file), whole(sections[0][1], "width", 0, file)
    name, options = _READERS[kind](sections[1:], [own for _, own in outputs], file)
    options = {"size": size, **options}
    try:
        with torch.device("meta"):
            model = build(name, class_names(count, None), options)
    except InputError as error:
        raise InputError(str(error), file=file) from None
    ours = [(layer.kind, layer.options) for layer in layers_of(model)]
    problem = _difference(sections, [("net", {}), *ours], name, file)
    if problem is not None:
        raise InputError(f"is no network of ours: {problem}", file=file)
    return Recognised(name, count, options, last.get("tree"), last.get("map"))


def _difference(
    theirs: Sequence[Section], ours: Sequence[Section], name: str, file: _File
) -> str | None:
    """What the first section that differs says and ours does; None: none does."""
    same = _same(theirs, ours, -1, file)
    if same == len(theirs) or (same == len(ours) and all(k == "cost" for k, _ in theirs[same:])):
        return None if same == len(ours) else f"it ends where {name} has [{ours[same][0]}]"
    kind, options = theirs[same]
    where = f"section {same}, [{kind}],"
    if same == len(ours):
        return f"{where} comes after the last of {name}"
    if kind != ours[same][0]:
        return f"{where} is not {name}'s [{ours[same][0]}]"
    their, own = (meaning(s[same], same - 1, file) for s in (theirs, ours))
    key = next(key for key in their if their[key] != own[key])
    return f"{where} has {key}={options.get(key, their[key])}, not {name}'s {own[key]}"


def _same(theirs: Sequence[Section], ours: Sequence[Section], start: int, file: _File) -> int:
    """How many sections are equal before one differs; start: the number of the first's layer."""
    count = 0
    for index, (their, own) in enumerate(zip(theirs, ours, strict=False), start):
        if their[0] != own[0] or meaning(their, index, file) != meaning(own, index):
            break
        count += 1
    return count


# -- what the sections say ------------------------------------------------------------------------


def _yolo(layers: Sequence[Section], outputs: list[dict[str, str]], file: _File) -> _Model:
    """YOLOv3: two maps are the tiny form, pools in the towers the pyramid's."""
    tiny = len(outputs) == 2
    strides = (16, 32) if tiny else (8, 16, 32)
    backbone, start = _backbone(layers, lambda name: strides, True, 0, file)
    rest = layers[start:]
    pools = any(kind == "maxpool" for kind, _ in rest)
    heads = [i - 1 for i, (kind, _) in enumerate(rest) if kind == "yolo"]
    towers = [section for i, section in enumerate(rest) if i not in heads]
    if tiny:
        published = [256, 512, 128, 256]
        own = _filters(towers, 1, 3, file=file)
    else:  # their 3x3 convolutions have twice as many
        published = [512] * (4 if pools else 3) + [256] * 4 + [128] * 4
        own = _filters(towers, 1, file=file)
    options = {
        "backbone": backbone,
        "width": _width(list(zip(published, own, strict=False))),
        "anchors": _agreed("anchors", [anchors_of(one, file) for one in outputs], file),
        "masks": tuple(wholes(one, "mask", file) for one in outputs),
        "multi_scale": number(outputs[-1], "random", 0.0, file) != 0,
    }
    for name, key, default in (
        ("ignore_iou", "ignore_thresh", 0.5),
        ("truth_iou", "truth_thresh", 1.0),
    ):
        values = [number(one, key, default, file) for one in outputs]
        options[name] = _agreed(key, values, file)
    return "yolov3_tiny" if tiny else "yolov3_spp" if pools else "yolov3", options


def _region(layers: Sequence[Section], outputs: list[dict[str, str]], file: _File) -> _Model:
    """YOLOv2, and with a tree YOLO9000."""
    kinds, first = [kind for kind, _ in layers], outputs[0]
    passthrough, normed = "reorg" in kinds, _normed(layers)
    strides = (16, 32) if passthrough else (32,)
    backbone, start = _backbone(layers, lambda name: strides, normed, 0, file)
    joint = kinds.index("reorg") if passthrough else start
    tower = _filters(layers[start:joint], 3, file=file)
    squeeze = _filters(layers[start:joint], 1, file=file)
    join = _filters(layers[joint:], 3, file=file)
    if not passthrough:  # nothing lies between the two: the last is the join
        tower, join = join[:-1], join[-1:]
    width = _width([*((1024, own) for own in tower), *((64, own) for own in squeeze)])
    options = {
        "backbone": backbone,
        "batch_norm": normed,
        "passthrough": passthrough,
        "release": "later" if squeeze else "paper",
        "width": width,
        "tower": len(tower),
        "joined": round(join[0] / width) if join else 0,
        "anchors": anchors_of(first, file),
        "resize": "letterbox",
        "small_boxes": True,
        "match": "prior" if number(first, "bias_match", 0, file) else "prediction",
        "objectness_target": "iou" if number(first, "rescore", 0, file) else "one",
        "object_scale": number(first, "object_scale", 1, file),
        "noobject_scale": number(first, "noobject_scale", 1, file),
        "class_scale": number(first, "class_scale", 1, file),
        "coord_scale": number(first, "coord_scale", 1, file),
        "ignore_iou": number(first, "thresh", 0.5, file),
        "multi_scale": number(first, "random", 0.0, file) != 0,
    }
    if "tree" in first:
        return "yolo9000", options
    tiny = backbone == "darknet_tiny" and not passthrough
    return "yolov2_tiny" if tiny else "yolov2", options


def _grid(layers: Sequence[Section], outputs: list[dict[str, str]], file: _File) -> _Model:
    """YOLO, with any backbone of ours and each of its heads."""
    first, normed = outputs[0], _normed(layers)
    centred = layers[0][0] == "crop"  # it brings pixels to -1..1
    backbone, start = _backbone(
        layers[centred:],
        lambda name: (64,) if name == "yolov1_tiny" else (32,),
        normed,
        int(centred),
        file,
    )
    tiny, rest = backbone == "yolov1_tiny", layers[centred + start :]
    local = [whole(own, "filters", 1, file) for kind, own in rest if kind == "local"]
    connected = [whole(own, "output", 1, file) for kind, own in rest if kind == "connected"]
    pairs = [(256 if tiny else 1024, own) for own in _filters(rest, 3, file=file)]
    options = {
        "backbone": backbone,
        "batch_norm": normed,
        "input_range": "-1..1" if centred else "0..1",
        "width": _width([*pairs, *((256, own) for own in local)]),
        "head": "local" if local else "fc" if len(connected) > 1 else "direct",
        "boxes_per_cell": whole(first, "num", 1, file),
        "square_root": number(first, "sqrt", 0, file) != 0,
        "confidence_target": "iou" if number(first, "rescore", 0, file) else "one",
        "noobject_scale": number(first, "noobject_scale", 1, file),
        "coord_scale": number(first, "coord_scale", 1, file),
    }
    if len(connected) > 1:
        options["hidden"] = connected[0]
    for kind, own in rest:
        if kind == "dropout":
            options["dropout"] = number(own, "probability", 0.5, file)
    return "yolov1_tiny" if tiny else "yolov1", options


_READERS = {"yolo": _yolo, "region": _region, "detection": _grid}


def _agreed(key: str, values: list[Any], file: _File) -> Any:
    """What all [yolo] sections say. Raises InputError where they differ."""
    if any(value != values[0] for value in values):
        raise InputError("must be the same in every [yolo]", file=file, field=key)
    return values[0]


def _normed(layers: Sequence[Section]) -> bool:
    """Whether the first convolution has a batch norm; `_difference` sees that all are alike."""
    convs = (options for kind, options in layers if kind == "convolutional")
    return next(convs, {}).get("batch_normalize", "0") != "0"


def _filters(sections: Sequence[Section], *sizes: int, file: _File) -> list[int]:
    """The channels of the convolutions with kernels of these sizes."""
    return [
        whole(options, "filters", 1, file)
        for kind, options in sections
        if kind == "convolutional" and whole(options, "size", 1, file) in sizes
    ]


def _backbone(
    layers: Sequence[Section],
    strides: Callable[[str], tuple[int, ...]],
    normed: bool,
    start: int,
    file: _File,
) -> tuple[str, int]:
    """(the longest backbone of ours that a cfg begins with, its number of layers).

    strides: of the maps that are taken of it, by its name; start: the number of the first layer.
    Where none fits it is the nearest, from which the comparison names the difference.
    """
    best = False, 0, "", 0
    for name in STAGES:
        try:
            with torch.device("meta"):
                network = Darknet(name, strides(name), norm=NORM if normed else None)
        except InputError:  # it lacks a stride
            continue
        ours = [(layer.kind, layer.options) for layer in layers_of(network)]
        same = _same(layers, ours, start, file)
        best = max(best, (same == len(ours), same, name, len(ours)))
    return best[2], best[3]


def _width(pairs: Sequence[tuple[int, int]]) -> float:
    """The option `width` that makes (published channels, the cfg's) of each other; without any 1.

    Channels are multiples of 8, so that each pair leaves a range; the nicest number in all is it.
    """
    if not pairs:
        return 1.0
    low = max((own - 4) / published if own > 8 else 0.0 for published, own in pairs)
    high = min((own + 4) / published for published, own in pairs)
    tries = [*(own / published for published, own in pairs), max((low + high) / 2, 1e-9)]
    fits = (t for t in tries if all(layer_width(published, t) == own for published, own in pairs))
    return next(fits, tries[0])
