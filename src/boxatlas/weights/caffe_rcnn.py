"""R-CNN's fine-tuned networks: CaffeNet with a softmax over the classes and the background."""

from __future__ import annotations

from typing import Any

from boxatlas.errors import InputError
from boxatlas.weights.source import Checkpoint, Imported, State, class_names, tensor_of

_WHERE = "rbgirshick/rcnn, data/fetch_models.sh (as named arrays, npz)"
_ARCHIVE: dict[str, Any] = {
    "url": "https://dl.dropboxusercontent.com/s/og7ghmiken2olzh/r-cnn-release1-data.tgz",
    "megabytes": 1536,
    "checksum": "md5:758aff9fa51d830be3281f91a8b03126",
    "licence": "BSD-2-Clause",
}
CHECKPOINTS = (
    Checkpoint(
        "finetune_voc_2007_trainval_iter_70k", "rcnn_alexnet", "VOC 07 trainval", _WHERE, **_ARCHIVE
    ),
    Checkpoint(
        "finetune_voc_2012_train_iter_70k", "rcnn_alexnet", "VOC 12 train", _WHERE, **_ARCHIVE
    ),
    Checkpoint(
        "finetune_ilsvrc13_val1+train1k_iter_50000", "rcnn_alexnet", "ILSVRC13", _WHERE, **_ARCHIVE
    ),
)
MODELS = ("rcnn_alexnet",)

# The SVMs and box regressors are no part of a .caffemodel: what is imported is the softmax.
PROFILE = {"classifier": "softmax", "box_regression": False}


def recognise(state: State, model: str) -> Imported:
    """The classes by the rows of the last layer, whose name tells the data set (fc8_pascal)."""
    last = next((name for name in state if name.startswith("fc8") and "weight" in name), None)
    if last is None:
        raise InputError("no such tensor: the file is not of this source and model", field="fc8")
    layer = last.removesuffix(".weight")

    def name(own: str) -> str:
        part, leaf = own.rsplit(".", 1)
        return f"{layer}.{leaf}" if part == "classifier" else f"{part.rsplit('.', 1)[-1]}.{leaf}"

    return Imported(dict(PROFILE), class_names(tensor_of(state, last).shape[0] - 1), name)
