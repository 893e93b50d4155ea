"""Faster R-CNN with a pyramid: maps, RPN, anchors, RoI features, head and boxes.

Public: CASES; built, box_values, map_values, which other detectors with torchvision's layout share.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from boxatlas.boxes.anchors import AnchorRule
from boxatlas.boxes.formats import clip
from boxatlas.parts.region.detector import LevelRule, RegionDetector
from boxatlas.parts.region.rpn import Anchors
from boxatlas.verify.case import Case, UnsupportedError, expect
from boxatlas.verify.region_ops import coder
from boxatlas.weights import import_model

_VALUES: dict[str, tuple[str, dict[Any, Any]]] = {
    "batch_norm": ("norm", {"frozen": "frozen", "real": "batch"}),
    "fpn_norm": ("fpn_norm", {"none": "none", "batch_norm": "batch"}),
    "box_head": ("box_head", {"2fc": "2fc", "4conv_bn_1fc": "4conv1fc"}),
    "roi_op": ("roi_op", {"roi_align": "align", "roi_pool": "pool"}),
    "p6_from": ("p6", {"p5_maxpool": "maxpool", "p5_conv": "conv"}),
}
_SAME = {
    "backbone": "backbone",
    "stride_in_1x1": "stride_in_1x1",
    "batch_norm_eps": "norm_eps",
    "fpn_channels": "width",
    "rpn_convs": "rpn_convs",
    "rpn_cls": "rpn_cls",
    "box_head_channels": "box_width",
    "class_agnostic_box": "class_agnostic",
}


def network(case: Case) -> dict[str, Any]:
    """Every output of a case without masks."""
    expect(case.switches, mask_head=[False])
    model = built(case)
    return box_values(case, model, model.features(case.input()))


def built(case: Case, **more: Any) -> RegionDetector:
    """The case's network in eval mode; `more` are options beside those of its switches."""
    run = case.run
    # Doubling gives the lateral's size where the input divides by 32, and fails elsewhere.
    expect(case.switches, fpn_upsample=["nearest_to_lateral_size", "nearest_x2"])
    made = {ours: case.switches[name] for name, ours in _SAME.items() if name in case.switches}
    for name, (ours, values) in _VALUES.items():
        if name in case.switches:
            if case.switches[name] not in values:
                raise UnsupportedError(f"{name} {case.switches[name]!r}")
            made[ours] = values[case.switches[name]]
    classes = [f"class{i}" for i in range(int(run["foreground_classes"]))]
    model = import_model(
        case.weights(), source=run["profile"], as_=run["model"], classes=classes, **made, **more
    )
    assert isinstance(model, RegionDetector)
    set_rules(case, model)
    return model.eval()


def set_rules(case: Case, model: RegionDetector) -> None:
    """Anchors, RoI pooling and box code as the case's parameters say."""
    params = case.params
    anchors, roi, level = params["anchors"], params["box_roi"], params["level"]
    expect(anchors, centre=[0.0], width_offset=[0], order=["level,y,x,anchor"])
    expect(anchors, stride=["image_size_floordiv_grid", "fixed"])
    expect(level, width_offset=[0, 1])
    assert model.rpn is not None
    own = model.rpn.anchors.rule
    model.rpn.anchors = Anchors(
        AnchorRule(
            tuple(tuple(sizes) for sizes in anchors["sizes"]),
            tuple(anchors["ratios"]),
            tuple(anchors.get("strides", own.strides)),
            rounded=anchors["rounded"],
            order=anchors.get("anchor_order", "ratio,size"),
            stride="fixed" if anchors["stride"] == "fixed" else "image // grid",
        )
    )
    rule = LevelRule(
        level["k_min"],
        level["k_max"],
        level["k0"],
        level["canonical_size"],
        bool(level["width_offset"]),
        level["epsilon_inside_log"],
        level["epsilon_outside_log"],
        level["add_k0_inside_floor"],
    )
    model.roi = replace(
        model.roi,
        size=roi["output_size"],
        sampling_ratio=roi["sampling_ratio"],
        aligned=roi["aligned"],
        level=rule,
        strides=model.roi.strides[: len(roi["levels"])],
    )
    stages = params["coder"].get("weights", params["coder"].get("stds"))
    if not isinstance(stages[0], list):  # a cascade has a code for each stage
        model.coder = coder(params["coder"])


def box_values(case: Case, model: RegionDetector, maps: list[Tensor]) -> dict[str, Any]:
    """What the case's outputs name, by its names of the levels."""
    params = case.params
    height, width = params["image_size"]
    out = map_values(case, model, maps)
    proposals, pooled = case.stored("proposals"), out["box_roi_features"]
    features = model.head(pooled)
    logits, boxes = model.predictor(features)
    decoded = model.coder.decode(boxes.view(len(boxes), -1, 4), proposals[:, None])
    if params.get("clip_decoded"):
        decoded = clip(decoded, (height, width))
    return out | {
        "box_head_features": features,
        "class_logits": logits,
        "box_regression": boxes,
        "box_decoded": decoded,
        "n_parameters": torch.tensor(sum(p.numel() for p in model.parameters())),
    }


def map_values(case: Case, model: RegionDetector, maps: list[Tensor]) -> dict[str, Any]:
    """What comes before the heads: maps, RPN, anchors, RoI features."""
    height, width = case.params["image_size"]
    assert model.rpn is not None
    out: dict[str, Any] = {}
    scores, deltas = model.rpn.head(maps)
    for name, level, score, delta in zip(case.params["levels"], maps, scores, deltas, strict=True):
        out |= {f"feat_{name}": level, f"rpn_objectness_{name}": score, f"rpn_deltas_{name}": delta}
    out["anchors"] = model.rpn.anchors(maps, (height, width))
    out["box_roi_features"] = model.roi.pool(maps, case.stored("proposals")[None])
    return out


CASES = {
    "torchvision_fasterrcnn_resnet50_fpn": network,
    "torchvision_fasterrcnn_resnet50_fpn_v2": network,
}
