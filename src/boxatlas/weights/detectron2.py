"""Detectron2's model zoo: pickled dicts of arrays, read without running code.

The background is the last column there and the first here. Backbones of the zoo were pretrained by
Microsoft (stride in the 1x1, BGR inputs less the mean) or, the ResNeXts, by Facebook.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from boxatlas.weights.source import (
    Checkpoint,
    Imported,
    State,
    class_names,
    classes_of_cells,
    tensor_of,
)

_ZOO = "facebookresearch/detectron2, MODEL_ZOO"
_FILES = "https://dl.fbaipublicfiles.com/detectron2"
# (folder, file, our model); a file's name ends in the beginning of its md5, as the zoo's page says.
_MODELS = (
    ("COCO-Detection", "faster_rcnn_R_50_C4_1x/137257644/model_final_721ade.pkl",
     "faster_rcnn_r50_c4"),
    ("COCO-Detection", "faster_rcnn_R_50_DC5_1x/137847829/model_final_51d356.pkl",
     "faster_rcnn_r50_dc5"),
    ("COCO-Detection", "faster_rcnn_R_50_FPN_3x/137849458/model_final_280758.pkl",
     "faster_rcnn_r50_fpn"),
    ("COCO-Detection", "faster_rcnn_R_101_FPN_3x/137851257/model_final_f6e8b1.pkl",
     "faster_rcnn_r101_fpn"),
    ("COCO-Detection", "fast_rcnn_R_50_FPN_1x/137635226/model_final_e5f7ce.pkl",
     "fast_rcnn_r50_fpn"),
    ("COCO-InstanceSegmentation", "mask_rcnn_R_50_C4_1x/137259246/model_final_9243eb.pkl",
     "mask_rcnn_r50_c4"),
    ("COCO-InstanceSegmentation", "mask_rcnn_R_50_FPN_3x/137849600/model_final_f10217.pkl",
     "mask_rcnn_r50_fpn"),
    ("COCO-InstanceSegmentation", "mask_rcnn_R_101_FPN_3x/138205316/model_final_a3ec72.pkl",
     "mask_rcnn_r101_fpn"),
    ("COCO-InstanceSegmentation", "mask_rcnn_X_101_32x8d_FPN_3x/139653917/model_final_2d9806.pkl",
     "mask_rcnn_x101_fpn"),
    ("Misc", "cascade_mask_rcnn_R_50_FPN_3x/144998488/model_final_480dd8.pkl",
     "cascade_mask_rcnn_r50_fpn"),
    ("COCO-Detection", "retinanet_R_50_FPN_3x/190397829/model_final_5bd44e.pkl",
     "retinanet_r50_fpn"),
    ("COCO-Detection", "retinanet_R_101_FPN_3x/190397697/model_final_971ab9.pkl",
     "retinanet_r101_fpn"),
)  # fmt: skip
CHECKPOINTS = tuple(
    Checkpoint(
        file,
        model,
        "COCO",
        _ZOO,
        f"{_FILES}/{folder}/{file}",
        None,
        f"md5:{file[-10:-4]}",
        "CC BY-SA 3.0",
    )
    for folder, file, model in _MODELS
)
MODELS = tuple(dict.fromkeys(one.model for one in CHECKPOINTS))

# No rounding anywhere; L1 losses; RoIAlign at half-pixel centres, as many samples as cells.
PROFILE: dict[str, Any] = {
    "roi_op": "align",
    "roi_aligned": True,
    "roi_sampling": 0,
    "rpn_beta": 0.0,
    "roi_beta": 0.0,
    "stride_in_1x1": True,
}
PYRAMID: dict[str, Any] = {"level_epsilons": (1e-8, 0.0)}
ONE_MAP: dict[str, Any] = {"anchor_base": None, "anchor_order": "size,ratio"}
MASKS: dict[str, Any] = {"mask_target": "polygon", "mask_paste": "continuous"}
CASCADE: dict[str, Any] = {
    "score_boxes": "own",
    "stage_gradients": (1 / 3, 1 / 3, 1 / 3),
    "append_objects": False,
    "drop_above": None,
    "mask_stages": "first",
}
# Boxes are cut to the image after suppression; losses are divided by an average of the positives.
RETINANET: dict[str, Any] = {
    "stride_in_1x1": True,
    "low_quality": "argmax",
    "box_loss": "l1",
    "normalise": "batch",
    "clip_before_nms": False,
}
PREPROCESS: dict[str, Any] = {
    "channels": "bgr",
    "scale": 1.0,
    "mean": (103.53, 116.28, 123.675),
    "std": (1.0, 1.0, 1.0),
    "multiple": 32,
}

Rules = Sequence[tuple[str, str]]
_RULES: Rules = (
    (r"rpn\.head\.conv\.0\.", "proposal_generator.rpn_head.conv."),
    (r"rpn\.head\.cls\.", "proposal_generator.rpn_head.objectness_logits."),
    (r"rpn\.head\.box\.", "proposal_generator.rpn_head.anchor_deltas."),
    (r"head\.(\d\.)?fc6\.", r"roi_heads.box_head.\g<1>fc1."),
    (r"head\.(\d\.)?fc7\.", r"roi_heads.box_head.\g<1>fc2."),
    (r"predictor\.(\d\.)?cls\.", r"roi_heads.box_predictor.\g<1>cls_score."),
    (r"predictor\.(\d\.)?box\.", r"roi_heads.box_predictor.\g<1>bbox_pred."),
    (r"mask\.convs\.0\.0\.", "roi_heads.mask_head.mask_fcn1."),
    (r"mask\.convs\.1\.0\.", "roi_heads.mask_head.mask_fcn2."),
    (r"mask\.convs\.2\.0\.", "roi_heads.mask_head.mask_fcn3."),
    (r"mask\.convs\.3\.0\.", "roi_heads.mask_head.mask_fcn4."),
    (r"mask\.deconv\.", "roi_heads.mask_head.deconv."),
    (r"mask\.logits\.", "roi_heads.mask_head.predictor."),
)


def recognise(state: State, model: str) -> Imported:
    """By the model asked for; ResNeXts by the width of their groups."""
    if model.startswith("retinanet"):
        return _retinanet(state)
    options = dict(PROFILE)
    cascade, masks = model.startswith("cascade"), "mask" in model
    first = "roi_heads.box_predictor.0" if cascade else "roi_heads.box_predictor"
    count = tensor_of(state, f"{first}.cls_score.weight").shape[0] - 1
    boxes = tensor_of(state, f"{first}.bbox_pred.weight").shape[0] // 4
    options["class_agnostic"] = boxes == 1 and (cascade or count != 1)
    pyramid = "fpn" in model
    options |= PYRAMID if pyramid else ONE_MAP
    options |= MASKS if masks else {}
    options |= {k: v for k, v in CASCADE.items() if masks or k != "mask_stages"} if cascade else {}
    preprocess = dict(PREPROCESS)
    body = "backbone.bottom_up." if pyramid else "backbone."
    grouped = tensor_of(state, f"{body}res2.0.conv2.weight")
    if grouped.shape[1] != grouped.shape[0]:
        width = grouped.shape[1]
        options |= {
            "backbone": f"resnext101_{grouped.shape[0] // width}x{width}d",
            "stride_in_1x1": False,
        }
        preprocess["std"] = (57.375, 57.12, 58.395)
    return Imported(
        options,
        class_names(count),
        namer(body),
        preprocess,
        convert=background_first,
        ignored=_of_no_layer,
    )


def _retinanet(state: State) -> Imported:
    count = classes_of_cells(state, "head.cls_score.weight", "head.bbox_pred.weight")
    return Imported(
        RETINANET, class_names(count), _retinanet_name, PREPROCESS, ignored=_of_no_layer
    )


def _of_no_layer(name: str) -> bool:
    """Anchors and colours, which are made anew here."""
    return "anchor_generator" in name or name.startswith("pixel_")


def _retinanet_name(own: str) -> str:
    body = re.match(r"backbone\.(.*)", own)
    if body:
        return "backbone.bottom_up." + resnet_name(body[1])
    neck = re.match(r"neck\.(inner|outer)\.(\d)\.0\.(\w+)", own)
    if neck:
        part = "fpn_lateral" if neck[1] == "inner" else "fpn_output"
        return f"backbone.{part}{int(neck[2]) + 3}.{neck[3]}"
    subnet = re.match(r"head\.(cls|box)\.convs\.(\d)\.0\.(\w+)", own)
    if subnet:  # a ReLU after each convolution
        part = "cls_subnet" if subnet[1] == "cls" else "bbox_subnet"
        return f"head.{part}.{2 * int(subnet[2])}.{subnet[3]}"
    own = own.replace("neck.p", "backbone.top_block.p")
    return own.replace("head.cls.out.", "head.cls_score.").replace(
        "head.box.out.", "head.bbox_pred."
    )


def namer(body: str) -> Callable[[str], str]:
    """Our names -> Detectron2's, whose backbone's names begin with `body`."""

    def name(own: str) -> str:
        trunk = re.match(r"trunk\.(?:backbone\.)?((?:conv1|bn1|layer\d)\..*)", own)
        if trunk:
            return body + resnet_name(trunk[1])
        blocks = re.match(r"head\.blocks\.(.*)", own)
        if blocks:
            return "roi_heads." + resnet_name(f"layer4.{blocks[1]}")
        neck = re.match(r"trunk\.neck\.(inner|outer)\.(\d)\.0\.(\w+)", own)
        if neck:
            part = "fpn_lateral" if neck[1] == "inner" else "fpn_output"
            return f"backbone.{part}{int(neck[2]) + 2}.{neck[3]}"
        for pattern, start in _RULES:
            found = re.match(pattern, own)
            if found:
                return found.expand(start) + own[found.end() :]
        return own

    return name


def resnet_name(own: str) -> str:
    """conv1, bn1, layerN of torchvision -> stem and resN, a norm inside its convolution."""
    if own.startswith("conv1."):
        return f"stem.{own}"
    if own.startswith("bn1."):
        return f"stem.conv1.norm.{own.removeprefix('bn1.')}"
    own = re.sub(r"layer(\d)", lambda m: f"res{int(m[1]) + 1}", own)
    own = own.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
    return re.sub(r"\.bn(\d)\.", r".conv\1.norm.", own)


def background_first(own: str, value: Tensor) -> Tensor:
    """The last row of a classifier, which is the background's, becomes the first."""
    if re.match(r"predictor\.(\d\.)?cls\.", own):
        return torch.cat([value[-1:], value[:-1]])
    return value
