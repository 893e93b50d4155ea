"""lzx1413/PytorchSSD: six boxes in a cell of the first map, BGR inputs.

SSD: its L2 norm divides in place, so that the division by the norm (not the learned scale) also
reaches the layers after conv4_3. FSSD: conv6_2 has no padding, so that the third source is 9x9 (at
512: 15x15); the bilinear interpolation was written for a PyTorch that aligned corners, and no later
one does.
"""

from __future__ import annotations

from boxatlas.weights.source import Checkpoint, Imported, State, class_names, port_name, ssd_sizes

CHECKPOINTS = (
    Checkpoint("SSD300 (07+12)", "ssd300_vgg16", "VOC 07+12", "lzx1413/PytorchSSD"),
    Checkpoint("FSSD300 (07+12)", "fssd300_vgg16", "VOC 07+12", "lzx1413/PytorchSSD"),
)

_COMMON = {"clip_boxes": "each", "match": "argmax", "ceil_pools": (3,)}
PROFILE = {**_COMMON, "norm_place": "added_to_root", "unit_trunk": True}
FSSD_PROFILE = {
    **_COMMON,
    "sources": ("conv4_3", "fc7", "conv7_2"),
    "generator": "simple",
    "fuse_norm_affine": True,
    "align_corners": False,
    "reduce_all": True,
    "extra_padding": 0,
}
PREPROCESS = {"channels": "bgr", "mean": (104.0, 117.0, 123.0)}
MODELS = ("ssd300_vgg16", "fssd300_vgg16", "fssd512_vgg16")


def recognise(state: State, model: str) -> Imported:
    """The table of sizes goes by the number of classes."""
    count, boxes = ssd_sizes(state, "conf.0.weight", "loc.0.weight")
    tables = {"boxes": "voc" if count <= 20 else "coco", "boxes_on_first_map": boxes}
    if model.startswith("fssd"):
        fixed = {} if model == "fssd512_vgg16" else {"steps": (8.0, 16.0, 32.0, 64.0, 100.0, 300.0)}
        options = {**FSSD_PROFILE, **tables, **fixed}
        return Imported(options, class_names(count), _fssd_name, PREPROCESS)
    name = port_name("base", "extras", "L2Norm", "conf", "loc")
    return Imported({**PROFILE, **tables}, class_names(count), name, PREPROCESS)


_ssd_name = port_name("base", "extras", "", "conf", "loc")


def _fssd_name(own: str) -> str:
    part, rest = own.split(".", 1)
    if part != "neck":
        return _ssd_name(own)
    kind, rest = rest.split(".", 1)
    if kind == "extras":
        return _ssd_name(f"neck.{rest}")
    if kind == "fusion" and rest.startswith("reduce."):
        return f"ft_module.{rest.removeprefix('reduce.')}"
    if kind == "fusion":
        return f"fea_bn.{rest.removeprefix('norm.')}"
    return f"pyramid_ext.{rest.removeprefix('layers.')}"
