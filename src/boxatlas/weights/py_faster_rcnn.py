"""Fast and Faster R-CNN by their author (Caffe), as named arrays: "conv1_1.weight", "fc6.bias", ...

A .caffemodel is first written as an npz (or a dict) of its layers' blobs under these names. Corners
are pixels that belong to a box; released weights predict plain shifts and ratios, which nothing
bounds; inputs are BGR 0..255 less the mean colour and are not padded.
"""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from boxatlas.weights.source import Checkpoint, Imported, State, class_names, tensor_of

_WHERE = "rbgirshick/py-faster-rcnn (as named arrays, npz)"
_FAST = "rbgirshick/fast-rcnn (as named arrays, npz)"
_BOX = "https://dl.dropboxusercontent.com/s"
_FASTER_FILES: dict[str, Any] = {
    "url": "http://www.cs.berkeley.edu/~rbg/faster-rcnn-data/faster_rcnn_models.tgz",
    "megabytes": 695,
    "checksum": "md5:ac116844f66aefe29587214272054668",
    "licence": "MIT",
}
_FAST_FILES: dict[str, Any] = {
    "url": f"{_BOX}/e3ugqq3lca4z8q6/fast_rcnn_models.tgz",
    "megabytes": 983,
    "checksum": "md5:5f7dde9f5376e18c8e065338cc5df3f7",
    "licence": "MIT",
}
_COCO = "coco_vgg16_faster_rcnn_final.caffemodel"
CHECKPOINTS = (
    *(
        Checkpoint(f"{file}.caffemodel", model, "VOC 07", where, **files)
        for file, model, where, files in (
            ("VGG16_faster_rcnn_final", "faster_rcnn_vgg16", _WHERE, _FASTER_FILES),
            ("ZF_faster_rcnn_final", "faster_rcnn_zf", _WHERE, _FASTER_FILES),
            ("vgg16_fast_rcnn_iter_40000", "fast_rcnn_vgg16", _FAST, _FAST_FILES),
            ("caffenet_fast_rcnn_iter_40000", "fast_rcnn_alexnet", _FAST, _FAST_FILES),
        )
    ),
    Checkpoint(
        _COCO, "faster_rcnn_vgg16", "COCO", _WHERE, f"{_BOX}/cotx0y81zvbbhnt/{_COCO}", licence="MIT"
    ),
)
MODELS = tuple(dict.fromkeys(one.model for one in CHECKPOINTS))

PROFILE: dict[str, Any] = {
    "inclusive": True,
    "roi_weights": (1.0, 1.0, 1.0, 1.0),
    "box_clamp": None,
    "background_box": True,
    "ceil_pools": True,
}
PREPROCESS: dict[str, Any] = {
    "channels": "bgr",
    "scale": 1.0,
    "mean": (102.9801, 115.9465, 122.7717),
    "std": (1.0, 1.0, 1.0),
    "multiple": 1,
}

_RULES = (
    (r"trunk\.(?:network\.)?(conv\d(?:_\d)?)\.", r"\1."),
    (r"rpn\.head\.conv\.0\.", "rpn_conv/3x3."),
    (r"rpn\.head\.cls\.", "rpn_cls_score."),
    (r"rpn\.head\.box\.", "rpn_bbox_pred."),
    (r"head\.(fc\d(?:_[LU])?)\.", r"\1."),
    (r"predictor\.cls\.", "cls_score."),
    (r"predictor\.box\.", "bbox_pred."),
)


def recognise(state: State, model: str) -> Imported:
    """By the model asked for; COCO's has anchors of a fourth size."""
    options = dict(PROFILE)
    if model.startswith("fast_"):
        options["code_inclusive"] = False  # the first program's widths are x2 - x1
    outputs = tensor_of(state, "cls_score.weight").shape[0]
    options["class_agnostic"] = tensor_of(state, "bbox_pred.weight").shape[0] == 8 != 4 * outputs
    if "rpn_cls_score.weight" in state and tensor_of(state, "rpn_cls_score.weight").shape[0] == 24:
        options["anchor_sizes"] = (64, 128, 256, 512)
    if "fc6_L.weight" in state:
        ranks = (tensor_of(state, f"{fc}_L.weight").shape[0] for fc in ("fc6", "fc7"))
        options["truncated_svd"] = tuple(ranks)
    convert = _halved if model == "faster_rcnn_zf" else _same
    return Imported(options, class_names(outputs - 1), _name, PREPROCESS, convert=convert)


def _same(name: str, value: Tensor) -> Tensor:
    return value


def _halved(name: str, value: Tensor) -> Tensor:
    """ZF's dropout (`scale_train: false`) halves fc6 and fc7 in testing, not in training.

    The layers after them are halved instead, since their inputs here are whole.
    """
    after = ("head.fc7.weight", "predictor.cls.weight", "predictor.box.weight")
    return value * 0.5 if name in after else value


def _name(own: str) -> str:
    for pattern, start in _RULES:
        found = re.match(pattern, own)
        if found:
            return found.expand(start) + own[found.end() :]
    return own
