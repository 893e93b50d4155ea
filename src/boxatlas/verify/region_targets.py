"""What two-stage methods learn from: targets of the RPN, of a RoI head and of a cascade's stages.

Shape letters: A anchors, K in a cell, R RoIs, M objects, C columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from boxatlas.boxes.formats import clip, pairwise_iou
from boxatlas.boxes.matching import Matches, match_thresholds
from boxatlas.boxes.sampling import Draw, sample
from boxatlas.losses.classification import softmax_cross_entropy
from boxatlas.losses.regression import smooth_l1
from boxatlas.verify.case import Case, expect
from boxatlas.verify.region_ops import by_call, coder, fixed_anchors, from_map

Params = Mapping[str, Any]


def _anchor_matches(params: Params, anchors: Tensor, boxes: Tensor, usable: Tensor) -> Matches:
    valid = torch.ones(1, len(boxes), dtype=torch.bool)
    rule = params["low_quality"]
    return match_thresholds(
        anchors,
        boxes[None],
        valid,
        params["positive_iou"],
        params["negative_iou"],
        low_quality="argmax_including_zero" if rule == "argmax_including_zero_iou" else rule,
        negative_wins=not params.get("positive_wins", True),
        usable=usable,
        inclusive=bool(params["width_offset"]),
    )


def _inside(params: Params, anchors: Tensor, height: float, width: float) -> Tensor:
    """[A] bool: not further across the image's border than is allowed; None allows all."""
    border = params["allowed_border"]
    if border is None:
        return torch.ones(len(anchors), dtype=torch.bool)
    low = (anchors[:, :2] >= -border).all(dim=1)
    return low & (anchors[:, 2] < width + border) & (anchors[:, 3] < height + border)


def _draw(params: Params, positive: Tensor, negative: Tensor, fraction: float) -> Draw:
    """The first rows in order stand for the random draw."""
    order = torch.arange(positive.shape[1]).float()[None]
    return sample(positive, negative, params["batch_size"], fraction, priority=order)


def _anchor_labels(params: Params, found: Matches) -> Tensor:
    """[A]: 1 object, 0 background, -1 ignored."""
    drawn = _draw(params, found.positive, found.negative, params["positive_fraction"])
    positive, negative = drawn.masks(found.index.shape[1])
    labels = torch.full_like(found.index, -1)
    return labels.masked_fill_(positive, 1).masked_fill_(negative, 0)[0]


def _anchor_target(
    params: Params, case: Case, gt_boxes: Tensor, cls_score: Tensor, bbox_pred: Tensor
) -> dict[str, Any]:
    """RPN targets as maps (py-faster-rcnn): rows in order y, x, anchor become [1, K * n, H, W]."""
    grid, boxes = params["grid"], gt_boxes[:, :4]
    anchors = fixed_anchors(params["anchors"], [grid])
    inside = _inside(params, anchors, *params["image_info"][:2])
    found = _anchor_matches(params, anchors, boxes, inside)
    labels = _anchor_labels(params, found)
    positive, labelled = labels == 1, labels >= 0

    own = pairwise_iou(anchors, boxes, bool(params["width_offset"])).argmax(dim=1)
    targets = coder(params).encode(boxes[own], anchors) * inside[:, None]
    weight = torch.tensor(params["inside_weight"]) * positive[:, None]
    expect(params, outside_weight=["1/labelled"], label_layout=["1,1,anchor*y,x"])
    count = labelled.sum().clamp(min=1)
    outside = (labelled / count)[:, None].expand(-1, 4)

    # The first K channels are background, the last K object.
    kinds = cls_score.shape[1] // 2
    pair = torch.stack([from_map(part, 1)[:, 0] for part in cls_score.split(kinds, 1)], dim=1)
    loss = smooth_l1(
        weight.double() * from_map(bbox_pred, 4),
        weight.double() * targets,
        params["sigma"] ** -2,
        "none",
    )
    return {
        "labels": _to_map(labels[:, None], grid).reshape(1, 1, -1, grid[1]),
        "bbox_targets": _to_map(targets, grid),
        "inside_weights": _to_map(weight, grid),
        "outside_weights": _to_map(outside, grid),
        "positive_index": positive.nonzero()[:, 0],
        "positive_targets": targets[positive],
        "positives": positive.sum(),
        "negatives": (labels == 0).sum(),
        "loss_cls": softmax_cross_entropy(pair[labelled].double(), labels[labelled]) / count,
        "loss_box": (outside * loss).sum(),
    }


def _to_map(rows: Tensor, grid: list[int]) -> Tensor:
    """[H * W * K, n] -> [1, K * n, H, W]."""
    split = rows.reshape(*grid, -1, rows.shape[1])
    return split.permute(2, 3, 0, 1).reshape(1, -1, *grid)


def _anchor_target_fpn(
    params: Params, case: Case, gt_boxes: Tensor, objectness: Tensor, deltas: Tensor
) -> dict[str, Any]:
    """RPN targets of a pyramid with sigmoid objectness (torchvision)."""
    expect(params, reg_normalizer=["sampled_anchors"], cls_loss=["bce_with_logits_mean"])
    expect(params.get("reg_loss", {}), kind=["smooth_l1"])
    image, boxes = params["batch_image_size"], gt_boxes[:, :4]
    anchors = fixed_anchors(params["anchors"], params["levels"], image)
    found = _anchor_matches(params, anchors, boxes, _inside(params, anchors, *image))
    labels = _anchor_labels(params, found)
    positive, labelled = labels == 1, labels >= 0
    _, row, own = found.pairs()
    targets = torch.zeros_like(deltas)
    targets[row] = coder(params).encode(boxes[own], anchors[row])
    count = labelled.sum().clamp(min=1)
    box = smooth_l1(deltas[positive], targets[positive], params["reg_loss"]["beta"]) / count
    logits, wanted = objectness[labelled, 0], labels[labelled].float()
    return {
        "anchors": anchors,
        "labels": labels,
        "positive_index": positive.nonzero()[:, 0],
        "positive_targets": targets[positive],
        "loss_cls": F.binary_cross_entropy_with_logits(logits, wanted),
        "loss_box": box,
    }


def _proposal_target(
    params: Params, case: Case, rois: Tensor, gt_boxes: Tensor, cls_score: Tensor, bbox_pred: Tensor
) -> dict[str, Any]:
    """A RoI head's sampled rows, labels, targets and losses."""
    expect(params, reg_normalizer=["rows"], cls_normalizer=["rows"])
    expect(params, order=["input", "foreground,background"])
    expect(params.get("reg_loss", {}), kind=["smooth_l1"])
    truth, classes = gt_boxes[:, :4], gt_boxes[:, 4].long()
    if params["append_gt"]:
        rois = torch.cat([rois, F.pad(truth, (1, 0))])
    valid = torch.ones(1, len(truth), dtype=torch.bool)
    found = match_thresholds(
        rois[:, 1:],
        truth[None],
        valid,
        params["fg_iou"],
        params["bg_iou_hi"],
        inclusive=bool(params["width_offset"]),
    )
    low = found.negative & (found.iou >= params["bg_iou_lo"])
    if params["order"] == "input":  # every row, none drawn
        rows = torch.arange(len(rois))
    else:
        rows = _draw(params, found.positive, low, params["fg_fraction"]).index[0]
    chosen, own = rois[rows], found.index[0, rows]
    foreground = own >= 0
    own = own.clamp(min=params.get("background_matched_to", 0))
    labels = torch.where(foreground, classes[own], 0)
    targets = coder(params).encode(truth[own], chosen[:, 1:])
    if any(params.get("target_means", ())):
        targets = targets - torch.tensor(params["target_means"]) / torch.tensor(
            params["target_stds"]
        )

    beta = params["reg_loss"]["beta"] if "reg_loss" in params else params["sigma"] ** -2
    guess = bbox_pred.view(len(rows), -1, 4)[foreground, labels[foreground]]
    loss = smooth_l1(guess.double(), targets[foreground].double(), beta)
    return {
        "rois": chosen,
        "labels": labels,
        "matched": own,
        "targets": _by_class(params, targets, labels, foreground),
        "inside_weights": _by_class(params, torch.ones_like(targets), labels, foreground),
        "foreground_targets": targets[foreground],
        "rows": len(rows),
        "foreground": foreground.sum(),
        "loss_cls": softmax_cross_entropy(cls_score.double(), labels, "mean"),
        "loss_box": loss / len(rows),
    }


def _by_class(params: Params, values: Tensor, labels: Tensor, foreground: Tensor) -> Tensor:
    """[R, 4] -> [R, columns], each foreground row's in the columns of its class."""
    if "class_columns" not in params:
        return values
    wide = values.new_zeros(len(values), params["class_columns"] // 4, 4)
    wide[foreground, labels[foreground]] = values[foreground]
    return wide.flatten(1)


def _cascade_stage(
    params: Params,
    case: Case,
    boxes: Tensor,
    gt_boxes: Tensor,
    gt_classes: Tensor,
    scores: Tensor,
    deltas: Tensor,
) -> dict[str, Any]:
    """One stage: labels and targets at its threshold, losses, the boxes of the next stage."""
    expect(params, iou_threshold_inclusive=[True], allow_low_quality=[False])
    expect(params, reg_normalizer=["all_rows"], cls_normalizer=["all_rows"])
    valid = torch.ones(1, len(gt_boxes), dtype=torch.bool)
    inclusive = bool(params["width_offset"])
    found = match_thresholds(
        boxes, gt_boxes[None], valid, params["iou_threshold"], inclusive=inclusive
    )
    positive = found.positive[0]
    background = scores.shape[1] - 1 if case.run["background"] == "last" else 0
    labels = found.labels(gt_classes[None].long() + int(background == 0), background)[0]
    nearest = pairwise_iou(boxes, gt_boxes, inclusive).argmax(dim=1)
    code = coder(params)
    targets = code.encode(gt_boxes[nearest], boxes)
    decoded = code.decode(deltas, boxes)

    def box_loss(entry: Params) -> Tensor:
        beta = entry["reg_loss"]["beta"]
        return smooth_l1(deltas[positive], targets[positive], beta) / len(boxes)

    return {
        "matched": nearest,
        "labels": labels,
        "targets": targets,
        "decoded": decoded,
        "decoded_clipped": clip(decoded, tuple(params["image_size"])),
        "loss_cls": softmax_cross_entropy(scores, labels, "mean"),
        "loss_box": box_loss,
        "foreground": positive.sum(),
    }


FUNCTIONS = {
    "anchor_target": _anchor_target,
    "anchor_target_fpn": _anchor_target_fpn,
    "proposal_target": _proposal_target,
    "cascade_stage": _cascade_stage,
}

CASES = {
    name: by_call(FUNCTIONS) for name in ("op_rpn_targets", "op_roi_targets", "op_cascade_targets")
}
