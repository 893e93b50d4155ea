"""Faster R-CNN with a pyramid: maps, RPN, anchors, RoI features, head and boxes.

Public: CASES; built, anchor_options, box_values, map_values, which other detectors share.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from boxatlas.boxes.formats import clip
from boxatlas.parts.region.detector import RegionDetector
from boxatlas.parts.region.pyramid import SIDE
from boxatlas.verify.case import Case, expect, translated
from boxatlas.verify.region_ops import coder

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
    # Doubling gives the lateral's size where the input divides by 32, and fails elsewhere.
    expect(case.switches, fpn_upsample=["nearest_to_lateral_size", "nearest_x2"])
    made = translated(case.switches, _SAME, _VALUES)
    made |= anchor_options(case.params["anchors"]) | pooling_options(case)
    model = case.model(**made, **more)
    assert isinstance(model, RegionDetector)
    assert model.rpn is not None
    expect(case.params["anchors"], strides=[list(model.rpn.strides)])
    stages = case.params["coder"].get("weights", case.params["coder"].get("stds"))
    if not isinstance(stages[0], list):  # a cascade has a code for each stage
        model.coder = coder(case.params["coder"])
    return model


def anchor_options(params: Mapping[str, Any]) -> dict[str, Any]:
    """The options that spell a case's anchors."""
    expect(params, centre=[0.0, None], width_offset=[0, 1], order=["level,y,x,anchor", None])
    inclusive = bool(params["width_offset"])
    sizes = params.get("sizes") or [[s * params["base_size"] for s in params["scales"]]]
    order = params.get("anchor_order", "ratio,size").replace("scale", "size")
    return {
        "anchor_sizes": tuple(tuple(row) for row in sizes),
        "anchor_ratios": tuple(params["ratios"]),
        "anchor_rounded": params["rounded"],
        "anchor_base": params["base_size"] if inclusive else None,
        "anchor_order": order,
        "anchor_stride": (
            "image // grid" if params["stride"] == "image_size_floordiv_grid" else "fixed"
        ),
    }


def pooling_options(case: Case) -> dict[str, Any]:
    """The options that spell how a case pools its RoIs from a pyramid."""
    roi, level = case.params["box_roi"], case.params["level"]
    expect(roi, levels=[["p2", "p3", "p4", "p5"]], output_size=[SIDE])
    # 2 of 56 pixels is 4 of 224; there the epsilon is a fourth of what is added to side / 56.
    expect(level, k_min=[2], k_max=[5], width_offset=[0], add_k0_inside_floor=[True])
    scale = {(4, 224): 1.0, (2, 56): 0.25}[level["k0"], level["canonical_size"]]
    return {
        "roi_sampling": roi["sampling_ratio"],
        "roi_aligned": roi["aligned"],
        "level_epsilons": (level["epsilon_inside_log"] * scale, level["epsilon_outside_log"]),
    }


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
    out["box_roi_features"] = model.pool(maps, case.stored("proposals")[None])
    return out


CASES = {
    "torchvision_fasterrcnn_resnet50_fpn": network,
    "torchvision_fasterrcnn_resnet50_fpn_v2": network,
}
