"""torchvision's SSD300 and SSDlite320, trained on COCO (91 outputs with gaps in the numbering)."""

from __future__ import annotations

from boxatlas.weights.source import VGG_INDEX, Imported, Published, State, class_names, ssd_sizes

CHECKPOINTS = (
    Published("ssd300_vgg16_coco-b556d3b4.pth", "ssd300_vgg16", "COCO", "torchvision"),
    Published("ssdlite320_mobilenet_v3_large_coco-a79551df.pth", "ssdlite320_mobilenet_v3_large",
              "COCO", "torchvision"),
)  # fmt: skip

# Boxes are cut to the input before suppression and the decoded sizes are bounded.
_COMMON = {"clip_boxes": "size", "match": "argmax", "clip_before_nms": True, "clamp_deltas": True}
PROFILE = {
    **_COMMON, "boxes": "coco", "ceil_pools": (3,), "norm_eps": 1e-12,
    "norm_place": "norm_clamped_below",
}  # fmt: skip
PREPROCESS = {"mean": (0.48235, 0.45882, 0.40784), "std": (1 / 255,) * 3, "scale": 1 / 255}
MODELS = ("ssd300_vgg16", "ssdlite320_mobilenet_v3_large")

_HEAD = {"cls": "head.classification_head.module_list", "reg": "head.regression_head.module_list"}


def recognise(state: State, model: str) -> Imported:
    """SSD300 or SSDlite320, by the model asked for."""
    if model == "ssdlite320_mobilenet_v3_large":
        leaf = "0.1.weight"
        count, boxes = ssd_sizes(state, f"{_HEAD['cls']}.{leaf}", f"{_HEAD['reg']}.{leaf}")
        return Imported({**_COMMON, "boxes_on_first_map": boxes}, class_names(count), _lite_name)
    count, boxes = ssd_sizes(state, f"{_HEAD['cls']}.0.weight", f"{_HEAD['reg']}.0.weight")
    options = {**PROFILE, "boxes_on_first_map": boxes}
    return Imported(options, class_names(count), _vgg_name, PREPROCESS)


def _vgg_name(own: str) -> str:
    part, rest = own.split(".", 1)
    if part == "backbone":
        layer, leaf = rest.split(".")
        if layer.startswith("conv5"):  # after pool4, which is extra.0.0
            return f"backbone.extra.0.{2 * int(layer[-1]) - 1}.{leaf}"
        if layer.startswith("fc"):  # after pool5, which is extra.0.7.0
            return f"backbone.extra.0.7.{1 if layer == 'fc6' else 3}.{leaf}"
        return f"backbone.features.{VGG_INDEX[layer]}.{leaf}"
    kind, rest = rest.split(".", 1)
    if kind == "norm":
        return "backbone.scale_weight"
    if kind == "extras":
        layer, rest = rest.split(".", 1)
        return f"backbone.extra.{int(layer) + 1}.{rest}"
    return f"{_HEAD[kind]}.{rest}"


def _lite_name(own: str) -> str:
    part, rest = own.split(".", 1)
    if part == "backbone":
        return own
    kind, rest = rest.split(".", 1)
    return f"backbone.extra.{rest}" if kind == "extras" else f"{_HEAD[kind]}.{rest}"
