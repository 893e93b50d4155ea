"""RefineDet's losses: both steps' matching, mining and terms, and their gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from boxatlas.losses.refinement import refinement_loss
from boxatlas.verify.case import Case, UnsupportedError, expect
from boxatlas.verify.default_boxes import from_block
from boxatlas.verify.ssd_ops import coder, matches, objects

_INPUTS = ("arm_loc", "arm_conf", "odm_loc", "odm_conf")
_NEGATIVES = "negatives need probability >= objectness"
_POSITIVES = "positives need probability > objectness"
_RANKING = {"cross_entropy": "label", "cross_entropy_of_background": "background"}


def losses(case: Case) -> dict[str, Any]:
    """Everything that either of the two programs reports."""
    params = case.params
    expect(params, background_label=[0], label_offset=[1], normalise_by=["positives_of_batch"])
    expect(params, mining=["max_negative"], box_loss=["smooth_l1"], beta=[1.0], box_weight=[1.0])
    expect(params, class_loss=["softmax_cross_entropy"], gradient_through_refined_anchors=[False])
    expect(params, objectness_compare=[_NEGATIVES, _POSITIVES])
    if params["filter_positives"] and not params.get("dropped_positives_keep_label", True):
        raise UnsupportedError("dropped positives that lose their label")
    anchors, targets = from_block(params["boxes"], form="xyxy"), objects(params)
    needed = params.get("gradient_of", ())
    raw = {name: case.generated(name).requires_grad_(bool(needed)) for name in _INPUTS}
    with torch.enable_grad():
        found = refinement_loss(
            raw["arm_conf"],
            raw["arm_loc"],
            raw["odm_conf"],
            raw["odm_loc"],
            anchors,
            targets.boxes,
            targets.labels,
            targets.valid,
            lambda a, boxes, valid: matches(params, a, boxes, valid),
            coder(params),
            least=params["objectness"],
            filter_negatives=params["filter_negatives"],
            filter_positives=params["filter_positives"],
            ratio=params["neg_pos_ratio"],
            ranking=_RANKING[params["mining_score"]],  # pyright: ignore[reportArgumentType]
            neg_overlap=params.get("neg_overlap"),
        )
        terms = {
            "arm_loss_loc": found.arm.box,
            "arm_loss_conf": found.arm.classes,
            "odm_loss_loc": found.odm.box,
            "odm_loss_conf": found.odm.classes,
        }
        chosen = [terms[name] for name in needed]
        grads = torch.autograd.grad(chosen, list(raw.values())) if needed else ()
    out: dict[str, Any] = {name: value.detach() for name, value in terms.items()}
    for step, part, own in (
        ("arm", found.arm, found.arm_matches),
        ("odm", found.odm, found.odm_matches),
    ):
        out |= {
            f"{step}_positive_prior_index": part.positive.nonzero()[:, 1],
            f"{step}_positive_gt_index": own.index[part.positive],
            f"{step}_negative_prior_index": part.negative.nonzero()[:, 1],
            f"{step}_loc_targets_positive": part.box_targets,
            f"{step}_positives_per_image": part.positive.sum(dim=1),
            f"{step}_negatives_per_image": part.negative.sum(dim=1),
        }
    least = params["objectness"]
    below = found.objectness < least
    out["anchors_below_objectness"] = below.sum(dim=1)
    out["odm_positives_below_objectness"] = (below & found.odm.positive).sum()
    out["filtered_anchors_per_image"] = (found.objectness <= least).sum(dim=1)
    return out | _gradients(dict(zip(_INPUTS, grads, strict=False)))


def _gradients(grads: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each gradient, and the anchors whose outputs were used with their rows."""
    out = {}
    for name, grad in grads.items():
        used = grad.abs().sum(dim=-1) > 0
        out[f"grad_{name}"] = grad
        out[f"{name}_used_prior_index"] = used.nonzero()[:, 1]
        out[f"{name}_used_grad_rows"] = grad[used]
    return out


CASES = {"op_refinedet_loss_luuuyi": losses, "op_refinedet_multibox_caffe": losses}
