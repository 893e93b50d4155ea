"""RetinaNet: pyramid, subnets, anchors, assignment, losses and detections, through the importer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from boxatlas.boxes.coders import DeltaCoder
from boxatlas.boxes.matching import Matches
from boxatlas.detectors.retinanet import RetinaNet
from boxatlas.structures import Batch, Frame, Targets
from boxatlas.verify.case import Case, expect, translated

_VALUES = {
    "backbone_norm": ("norm", {"BatchNorm2d": "batch", "FrozenBatchNorm2d": "frozen"}),
    "head_norm": ("head_norm", {None: "none", "group_norm_32": "group"}),
    "anchor_rounding": ("anchor_rounded", {"corners_rounded": True, None: False}),
    "low_quality": ("low_quality", {True: "argmax", False: "off"}),
    "normalise": ("normalise", {"per_image_then_mean": "image", "per_batch": "batch"}),
}
_KEPT = ("p6_from", "relu_before_p7", "head_convs", "anchor_ratios", "anchor_order", "box_loss")
_SAME = {name: name for name in (*_KEPT, "backbone")}
_SAME |= {"backbone_norm_eps": "norm_eps", "fpn_channels": "width"}
_PARAMS = {
    "fg_iou_thresh": "match_iou",
    "bg_iou_thresh": "background_iou",
    "focal_alpha": "alpha",
    "focal_gamma": "gamma",
    "score_thresh": "score",
    "topk_candidates": "level_candidates",
    "nms_thresh": "nms_iou",
    "detections_per_img": "max_detections",
}


def network(case: Case) -> dict[str, Any]:
    """Every output of the case, for the images that it names."""
    model, images = built(case), case.input()
    maps = model.features(images)
    logits, deltas = model.head(maps)
    anchors = model.anchors(maps, images)
    counts = [m.shape[-2] * m.shape[-1] * model.per_cell for m in maps]
    whole: dict[str, Tensor] = {"cls_logits": logits, "bbox_regression": deltas}
    whole |= {f"P{i}": level for i, level in enumerate(maps, start=3)}
    batch = Batch(images, frames_of(images), targets_of(case))
    raw = {"logits": logits, "deltas": deltas, "anchors": anchors, "levels": torch.tensor(counts)}
    losses = model.loss(batch)
    matches = model.matches(anchors, batch.targets)
    fixed: dict[str, Any] = {
        "anchors": anchors,
        "anchors_per_level": counts,
        "n_parameters": sum(p.numel() for p in model.parameters()),
        "loss.classification": losses["classification"],
        "loss.bbox_regression": losses["box"],
    }
    out: dict[str, Any] = {}
    for entry in case.outputs:
        name = entry["name"]
        if name in fixed:
            out[name] = fixed[name]
        elif name in whole:
            out[name] = whole[name][entry["images"]]
        elif name == "detections":
            out[name] = _detections(model, raw, entry, batch.frames)
        else:
            value = _of_matches(name, matches, entry)
            if value is not None:
                out[name] = value
    return out


def built(case: Case) -> RetinaNet:
    """The case's network in eval mode."""
    model = case.model(**options(case))
    assert isinstance(model, RetinaNet)
    model.coder = DeltaCoder(
        tuple(case.params["box_coder_weights"]), clamp=case.params["bbox_xform_clip"]
    )
    return model


def options(case: Case) -> dict[str, Any]:
    """The case's switches and parameters as options of RetinaNet."""
    switches, params = case.switches, case.params
    expect(switches, norm_mode=["eval"], levels=[["C3", "C4", "C5"]], fpn_norm=[None])
    expect(switches, anchor_centre=["i*stride"], box_code=["cxcywh"], label_is_logit_index=[True])
    expect(params, nms=["per_class"], target_format=["x1y1x2y2"], normalise_image=[False])
    expect(params, row_order=["level,row,column,anchor"], resize=[False])
    made = translated(switches, _SAME, _VALUES)
    made["anchor_sizes"] = tuple(tuple(level) for level in switches["anchor_sizes"])
    return made | {ours: params[name] for name, ours in _PARAMS.items() if name in params}


def frames_of(images: Tensor) -> list[Frame]:
    """Frames that leave boxes as they are."""
    size = (images.shape[-2], images.shape[-1])
    return [Frame(size, size)] * len(images)


def targets_of(case: Case) -> Targets:
    """The objects of `params.targets`; label = index of the logit."""
    rows = case.params["targets"]
    return Targets.collate(
        [torch.tensor(row["boxes"]).reshape(-1, 4) for row in rows],
        [torch.tensor(row["labels"], dtype=torch.int64) for row in rows],
    )


def _detections(
    model: RetinaNet, raw: Mapping[str, Tensor], entry: Mapping[str, Any], frames: list[Frame]
) -> Tensor:
    (image,) = entry["images"]
    found = model.postprocess(dict(raw), frames)[image][: entry["params"].get("keep_best")]
    return torch.cat([found.labels[:, None].float(), found.scores[:, None], found.boxes], 1)


def _of_matches(name: str, matches: Matches, entry: Mapping[str, Any]) -> Any:
    """The object of each anchor, or how many anchors are of a kind."""
    if name.startswith("matched"):
        (image,) = entry["images"]
        index, params = matches.index[image], entry["params"]
        index = torch.where(matches.negative[image], params["background"], index)
        ignored = ~(matches.positive | matches.negative)[image]
        return torch.where(ignored, params["ignored"], index)
    if name.startswith("count."):
        (image,) = entry["images"]
        kinds = {
            "foreground": matches.positive,
            "background": matches.negative,
            "ignored": ~(matches.positive | matches.negative),
        }
        return kinds[name.split(".")[1]][image].sum()
    return None


CASES = {
    "torchvision_retinanet_resnet50_fpn": network,
    "torchvision_retinanet_resnet50_fpn_v2": network,
}
