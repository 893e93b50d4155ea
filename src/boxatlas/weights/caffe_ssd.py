"""SSD by its authors (Caffe). Pools round up, and sizes of default boxes lose their fractions:
`PriorBoxLayer` keeps them in whole numbers.
"""

from __future__ import annotations

from boxatlas.weights.source import Imported, Published, State, class_names, ssd_sizes

_WHERE = "weiliu89/caffe, branch ssd (as named arrays, npz)"
CHECKPOINTS = (
    Published("VGG_VOC0712_SSD_300x300_iter_120000.caffemodel", "ssd300_vgg16", "VOC 07+12",
              _WHERE, licence="BSD-2-Clause"),
    Published("VGG_VOC0712_SSD_512x512_iter_120000.caffemodel", "ssd512_vgg16", "VOC 07+12",
              _WHERE, licence="BSD-2-Clause"),
    Published("VGG_coco_SSD_300x300_iter_400000.caffemodel", "ssd300_vgg16", "COCO",
              _WHERE, licence="BSD-2-Clause"),
    Published("VGG_coco_SSD_512x512_iter_360000.caffemodel", "ssd512_vgg16", "COCO",
              _WHERE, licence="BSD-2-Clause"),
)  # fmt: skip

PROFILE = {"truncate_sizes": True}
PREPROCESS = {"channels": "bgr", "mean": (104.0, 117.0, 123.0)}
MODELS = ("ssd300_vgg16", "ssd512_vgg16")


def recognise(state: State, model: str) -> Imported:
    """The profile and names of an SSD by the authors."""
    count, boxes = ssd_sizes(state, "conv4_3_norm_mbox_conf.weight", "conv4_3_norm_mbox_loc.weight")
    options = {**PROFILE, "boxes": "voc" if count <= 20 else "coco", "boxes_on_first_map": boxes}
    return Imported(options, class_names(count), caffe_name, PREPROCESS)


def caffe_name(own: str) -> str:
    """Our tensor's name -> the layer's: extra maps are conv6..conv10, predictors `*_mbox_*`."""
    part, rest = own.split(".", 1)
    if part == "backbone":
        return rest
    kind, rest = rest.split(".", 1)
    if kind == "norm":
        return f"conv4_3_norm.{rest}"
    if kind == "extras":
        layer, place, leaf = rest.split(".")
        return f"conv{6 + int(layer)}_{1 + int(place) // 2}.{leaf}"
    level, leaf = rest.split(".")
    maps = {"0": "conv4_3_norm", "1": "fc7"}
    source = maps.get(level, f"conv{int(level) + 4}_2")
    return f"{source}_mbox_{'conf' if kind == 'cls' else 'loc'}.{leaf}"
