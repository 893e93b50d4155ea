"""The comparison that surveys of the field print: published speed and accuracy on COCO.

FPS as published, each on its authors' GPU, so that only large differences mean something. `model`
is our name for the method, `options` what it is built with where its size differs from the name's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from boxatlas.registry import ModelInfo


def headline(info: ModelInfo) -> tuple[float | None, float | None, float | None]:
    """(FPS, COCO AP, VOC2007 mAP at 0.5): the best that was published of a model's own training
    and one scale of the image."""
    coco = [
        p
        for p in info.published
        if p.data.startswith("COCO") and p.metric == "AP" and "many scales" not in p.data
    ]
    voc = [p for p in info.published if p.data.startswith("VOC07") and "COCO" not in p.data]
    rates = [p.fps for p in (*coco, *voc) if p.fps]
    return (
        max(rates, default=None),
        max((p.value for p in coco), default=None),
        max((p.value for p in voc), default=None),
    )


@dataclass(frozen=True)
class SurveyRow:
    """One published line: FPS, and AP in percent on COCO test-dev."""

    method: str
    backbone: str
    input: str
    fps: float
    ap: float
    model: str
    options: dict[str, Any] = field(default_factory=dict)


def _retinanet(short: int, long: int) -> dict[str, Any]:
    return {"size": (short, long)}


SURVEY = (
    SurveyRow("Faster R-CNN", "VGG-16", "~1000x600", 7.0, 21.9, "faster_rcnn_vgg16"),
    SurveyRow("R-FCN", "ResNet-101", "~1000x600", 9.0, 29.9, "rfcn_r101"),
    SurveyRow("Faster R-CNN", "ResNet-101-FPN", "~1000x600", 7.0, 36.2, "faster_rcnn_r101_fpn"),
    SurveyRow("Mask R-CNN", "ResNeXt-101", "~1280x800", 3.3, 39.8, "mask_rcnn_x101_fpn"),
    SurveyRow("Cascade R-CNN", "ResNet-101-FPN", "~1280x800", 7.1, 42.8, "cascade_rcnn_r101_fpn"),
    SurveyRow("SSD300*", "VGG-16", "300x300", 43.0, 25.1, "ssd300_vgg16"),
    SurveyRow("DSSD321", "ResNet-101", "321x321", 9.5, 28.0, "dssd321_r101"),
    SurveyRow(
        "RetinaNet400",
        "ResNet-101-FPN",
        "~640x400",
        12.3,
        31.9,
        "retinanet_r101_fpn",
        _retinanet(400, 667),
    ),
    SurveyRow("RFBNet300", "VGG-16", "300x300", 66.6, 30.3, "rfbnet300_vgg16"),
    SurveyRow("RefineDet320", "VGG-16", "320x320", 38.7, 29.4, "refinedet320_vgg16"),
    SurveyRow("M2Det320", "VGG-16", "320x320", 33.4, 33.5, "m2det320_vgg16"),
    SurveyRow("M2Det320", "ResNet-101", "320x320", 21.7, 34.3, "m2det320_r101"),
    SurveyRow("YOLOv3", "Darknet-53", "608x608", 19.8, 33.0, "yolov3", {"size": 608}),
    SurveyRow("SSD512*", "VGG-16", "512x512", 22.0, 28.8, "ssd512_vgg16"),
    SurveyRow("DSSD513", "ResNet-101", "513x513", 5.5, 33.2, "dssd513_r101"),
    SurveyRow(
        "RetinaNet500",
        "ResNet-101-FPN",
        "~832x500",
        11.1,
        34.4,
        "retinanet_r101_fpn",
        _retinanet(500, 833),
    ),
    SurveyRow("RFBNet512-E", "VGG-16", "512x512", 30.3, 34.4, "rfbnet512e_vgg16"),
    SurveyRow("RefineDet512", "VGG-16", "512x512", 22.3, 33.0, "refinedet512_vgg16"),
    SurveyRow("M2Det512", "VGG-16", "512x512", 18.0, 37.6, "m2det512_vgg16"),
    SurveyRow("M2Det512", "ResNet-101", "512x512", 15.8, 38.8, "m2det512_r101"),
    SurveyRow("RetinaNet800", "ResNet-101-FPN", "~1280x800", 5.0, 39.1, "retinanet_r101_fpn"),
    SurveyRow("M2Det800", "VGG-16", "800x800", 11.8, 41.0, "m2det800_vgg16"),
)
