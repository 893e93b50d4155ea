"""SSD and DSSD on ResNet-101 by their authors (Caffe).

The scripts give the first centre of each map in pixels ("start"), which is the centre of what the
unpadded pooling sees.
"""

from __future__ import annotations

import re
from typing import Any

from boxatlas.weights.caffe_layers import convolution, residual, resnet
from boxatlas.weights.caffe_ssd import PREPROCESS
from boxatlas.weights.source import Checkpoint, Imported, State, class_names, tensor_of

_WHERE = "chengyangfu/caffe, branch dssd (as named arrays, npz)"
CHECKPOINTS = (
    Checkpoint("SSD_513_COCO", "ssd513_r101", "COCO", _WHERE, licence="BSD-2-Clause"),
    Checkpoint("DSSD_513_COCO", "dssd513_r101", "COCO", _WHERE, licence="BSD-2-Clause"),
)

PROFILE = {"truncate_sizes": True, "bn_eps": 1e-3, "offset_unit": "pixels"}
TABLES: dict[str, dict[str, tuple[float, ...]]] = {
    "321": {"steps": (8, 16, 32, 64, 64, 321), "offset": (2.5, 2.5, 10.5, 26.5, 90.5, 160.5)},
    "513": {
        "steps": (8, 16, 32, 64, 128, 256, 513),
        "offset": (2.5, 2.5, 10.5, 26.5, 58.5, 122.5, 256.5),
    },
}
MODELS = ("ssd321_r101", "ssd513_r101", "dssd321_r101", "dssd513_r101")
_FINE = ("res3b3_relu", "res5c_relu")


def recognise(state: State, model: str) -> Imported:
    """Kernels, widths, towers and the joining of maps as the layers' names and shapes have them."""
    heads = _heads(state)
    cls, reg = (tensor_of(state, f"{heads[0]}_{kind}.weight") for kind in _kinds(state))
    boxes = reg.shape[0] // 4
    count = cls.shape[0] // boxes - 1
    kind = _kinds(state)[0]
    tower = state.get(f"{heads[0]}_{kind}_inter.weight")
    options: dict[str, Any] = {
        **PROFILE,
        **TABLES[re.findall(r"\d+", model)[0]],
        "boxes": "voc" if count <= 20 else "coco",
        "head_kernels": tuple(tensor_of(state, f"{h}_{kind}.weight").shape[-1] for h in heads),
        "module_widths": tuple(
            tensor_of(state, f"{h.removesuffix('_mbox')}_branch2a.weight").shape[0] for h in heads
        ),
        "module_kernel": tensor_of(
            state, f"{heads[0].removesuffix('_mbox')}_branch2b.weight"
        ).shape[-1],
        "tower": None if tower is None else tower.shape[0],
    }
    if model.startswith("dssd"):
        options["fusion"] = "sum" if "EltwiseSUM" in heads[0] else "product"

    def name(own: str) -> str:
        part, rest = own.split(".", 1)
        if part == "backbone":
            return resnet(rest)
        if part == "neck":
            _, block, rest = rest.split(".", 2)
            return residual(rest, str(6 + int(block)))
        if part == "decoder":
            return _decoder(rest)
        if part == "before":
            level, rest = rest.split(".", 1)
            return residual(rest, heads[int(level)].removeprefix("res").removesuffix("_mbox"))
        which, level, rest = rest.split(".", 2)
        layer = f"{heads[int(level)]}_{_kinds(state)[which == 'reg']}"
        if rest.startswith("0."):
            return convolution(rest.removeprefix("0."), f"{layer}_inter")
        return f"{layer}.{rest.removeprefix('1.')}"

    preprocess = {**PREPROCESS, "std": (1.0, 1.0, 1.0), "scale": 1.0}
    return Imported(options, class_names(count), name, preprocess)


def _kinds(state: State) -> tuple[str, str]:
    """DSSD's predictors are new beside those of the SSD that it started from."""
    new = any("_mbox_confnew" in name for name in state)
    return ("confnew", "locnew") if new else ("conf", "loc")


def _heads(state: State) -> list[str]:
    """What each map's predictors are called up to the kind, fine to coarse."""
    kind = _kinds(state)[0]
    found = [
        name.removesuffix(f"_{kind}.weight")
        for name in state
        if name.endswith(f"_mbox_{kind}.weight")
    ]
    return sorted(found, key=lambda name: int(re.findall(r"\d+", name)[0]))


def _decoder(rest: str) -> str:
    _, step, part, rest = rest.split(".", 3)
    level = int(step)
    target = ("3", "5")[level] if level < 2 else str(level + 4)
    source = _FINE[level] if level < 2 else f"res{target}_relu"
    if part == "up":
        return f"deconv_{target}.{rest}"
    layers = {
        "lateral1": f"{source}_pre1",
        "lateral2": f"{source}_pre2",
        "after": f"deconv_{target}_pre",
    }
    return convolution(rest, layers[part])
