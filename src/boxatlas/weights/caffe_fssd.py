"""FSSD by its authors (Caffe). The script for 512, and COCO's for 300, also fuse conv3_3."""

from __future__ import annotations

from typing import Any

from boxatlas.weights.caffe_ssd import PREPROCESS
from boxatlas.weights.source import Checkpoint, Imported, State, class_names, ssd_sizes, tensor_of

_WHERE = "lzx1413/CAFFE_SSD, branch fssd (as named arrays, npz)"
CHECKPOINTS = tuple(
    Checkpoint(f"FSSD{size} {data}", f"fssd{size}_vgg16", data, _WHERE, licence="BSD-2-Clause")
    for size, data in (
        (300, "VOC 07+12"),
        (300, "COCO+VOC 07+12"),
        (512, "COCO+VOC 07+12"),
        (300, "COCO"),
        (512, "COCO"),
    )
)

PROFILE = {"truncate_sizes": True}
MODELS = ("fssd300_vgg16", "fssd512_vgg16")
_FUSED = "fea_concat_bn"


def recognise(state: State, model: str) -> Imported:
    """Which layers are fused is told by the width of the fused map."""
    direct = f"{_FUSED}_mbox_conf.weight" in state
    first = _FUSED if direct else f"{_FUSED}_ds_1"
    count, boxes = ssd_sizes(state, f"{first}_mbox_conf.weight", f"{first}_mbox_loc.weight")
    sources = ("conv4_3", "fc7", "conv7_2")
    if tensor_of(state, f"{_FUSED}.running_mean").shape[0] == 4 * 256:
        sources = ("conv3_3", *sources)
    options: dict[str, Any] = {
        **PROFILE,
        "boxes": "voc" if count <= 20 else "coco",
        "boxes_on_first_map": boxes,
        "sources": sources,
        "generator": "direct" if direct else "simple",
    }

    def name(own: str) -> str:
        part, rest = own.split(".", 1)
        if part == "backbone":
            return rest
        if part == "head":
            kind, level, leaf = rest.split(".")
            source = _FUSED if direct and level == "0" else _level(int(level))
            return f"{source}_mbox_{'conf' if kind == 'cls' else 'loc'}.{leaf}"
        kind, rest = rest.split(".", 1)
        if kind == "extras":
            _, layer, place, leaf = rest.split(".")
            return f"conv{6 + int(layer)}_{1 + int(place) // 2}.{leaf}"
        if kind == "fusion" and rest.startswith("reduce."):
            _, index, _, leaf = rest.split(".")
            return f"{sources[int(index)]}_reduce.{leaf}"
        if kind == "fusion":
            return f"{_FUSED}.{rest.removeprefix('norm.')}"
        _, level, _, leaf = rest.split(".")
        return f"{_level(int(level) + int(direct))}.{leaf}"

    return Imported(options, class_names(count), name, PREPROCESS)


def _level(halvings: int) -> str:
    return f"{_FUSED}_ds_{2**halvings}"
