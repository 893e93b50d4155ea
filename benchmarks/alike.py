"""Configurations on one light backbone, for trainings that are to be compared on a small machine.

Used by train_alike.py and overfit.py. A model given as NAME takes the options of LIGHT; more are
added as NAME:option=value,option=value. The input has the same area for all: `size` is the side of
a square, or what gives its area at 4:3 where the shorter side is what a model is given.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import yaml

BACKBONE = "timm/tf_efficientnet_lite0"

# Options beside the backbone, the ImageNet weights and the size. A pyramid's coarse levels cost
# little; narrower layers and fewer RoIs keep a step on two cores near that of SSDlite.
# DSSD's decoder adds: products of five maps run away in few steps (docs/methods/dssd.md).
LIGHT: dict[str, dict[str, Any]] = {
    "ssdlite320_efficientnet_lite0": {},
    "fssd300_vgg16": {},
    "rfbnet300_vgg16": {},
    "refinedet320_vgg16": {},
    "dssd321_r101": {
        "module_widths": 64,
        "decoder_width": 128,
        "extra_width": 64,
        "fusion": "sum",
    },
    "m2det320_vgg16": {"tums": 4, "planes": 64},
    "dsod300": {"stem": 32, "bottleneck": 64, "growth": 16},
    "retinanet320_efficientnet_lite0_fpn": {},
    "faster_rcnn320_efficientnet_lite0_fpn": {},
    "yolov2_efficientnet_lite0": {"resize": "stretch", "anchors": "data"},
    "yolov3_efficientnet_lite0": {"resize": "stretch"},
}
# Models whose trunk cannot be chosen, or that take no ImageNet weights here.
OWN_BACKBONE: set[str] = {"dsod300", "yolov1_tiny", "yolov2_tiny", "yolov3_tiny"}


@dataclass(frozen=True)
class Light:
    """A model, its options, and a name for tables and folders."""

    label: str
    model: str
    options: dict[str, Any]

    @property
    def init(self) -> str:
        scratch = self.model in OWN_BACKBONE or self.options.get("pretrained") is False
        return "none" if scratch else "imagenet"

    @property
    def folder(self) -> str:
        return "".join(c if c.isalnum() or c in "_-." else "-" for c in self.label)

    @property
    def first(self) -> list[str]:
        """The backbone's layers up to stride 4, where it is the common one."""
        if self.options.get("backbone") != BACKBONE:
            return []
        return [f"*body.{part}*" for part in ("conv_stem", "blocks.0", "blocks.1")]


def light(text: str, size: int, *, folded: bool = False) -> Light:
    """NAME or NAME:option=value,... as a configuration at that size.

    folded: the common backbone's batch norms go into its convolutions before it learns.
    """
    from boxatlas import create_model

    name, _, rest = text.partition(":")
    own = dict(LIGHT.get(name, {}))
    if name not in OWN_BACKBONE:
        own.setdefault("backbone", BACKBONE)
        if folded:
            own.setdefault("fold_norms", True)
    for pair in filter(None, re.split(r",(?=\w+=)", rest)):  # a list has commas of its own
        key, _, value = pair.partition("=")
        own[key] = yaml.safe_load(value)
    if "size" not in own:
        probe = create_model(name, num_classes=3, **own)
        shorter = probe.preprocess.resize == "shorter"
        own["size"] = round(size * 0.75**0.5) if shorter else size
    return Light(text, name, own)
