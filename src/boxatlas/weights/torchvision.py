"""torchvision's detectors, trained on COCO (91 outputs with gaps in the numbering)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from boxatlas.weights.source import (
    VGG_INDEX,
    Checkpoint,
    Imported,
    State,
    class_names,
    classes_of_cells,
    ssd_sizes,
    tensor_of,
)

# (file, of 2**20 bytes, our model); a file's name ends in the beginning of its sha256.
_FILES = (
    ("fasterrcnn_mobilenet_v3_large_320_fpn-907ea3f9.pth", 74.239,
     "faster_rcnn320_mobilenet_v3_fpn"),
    ("fasterrcnn_mobilenet_v3_large_fpn-fb6a3cc7.pth", 74.239, "faster_rcnn_mobilenet_v3_fpn"),
    ("fasterrcnn_resnet50_fpn_coco-258fb6c6.pth", 159.743, "faster_rcnn_r50_fpn"),
    ("fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth", 167.104, "faster_rcnn_r50_fpn_v2"),
    ("maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth", 169.84, "mask_rcnn_r50_fpn"),
    ("maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth", 177.219, "mask_rcnn_r50_fpn_v2"),
    ("retinanet_resnet50_fpn_coco-eeacb38b.pth", 130.267, "retinanet_r50_fpn"),
    ("retinanet_resnet50_fpn_v2_coco-5905b1c5.pth", 146.037, "retinanet_r50_fpn_v2"),
    ("ssd300_vgg16_coco-b556d3b4.pth", 135.988, "ssd300_vgg16"),
    ("ssdlite320_mobilenet_v3_large_coco-a79551df.pth", 13.418, "ssdlite320_mobilenet_v3_large"),
)  # fmt: skip
CHECKPOINTS = tuple(
    Checkpoint(
        file,
        model,
        "COCO",
        "torchvision",
        f"https://download.pytorch.org/models/{file}",
        megabytes,
        f"sha256:{file[-12:-4]}",
        "BSD-3-Clause (code)",
    )
    for file, megabytes, model in _FILES
)

# Boxes are cut to the input before suppression and the decoded sizes are bounded.
_COMMON = {"clip_boxes": "size", "match": "argmax", "clip_before_nms": True, "clamp_deltas": True}
PROFILE = {
    **_COMMON,
    "boxes": "coco",
    "ceil_pools": (3,),
    "norm_eps": 1e-12,
    "norm_place": "norm_clamped_below",
}
PREPROCESS = {"mean": (0.48235, 0.45882, 0.40784), "std": (1 / 255,) * 3, "scale": 1 / 255}
MODELS = (
    "faster_rcnn_r50_fpn",
    "faster_rcnn_r50_fpn_v2",
    "faster_rcnn_r101_fpn",
    "faster_rcnn_mobilenet_v3_fpn",
    "faster_rcnn320_mobilenet_v3_fpn",
    "retinanet_r50_fpn",
    "retinanet_r50_fpn_v2",
    "retinanet_r101_fpn",
    "mask_rcnn_r50_fpn",
    "mask_rcnn_r50_fpn_v2",
    "mask_rcnn_r101_fpn",
    "ssd300_vgg16",
    "ssdlite320_mobilenet_v3_large",
)

_HEAD = {"cls": "head.classification_head.module_list", "reg": "head.regression_head.module_list"}


def recognise(state: State, model: str) -> Imported:
    """By the model asked for."""
    if model.startswith("retinanet"):
        return _retinanet(state)
    if model.startswith(("faster_rcnn", "mask_rcnn")):
        return _faster_rcnn(state, model)
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


# -- detectors on a pyramid -----------------------------------------------------------------------

# Sizes lose their fractions; a map's stride is the input's side over the map's, rounded down.
PYRAMID_PREPROCESS = {"truncate": True}
_ANCHORS = {"anchor_rounded": True, "anchor_stride": "image // grid", "anchor_order": "ratio,size"}
RETINANET = {
    **_ANCHORS,
    "low_quality": "argmax",
    "max_detections": 300,
    "anchor_sizes": tuple(
        (s, int(s * 2 ** (1 / 3)), int(s * 2 ** (2 / 3))) for s in (32, 64, 128, 256, 512)
    ),
}
FASTER_RCNN = {
    **_ANCHORS,
    "roi_op": "align",
    "background_box": True,
    "roi_beta": 1 / 9,
    "min_size": 1e-3,
    "min_detection": 1e-2,
}

# Targets are means of the object's pixels; map 0 is the background's.
MASKS = {
    "mask_background": True,
    "mask_target": "soft",
    "mask_aligned": False,
    "mask_paste": "whole",
}

Rules = Sequence[tuple[str, str]]

PYRAMID_RULES: Rules = (
    (r"(?:trunk\.)?backbone\.(?:features\.)?", "backbone.body."),
    (r"(?:trunk\.)?neck\.inner\.", "backbone.fpn.inner_blocks."),
    (r"(?:trunk\.)?neck\.outer\.", "backbone.fpn.layer_blocks."),
    (r"(?:trunk\.)?neck\.p", "backbone.fpn.extra_blocks.p"),
)
_RETINANET_RULES: Rules = (
    *PYRAMID_RULES,
    (r"head\.cls\.out", "head.classification_head.cls_logits"),
    (r"head\.box\.out", "head.regression_head.bbox_reg"),
    (r"head\.cls\.convs\.", "head.classification_head.conv."),
    (r"head\.box\.convs\.", "head.regression_head.conv."),
)
REGION_RULES: Rules = (
    *PYRAMID_RULES,
    (r"rpn\.head\.conv\.(\d)\.", r"rpn.head.conv.\1.0."),
    (r"rpn\.head\.cls\.", "rpn.head.cls_logits."),
    (r"rpn\.head\.box\.", "rpn.head.bbox_pred."),
    (r"head\.convs\.", "roi_heads.box_head."),
    (r"head\.fc\.", "roi_heads.box_head.5."),
    (r"head\.fc", "roi_heads.box_head.fc"),
    (r"mask\.convs\.", "roi_heads.mask_head."),
    (r"mask\.deconv\.", "roi_heads.mask_predictor.conv5_mask."),
    (r"mask\.logits\.", "roi_heads.mask_predictor.mask_fcn_logits."),
    (r"predictor\.cls\.", "roi_heads.box_predictor.cls_score."),
    (r"predictor\.box\.", "roi_heads.box_predictor.bbox_pred."),
)


def namer(rules: Rules, state: State) -> Callable[[str], str]:
    """Our names -> torchvision's by the first rule that fits, in new files and in old ones."""

    def name(own: str) -> str:
        for pattern, start in rules:
            found = re.match(pattern, own)
            if found:
                new = found.expand(start) + own[found.end() :]
                return new if new in state else _older(new, state)
        return own

    return name


def _older(name: str, state: State) -> str:
    """The name before torchvision 0.13 wrapped single convolutions in rows of layers."""
    old = re.sub(r"(inner_blocks\.\d|layer_blocks\.\d)\.0\.", r"\1.", name)
    old = re.sub(r"(rpn\.head\.conv)\.0\.0\.", r"\1.", old)
    mask = re.fullmatch(r"(roi_heads\.mask_head)\.(\d)\.0\.(\w+)", old)
    if mask:
        old = f"{mask[1]}.mask_fcn{int(mask[2]) + 1}.{mask[3]}"
    subnet = re.fullmatch(r"(head\.\w+_head\.conv)\.(\d)\.0\.(\w+)", old)
    if subnet:
        old = f"{subnet[1]}.{2 * int(subnet[2])}.{subnet[3]}"
    return old if old in state else name


def backbone_norm(state: State, frozen_eps: float = 0.0) -> dict[str, Any]:
    """Frozen norms have no counters; the ResNets' published weights go with an epsilon of 0."""
    counted = any(k.startswith("backbone.body") and k.endswith("batches_tracked") for k in state)
    if counted:
        return {"norm": "batch", "norm_eps": 1e-5}
    return {"norm": "frozen", "norm_eps": frozen_eps}


def _retinanet(state: State) -> Imported:
    """The first form (P6 from P5, L1) or the second (P6 from C5, group norm, GIoU)."""
    cls, box = "head.classification_head.cls_logits.weight", "head.regression_head.bbox_reg.weight"
    count = classes_of_cells(state, cls, box)
    p6 = tensor_of(state, "backbone.fpn.extra_blocks.p6.weight")
    second = "head.classification_head.conv.0.1.weight" in state
    options = {
        **RETINANET,
        **backbone_norm(state),
        "p6_from": "p5" if p6.shape[1] == len(p6) else "c5",
        "head_norm": "group" if second else "none",
        "box_loss": "giou" if second else "l1",
    }
    return Imported(options, labelled(count), namer(_RETINANET_RULES, state), PYRAMID_PREPROCESS)


def labelled(count: int) -> tuple[str, ...]:
    """Names where COCO's own numbers are the rows: row 0 is no class."""
    return ("unused0", *class_names(90)) if count == 91 else class_names(count)


def _faster_rcnn(state: State, model: str) -> Imported:
    """The first form, the second (batch norm everywhere, deeper heads), or MobileNetV3's."""
    mobile = "mobilenet" in model
    second = "roi_heads.box_head.5.weight" in state
    options = {**FASTER_RCNN, **backbone_norm(state, 1e-5 if mobile else 0.0)}
    if second:
        options |= {"fpn_norm": "batch", "rpn_convs": 2, "box_head": "4conv1fc"}
    if model.startswith("mask"):
        options |= {**MASKS, "mask_norm": "batch" if second else "none"}
    count = tensor_of(state, "roi_heads.box_predictor.cls_score.weight").shape[0] - 1
    return Imported(options, class_names(count), namer(REGION_RULES, state), PYRAMID_PREPROCESS)
