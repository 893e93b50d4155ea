"""What a RoI sees and shows: pooling of every kind, hard example mining, masks.

Shape letters: R RoIs, C channels, D outputs, k bins a side, N masks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from boxatlas.losses.masks import mask_loss
from boxatlas.losses.ohem import hardest
from boxatlas.losses.regression import smooth_l1
from boxatlas.ops.masks import MaskTargetRule, mask_targets, paste_masks, rasterise
from boxatlas.ops.psroi import PSRoIRule, psroi_align, psroi_pool
from boxatlas.ops.roi import roi_align, roi_pool
from boxatlas.verify.case import Case, expect
from boxatlas.verify.region_ops import by_call

Params = Mapping[str, Any]


def _roi_pool(params: Params, case: Case, feature: Tensor, rois: Tensor) -> dict[str, Any]:
    expect(params, round=["half_away_from_zero"], end_offset=[1], min_side=[1])
    expect(params, empty_bin_value=[0.0], empty_bin_argmax=[-1])
    pooled, argmax = roi_pool(feature, rois, tuple(params["output_size"]), params["spatial_scale"])
    return {"pooled": pooled, "argmax": argmax}


def _roi_align(params: Params, case: Case, feature: Tensor, rois: Tensor) -> dict[str, Any]:
    expect(params, min_side=[0.0 if params["aligned"] else 1.0])
    pooled = roi_align(
        feature,
        rois,
        tuple(params["output_size"]),
        params["spatial_scale"],
        max(params["sampling_ratio"], 0),
        params["aligned"],
    )
    return {"pooled": pooled}


def psroi_rule(params: Params) -> PSRoIRule:
    """The rule that a case's parameters describe."""
    expect(params, channel_order=["class,bin_y,bin_x"], round=["image", "map"])
    names = ("round", "end_offset", "min_side", "clip_max_offset")
    return PSRoIRule(*(params[name] for name in names))


def _psroi_pool(params: Params, case: Case, score_maps: Tensor, rois: Tensor) -> dict[str, Any]:
    k = params["k"]
    pooled = psroi_pool(score_maps, rois, k, params["spatial_scale"], psroi_rule(params))
    return {"pooled": pooled, "vote_mean": pooled.mean((2, 3))}


def _psroi_align(params: Params, case: Case, score_maps: Tensor, rois: Tensor) -> dict[str, Any]:
    expect(params, channel_order=["class,bin_y,bin_x"])
    k, samples = params["k"], params["sampling_ratio"]
    return {"pooled": psroi_align(score_maps, rois, k, params["spatial_scale"], samples)}


def _ohem(
    params: Params,
    case: Case,
    cls_score: Tensor,
    bbox_pred: Tensor,
    labels: Tensor,
    bbox_targets: Tensor,
    bbox_weights: Tensor,
) -> dict[str, Any]:
    """The hardest RoIs of one image and their losses (Shrivastava et al. 2016; R-FCN)."""
    expect(params, nms=[None], cls_normalizer=["kept_rows"], ignore_label=[-1])
    label, weight = labels.long(), bbox_weights.double()
    row = torch.arange(len(label))
    chance = cls_score.double().softmax(1)[row, label.clamp(min=0)]
    cls = -(chance + params["log_epsilon"]).log() * (label >= 0)
    beta = params["sigma"] ** -2
    box = (weight * smooth_l1(bbox_pred.double(), bbox_targets.double(), beta, "none")).sum(1)
    kept = hardest((cls + box)[None], (label >= 0)[None], params["keep"])[0]
    stays = torch.zeros_like(label, dtype=torch.bool).index_fill_(0, kept, True)
    return {
        "loss_per_row": cls + box,
        "kept": kept.sort().values,
        "labels": torch.where(stays, label, -1),
        "loss_cls": cls[kept].mean(),
        "loss_box": box[kept].sum() / params["reg_normalizer"],
    }


def _rasterise(params: Params, case: Case, polygons: list[Tensor]) -> dict[str, Any]:
    size = (params["image_size"][0], params["image_size"][1])
    made = [rasterise([polygon.tolist()], size) for polygon in polygons]
    return {"bitmaps": np.stack(made).astype(np.int64)}


def _mask_targets(
    params: Params,
    case: Case,
    boxes: Tensor,
    classes: Tensor,
    mask_logits: Tensor,
    bitmaps: Tensor | None = None,
    polygons: list[Tensor] | None = None,
) -> dict[str, Any]:
    """Targets and the loss of the true class's map; `classes` are columns of the logits."""
    expect(params, source=["polygon", "bitmap_roi_align"], min_side=[1.0], width_offset=[0])
    expect(params, sampling_ratio=[-1, 0])
    if bitmaps is not None:
        size = (bitmaps.shape[1], bitmaps.shape[2])
        masks: list[Any] = [_as_rle(one) for one in bitmaps]
        rule = MaskTargetRule("bitmap", params["aligned"], params["threshold"])
    else:
        assert polygons is not None
        masks, size = [[polygon.tolist()] for polygon in polygons], (0, 0)
        rule = MaskTargetRule("polygon")
    own = torch.arange(len(boxes))
    targets = mask_targets(masks, own, boxes, params["mask_size"], size, rule)
    return {"targets": targets, "loss": mask_loss(mask_logits, targets, classes.long())}


def _as_rle(bitmap: Tensor) -> dict[str, Any]:
    flat = bitmap.T.reshape(-1)
    edges = (flat[1:] != flat[:-1]).nonzero()[:, 0] + 1
    ends = F.pad(edges, (1, 1))
    ends[-1] = len(flat)
    counts = ends.diff().tolist()
    return {"size": list(bitmap.shape), "counts": [0, *counts] if flat[0] else counts}


def _paste_masks(
    params: Params, case: Case, mask_logits: Tensor, boxes: Tensor, classes: Tensor
) -> dict[str, Any]:
    expect(params, padding=[1], truncate_corners=[True], width_offset=[1])
    expect(params, threshold_compare=["gt"], resize=["bilinear_half_pixel"])
    maps = mask_logits[torch.arange(len(boxes)), classes.long()].sigmoid()
    size = (params["image_size"][0], params["image_size"][1])
    binary = paste_masks(maps, boxes, size, threshold=params["threshold"])
    return {"probabilities": paste_masks(maps, boxes, size), "binary": binary.long()}


CASES = {
    "op_roi_pool": by_call({"roi_pool": _roi_pool}),
    "op_roi_align": by_call({"roi_align": _roi_align}),
    "op_psroi_pool": by_call({"psroi_pool": _psroi_pool, "psroi_align": _psroi_align}),
    "op_ohem": by_call({"ohem": _ohem}),
    "op_mask": by_call(
        {
            "rasterise_polygons": _rasterise,
            "mask_targets": _mask_targets,
            "paste_masks": _paste_masks,
        }
    ),
}
