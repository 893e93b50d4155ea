"""amdegroot/ssd.pytorch. Its default boxes are clamped and its matching lets later objects win."""

from __future__ import annotations

from boxatlas.weights.source import Checkpoint, Imported, State, class_names, port_name, ssd_sizes

CHECKPOINTS = (
    Checkpoint(
        "ssd300_mAP_77.43_v2.pth",
        "ssd300_vgg16",
        "VOC 07+12",
        "amdegroot/ssd.pytorch",
        "https://s3.amazonaws.com/amdegroot-models/ssd300_mAP_77.43_v2.pth",
        licence="MIT",
    ),
)

PROFILE = {
    "clip_boxes": "each",
    "match": "argmax",
    "difficult": "drop",
    "ceil_pools": (3,),
    "norm_place": "added_to_root",
    "candidates": 200,
}
MODELS = ("ssd300_vgg16",)


def recognise(state: State, model: str) -> Imported:
    """21 outputs mean VOC's table of sizes, any other count COCO's, as in the port."""
    count, boxes = ssd_sizes(state, "conf.0.weight", "loc.0.weight")
    options = {**PROFILE, "boxes": "voc" if count == 20 else "coco", "boxes_on_first_map": boxes}
    name = port_name("vgg", "extras", "L2Norm", "conf", "loc")
    return Imported(options, class_names(count), name)
