"""M2Det by its authors (PyTorch). What they released is not the network of the paper: U-shapes that
keep 256 channels and add otherwise, no attention, one convolution that narrows the base feature for
all eight, batch norm on the finest scale, and clamped default boxes. Inputs are BGR for ResNet too.
"""

from __future__ import annotations

import re
from typing import Any

import torch

from boxatlas.weights.source import (
    VGG_INDEX,
    Checkpoint,
    Imported,
    State,
    class_names,
    ssd_sizes,
    tensor_of,
)

CHECKPOINTS = (
    Checkpoint(
        "m2det512_vgg.pth", "m2det512_vgg16", "COCO", "qijiezhao/M2Det", licence="MIT (from memory)"
    ),
)

PROFILE = {
    "form": "released",
    "clip_boxes": "each",
    "match": "argmax",
    "ceil_pools": (3,),
    "score": 0.1,
    "soft_nms": "linear",
    "soft_iou": 0.3,
    "candidates": 100_000,
    "max_detections": 100_000,
}
PREPROCESS = {
    "channels": "bgr",
    "mean": (104.0, 117.0, 123.0),
    "std": (1.0, 1.0, 1.0),
    "scale": 1.0,
}
MODELS = (
    "m2det320_vgg16",
    "m2det512_vgg16",
    "m2det800_vgg16",
    "m2det320_r101",
    "m2det512_r101",
    "m2det800_r101",
)


def recognise(state: State, model: str) -> Imported:
    """Count and width of the U-shapes and what is shared, from the tensors themselves."""
    count, _ = ssd_sizes(state, "conf.0.weight", "loc.0.weight")
    tums = len({m[1] for name in state if (m := re.match(r"unet(\d+)\.", name))})
    shared = _alike(state, "leach") and tums > 1
    attention = any(name.startswith("sfam_module.") for name in state)
    shared_sfam = attention and _alike(state, "sfam_module.fc1")
    scales = len({m[1] for name in state if (m := re.match(r"conf\.(\d+)\.", name))})
    options: dict[str, Any] = {
        **PROFILE,
        "tums": tums,
        "scales": scales,
        "sfam": attention,
        "shared_leach": shared,
        "planes": tensor_of(state, "unet1.layers.0.conv.weight").shape[0],
        "shared_sfam": shared_sfam,
        "norm_largest": "Norm.weight" in state,
    }
    if attention:
        wide = tensor_of(state, "sfam_module.fc1.0.weight")
        options["sfam_ratio"] = wide.shape[1] // wide.shape[0]

    def ignored(name: str) -> bool:
        copy = re.match(r"(leach|sfam_module\.fc[12])\.([1-9]\d*)\.", name)
        same = copy is not None and (shared if copy[1] == "leach" else shared_sfam)
        return same or name.startswith("base.fc.")  # ResNet's classifier

    vgg = model.endswith("vgg16")
    return Imported(
        options, class_names(count), _vgg if vgg else _name, PREPROCESS, ignored=ignored
    )


def _alike(state: State, prefix: str) -> bool:
    """All copies of a layer hold the same values: it was one layer."""
    first = f"{prefix}.0."
    return all(
        torch.equal(value, state[first + m[1]])
        for name, value in state.items()
        if (m := re.match(rf"{re.escape(prefix)}\.\d+\.(.*)", name)) and first + m[1] in state
    )


def _vgg(own: str) -> str:
    if not own.startswith("backbone."):
        return _name(own)
    _, layer, leaf = own.split(".")
    return f"base.{VGG_INDEX.get(layer, layer)}.{leaf}"


_PARTS = {"encoder": "layers", "decoder": "latlayer", "smooth": "smooth"}


def _name(own: str) -> str:
    part, rest = own.split(".", 1)
    if part == "backbone":
        return f"base.{rest}"
    if part == "head":
        kind, rest = rest.split(".", 1)
        return f"{'conf' if kind == 'cls' else 'loc'}.{rest}"
    kind, rest = rest.split(".", 1)
    if kind == "norm":
        return f"Norm.{rest}"
    if kind == "leach":
        return f"leach.{rest}"
    if kind == "base":
        which, leaf = rest.split(".", 1)
        return f"{'reduce' if which == 'shallow' else 'up_reduce'}.{leaf}"
    if kind == "attention":
        scale, layer, leaf = rest.split(".")
        return f"sfam_module.{'fc1' if layer == 'squeeze' else 'fc2'}.{scale}.{leaf}"
    index, layer, rest = rest.split(".", 2)
    unet = f"unet{int(index) + 1}"
    return f"{unet}.toplayer.0.{rest}" if layer == "top" else f"{unet}.{_PARTS[layer]}.{rest}"
