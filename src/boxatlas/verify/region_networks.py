"""Two-stage networks of other sources: Detectron2, mmdetection, Caffe, MXNet; and masks."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from boxatlas.detectors.cascade_rcnn import CascadeRCNN
from boxatlas.parts.region.detector import RegionDetector
from boxatlas.parts.region.heads import TwoFC
from boxatlas.parts.region.masks import WithMasks
from boxatlas.parts.region.position_sensitive import PositionSensitiveDetector
from boxatlas.parts.region.single_level import Res5
from boxatlas.verify.case import Case, UnsupportedError, expect, translated
from boxatlas.verify.faster_rcnn import anchor_options, box_values, built, map_values
from boxatlas.verify.region_ops import coder
from boxatlas.verify.roi_ops import psroi_rule

Values = dict[str, Any]


def _in_order(case: Case, logits: Tensor) -> Tensor:
    """Our logits, background first, as the reference has them."""
    if case.run["background"] != "last":
        return logits
    return torch.cat([logits[..., 1:], logits[..., :1]], dim=-1)


# -- on a pyramid ---------------------------------------------------------------------------------


def _masked(case: Case) -> Values:
    """Mask R-CNN on a pyramid."""
    expect(case.switches, mask_head=[True])
    model = built(case)
    maps = model.features(case.input())
    return box_values(case, model, maps) | _mask_values(case, model, maps)


def _mask_values(case: Case, model: RegionDetector, maps: list[Tensor]) -> Values:
    assert isinstance(model, WithMasks)
    roi, boxes = case.params["mask_roi"], case.stored("mask_boxes")[None]
    expect(roi, output_size=[model.mask_side])  # pooled as for the boxes
    expect(roi, sampling_ratio=[model.config.roi_sampling], aligned=[model.config.roi_aligned])
    pooled = model.mask_features(maps, boxes)
    features = pooled
    for conv in model.mask.convs:
        features = F.relu(conv(features))
    return {
        "mask_roi_features": pooled,
        "mask_head_features": features,
        "mask_logits": model.masks(maps, boxes)[0],
    }


def _cascade(case: Case) -> Values:
    """Each head on the same boxes, then the heads in a row on smaller maps."""
    switches, params = case.switches, case.params
    code = params["coder"]
    name = "weights" if "weights" in code else "stds"
    weights = [coder({**code, name: one}).weights for one in code[name]]
    model = built(case, stages=switches["stages"], stage_weights=tuple(weights))
    assert isinstance(model, CascadeRCNN)
    model.coders = [coder({**code, name: one}) for one in code[name]]
    maps = model.features(case.input())
    out = map_values(case, model, maps)
    boxes = case.stored("proposals")[None]
    for t in range(switches["stages"]):
        logits, deltas = model.stage(maps, boxes, t)
        out[f"stage{t + 1}_scores_fixed_boxes"] = _in_order(case, logits[0])
        out[f"stage{t + 1}_deltas_fixed_boxes"] = deltas[0].flatten(1)
    if switches.get("mask_head"):
        out |= _mask_values(case, model, maps)
    return out | _loop(case, model, [m * params["loop"]["feature_scale"] for m in maps], boxes)


_ENSEMBLES: dict[str, dict[str, Any]] = {
    "mean_prob_own_boxes": {"score_boxes": "own", "score_of": "probability"},
    "mean_prob_stage3_boxes": {"score_boxes": "last", "score_of": "probability"},
    "softmax_of_mean_logits_own_boxes": {"score_boxes": "own", "score_of": "logit"},
}


def _loop(case: Case, model: CascadeRCNN, maps: list[Tensor], boxes: Tensor) -> Values:
    loop, (height, width) = case.params["loop"], case.params["image_size"]
    expect(loop, clip_window=["0,0,W,H"])
    limits = boxes.new_tensor([[width, height]]) if loop["clip_between_stages"] else None
    done = model.run(maps, boxes, limits)
    out: Values = {}
    for t, one in enumerate(done, start=1):
        moved = model.refine(one.boxes, one.logits, one.deltas, t - 1, None)
        out |= {
            f"loop_stage{t}_scores": _in_order(case, one.logits[0]),
            f"loop_stage{t}_deltas": one.deltas[0].flatten(1),
            f"loop_stage{t}_boxes": one.refined[0],
            f"loop_stage{t}_boxes_unclipped": moved[0],
        }
    for name, kind in case.params["ensemble_outputs"].items():
        if kind not in _ENSEMBLES:
            raise UnsupportedError(f"ensemble {kind!r}")
        model.config = model.config.model_copy(update=_ENSEMBLES[kind])
        out[name] = _in_order(case, model.ensemble(maps, done)[0])
    return out


# -- on one map -----------------------------------------------------------------------------------

_SAME = {
    "backbone": "backbone",
    "stride_in_1x1": "stride_in_1x1",
    "batch_norm_eps": "norm_eps",
    "rpn_cls": "rpn_cls",
    "box_head_channels": "box_width",
    "class_agnostic_box": "class_agnostic",
    "ceil_pool": "ceil_pools",
    "vote": "vote",
    "k": "k",
}
_VALUES: dict[str, tuple[str, dict[Any, Any]]] = {
    "batch_norm": ("norm", {"frozen": "frozen", "real": "batch"}),
    "roi_op": ("roi_op", {"roi_align": "align", "roi_pool": "pool"}),
    "features": ("resnet_map", {"res4": "c4", "res5": "dc5"}),
    "c4_res5_stride": ("c4_side", {1: 7, 2: 14}),
    "pool1": ("pool_padding", {"ceil_no_pad": 0, "floor_pad1": 1}),
    "psroi_op": ("rounding", {"original": "image", "torchvision": "map"}),
    "box_outputs": ("background_box", {8: True, 4: False}),
}


def _one_map(case: Case) -> RegionDetector:
    """The case's network in eval mode, its anchors and RoI pooling as the parameters say."""
    expect(case.switches, rpn_convs=[1], dropout=["off"])
    made = translated(case.switches, _SAME, _VALUES)
    made |= anchor_options(case.params["anchors"])
    roi = case.params.get("box_roi") or {}
    if "sampling_ratio" in roi:
        made |= {"roi_sampling": roi["sampling_ratio"], "roi_aligned": roi["aligned"]}
    model = case.model(**made)
    assert isinstance(model, RegionDetector)
    assert model.rpn is not None
    expect(roi, output_size=[model.roi_side, None])
    params = case.params["anchors"]
    expect(
        {"strides": params.get("strides", [params["stride"]])}, strides=[list(model.rpn.strides)]
    )
    return model


def _at(pooled: Tensor, rois: Tensor, images: int) -> Tensor:
    """Of every RoI pooled from every image, [B * R, ...], those of its own."""
    return pooled.view(images, len(rois), *pooled.shape[1:])[
        rois[:, 0].long(), torch.arange(len(rois))
    ]


def _detectron2(case: Case) -> Values:
    """C4 and DC5."""
    expect(case.switches, box_head=["res5_mean", "2fc"], res5=["per_roi", "dilated"])
    model = _one_map(case)
    assert model.rpn is not None
    maps = model.features(case.input())
    (scores,), (deltas,) = model.rpn.head(maps)
    height, width = case.params["image_size"]
    boxes = case.stored("proposals")[None]
    raw = model.heads(maps, boxes)
    out: Values = {
        f"feat_{case.switches['features']}": maps[0],
        "rpn_objectness": scores,
        "rpn_deltas": deltas,
        "anchors": model.rpn.anchors(maps, (height, width)),
        "base_anchors": model.rpn.anchors.make([(1, 1)], (height, width)),
        "roi_features": model.pool(maps, boxes),
        "scores": _in_order(case, raw["logits"][0]),
        "deltas": raw["deltas"][0].flatten(1),
    }
    if isinstance(model.head, Res5):
        out["res5_features"] = model.head.blocks(out["roi_features"])
    if isinstance(model, WithMasks):
        out["mask_logits"] = model.masks(maps, boxes)[0]
    return out


def _vgg(case: Case) -> Values:
    """Faster R-CNN by its authors; its RoI part is Fast R-CNN's."""
    expect(case.params, rpn_channel_order=["background_then_object"])
    model, rois = _one_map(case), case.stored("rois")
    assert model.rpn is not None
    assert isinstance(model.head, TwoFC)
    scale = case.params["box_roi"]["spatial_scale"]
    expect({"stride": round(1 / scale)}, stride=list(model.roi_strides))
    maps = model.features(case.input())
    (scores,), (deltas,) = model.rpn.head(model.rpn_maps(maps))
    images = len(maps[0])
    pooled = _at(model.pool(maps, rois[None, :, 1:].expand(images, -1, -1)), rois, images)
    fc6 = F.relu(model.head.fc6(pooled.flatten(1)))
    fc7 = model.head(pooled)
    logits, boxes = model.predictor(fc7)
    return {
        "conv5_3": maps[0],
        "conv5": maps[0],
        "rpn_cls_score": scores,
        "rpn_bbox_pred": deltas,
        "pool5": pooled,
        "fc6": fc6,
        "fc7": fc7,
        "cls_score": logits,
        "bbox_pred": boxes,
    }


def _rfcn(case: Case) -> Values:
    """Trunk, RPN, score maps, their pooling and the vote."""
    expect(case.params, rpn_channel_order=["background_then_object"])
    expect(case.params, psroi_channel_order=["class,bin_y,bin_x"])
    expect(case.switches, res5=["dilated"], res5_stride=[1], res5_dilation=[2])
    model, rois = _one_map(case), case.stored("rois")
    assert isinstance(model, PositionSensitiveDetector)
    assert model.rpn is not None
    psroi = case.params["psroi"]
    model.parts = psroi_rule({**psroi, "channel_order": "class,bin_y,bin_x"})
    expect({"stride": round(1 / psroi["spatial_scale"])}, stride=list(model.roi_strides))
    trunk = model.trunk(case.input())
    features = model.features(case.input())
    (scores,), (deltas,) = model.rpn.head(model.rpn_maps(features))
    images = len(features[0])
    boxes = rois[None, :, 1:].expand(images, -1, -1)
    raw = model.heads(features, boxes)
    row = torch.arange(len(rois))
    return {
        "res4": trunk[0],
        "res5": trunk[-1],
        "rpn_cls_score": scores,
        "rpn_bbox_pred": deltas,
        "conv_new_1": F.relu(model.score.reduce(trunk[-1])),
        "rfcn_cls": features[1],
        "rfcn_bbox": features[2],
        "psroipooled_cls": _at(model.pooled(features, boxes)[0], rois, images),
        "cls_score": raw["logits"][rois[:, 0].long(), row],
        "bbox_pred": raw["deltas"][rois[:, 0].long(), row].flatten(1),
    }


CASES = {
    "torchvision_maskrcnn_resnet50_fpn": _masked,
    "torchvision_maskrcnn_resnet50_fpn_v2": _masked,
    "detectron2_cascade_mask_rcnn_r50_fpn": _cascade,
    "mmdet_cascade_rcnn_r50_fpn": _cascade,
    "detectron2_faster_rcnn_r50_dc5": _detectron2,
    "detectron2_mask_rcnn_r50_c4": _detectron2,
    "faster_rcnn_vgg16": _vgg,
    "rfcn_resnet101": _rfcn,
}
