"""mmdetection's R-CNNs and RetinaNets: PyTorch style backbones with their own batch norms.

What a file's "meta" says of classes, colours, sizes, anchors and thresholds is read by
`mmdet_config`: fine-tuned checkpoints are as their own configuration has them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from boxatlas.weights.detectron2 import background_first
from boxatlas.weights.source import (
    Checkpoint,
    Imported,
    State,
    class_names,
    classes_of_cells,
    tensor_of,
)

_ZOO = "open-mmlab/mmdetection, configs/*/README"
_FILES = "https://download.openmmlab.com/mmdetection/v2.0"
# (folder, configuration, rest of the file's name, our model); the name ends in the beginning of
# its sha256.
_MODELS = (
    ("faster_rcnn", "faster_rcnn_r50_fpn_1x_coco", "20200130-047c8118", "faster_rcnn_r50_fpn"),
    ("faster_rcnn", "faster_rcnn_r101_fpn_1x_coco", "20200130-f513f705", "faster_rcnn_r101_fpn"),
    ("mask_rcnn", "mask_rcnn_r50_fpn_1x_coco", "20200205-d4b0c5d6", "mask_rcnn_r50_fpn"),
    ("mask_rcnn", "mask_rcnn_r101_fpn_1x_coco", "20200204-1efe0ed5", "mask_rcnn_r101_fpn"),
    ("cascade_rcnn", "cascade_rcnn_r50_fpn_1x_coco", "20200316-3dc56deb", "cascade_rcnn_r50_fpn"),
    ("cascade_rcnn", "cascade_rcnn_r101_fpn_1x_coco", "20200317-0b6a2fbf",
     "cascade_rcnn_r101_fpn"),
    ("cascade_rcnn", "cascade_rcnn_r101_fpn_20e_coco", "bbox_mAP-0.425_20200504_231812-5057dcc5",
     "cascade_rcnn_r101_fpn"),
    ("cascade_rcnn", "cascade_mask_rcnn_r50_fpn_1x_coco", "20200203-9d4dcb24",
     "cascade_mask_rcnn_r50_fpn"),
    ("retinanet", "retinanet_r50_fpn_1x_coco", "20200130-c2398f9e", "retinanet_r50_fpn"),
    ("retinanet", "retinanet_r101_fpn_1x_coco", "20200130-7a93545f", "retinanet_r101_fpn"),
)  # fmt: skip
CHECKPOINTS = tuple(
    Checkpoint(
        f"{name}_{rest}.pth",
        model,
        "COCO",
        _ZOO,
        f"{_FILES}/{folder}/{name}/{name}_{rest}.pth",
        None,
        f"sha256:{rest[-8:]}",
        "Apache-2.0",
    )
    for folder, name, rest, model in _MODELS
)
MODELS = tuple(dict.fromkeys(one.model for one in CHECKPOINTS))

# A RoI's level is floor(2 + log2(side / 56 + 1e-6)); sizes shrink at most as they may grow.
PROFILE: dict[str, Any] = {
    "roi_op": "align",
    "roi_aligned": True,
    "roi_sampling": 0,
    "rpn_beta": 0.0,
    "roi_beta": 0.0,
    "norm": "batch",
    "level_epsilons": (0.25e-6, 0.0),
    "box_clamp_below": True,
}
CASCADE: dict[str, Any] = {
    "score_boxes": "own",
    "score_of": "logit",
    "stage_gradients": (1, 1, 1),
    "stage_losses": (1, 0.5, 0.25),
    "resample": True,
    "drop_above": None,
    "roi_beta": 1.0,
    "stage_weights": tuple(
        (1 / xy, 1 / xy, 1 / wh, 1 / wh) for xy, wh in ((0.1, 0.2), (0.05, 0.1), (0.033, 0.067))
    ),
}
MASKS: dict[str, Any] = {"mask_paste": "continuous", "mask_target": "bitmap"}
PREPROCESS: dict[str, Any] = {
    "channels": "rgb",
    "scale": 1.0,
    "mean": (123.675, 116.28, 103.53),
    "std": (58.395, 57.12, 57.375),
    "multiple": 32,
}
# P6 comes from C5, P7 from P6 itself; the losses are L1 and divided by a batch's positives.
RETINANET: dict[str, Any] = {
    "norm": "batch",
    "relu_before_p7": False,
    "anchor_order": "ratio,size",
    "low_quality": "argmax",
    "box_loss": "l1",
    "normalise": "batch",
}

_RULES = (
    (r"trunk\.backbone\.", "backbone."),
    (r"trunk\.neck\.inner\.(\d)\.0\.", r"neck.lateral_convs.\1.conv."),
    (r"trunk\.neck\.outer\.(\d)\.0\.", r"neck.fpn_convs.\1.conv."),
    (r"rpn\.head\.conv\.0\.", "rpn_head.rpn_conv."),
    (r"rpn\.head\.cls\.", "rpn_head.rpn_cls."),
    (r"rpn\.head\.box\.", "rpn_head.rpn_reg."),
    (r"head\.(\d\.)?fc6\.", r"roi_head.bbox_head.\g<1>shared_fcs.0."),
    (r"head\.(\d\.)?fc7\.", r"roi_head.bbox_head.\g<1>shared_fcs.1."),
    (r"predictor\.(\d\.)?cls\.", r"roi_head.bbox_head.\g<1>fc_cls."),
    (r"predictor\.(\d\.)?box\.", r"roi_head.bbox_head.\g<1>fc_reg."),
)
_RETINANET_RULES = (
    (r"neck\.inner\.(\d)\.0\.", r"neck.lateral_convs.\1.conv."),
    (r"neck\.outer\.(\d)\.0\.", r"neck.fpn_convs.\1.conv."),
    (r"neck\.p6\.", "neck.fpn_convs.3.conv."),
    (r"neck\.p7\.", "neck.fpn_convs.4.conv."),
    (r"head\.cls\.convs\.(\d)\.0\.", r"bbox_head.cls_convs.\1.conv."),
    (r"head\.box\.convs\.(\d)\.0\.", r"bbox_head.reg_convs.\1.conv."),
    (r"head\.cls\.out\.", "bbox_head.retina_cls."),
    (r"head\.box\.out\.", "bbox_head.retina_reg."),
)
_MASK_RULES = (
    (r"convs\.(\d)\.0\.", r"convs.\1.conv."),
    (r"deconv\.", "upsample."),
    (r"logits\.", "conv_logits."),
)


def recognise(state: State, model: str) -> Imported:
    """By the model asked for."""
    if model.startswith("retinanet"):
        return _retinanet(state)
    cascade, masks = model.startswith("cascade"), "mask" in model
    first = "roi_head.bbox_head.0" if cascade else "roi_head.bbox_head"
    count = tensor_of(state, f"{first}.fc_cls.weight").shape[0] - 1
    boxes = tensor_of(state, f"{first}.fc_reg.weight").shape[0] // 4
    options = dict(PROFILE)
    options["class_agnostic"] = boxes == 1 and (cascade or count != 1)
    options |= {**(CASCADE if cascade else {}), **(MASKS if masks else {})}
    return Imported(
        options, class_names(count), namer(cascade), PREPROCESS, convert=background_first
    )


def _retinanet(state: State) -> Imported:
    cls, box = "bbox_head.retina_cls.weight", "bbox_head.retina_reg.weight"
    count = classes_of_cells(state, cls, box)
    return Imported(
        RETINANET, class_names(count), lambda own: _replaced(own, _RETINANET_RULES), PREPROCESS
    )


def namer(cascade: bool) -> Callable[[str], str]:
    """Our names -> mmdetection's."""

    def name(own: str) -> str:
        mask = re.match(r"(?:mask|more_masks\.(\d))\.(.*)", own)
        if mask:
            stage = f"{int(mask[1]) + 1 if mask[1] else 0}." if cascade else ""
            return f"roi_head.mask_head.{stage}{_replaced(mask[2], _MASK_RULES)}"
        return _replaced(own, _RULES)

    return name


def _replaced(own: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, start in rules:
        found = re.match(pattern, own)
        if found:
            return found.expand(start) + own[found.end() :]
    return own
