"""R-FCN of Deformable-ConvNets (MXNet), as named arrays.

A .params file is first written as an npz (or a dict) of its arrays, under MXNet's own names
(conv1_weight, bn_conv1_gamma, ...) or with the last part changed (conv1.weight, bn_conv1.weight,
..., running_mean, running_var). The trunk is the authors' Caffe ResNet: pool1 without padding,
strides in the 1x1; boxes are counted in pixels, centre to centre.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from boxatlas.weights.source import Checkpoint, Imported, State, class_names, tensor_of

_WHERE = "msracver/Deformable-ConvNets (as named arrays, npz)"
CHECKPOINTS = (
    Checkpoint("rfcn_voc.params", "rfcn_r101", "VOC 07+12", _WHERE, licence="Apache-2.0"),
    Checkpoint("rfcn_coco.params", "rfcn_r101", "COCO", _WHERE, licence="Apache-2.0"),
)
MODELS = ("rfcn_r50", "rfcn_r101")

PROFILE: dict[str, Any] = {
    "inclusive": True,
    "inclusive_centre": True,
    "box_clamp": None,
    "pool_padding": 0,
    "stride_in_1x1": True,
    "rpn_beta": 1 / 9,
    "score": 1e-3,
    "norm_eps": 1e-5,
}
PREPROCESS: dict[str, Any] = {
    "channels": "bgr",
    "scale": 1.0,
    "mean": (103.06, 115.9, 123.15),
    "std": (1.0, 1.0, 1.0),
    "multiple": 1,
}

_HEADS = {
    "rpn.head.conv.0": "rpn_conv_3x3",
    "rpn.head.cls": "rpn_cls_score",
    "rpn.head.box": "rpn_bbox_pred",
    "score.reduce": "conv_new_1",
    "score.cls": "rfcn_cls",
    "score.box": "rfcn_bbox",
}
_LEAVES = {
    "weight": ("weight", "gamma"),
    "bias": ("bias", "beta"),
    "running_mean": ("moving_mean",) * 2,
    "running_var": ("moving_var",) * 2,
}


def recognise(state: State, model: str) -> Imported:
    """Classes, parts and box columns by the widths of the score maps."""
    name = namer(state)
    boxes = tensor_of(state, name("score.box.weight")).shape[0]
    outputs = tensor_of(state, name("score.cls.weight")).shape[0]
    # Class-agnostic boxes are 8 maps a part; k is what divides both into whole numbers.
    k = next((n for n in (7, 3, 1) if boxes == 8 * n * n and outputs % (n * n) == 0), 7)
    count = outputs // (k * k) - 1
    options = {
        **PROFILE,
        "k": k,
        "class_agnostic": boxes == 8 * k * k,
        "conv_width": tensor_of(state, name("score.reduce.weight")).shape[0],
    }
    return Imported(options, class_names(count), name, PREPROCESS)


def namer(state: State) -> Callable[[str], str]:
    """Our names -> MXNet's, in either form."""
    dotted = "conv1.weight" in state
    numbered = any(k.startswith("res4b1_") for k in state)

    def name(own: str) -> str:
        layer, leaf = own.rsplit(".", 1)
        found = _HEADS.get(layer) or _resnet(layer, numbered)
        if dotted:
            return f"{found}.{leaf}"
        return f"{found}_{_LEAVES[leaf][found.startswith('bn')]}"

    return name


def _resnet(layer: str, numbered: bool) -> str:
    """layer3.1.conv2 -> res4b1_branch2b; long stages count b1, b2, ..., short ones b, c, ..."""
    layer = layer.removeprefix("trunk.")
    if layer in ("conv1", "bn1"):
        return "conv1" if layer == "conv1" else "bn_conv1"
    found = re.fullmatch(r"layer(\d)\.(\d+)\.(conv|bn|downsample\.)(\d)", layer)
    if not found:
        return layer
    stage, block, kind, place = int(found[1]) + 1, int(found[2]), found[3], int(found[4])
    many = numbered and stage in (3, 4)
    letter = "abcdefgh"[block] if block == 0 or not many else f"b{block}"
    if kind == "downsample.":
        return f"{'res' if place == 0 else 'bn'}{stage}{letter}_branch1"
    return f"{'res' if kind == 'conv' else 'bn'}{stage}{letter}_branch2{'abc'[place - 1]}"
