"""R-CNN: the crop network, crops, linear SVMs and box regression.

Public: CASES.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from boxatlas.weights import import_model


def network(case: Case) -> dict[str, Tensor]:
    """The layers of the crop network by name, inner ones read as they pass."""
    switches, params = dict(case.switches), case.params
    lrn_order = switches.pop("lrn_order", "relu_pool_lrn")
    expect(
        switches,
        backbone=("caffenet",),
        groups=([1, 2, 1, 2, 2],),
        ceil_pool=(True,),
        dropout=("off",),
    )
    expect(
        params,
        lrn=({"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 1.0},),
        fc6_relu=(True,),
        fc7_relu=(True,),
    )
    count = int(case.run["foreground_classes"])
    images = case.input()
    model = import_model(
        case.weights(),
        source=case.run["profile"],
        as_=case.run["model"],
        classes=[f"class{i}" for i in range(count)],
        lrn_order=lrn_order,
        crop_size=images.shape[-1],
    ).eval()
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


def crops(case: Case) -> dict[str, Any]:
    """Geometry and pixels of each call's crops."""
    return _calls(case, {"crop": _crop})


def _crop(given: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    expect(
        params,
        one_based=(True,),
        width_offset=(1,),
        round=("half_away_from_zero",),
        resize=("bilinear_half_pixel",),
        antialias=(False,),
        outside_value_after_mean=(0.0,),
        mean_image=("mean_rows[:,None,:]+mean_columns[None,:,:]",),
        mode=("warp", "square"),
    )
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


def svm(case: Case) -> dict[str, Any]:
    """Weights, bias, scores and objective of a linear SVM."""
    return _calls(case, {"linear_svm": _svm})


def _svm(given: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
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


def ridge(case: Case) -> dict[str, Any]:
    """Which boxes learn what, the regression, and the boxes that it makes."""
    return _calls(case, {"bbox_regressor": _ridge})


def _ridge(given: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
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


Call = Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]]


def _calls(case: Case, functions: Mapping[str, Call]) -> dict[str, Any]:
    """Each output is a field of one call; a call is made once."""
    made: dict[str, dict[str, Any]] = {}
    out = {}
    for entry in case.outputs:
        call = case.calls[entry["call"]]
        if call["function"] not in functions:
            raise UnsupportedError(f"function {call['function']}")
        if call["name"] not in made:
            params = {**case.params, **call["params"]}
            made[call["name"]] = functions[call["function"]](case.arguments(call), params)
        if entry["field"] in made[call["name"]]:
            out[entry["name"]] = made[call["name"]][entry["field"]]
    return out


CASES = {
    "rcnn_caffenet": network,
    "op_rcnn_crop": crops,
    "op_rcnn_svm": svm,
    "op_rcnn_bbox_ridge": ridge,
}
