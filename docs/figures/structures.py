"""Which parts of each method's network its page shows. Shapes are asked of the network itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

import boxatlas
from boxatlas.figures.structure import Part, draw_structure, trace


@dataclass(frozen=True)
class Shown:
    """A model, the input it is shown for, and its parts from the image to the answers."""

    model: str
    size: tuple[int, int]
    parts: tuple[Part, ...]
    options: dict[str, Any] = field(default_factory=dict)


_BOXES = "channels = boxes of a cell × 4"
_CLASSES = "channels = boxes of a cell × (20 classes + background)"
_DENSE = (
    Part("class predictors", "head.cls.*", _CLASSES),
    Part("box predictors", "head.reg.*", _BOXES, beside=True),
)
_RPN = (
    Part("RPN: object or not", "rpn.head.cls", "for each anchor of a position"),
    Part(
        "RPN: box deltas", "rpn.head.box", "four for each anchor; the best become RoIs", beside=True
    ),
)
_TWO_FC = (
    Part("fc6 and fc7 of each RoI", "head.fc?", "from 7 × 7 cells of each RoI"),
    Part("classes of each RoI", "predictor.cls"),
    Part("boxes of each RoI", "predictor.box", "four for each class", beside=True),
)
_C = "C2 to C5: the last map of each stage"
SHOWN = {
    "rcnn": Shown(
        "rcnn_alexnet",
        (227, 227),
        (
            Part("convolutions", "network.trunk.conv?", "of one warped crop"),
            Part("fc6 and fc7", "network.fc.fc?", "what the SVMs read, by feature_layer"),
        ),
    ),
    "fast_rcnn": Shown(
        "fast_rcnn_vgg16",
        (600, 800),
        (
            Part("VGG-16 to conv5_3", "trunk", "once for the whole image"),
            *_TWO_FC,
        ),
    ),
    "faster_rcnn": Shown(
        "faster_rcnn_vgg16",
        (600, 800),
        (
            Part("VGG-16 to conv5_3", "trunk", "RPN and heads share it"),
            *_RPN,
            *_TWO_FC,
        ),
    ),
    "rfcn": Shown(
        "rfcn_r101",
        (600, 800),
        (
            Part(
                "ResNet-101: conv4 and conv5", "trunk", "conv5 dilated, so that it keeps stride 16"
            ),
            *_RPN,
            Part("score maps", "score.cls", "7 × 7 parts × (20 classes + background)"),
            Part("box maps", "score.box", "7 × 7 parts × 4 × 2 (object, background)", beside=True),
        ),
    ),
    "fpn": Shown(
        "faster_rcnn_r50_fpn",
        (768, 1024),
        (
            Part("ResNet-50", "trunk.backbone", _C, along="coarser"),
            Part("lateral 1×1", "trunk.neck.inner.*"),
            Part(
                "P2 to P6", "trunk.neck", "a lateral plus the coarser level, doubled", along="finer"
            ),
            *_RPN,
            *_TWO_FC,
        ),
    ),
    "mask_rcnn": Shown(
        "mask_rcnn_r50_fpn",
        (768, 1024),
        (
            Part("ResNet-50", "trunk.backbone", _C, along="coarser"),
            Part("P2 to P6", "trunk.neck", along="finer"),
            *_RPN,
            *_TWO_FC,
            Part(
                "mask branch: four convolutions",
                "mask.convs.*",
                "on 14 × 14 cells of each RoI",
                along="coarser",
                beside=True,
                roi=True,
            ),
            Part("deconvolution", "mask.deconv", roi=True),
            Part("a mask for each class", "mask.logits", roi=True),
        ),
    ),
    "cascade_rcnn": Shown(
        "cascade_rcnn_r50_fpn",
        (768, 1024),
        (
            Part("ResNet-50", "trunk.backbone", _C, along="coarser"),
            Part("P2 to P6", "trunk.neck", along="finer"),
            *_RPN,
            Part(
                "head of each stage: fc7",
                "head.*.fc7",
                "each pools the boxes of the stage before",
                along="coarser",
            ),
            Part("classes of each stage", "predictor.*.cls"),
            Part(
                "boxes of each stage", "predictor.*.box", "one box, whatever the class", beside=True
            ),
        ),
    ),
    "yolov1": Shown(
        "yolov1",
        (448, 448),
        (
            Part("20 convolutions", "backbone", "pre-trained on ImageNet"),
            Part("4 more", "convs.?", along="coarser"),
            Part("fully connected", "top.1"),
            Part("all numbers of all cells", "top.4", "7 × 7 × (20 classes + 2 boxes × 5)"),
        ),
    ),
    "yolov2": Shown(
        "yolov2",
        (416, 416),
        (
            Part("Darknet-19", "backbone", "the maps of stride 16 and 32"),
            Part("two convolutions", "tower"),
            Part("passthrough", "reorg", "2 × 2 neighbours of the finer map become channels"),
            Part("joined", "join"),
            Part("answers", "head", "5 priors × (4 + objectness + 20 classes)"),
        ),
        {"size": 416},
    ),
    "yolo9000": Shown(
        "yolo9000",
        (544, 544),
        (
            Part("Darknet-19", "backbone"),
            Part(
                "answers",
                "head",
                "3 priors × (4 + objectness + the words of the tree); here 20 words",
            ),
        ),
    ),
    "yolov3": Shown(
        "yolov3",
        (416, 416),
        (
            Part("Darknet-53", "backbone", "strides 8, 16, 32"),
            Part(
                "towers, coarse to fine",
                "towers.?.last",
                "each also reads what the coarser one hands on",
                along="finer",
            ),
            Part("passed on, doubled", "laterals.?"),
            Part("answers", "heads.?", "3 priors × (4 + objectness + 20 classes)"),
        ),
    ),
    "ssd": Shown(
        "ssd300_vgg16",
        (300, 300),
        (
            Part("VGG-16: conv4_3 and fc7", "backbone"),
            Part("six maps", "neck", "extra layers halve the map again and again", along="coarser"),
            *_DENSE,
        ),
    ),
    "dssd": Shown(
        "dssd321_r101",
        (321, 321),
        (
            Part("ResNet-101", "backbone"),
            Part("SSD's maps", "neck", along="coarser"),
            Part(
                "deconvolution modules",
                "decoder",
                "each joins the coarser map, doubled, with its own",
                along="finer",
            ),
            Part("prediction modules", "before.*"),
            *_DENSE,
        ),
    ),
    "fssd": Shown(
        "fssd300_vgg16",
        (300, 300),
        (
            Part("VGG-16", "backbone"),
            Part(
                "fused map",
                "neck.fusion",
                "conv4_3, fc7 and conv7_2, brought to one size and joined",
            ),
            Part("a pyramid from it", "neck.pyramid", along="coarser"),
            *_DENSE,
        ),
    ),
    "dsod": Shown(
        "dsod300",
        (300, 300),
        (
            Part("dense blocks", "backbone", "learn from random weights"),
            Part(
                "dense prediction",
                "neck",
                "half of each map is learned, half comes from the finer one",
                along="coarser",
            ),
            *_DENSE,
        ),
    ),
    "retinanet": Shown(
        "retinanet_r50_fpn",
        (768, 1024),
        (
            Part("ResNet-50", "backbone", "C3 to C5"),
            Part("P3 to P7", "neck", along="finer"),
            Part("class subnet", "head.cls", "9 anchors × 20 classes, one subnet for all levels"),
            Part("box subnet", "head.box", "9 anchors × 4", beside=True),
        ),
    ),
    "refinedet": Shown(
        "refinedet320_vgg16",
        (320, 320),
        (
            Part("VGG-16 and an extra block", "neck", along="coarser"),
            Part("first step: object or not", "arm.cls.*", "3 anchors × 2"),
            Part(
                "first step: boxes",
                "arm.reg.*",
                "3 anchors × 4: they move the anchors",
                beside=True,
            ),
            Part("transfer connections", "transfer", along="finer"),
            Part("second step: classes", "head.cls.*", "3 anchors × (20 + background)"),
            Part(
                "second step: boxes",
                "head.reg.*",
                "3 anchors × 4, from the moved anchors",
                beside=True,
            ),
        ),
    ),
    "rfbnet": Shown(
        "rfbnet300_vgg16",
        (300, 300),
        (
            Part("VGG-16: conv4_3 and fc7", "backbone"),
            Part(
                "six maps through RFBs",
                "neck",
                "branches of different kernels and dilations",
                along="coarser",
            ),
            *_DENSE,
        ),
    ),
    "m2det": Shown(
        "m2det320_vgg16",
        (320, 320),
        (
            Part("VGG-16", "backbone", "conv4_3 and conv5_3"),
            Part("base feature", "neck.base"),
            Part(
                "first U-shape",
                "neck.tums.0",
                "one of eight; each reads the base and the one before",
            ),
            Part("last U-shape", "neck.tums.7"),
            Part("eight joined, level by level", "neck", "with attention over channels"),
            *_DENSE,
        ),
    ),
}


def structure(method: str) -> str:
    """The SVG of a method's network."""
    shown = SHOWN[method]
    with torch.device("meta"):
        model = boxatlas.create_model(shown.model, **shown.options)
    rows = trace(model, shown.parts, shown.size)
    what = f"{shown.model}: image 3 × {shown.size[0]} × {shown.size[1]}"
    return draw_structure(rows, f"The network of {shown.model}, part by part", what)
