"""Every model, small enough to be exported in seconds, and what an exported file must do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import torch
from spread import spread

import boxatlas
from boxatlas.export import export_onnx
from boxatlas.export.onnx_file import OPSET
from boxatlas.photos import photos

PHOTO = photos()[0].path
_FEW: dict[str, Any] = {"proposals_detect": (100, 40)}
_ANCHORS: dict[str, Any] = {"anchor_sizes": (8, 16, 32, 64, 128)}
_RESNET: dict[str, Any] = {"backbone": "resnet18", "size": (96, 128)}


def small(name: str) -> dict[str, Any]:
    """Options under which a model is small; its structure stays."""
    light = "efficientnet" in name or "mobilenet" in name
    if name.startswith("yolo"):
        if name.startswith("yolov1"):
            return {"size": 256} | ({} if "tiny" in name else {"width": 0.1, "hidden": 64})
        return {"size": 96} | ({} if light else {"width": 0.1})
    if name.startswith("rcnn"):
        return {"crop_size": 64, "crop_padding": 4} if light else {}
    if "rcnn" in name or name.startswith("rfcn"):
        return _small_region(name, light)
    if name.startswith("retinanet"):
        if light:
            return {"size": 128}
        group = {} if name.endswith("v2") else {"width": 16}
        return {**_RESNET, "head_convs": 1, "width": 32, **group}
    if name.startswith(("ssdlite", "rfbnet300_mobilenet", "dsod")):
        return {"size": 160}
    if "r101" in name:
        return {"size": 129 if "dssd" in name or name.startswith("ssd") else 128}
    return {"size": 128 if name.startswith(("refinedet", "m2det")) else 160}


def _small_region(name: str, light: bool) -> dict[str, Any]:
    few = {} if name.startswith("fast_") else dict(_FEW)
    if light:
        extra = {"k": 3, "conv_width": 32} if name.startswith("rfcn") else {}
        return {"size": 128, **few, **extra}
    one_map = {"size": 96, "min_size": 4.0} if few else {"size": 96}
    if name.endswith(("zf", "vgg16", "alexnet")):
        sizes = {"anchor_sizes": (16, 32, 64)} if few else {}
        return {**one_map, "box_width": 32, **few, **sizes}
    made = {**_RESNET, **few}
    if name == "mask_rcnn_r50_c4":
        return {"size": (96, 128), **few}
    if name.startswith("rfcn"):
        return {**made, "conv_width": 16, "k": 3} | (_ANCHORS if "fpn" in name else {})
    if "fpn" in name:
        made |= {"width": 16, "box_width": 16} | (_ANCHORS if few else {})
    if "mask" in name:
        made |= {"mask_convs": 1, "mask_width": 8}
    return made


def finds_the_same(
    name: str, options: dict[str, Any], path: Path, *, with_nms: bool = False
) -> None:
    """A spread-out model's file finds what it finds, for one image and for three, is of standard
    operators alone, and leaves the model as it was."""
    detector = spread(name, **options)
    before = {key: value.clone() for key, value in detector.state_dict().items()}
    found = detector.detect(PHOTO, score=0.0) if not detector.takes_proposals else None
    done = export_onnx(detector, path, with_nms=with_nms)
    assert done.agreement.detections >= 2 * 20  # 20 of each photo
    assert done.agreement.missing == 0
    assert all(torch.equal(before[key], value) for key, value in detector.state_dict().items())
    if found is not None:
        again = detector.detect(PHOTO, score=0.0)
        assert torch.equal(again.boxes, found.boxes)
    model = onnx.load(path)
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    _batches_are_free(detector, boxatlas.load(path))


def _batches_are_free(detector: boxatlas.Detector, deployed: boxatlas.Detector) -> None:
    """Each image of a batch of 3 has the outputs that it has alone."""
    images, frames = detector.preprocess.batch([PHOTO] * 3)
    rois = torch.tensor([[[2.0, 3.0, 60.0, 70.0], [10.0, 10.0, 90.0, 50.0]]]).repeat(3, 1, 1)
    given = rois if detector.takes_proposals else None
    three = deployed(images, frames, given)
    alone = deployed(images[:1], frames[:1], None if given is None else given[:1])
    for name, value in alone.items():
        if value.shape[:1] == (1,):
            assert three[name].shape[0] == 3
            torch.testing.assert_close(three[name][2:], value, rtol=1e-3, atol=1e-2)
