"""lufficc/SSD. As ssd.pytorch, but every candidate enters suppression and 100 stay."""

from __future__ import annotations

from boxatlas.weights.source import Checkpoint, Imported, State, class_names, port_name, ssd_sizes

CHECKPOINTS = tuple(
    Checkpoint(
        f"vgg_ssd{size}_{data}.pth",
        f"ssd{size}_vgg16",
        label,
        "lufficc/SSD, release 1.2",
        f"https://github.com/lufficc/SSD/releases/download/1.2/vgg_ssd{size}_{data}.pth",
        megabytes,
        None,
        "MIT",
    )
    for size, data, label, megabytes in (
        (300, "voc0712", "VOC 07+12", 201),
        (300, "coco_trainval35k", "COCO", 262),
        (512, "voc0712", "VOC 07+12", 207),
        (512, "coco_trainval35k", "COCO", 275),
    )
)

PROFILE = {
    "clip_boxes": "each",
    "match": "argmax",
    "ceil_pools": (3,),
    "norm_place": "added_to_root",
    "candidates": 100_000,
    "max_detections": 100,
}
MODELS = ("ssd300_vgg16", "ssd512_vgg16")
# The last max size of VOC's table at 512, off the rule by 0.05 pixels.
_MAX_512 = (76.8, 153.6, 230.4, 307.2, 384.0, 460.8, 537.65)


def recognise(state: State, model: str) -> Imported:
    """The table of sizes goes by the number of classes."""
    head = "box_head.predictor"
    count, boxes = ssd_sizes(state, f"{head}.cls_headers.0.weight", f"{head}.reg_headers.0.weight")
    table = "voc" if count <= 20 else "coco"
    options = {**PROFILE, "boxes": table, "boxes_on_first_map": boxes}
    if table == "voc" and model == "ssd512_vgg16":
        options["max_sizes"] = _MAX_512
    name = port_name(
        "backbone.vgg",
        "backbone.extras",
        "backbone.l2_norm",
        f"{head}.cls_headers",
        f"{head}.reg_headers",
    )
    return Imported(options, class_names(count), name)
