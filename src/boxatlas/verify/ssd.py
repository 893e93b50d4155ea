"""SSD networks: raw outputs and default boxes, through the importers of public checkpoints."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from boxatlas.detectors.base import Detector
from boxatlas.detectors.dense import DenseDetector
from boxatlas.verify.case import Case, UnsupportedError
from boxatlas.weights import import_model, names_of


def network(case: Case) -> dict[str, Tensor]:
    """loc, conf and priors as the reference has them."""
    run = case.run
    state = case.weights()
    count = int(run["foreground_classes"])
    model = import_model(
        state, source=run["profile"], as_=run["model"],
        classes=[f"class{i}" for i in range(count)], **options(case),
    )  # fmt: skip
    assert isinstance(model, DenseDetector)
    set_norm_eps(model, state, run["profile"], case.params.get("batchnorm_eps", ()))
    raw = model.eval()(case.input())
    found = {"loc": raw["deltas"], "conf": raw["logits"]}
    for entry in case.outputs:
        if entry["name"].startswith("priors"):
            boxes = entry["switches"]["boxes"]
            found[entry["name"]] = written(raw["anchors"], boxes)
    return found


def options(case: Case) -> dict[str, Any]:
    """The case's switches and parameters as options of SSD."""
    switches, params = dict(case.switches), case.params
    made = box_options(switches.pop("boxes"))
    for name in ("boxes_on_first_map", "reduced_tail"):
        if name in switches:
            made[name] = switches.pop(name)
    if switches:
        raise UnsupportedError(f"switches {sorted(switches)}")
    made["variances"] = tuple(params["variances"])
    if "l2norm" in params:
        made["norm_eps"] = params["l2norm"]["eps"]
        made["norm_place"] = params["l2norm"]["place"]
    if "pool_rounding" in params:
        made["ceil_pools"] = (1, 2, 3, 4) if params["pool_rounding"] == "ceil" else ()
    elif "pool3_ceil" in params:
        made["ceil_pools"] = (3,) if params["pool3_ceil"] else ()
    return made


def box_options(boxes: Mapping[str, Any]) -> dict[str, Any]:
    """Default boxes given whole -> the options that make them."""
    levels = boxes["levels"]
    offsets = {level["offset"] for level in levels}
    if len(offsets) > 1 or not boxes["centre"].startswith("(index"):
        raise UnsupportedError("default boxes with offsets of each map")
    return {
        "size": tuple(boxes["image"]),
        "min_sizes": tuple(level["min_size"] for level in levels),
        "max_sizes": tuple(level["max_size"] for level in levels),
        "ratios": tuple(tuple(level["ratios"]) for level in levels),
        "steps": tuple(level["step"] for level in levels),
        "offset": offsets.pop(),
        "clip_boxes": boxes["clip"],
        "truncate_sizes": boxes["truncate_sizes"],
    }


def written(anchors: Tensor, boxes: Mapping[str, Any]) -> Tensor:
    """Anchors, xyxy in pixels, in the form and unit of the reference."""
    height, width = boxes["image"]
    out = anchors.double()
    if boxes["unit"] == "relative":
        out = out / out.new_tensor([width, height, width, height])
    if boxes["form"] == "cxcywh":
        low, high = out[:, :2], out[:, 2:]
        out = torch.cat([(low + high) / 2, high - low], dim=1)
    return out.float()


def set_norm_eps(
    model: Detector, state: Mapping[str, Tensor], source: str, rules: Any
) -> None:  # fmt: skip
    """Each batch norm's epsilon by the first rule that its name in the reference matches."""
    name_of = names_of(state, source, model.name)
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            theirs = name_of(f"{name}.weight").removesuffix(".weight")
            for pattern, eps in rules:
                if re.search(pattern, theirs):
                    module.eps = eps
                    break


_NAMES = (
    "ssd300_vgg16_caffe", "ssd512_vgg16_caffe", "ssd300_vgg16_amdegroot", "ssd300_vgg16_lufficc",
    "ssd512_vgg16_lufficc", "ssd300_6box_vgg16_pytorchssd", "ssd300_vgg16_torchvision",
    "ssdlite320_mobilenet_v3_large_torchvision",
)  # fmt: skip
CASES = dict.fromkeys(_NAMES, network)
