"""R-CNN: the crop network, crops, linear SVMs and box regression."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from boxatlas.boxes.coders import DeltaCoder
from boxatlas.boxes.formats import pairwise_iou
from boxatlas.detectors.rcnn import RCNN
from boxatlas.ops.crops import Crop
from boxatlas.parts.fits.ridge import RidgeRule, fit_ridge
from boxatlas.parts.fits.svm import SVMRule, feature_scale, linear_svm, svm_objective
from boxatlas.verify.case import Case, UnsupportedError, expect
from boxatlas.verify.region_ops import by_call


def network(case: Case) -> dict[str, Tensor]:
    """The layers of the crop network by name, inner ones read as they pass."""
    switches, params = dict(case.switches), case.params
    lrn_order = switches.pop("lrn_order", "relu_pool_lrn")
    expect(switches, backbone=["caffenet"], groups=[[1, 2, 1, 2, 2]])
    expect(switches, ceil_pool=[True], dropout=["off"])
    expect(params, lrn=[{"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 1.0}])
    expect(params, fc6_relu=[True], fc7_relu=[True])
    images = case.input()
    model = case.model(lrn_order=lrn_order, crop_size=images.shape[-1])
    assert isinstance(model, RCNN)
    inner: dict[str, Tensor] = {}
    for name, module in model.network.named_modules():
        leaf = name.rsplit(".", 1)[-1]
        module.register_forward_hook(lambda _m, _i, out, leaf=leaf: inner.__setitem__(leaf, out))
    found = model.network(images)
    norms = {name: value for name, value in inner.items() if isinstance(value, Tensor)}
    side = round((found["pool5"].shape[1] / 256) ** 0.5)
    pool5 = found["pool5"].view(len(images), 256, side, side)
    return {**norms, **found, "pool5": pool5, "fc8": model.logits(found["fc7"])}


def _crop(params: Mapping[str, Any], case: Case, **given: Tensor) -> dict[str, Any]:
    """Geometry and pixels of a crop."""
    params = {**case.params, **params}
    expect(params, one_based=[True], width_offset=[1], round=["half_away_from_zero"])
    expect(params, resize=["bilinear_half_pixel"], antialias=[False], mode=["warp", "square"])
    expect(params, outside_value_after_mean=[0.0])
    expect(params, mean_image=["mean_rows[:,None,:]+mean_columns[None,:,:]"])
    image = given["image"].permute(2, 0, 1)[None].float()
    boxes = given["boxes"].double().clone()
    boxes[:, :2] -= 1
    mean = None
    if "mean_rows" in given:
        mean = (given["mean_rows"][:, None] + given["mean_columns"][None]).permute(2, 0, 1)
    crop = Crop(params["crop_size"], params["mode"], params["padding"])
    sizes = torch.tensor([image.shape[-2:]])
    found = crop(image, boxes, torch.zeros(len(boxes), dtype=torch.int64), sizes, mean)
    geometry = crop.geometry(boxes, sizes.expand(len(boxes), 2))
    return {"geometry": geometry, "crop": found.permute(0, 2, 3, 1)}


def _svm(params: Mapping[str, Any], case: Case, **given: Tensor) -> dict[str, Any]:
    """Weights, bias, scores and objective of a linear SVM."""
    params = {**case.params, **params}
    expect(params, loss=("hinge",), penalty=("l2",), regularise_bias=(True,))
    rule = SVMRule(
        C=params["C"],
        positive_weight=params["positive_weight"],
        bias=params["bias_feature"],
        tolerance=params["tolerance"],
    )
    features, positive = given["X"].double().numpy(), given["y"].numpy() > 0
    weights, bias = linear_svm(features, positive, rule)
    return {
        "w": weights,
        "bias": np.array([bias]),
        "scores": features @ weights + bias,
        "objective": svm_objective(weights, bias, features, positive, rule),
    }


def _ridge(params: Mapping[str, Any], case: Case, **given: Tensor) -> dict[str, Any]:
    """Which boxes are trained on what, the regression, and the boxes that it makes."""
    params = {**case.params, **params}
    expect(params, min_iou_compare=("gt",), bias_column=(1.0,), regularise_bias=(True,))
    if abs(params["target_width_offset"]) > 1e-9 or params["iou_width_offset"] not in (0, 1):
        raise UnsupportedError("widths counted otherwise")
    boxes, truth = given["boxes"].double(), given["gt"].double()
    features = given["features"].double()
    rule = RidgeRule(
        params["min_iou"],
        params["ridge_lambda"],
        params["whitening_epsilon"],
        params["feature_norm"],
    )
    iou = pairwise_iou(boxes, truth, inclusive=bool(params["iou_width_offset"]))
    best, assigned = iou.max(1)
    rows = (best > rule.min_iou).nonzero()[:, 0]
    scale = feature_scale(features.numpy(), rule.norm)
    coder = DeltaCoder()
    targets = coder.encode(truth[assigned], boxes)
    fitted = fit_ridge(features[rows] * scale, targets[rows], rule)
    moved = coder.decode(fitted.predict(features * scale), boxes)
    x1, y1, x2, y2 = params["clip_window"]
    clipped = moved.clamp(
        min=moved.new_tensor([x1, y1, x1, y1]), max=moved.new_tensor([x2, y2, x2, y2])
    )
    return {
        "iou_best": best,
        "assigned_gt": assigned,
        "rows_used": rows,
        "targets": targets,
        "mean": fitted.mean,
        "whitening": fitted.whitening,
        "whitening_inverse": fitted.inverse,
        "beta": fitted.beta,
        "predicted_boxes": moved,
        "clipped_boxes": clipped,
        "mean_norm": rule.norm / scale,
    }


FUNCTIONS = {"crop": _crop, "linear_svm": _svm, "bbox_regressor": _ridge}
_OPERATORS = ("op_rcnn_crop", "op_rcnn_svm", "op_rcnn_bbox_ridge")
CASES = {"rcnn_caffenet": network, **dict.fromkeys(_OPERATORS, by_call(FUNCTIONS))}
