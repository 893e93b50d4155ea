"""RFBNet by its authors (PyTorch): clamped default boxes, the code's rates, BGR inputs.

`base` has VGG's layers at the indices that ports of SSD use. Its MobileNet files, of a library that
is gone, name depthwise weights alike.
"""

from __future__ import annotations

from typing import Any

from boxatlas.weights.source import Checkpoint, Imported, State, class_names, port_name, ssd_sizes

_WHERE = "GOATmessi7/RFBNet"
_LICENCE = "MIT (from memory)"
CHECKPOINTS = (
    Checkpoint("RFBNet300_VOC_80_7.pth", "rfbnet300_vgg16", "VOC 07+12", _WHERE, licence=_LICENCE),
    Checkpoint("RFBNet300_COCO_30.3.pth", "rfbnet300_vgg16", "COCO", _WHERE, licence=_LICENCE),
    Checkpoint("RFB512_E_34_4.pth", "rfbnet512e_vgg16", "COCO", _WHERE, licence=_LICENCE),
    Checkpoint("MobileNet_COCO_20.7.pth", "rfbnet300_mobilenet", "COCO", _WHERE, licence=_LICENCE),
)

PROFILE = {
    "clip_boxes": "each",
    "match": "argmax",
    "rates": "released",
    "ceil_pools": (3,),
    "candidates": 100_000,
}
PREPROCESS = {"channels": "bgr", "mean": (104.0, 117.0, 123.0)}
_MOBILE = {"channels": "bgr", "mean": (103.94, 116.78, 123.68), "std": (1.0,) * 3, "scale": 1.0}
MODELS = (
    "rfbnet300_vgg16",
    "rfbnet300e_vgg16",
    "rfbnet512_vgg16",
    "rfbnet512e_vgg16",
    "rfbnet300_mobilenet",
)

_vgg = port_name("base", "extras", "", "conf", "loc")


def recognise(state: State, model: str) -> Imported:
    """RFB-s is there or not; the table of sizes goes by the number of classes."""
    count, boxes = ssd_sizes(state, "conf.0.weight", "loc.0.weight")
    options: dict[str, Any] = {
        **PROFILE,
        "boxes": "voc" if count <= 20 else "coco",
        "boxes_on_first_map": boxes,
        "rfb_s": any(name.startswith("Norm.branch") for name in state),
    }
    light = model == "rfbnet300_mobilenet"
    if light:
        options["steps"] = (16.0, 32.0, 64.0, 100.0, 150.0, 300.0)
    blocks = 0 if light else 1  # blocks on the backbone's further maps come first among `extras`

    def name(own: str) -> str:
        part, rest = own.split(".", 1)
        if part == "backbone" and light:
            block, place, leaf = rest.removeprefix("blocks.").split(".")
            return f"base.{block}.{place}.{leaf}"
        if part != "neck":
            return _vgg(own)
        kind, rest = rest.split(".", 1)
        if kind == "join":
            half, leaf = rest.split(".", 1)
            return f"{'reduce' if half == 'fine' else 'up_reduce'}.{leaf}"
        if kind == "first":
            return f"Norm.{_block(rest)}"
        index, rest = rest.split(".", 1)
        place = int(index) + (blocks if kind == "extras" else 0)
        return f"extras.{place}.{_block(rest, first=1 if light else 0)}"

    return Imported(options, class_names(count), name, _MOBILE if light else PREPROCESS)


def _block(rest: str, first: int = 0) -> str:
    """Inside a receptive field block, whose branches are counted from `first`."""
    if rest.startswith("branches."):
        index, rest = rest.removeprefix("branches.").split(".", 1)
        return f"branch{int(index) + first}.{rest}"
    return f"ConvLinear.{rest.removeprefix('linear.')}" if rest.startswith("linear.") else rest
