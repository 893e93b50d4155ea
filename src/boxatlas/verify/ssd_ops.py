"""SSD's operators: coding, matching, mining and losses, detection output.

Public: CASES, objects, matches, coder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from boxatlas.boxes.coders import DeltaCoder
from boxatlas.boxes.formats import pairwise_iou
from boxatlas.boxes.matching import Matches, match_argmax_per_object, match_bipartite
from boxatlas.boxes.nms import above, batched_nms
from boxatlas.losses.multibox import multibox_loss
from boxatlas.structures import Targets
from boxatlas.verify.case import Case, UnsupportedError, expect
from boxatlas.verify.default_boxes import from_block


def coder(params: Mapping[str, Any]) -> DeltaCoder:
    """The coder that a case's parameters describe."""
    expect(params, box_code=["center_size"])
    return DeltaCoder.from_variances(
        tuple(params["variances"]), log_epsilon=params.get("encode_log_epsilon", 0.0)
    )


def matches(params: Mapping[str, Any], anchors: Tensor, boxes: Tensor, valid: Tensor) -> Matches:
    """The matching that a case's parameters name."""
    rule, threshold = params["match"], params["match_iou"]
    if rule == "greedy_bipartite_then_threshold":
        return match_bipartite(
            anchors, boxes, valid, threshold, params.get("bipartite_min_iou", 1e-6)
        )
    if rule == "argmax_per_gt_then_threshold":
        return match_argmax_per_object(anchors, boxes, valid, threshold)
    raise UnsupportedError(f"matching {rule}")


def objects(params: Mapping[str, Any]) -> Targets:
    """The objects of a case: rows of xmin, ymin, xmax, ymax, class_index per image."""
    column = [params["targets_columns"].index(n) for n in ("xmin", "ymin", "xmax", "ymax")]
    label = params["targets_columns"].index("class_index")
    width = len(params["targets_columns"])
    images = [torch.tensor(rows).reshape(len(rows), width) for rows in params["targets"]]
    return Targets.collate(
        [rows[:, column] for rows in images], [rows[:, label].long() for rows in images]
    )


def multibox(case: Case) -> dict[str, Any]:
    """Matching, mining, both losses and, where asked for, their gradients."""
    params = case.params
    expect(params, background_label=[0], label_offset=[1], normalise_by=["positives_of_batch"])
    expect(params, mining=["max_negative"], box_loss=["smooth_l1"])
    expect(params, class_loss=["softmax_cross_entropy"])
    anchors, targets = from_block(params["boxes"], form="xyxy"), objects(params)
    found = matches(params, anchors, targets.boxes, targets.valid)
    needed = params.get("gradient_of", ())
    loc = case.generated("loc").requires_grad_(bool(needed))
    conf = case.generated("conf").requires_grad_(bool(needed))
    ranking = {"cross_entropy": "label", "cross_entropy_of_background": "background"}
    with torch.enable_grad():
        loss = multibox_loss(
            conf,
            loc,
            found,
            anchors,
            targets.boxes,
            targets.labels,
            coder(params),
            ratio=params["neg_pos_ratio"],
            ranking=ranking[params["mining_score"]],  # pyright: ignore
            neg_overlap=params.get("neg_overlap"),
            beta=params["beta"],
        )
        box = params["box_weight"] * loss.box
        parts = {"loss_loc": box, "loss_conf": loss.classes}
        grad = torch.autograd.grad([parts[n] for n in needed], [loc, conf]) if needed else None
    image, prior, index = found.pairs()
    out = {
        **{name: value.detach() for name, value in parts.items()},
        "positive_prior_index": prior,
        "positive_gt_index": index,
        "positive_label": targets.labels[image, index] + params["label_offset"],
        "negative_prior_index": loss.negative.nonzero()[:, 1],
        "loc_targets_positive": loss.box_targets,
        "positives_per_image": loss.positive.sum(dim=1),
        "negatives_per_image": loss.negative.sum(dim=1),
    }
    if grad is not None:
        out["grad_loc"], out["grad_conf"] = grad
        out["grad_loc_positive_rows"] = grad[0][loss.positive]
        out["grad_conf_positive_rows"] = grad[1][loss.positive]
        out["grad_conf_negative_rows"] = grad[1][loss.negative]
    return out


def _match_one(case: Case) -> tuple[Tensor, Tensor, Tensor, Tensor, Matches]:
    anchors, boxes = case.stored("match_prior_corner"), case.stored("match_gt")
    valid = torch.ones(1, len(boxes), dtype=torch.bool)
    found = matches(case.params, anchors, boxes[None], valid)
    _, prior, index = found.pairs()
    return prior, index, anchors, boxes, found


def matching(case: Case) -> dict[str, Any]:
    """Matching of one image, with the targets of the positives."""
    prior, index, anchors, boxes, _ = _match_one(case)
    return {
        "positive_prior_index": prior,
        "positive_gt_index": index,
        "loc_targets_positive": coder(case.params).encode(boxes[index], anchors[prior]),
        "positives_per_ground_truth": torch.bincount(index, minlength=len(boxes)),
    }


def coding_and_matching(case: Case) -> dict[str, Any]:
    """Encoding, decoding, overlaps, and matching of one image."""
    code = coder(case.params)
    anchors, boxes = case.stored("prior_corner"), case.stored("gt_corner")
    prior, index, priors, truths, _ = _match_one(case)
    overlap = pairwise_iou(truths, priors)
    best = overlap.max(dim=1)
    return {
        "encoded": code.encode(boxes, anchors),
        "decoded": code.decode(case.stored("offsets"), anchors),
        "match_iou": overlap,
        "match_positive_prior": prior,
        "match_positive_gt": index,
        "match_encoded": code.encode(truths[index], priors[prior]),
        "match_best_iou_per_gt": best.values,
        "match_best_prior_per_gt": best.indices,
    }


def detection_output(case: Case) -> dict[str, Any]:
    """Decoding, NMS within each class, and each image's best over all classes."""
    params = case.params
    expect(params, nms_eta=[1])
    anchors = from_block(params["boxes"], form="xyxy")
    scores = case.generated("probabilities")
    background = params["background_label"]
    scores = torch.cat([scores[..., :background], scores[..., background + 1 :]], dim=2)
    decoded = coder(params).decode(case.generated("loc"), anchors)
    decoded = decoded.clamp(0, 1) if params["clip"] else decoded
    found = above(scores, params["score_threshold"])
    boxes = decoded[found.image, found.row]
    groups = found.image * scores.shape[2] + found.label
    kept = batched_nms(
        boxes, found.score, groups, params["nms_iou"], group_candidates=params["nms_top_k"]
    )
    rows = []
    for image in range(len(scores)):
        best = kept[found.image[kept] == image][: params["keep_top_k"]]
        label = found.label[best] + (found.label[best] >= background).long()
        lead = torch.stack([torch.full_like(label, image), label], dim=1).float()
        rows.append(torch.cat([lead, found.score[best, None], boxes[best]], dim=1))
    return {
        "detections": torch.cat(rows),
        "after_nms": len(kept),
        "kept": sum(map(len, rows)),
    }


CASES = {
    "op_ssd_multibox_caffe": multibox,
    "op_ssd_multibox_loss": multibox,
    "op_ssd_matching_caffe": matching,
    "op_ssd_box_coder_matching": coding_and_matching,
    "op_ssd_detection_output_caffe": detection_output,
}
