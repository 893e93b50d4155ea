"""RefineDet by its authors (Caffe), on VGG-16 and ResNet-101."""

from __future__ import annotations

from typing import Any

from boxatlas.weights.caffe_layers import convolution, residual, resnet
from boxatlas.weights.caffe_ssd import PREPROCESS
from boxatlas.weights.source import Checkpoint, Imported, State, class_names, tensor_of

_WHERE = "sfzhang15/RefineDet (as named arrays, npz)"
CHECKPOINTS = tuple(  # as the authors' scripts name them
    Checkpoint(
        f"{trained}_refinedet_{network}_{size}x{size}{tuned}_final.caffemodel",
        f"refinedet{size}_{backbone}",
        data,
        _WHERE,
        licence="BSD-2-Clause",
    )
    for size in (320, 512)
    for trained, network, tuned, backbone, data in (
        ("VOC0712", "vgg16", "", "vgg16", "VOC 07+12"),
        ("VOC0712Plus", "vgg16", "", "vgg16", "VOC 07++12"),
        ("coco", "vgg16", "", "vgg16", "COCO"),
        ("VOC0712", "vgg16", "_ft", "vgg16", "COCO+VOC 07+12"),
        ("VOC0712Plus", "vgg16", "_ft", "vgg16", "COCO+VOC 07++12"),
        ("coco", "resnet101", "", "r101", "COCO"),
    )
)

PROFILE = {"truncate_sizes": True, "candidates": 1000, "max_detections": 500}
MODELS = ("refinedet320_vgg16", "refinedet512_vgg16", "refinedet320_r101", "refinedet512_r101")

_VGG = ("conv4_3_norm", "conv5_3_norm", "fc7", "conv6_2")
_RESNET = ("res3b3_relu", "res4b22_relu", "res5c_relu", "res6_relu")


def recognise(state: State, model: str) -> Imported:
    """The count of classes from the second step's predictors; three anchors in a cell."""
    deep = model.endswith("r101")
    prefix = "resP3_inter" if deep else "P3"
    outputs = tensor_of(state, f"{prefix}_mbox_conf.weight").shape[0]
    anchors = tensor_of(state, f"{prefix}_mbox_loc.weight").shape[0] // 4
    options: dict[str, Any] = {**PROFILE}
    preprocess = {**PREPROCESS, "std": (1.0, 1.0, 1.0), "scale": 1.0}
    name = _name_resnet if deep else _name_vgg
    return Imported(options, class_names(outputs // anchors - 1), name, preprocess)


def _name_vgg(own: str) -> str:
    part, rest = own.split(".", 1)
    if part == "backbone":
        return rest
    if part == "neck":
        kind, index, leaf = rest.split(".")
        if kind == "norms":
            return f"{_VGG[int(index)]}.{leaf}"
        return f"conv6_{1 + int(index) // 2}.{leaf}"
    if part == "transfer":
        return _transfer(rest)
    kind, level, leaf = rest.split(".")
    source = _VGG[int(level)] if part == "arm" else f"P{int(level) + 3}"
    return f"{source}_mbox_{'conf' if kind == 'cls' else 'loc'}.{leaf}"


def _name_resnet(own: str) -> str:
    part, rest = own.split(".", 1)
    if part == "backbone":
        return resnet(rest)
    if part == "neck":
        return residual(rest.removeprefix("extra."), "6")
    if part == "transfer":
        return _transfer(rest)
    if part.startswith("before"):
        level, rest = rest.split(".", 1)
        return residual(rest, _inter(part.endswith("arm"), level))
    kind, level, leaf = rest.split(".")
    return f"res{_inter(part == 'arm', level)}_mbox_{'conf' if kind == 'cls' else 'loc'}.{leaf}"


def _inter(arm: bool, level: str) -> str:
    return f"{_RESNET[int(level)] if arm else f'P{int(level) + 3}'}_inter"


def _transfer(rest: str) -> str:
    _, level, kind, rest = rest.split(".", 3)
    k = int(level) + 3
    layer = {"first": f"TL{k}_1", "second": f"TL{k}_2", "up": f"P{k + 1}-up", "last": f"P{k}"}[kind]
    return convolution(rest, layer)
