"""Two-stage operators: anchors, box coding, pyramid levels, NMS, proposals, detections.

Public: CASES; by_call, coder, cells, fixed_anchors, from_map, which region_targets shares.
Shape letters: A anchors, K in a cell, C columns, N boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from boxatlas.boxes.anchors import cell_anchors, grid_anchors, pyramid_anchors
from boxatlas.boxes.coders import DeltaCoder
from boxatlas.boxes.formats import clip, large_enough, pyramid_level
from boxatlas.boxes.nms import (
    Candidates,
    above,
    batched_nms,
    nms,
    proposal_nms,
    top_per_level,
)
from boxatlas.losses.regression import smooth_l1
from boxatlas.verify.case import Case, UnsupportedError

Params = Mapping[str, Any]
Function = Callable[..., Mapping[str, Any]]


def by_call(functions: Mapping[str, Function]) -> Callable[[Case], dict[str, Any]]:
    """A handler that runs each call of a case once and hands out its fields.

    A function takes (params, inputs..., case) and returns its fields by name.
    """

    def handler(case: Case) -> dict[str, Any]:
        fields: dict[str, Mapping[str, Any]] = {}
        out = {}
        for entry in case.outputs:
            call = case.calls[entry["call"]]
            if call["name"] not in fields:
                function = functions.get(call["function"])
                if function is None:
                    raise UnsupportedError(f"function {call['function']}")
                fields[call["name"]] = function(call["params"], case=case, **case.arguments(call))
            value = fields[call["name"]].get(entry["field"])
            if callable(value):  # a field that depends on the entry
                value = value(entry)
            if value is not None:
                out[entry["name"]] = value
        return out

    return handler


def coder(params: Params) -> DeltaCoder:
    """The coder of a convention: width_offset, half_offset, end_offset, weights or stds, clip."""
    stds = params.get("target_stds", params.get("stds"))
    weights = tuple(params["weights"]) if "weights" in params else tuple(1 / s for s in stds)
    return DeltaCoder(
        weights,
        clamp=params.get("clip"),
        clamp_below=params.get("clip_sides") == "both",
        inclusive=bool(params["width_offset"]),
        inclusive_centre=bool(params["half_offset"]),
        end_offset=params["end_offset"],
    )


def cells(params: Params) -> list[Tensor]:
    """The anchors of one cell, per level: `sizes` may be a list of lists."""
    order = {"ratio,scale": "ratio,size", "ratio,size": "ratio,size"}
    order |= {"scale,ratio": "size,ratio", "size,ratio": "size,ratio"}
    base = params["base_size"] if params["width_offset"] else None
    sizes = params["sizes"] if "sizes" in params else [s * base for s in params["scales"]]
    levels = sizes if sizes and isinstance(sizes[0], list) else [sizes]
    ratios, rounded = params["ratios"], params["rounded"]
    chosen: Any = order[params.get("anchor_order", "ratio,size")]
    return [
        cell_anchors(level, ratios, rounded=rounded, base_size=base, order=chosen)
        for level in levels
    ]


def fixed_anchors(
    params: Params,
    grids: Sequence[Sequence[int]],
    image: Sequence[int] | None = None,
    strides: Sequence[float] | None = None,
) -> Tensor:
    """The anchors [A, 4] of every level's grid."""
    own = params.get("stride")
    if strides is not None:
        steps: list[Any] = list(strides)
    elif own == "image_size_floordiv_grid" and image is not None:
        steps = [(float(image[0] // h), float(image[1] // w)) for h, w in grids]
    else:
        steps = [own] * len(grids)
    return pyramid_anchors(cells(params), [(h, w) for h, w in grids], steps)


def from_map(maps: Tensor, columns: int) -> Tensor:
    """[1, K * columns, H, W] -> [H * W * K, columns], rows in order y, x, anchor."""
    _, channels, height, width = maps.shape
    split = maps.view(channels // columns, columns, height, width)
    return split.permute(2, 3, 0, 1).reshape(-1, columns)


def _base_anchors(params: Params, case: Case) -> dict[str, Any]:
    return {"anchors": torch.stack(cells(params)).squeeze(0)}


def _grid_anchors(params: Params, case: Case) -> dict[str, Any]:
    rows, columns = params["grid"]
    return {"anchors": grid_anchors(cells(params)[0], (rows, columns), params["stride"])}


def _encode(params: Params, case: Case, boxes: Tensor, gt: Tensor) -> dict[str, Any]:
    return {"deltas": coder(params).encode(gt, boxes)}


def _decode(params: Params, case: Case, boxes: Tensor, deltas: Tensor) -> dict[str, Any]:
    split = deltas.view(len(deltas), -1, 4)
    decoded = coder(params).decode(split, boxes[:, None])
    limit = params.get("clip_to_image")
    if limit:
        decoded = clip(decoded, tuple(limit["image_size"]), limit["max_offset"])
    return {"boxes": decoded.flatten(1)}


def _decode_encode(params: Params, case: Case, boxes: Tensor, gt: Tensor) -> dict[str, Any]:
    own = coder(params)
    return {"boxes": own.decode(own.encode(gt, boxes), boxes)}


def _fpn_level(params: Params, case: Case, boxes: Tensor) -> dict[str, Any]:
    names = ("k_min", "k_max", "k0", "canonical_size", "epsilon_inside_log", "epsilon_outside_log")
    values = {name: params[name] for name in (*names, "add_k0_inside_floor")}
    return {"levels": pyramid_level(boxes, inclusive=bool(params["width_offset"]), **values)}


def _smooth_l1(params: Params, case: Case, x: Tensor) -> dict[str, Any]:
    x = x.clone().requires_grad_()
    with torch.enable_grad():
        value = smooth_l1(x, torch.zeros_like(x), params["beta"], reduction="none")
        gradient = torch.autograd.grad(value.sum(), x)[0]
    return {"value": value.detach(), "gradient": gradient}


def _rule(params: Params, prefix: str = "") -> dict[str, Any]:
    width = params[f"{prefix}width_offset"]
    return {"inclusive": bool(width), "suppress": params[f"{prefix}suppress_when"]}


def _nms(params: Params, case: Case, dets: Tensor) -> dict[str, Any]:
    return {"kept": nms(dets[:, :4], dets[:, 4], params["iou_threshold"], **_rule(params))}


def _batched_nms(params: Params, case: Case, dets: Tensor, classes: Tensor) -> dict[str, Any]:
    groups = classes.long()
    kept = batched_nms(dets[:, :4], dets[:, 4], groups, params["iou_threshold"], **_rule(params))
    return {"kept": kept}


def _propose(params: Params, case: Case, object_score: Tensor, deltas: Tensor) -> dict[str, Any]:
    """Proposals of one map: small boxes go before the best are chosen (py-faster-rcnn)."""
    height, width, image_scale = params["image_info"]
    anchors = fixed_anchors(params["anchors"], [deltas.shape[-2:]])
    boxes = coder(params).decode(from_map(deltas, 4), anchors)
    boxes = clip(boxes, (height, width), params["clip_max_offset"])
    side = params["min_side"] * (image_scale if params["min_side_times_image_scale"] else 1.0)
    usable = large_enough(boxes, side, bool(params["min_side_width_offset"]))
    score = object_score.reshape(1, -1).masked_fill(~usable, -torch.inf)
    index, _ = top_per_level(score, [len(boxes)], params["pre_nms"])
    found = proposal_nms(
        boxes[index],
        score.gather(1, index),
        params["nms_iou"],
        params["post_nms"],
        usable=usable[index],
        **_rule(params, "nms_"),
    )
    image, place = found.valid.nonzero(as_tuple=True)
    kept = found.boxes[image, place]
    return {
        "rois": torch.cat([image[:, None].to(kept), kept], dim=1),
        "scores": found.scores[image, place],
        "count": len(kept),
    }


def _propose_fpn(params: Params, case: Case, objectness: Tensor, deltas: Tensor) -> dict[str, Any]:
    """Proposals of a pyramid: the best of each level first, then all the rest (torchvision)."""
    if params["score"] != "sigmoid" or params["nms_scope"] != "level":
        raise UnsupportedError(f"score {params['score']}, NMS over a {params['nms_scope']}")
    grids, image = params["levels"], params["batch_image_size"]
    anchors = fixed_anchors(params["anchors"], grids, image, params.get("strides"))
    kinds = [len(cell) for cell in cells(params["anchors"])]
    splits = [h * w * kind for (h, w), kind in zip(grids, kinds, strict=True)]
    index, level = top_per_level(objectness.view(1, -1), splits, params["pre_nms_per_level"])
    boxes = coder(params).decode(deltas[index], anchors[index])
    boxes = clip(boxes, tuple(params["image_size"]), params["clip_max_offset"])
    found = proposal_nms(
        boxes,
        objectness.view(1, -1).gather(1, index).sigmoid(),
        params["nms_iou"],
        params["post_nms"],
        usable=large_enough(boxes, params["min_side"]),
        level=level,
        **_rule(params, "nms_"),
    )
    return {"boxes": found.boxes[found.valid], "scores": found.scores[found.valid]}


def _postprocess(
    params: Params, case: Case, proposals: Tensor, logits: Tensor, deltas: Tensor
) -> dict[str, Any]:
    """From a RoI head's outputs to detections; labels are columns of the case's class output."""
    columns = logits.shape[1]
    proposals = proposals / params.get("image_scale", 1.0)
    boxes = coder(params).decode(deltas.view(len(deltas), -1, 4), proposals[:, None])
    boxes = boxes.expand(-1, columns, -1)  # one box for all classes where it is class-agnostic
    boxes = clip(boxes, tuple(params["image_size"]), params["clip_max_offset"])
    first = int(case.run["background"] == "first")
    scores = torch.softmax(logits, dim=1)[:, first : first + columns - 1]
    boxes = boxes[:, first : first + columns - 1]
    reaches = params["score_compare"] == "ge"
    found = above(scores[None], params["score_threshold"], or_equal=reaches)
    own = boxes[found.row, found.label]
    if params["min_side"] is not None:
        large = large_enough(own, params["min_side"])
        found, own = Candidates(*(part[large] for part in found)), own[large]
    exact = params["ties_at_cap"] == "exact"
    most = params["max_detections"]
    kept = batched_nms(own, found.score, found.label, params["nms_iou"], **_rule(params, "nms_"))
    if exact:
        kept = kept[:most]
    elif len(kept) > most:
        kept = kept[found.score[kept] >= found.score[kept[most - 1]]]
    if params["order"] == "class,score":
        kept = kept[found.label[kept].sort(stable=True).indices]
    boxes, scores, labels = own[kept], found.score[kept], found.label[kept] + first
    rows = [labels[:, None].to(boxes), boxes, scores[:, None]]
    return {
        "boxes": boxes,
        "scores": scores,
        "labels": labels,
        "detections": torch.cat(rows, dim=1),
    }


FUNCTIONS: dict[str, Function] = {
    "base_anchors": _base_anchors,
    "base_anchors_per_level": _base_anchors,
    "grid_anchors": _grid_anchors,
    "encode": _encode,
    "decode": _decode,
    "decode_encode": _decode_encode,
    "fpn_level": _fpn_level,
    "smooth_l1": _smooth_l1,
    "nms": _nms,
    "batched_nms": _batched_nms,
    "propose": _propose,
    "propose_fpn": _propose_fpn,
    "postprocess": _postprocess,
}

_NAMES = "op_anchors op_box_coder op_fpn_levels op_nms op_smooth_l1 op_proposals op_detections"
CASES = dict.fromkeys(_NAMES.split(), by_call(FUNCTIONS))
