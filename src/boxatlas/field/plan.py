"""What the field trains, and how: one table of methods, one of families.

Alike for all: EfficientNet-Lite0 up to stride 32, its norms folded and its layers up to stride 4 as
they are; the same start; images stretched to 224 x 224 pixels, also for methods whose papers keep
the aspect; the same images in the same order, flipped or not; batches of eight; AdamW with the same
weight decay; one shape of schedule. A family has its own rate and warm-up, found by the same small
search.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from boxatlas.errors import InputError, nearest
from boxatlas.training import Recipe

BACKBONE = "timm/tf_efficientnet_lite0"
SIDE = 224  # of the input, a square
BATCH = 8
STAGES = (7_500, 15_000, 30_000, 60_000)  # images after which a method is judged
FIRST_LAYERS = ("conv_stem", "blocks.0", "blocks.1")  # up to stride 4: not trained

Start = Literal["bundled", "imagenet", "none"]


@dataclass(frozen=True)
class Family:
    """What the methods of a family are trained with. searched: rate -> COCO AP after 6,000 images,
    of the method named, on a tenth of the training images that was held out (which the start has
    partly seen, so that the numbers compare rates and nothing else)."""

    lr: float
    warmup: int  # iterations
    searched: Mapping[str, Mapping[float, float]]


FAMILIES = {
    "single shot": Family(1e-3, 100, {"ssd": {3e-3: 0.068, 1e-3: 0.183, 5e-4: 0.162}}),
    "YOLO": Family(1e-3, 100, {"yolov3": {1e-3: 0.145, 5e-4: 0.134}}),
    "dense pyramid": Family(1e-3, 100, {"retinanet": {3e-3: 0.044, 1e-3: 0.154}}),
    "regions": Family(5e-4, 100, {"fpn": {1e-3: 0.235, 5e-4: 0.265}}),
    "from scratch": Family(1e-3, 100, {}),
}


@dataclass(frozen=True)
class Entry:
    """A method of the field. name: as in `field/NAME`, that of the method's file where it is the
    method's only entry; options: beside backbone, folded norms and size; note: for the table."""

    name: str
    model: str
    family: str
    options: Mapping[str, Any] = field(default_factory=dict)
    start: Start = "bundled"
    backbone: bool = True  # the common one
    note: str = ""


_LITE0 = "320_efficientnet_lite0"
_NARROW = {"box_width": 256}  # of fully connected layers, most of a region method's weights

ENTRIES = (
    Entry("ssd", f"ssdlite{_LITE0}", "single shot"),
    Entry("fpn", f"faster_rcnn{_LITE0}_fpn", "regions", _NARROW),
    Entry("yolov3", "yolov3_efficientnet_lite0", "YOLO", {"resize": "stretch"}),
    Entry(
        "retinanet",
        f"retinanet{_LITE0}_fpn",
        "dense pyramid",
        {"head_norm": "group"},
        note="group norm in the heads: without it 0.05 mAP at 0.5 after 6,000 images",
    ),
    Entry("faster_rcnn", f"faster_rcnn{_LITE0}", "regions"),
    Entry("yolov2", "yolov2_efficientnet_lite0", "YOLO", {"resize": "stretch", "anchors": "data"}),
    Entry("refinedet", "refinedet320_vgg16", "single shot", {"transfer_width": 128}),
    Entry("rfbnet", "rfbnet300_vgg16", "single shot"),
    Entry("fssd", "fssd300_vgg16", "single shot", {"pyramid_width": 256}),
    Entry("rfcn", f"rfcn{_LITE0}", "regions"),
    Entry(
        "dssd",
        "dssd321_r101",
        "single shot",
        {"module_widths": 64, "decoder_width": 128, "extra_width": 64, "fusion": "sum"},
        note="its decoder adds: products of five maps run away",
    ),
    Entry("m2det", "m2det320_vgg16", "single shot", {"tums": 4, "planes": 64}),
    Entry("cascade_rcnn", f"cascade_rcnn{_LITE0}_fpn", "regions", _NARROW),
    Entry("fast_rcnn", f"fast_rcnn{_LITE0}", "regions"),
    Entry("mask_rcnn", f"mask_rcnn{_LITE0}_fpn", "regions", _NARROW),
    Entry("ssd_scratch", f"ssdlite{_LITE0}", "from scratch", start="none"),
    Entry(
        "dsod",
        "dsod300",
        "from scratch",
        {"stem": 32, "bottleneck": 64, "growth": 16},
        start="none",
        backbone=False,
    ),
    Entry("ssd_imagenet", f"ssdlite{_LITE0}", "single shot", start="imagenet"),
    Entry(
        "retinanet_imagenet",
        f"retinanet{_LITE0}_fpn",
        "dense pyramid",
        {"head_norm": "group"},
        start="imagenet",
    ),
    Entry(
        "fpn_imagenet",
        f"faster_rcnn{_LITE0}_fpn",
        "regions",
        _NARROW,
        start="imagenet",
    ),
)

# Registered methods that are no entry, and why.
APART = {
    "YOLO": "fully connected layers share nothing between cells: near 0 after short trainings",
    "YOLO9000": "joint training with words: benchmarks/joint.py",
    "Cascade Mask R-CNN": "the data has no masks; its boxes are Cascade R-CNN's",
    "R-CNN": "its own pipeline of fine-tuning, SVMs and box regressors",
}


def entry(name: str) -> Entry:
    """The entry of a name. Raises InputError naming the nearest."""
    for one in ENTRIES:
        if one.name == name:
            return one
    known = [one.name for one in ENTRIES]
    raise InputError("is not in the field", field="NAME", value=name, hint=nearest(name, known))


def options_of(one: Entry) -> dict[str, Any]:
    """All options that an entry's detector is built with."""
    own: dict[str, Any] = {"size": SIDE}
    if one.backbone:
        own |= {"backbone": BACKBONE, "fold_norms": one.start != "none"}
    return own | dict(one.options)


def iterations(images: int) -> int:
    """Steps of the optimizer in which so many images are seen."""
    return -(-images // BATCH)


def recipe_of(one: Entry, data: str | Path, images: int) -> Recipe:
    """How an entry is trained on `images` images of a data set's training split.

    The rate stays constant for four fifths and then falls to a hundredth, so that a longer training
    begins alike.
    """
    family = FAMILIES[one.family]
    common = one.backbone and one.start != "none"
    return Recipe.of(
        model=one.model,
        options=options_of(one),
        preprocess={"resize": "stretch", "size": [SIDE, SIDE]},
        init=one.start,
        data=[str(data)],
        val_split="none",
        augment="flip",
        iterations=iterations(images),
        batch=BATCH,
        optimizer="adamw",
        lr=family.lr,
        weight_decay=0.02,
        clip=10.0,
        schedule="constant_decay",
        final_lr=0.01,
        warmup=family.warmup,
        ema=0.99,
        lr_scale={"*body.*": 0.2} if common else {},
        freeze=[f"*body.{layer}*" for layer in FIRST_LAYERS] if common else [],
        eval_every=iterations(images),
        save_minutes=3.0,
        workers=0,
        seed=0,
    )
