"""Darknet's .cfg files: reading, writing, and which model of ours one is.

Public: read_cfg, parse_cfg, write_cfg, recognised, Recognised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from boxatlas.backbones.darknet import STAGES
from boxatlas.errors import InputError
from boxatlas.registry import create_model
from boxatlas.weights.darknet_layers import Layer, Section, layers_of

_ALIASES = {
    "network": "net", "conv": "convolutional", "max": "maxpool", "avg": "avgpool",
    "conn": "connected", "soft": "softmax",
}  # fmt: skip
OUTPUTS = ("detection", "region", "yolo")


def read_cfg(path: str | Path) -> list[Section]:
    """The sections of a file, [net] first. Raises InputError naming the line that is wrong."""
    try:
        text = Path(path).read_text(encoding="utf-8", errors="strict")
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from None
    except UnicodeDecodeError:
        raise InputError("is not a text file", file=path, hint="not a Darknet network") from None
    return parse_cfg(text, path)


def parse_cfg(text: str, file: str | Path | None = None) -> list[Section]:
    """As `read_cfg`, of a text."""
    sections: list[Section] = []
    for number, raw in enumerate(text.splitlines(), 1):
        line = "".join(raw.split())
        if not line or line[0] in "#;":
            continue
        where = f"line {number}"
        if line[0] == "[":
            if line[-1] != "]":
                raise InputError("a section is [name]", file=file, field=where, value=raw)
            name = line[1:-1].lower()
            sections.append((_ALIASES.get(name, name), {}))
            continue
        key, equals, value = line.partition("=")
        if not equals or not key:
            raise InputError("must be key=value", file=file, field=where, value=raw)
        if not sections:
            raise InputError("comes before the first [section]", file=file, field=where, value=raw)
        sections[-1][1][key] = value
    if not sections or sections[0][0] != "net":
        raise InputError("does not begin with [net]", file=file, hint="not a Darknet network")
    return sections


def write_cfg(sections: Sequence[Section]) -> str:
    """The text of sections."""
    blocks = [
        f"[{kind}]\n" + "".join(f"{key}={value}\n" for key, value in options.items())
        for kind, options in sections
    ]
    return "\n".join(blocks)


@dataclass(frozen=True)
class Recognised:
    """A cfg as a model of ours: name, number of classes, options, the file of its tree."""

    model: str
    classes: int
    options: dict[str, Any]
    tree: str | None = None


def recognised(sections: Sequence[Section], file: str | Path | None = None) -> Recognised:
    """Which model of ours a cfg is. Raises InputError naming the first section that differs."""
    kinds = [kind for kind, _ in sections]
    outputs = [options for kind, options in sections if kind in OUTPUTS]
    if not outputs:
        raise InputError("has no [yolo], [region] or [detection]: not a detector", file=file,
                         hint="a classifier's weights begin a training: init")  # fmt: skip
    last = kinds[max(i for i, kind in enumerate(kinds) if kind in OUTPUTS)]
    count = _whole(outputs[-1], "classes", 20, file)
    common = {"size": (_whole(sections[0][1], "height", 0, file),
                       _whole(sections[0][1], "width", 0, file))}  # fmt: skip
    tries = {"yolo": _yolo_options, "region": _region_options, "detection": _grid_options}
    closest: tuple[int, str] = (-1, "")
    for name, own in tries[last](sections, outputs, file):
        options, place, difference = _fitted(name, count, {**common, **own}, sections[1:], file)
        if options is not None:
            return Recognised(name, count, options, outputs[-1].get("tree"))
        if place > closest[0]:
            closest = (place, difference)
            if place + 1 < len(kinds):
                where = f"section {place + 1}, [{kinds[place + 1]}]"
                closest = (place, f"{where}, is not {name}'s {difference}")
    raise InputError(f"is no network of ours: {closest[1]}", file=file)


def _fitted(
    name: str, classes: int, options: dict[str, Any], theirs: Sequence[Section],
    file: str | Path | None,
) -> tuple[dict[str, Any] | None, int, str]:  # fmt: skip
    """(options with which a model has a cfg's layers or None, the first layer that differs, what
    ours is there). A backbone of another name and narrower layers are tried too: we export such.
    """
    closest: tuple[int, str] = (-1, "")
    for change in ({}, *({"backbone": backbone} for backbone in STAGES)):
        tried = {**options, **change}
        for _ in range(2):  # as published, then in the cfg's width
            try:
                with torch.device("meta"):
                    layers = layers_of(create_model(name, num_classes=classes, **tried))
                place, difference = _difference(theirs, layers)
            except InputError as error:
                if change:
                    break  # it lacks a stride
                raise InputError(str(error), file=file) from None
            if not difference:
                return tried, place, ""
            if place > closest[0]:
                closest = (place, difference)
            width = _width(theirs, layers, place)
            if width is None:
                break
            tried["width"] = width
    return None, closest[0], closest[1]


def _width(theirs: Sequence[Section], ours: Sequence[Layer], place: int) -> float | None:
    """How wide a cfg's first strange layer is, as a multiple of ours; None: that is not it."""
    if place >= min(len(theirs), len(ours)) or ours[place].kind not in ("convolutional", "local"):
        return None
    kind, options = theirs[place]
    sized = {**options, "filters": ours[place].options["filters"]}
    if _shape(kind, sized, place) != _shape(ours[place].kind, ours[place].options, place):
        return None
    return int(options.get("filters", 1)) / int(ours[place].options["filters"])


_Tries = list[tuple[str, dict[str, Any]]]


def _yolo_options(sections: Sequence[Section], outputs: list[dict[str, str]],
                  file: str | Path | None) -> _Tries:  # fmt: skip
    first = outputs[0]
    options = {
        "anchors": _anchors(first, file),
        "masks": tuple(_mask(o, file) for o in outputs),
        "ignore_iou": _number(first, "ignore_thresh", 0.5, file),
        "truth_iou": _number(first, "truth_thresh", 1.0, file),
        "multi_scale": _number(first, "random", 0.0, file) != 0,
    }
    names = ["yolov3_tiny"] if len(outputs) == 2 else ["yolov3", "yolov3_spp"]
    return [(name, options) for name in names]


def _region_options(sections: Sequence[Section], outputs: list[dict[str, str]],
                    file: str | Path | None) -> _Tries:  # fmt: skip
    (first, *_) = outputs
    options = {
        "anchors": _anchors(first, file), "resize": "letterbox", "small_boxes": True,
        "match": "prior" if _number(first, "bias_match", 0, file) else "prediction",
        "objectness_target": "iou" if _number(first, "rescore", 0, file) else "one",
        "object_scale": _number(first, "object_scale", 1, file),
        "noobject_scale": _number(first, "noobject_scale", 1, file),
        "class_scale": _number(first, "class_scale", 1, file),
        "coord_scale": _number(first, "coord_scale", 1, file),
        "ignore_iou": _number(first, "thresh", 0.5, file),
        "multi_scale": _number(first, "random", 0.0, file) != 0,
    }  # fmt: skip
    if "tree" in first:
        return [("yolo9000", options)]
    tiny = {"tower": 0, "passthrough": False, "backbone": "darknet_tiny"}
    return [
        ("yolov2", {**options, "release": "later"}), ("yolov2", {**options, "release": "paper"}),
        ("yolov2_tiny", {**options, **tiny, "joined": 1024}),
        ("yolov2_tiny", {**options, **tiny, "joined": 512}),
    ]  # fmt: skip


def _grid_options(sections: Sequence[Section], outputs: list[dict[str, str]],
                  file: str | Path | None) -> _Tries:  # fmt: skip
    (first, *_) = outputs
    options = {
        "boxes_per_cell": _whole(first, "num", 1, file),
        "square_root": _number(first, "sqrt", 0, file) != 0,
        "confidence_target": "iou" if _number(first, "rescore", 0, file) else "one",
        "noobject_scale": _number(first, "noobject_scale", 1, file),
        "coord_scale": _number(first, "coord_scale", 1, file),
    }
    if _number(first, "softmax", 0, file):
        raise InputError("a [detection] with softmax is not supported", file=file)
    return [
        ("yolov1", {**options, "variant": "released"}), ("yolov1", {**options, "variant": "paper"}),
        ("yolov1", {**options, "variant": "paper", "input_range": "0..1"}),
        ("yolov1_tiny", options),
    ]  # fmt: skip


def _difference(theirs: Sequence[Section], ours: Sequence[Layer]) -> tuple[int, str]:
    """(the first layer that differs, what ours is there), or ("", ...) where none does."""
    for i, (section, layer) in enumerate(zip(theirs, ours, strict=False)):
        if _shape(section[0], section[1], i) != _shape(layer.kind, layer.options, i):
            return i, f"[{layer.kind}] {layer.options}"
    rest = [kind for kind, _ in theirs[len(ours) :] if kind != "cost"]
    if rest or len(theirs) < len(ours):
        return min(len(theirs), len(ours)), f"end: {len(theirs)} layers, not {len(ours)}"
    return len(ours), ""


def _shape(kind: str, options: dict[str, str], index: int) -> tuple[Any, ...]:
    """What of a section decides the network's structure."""

    def get(key: str, default: str) -> str:
        return options.get(key, default)

    def whole(key: str, default: int) -> int:
        try:
            return int(options.get(key, default))
        except ValueError:
            raise InputError("must be a whole number", field=f"section {index + 1}, {key}",
                             value=options[key]) from None  # fmt: skip

    if kind in ("convolutional", "local"):
        size = whole("size", 1)
        pad = size // 2 if whole("pad", 0) else whole("padding", 0)
        counts = ("filters", 1), ("stride", 1), ("batch_normalize", 0), ("groups", 1)
        unusual = get("xnor", "0"), get("binary", "0")
        numbers = (whole(key, default) for key, default in counts)
        return kind, size, pad, get("activation", "logistic"), *numbers, *unusual
    if kind == "maxpool":
        stride = whole("stride", 1)
        size = whole("size", stride)
        return kind, size, stride, whole("padding", size - 1)
    if kind in ("route", "shortcut"):
        key = "layers" if kind == "route" else "from"
        try:
            given = [int(v) for v in get(key, "").split(",") if v]
        except ValueError:
            raise InputError("must be numbers of layers", field=f"section {index + 1}, {key}",
                             value=options[key]) from None  # fmt: skip
        return (kind, *(v + index if v < 0 else v for v in given))
    if kind == "connected":
        return (kind, whole("output", 1), get("activation", "logistic"),
                whole("batch_normalize", 0))  # fmt: skip
    if kind in ("upsample", "reorg"):
        return kind, whole("stride", 2), whole("reverse", 0)
    if kind in ("detection", "region"):
        return kind, get("classes", "20" if kind == "region" else "1"), get("num", "1")
    if kind == "yolo":
        return kind, get("classes", "20"), get("mask", "")
    return (kind,)


def _number(options: dict[str, str], key: str, default: float, file: str | Path | None) -> float:
    try:
        return float(options.get(key, default))
    except ValueError:
        raise InputError("is not a number", file=file, field=key, value=options[key]) from None


def _whole(options: dict[str, str], key: str, default: int, file: str | Path | None) -> int:
    value = _number(options, key, default, file)
    if value != int(value) or value < 1:
        raise InputError("must be a positive whole number", file=file, field=key,
                         value=options.get(key))  # fmt: skip
    return int(value)


def _mask(options: dict[str, str], file: str | Path | None) -> tuple[int, ...]:
    text = options.get("mask", "")
    try:
        return tuple(int(v) for v in text.split(",") if v)
    except ValueError:
        raise InputError("must be numbers of anchors", file=file, field="mask",
                         value=text) from None  # fmt: skip


def _anchors(options: dict[str, str], file: str | Path | None) -> tuple[tuple[float, float], ...]:
    text = options.get("anchors", "")
    try:
        values = [float(v) for v in text.split(",") if v]
    except ValueError:
        values = []
    if not values or len(values) % 2:
        raise InputError("must be pairs of numbers", file=file, field="anchors", value=text)
    return tuple(zip(values[0::2], values[1::2], strict=True))
