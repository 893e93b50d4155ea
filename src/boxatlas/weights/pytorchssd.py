"""lzx1413/PytorchSSD: six boxes in a cell of the first map, BGR inputs.

Its L2 norm divides in place, so that the division by the norm (not the learned scale) also reaches
the layers after conv4_3.
"""

from __future__ import annotations

from boxatlas.weights.source import (
    Imported,
    Published,
    State,
    class_names,
    port_name,
    ssd_sizes,
)  # fmt: skip

CHECKPOINTS = (
    Published("ssd300_*.pth", "ssd300_vgg16", "VOC 07+12", "lzx1413/PytorchSSD"),
)  # fmt: skip

PROFILE = {
    "clip_boxes": "each", "match": "argmax", "ceil_pools": (3,), "norm_place": "added_to_root",
    "unit_trunk": True,
}  # fmt: skip
PREPROCESS = {"channels": "bgr", "mean": (104.0, 117.0, 123.0)}
MODELS = ("ssd300_vgg16",)


def recognise(state: State, model: str) -> Imported:
    """The table of sizes goes by the number of classes."""
    count, boxes = ssd_sizes(state, "conf.0.weight", "loc.0.weight")
    options = {**PROFILE, "boxes": "voc" if count <= 20 else "coco", "boxes_on_first_map": boxes}
    name = port_name("base", "extras", "L2Norm", "conf", "loc")
    return Imported(options, class_names(count), name, PREPROCESS)
