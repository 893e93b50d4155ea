"""SSD by its authors (Caffe). Pools round up, and sizes of default boxes lose their fractions:
`PriorBoxLayer` keeps them in whole numbers.
"""

from __future__ import annotations

from boxatlas.weights.source import Checkpoint, Imported, State, class_names, ssd_sizes

_WHERE = "weiliu89/caffe, branch ssd (as named arrays, npz)"
CHECKPOINTS = tuple(
    Checkpoint(
        f"VGG_{trained}_SSD_{size}x{size}_{steps}.caffemodel",
        f"ssd{size}_vgg16",
        data,
        _WHERE,
        licence="BSD-2-Clause",
    )
    for size, last in ((300, 400_000), (512, 360_000))
    for trained, steps, data in (
        ("VOC0712", "iter_120000", "VOC 07+12"),
        ("VOC0712Plus", "iter_240000", "VOC 07++12"),
        ("coco", f"iter_{last}", "COCO"),
        ("VOC0712", "ft_iter_120000", "COCO+VOC 07+12"),
        ("VOC0712Plus", "ft_iter_160000", "COCO+VOC 07++12"),
    )
)

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
