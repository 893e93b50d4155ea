"""What an exported file computes: a detector's network as a graph with named inputs and outputs.

Shape letters: B images, h x w pixels, P proposals, S boxes that enter suppression.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from boxatlas.boxes.nms import Proposals
from boxatlas.detectors.rcnn import RCNN
from boxatlas.export.suppression import NEVER, Keep, check_suppressible, decided, drawn
from boxatlas.parts.base import Detector, Raw
from boxatlas.parts.dense import DenseDetector
from boxatlas.parts.region.detector import RegionDetector
from boxatlas.parts.region.masks import WithMasks
from boxatlas.parts.region.rpn import RPN, Ranked


@dataclass(frozen=True)
class Inputs:
    """What a graph takes besides "images" [B, 3, h, w], which `Preprocess.batch` gives.

    content: "content" [B, 2], the width and height that each picture reaches within the input, to
    which proposals are clipped; scale: "scale" [B], pixels of the input for one of the source;
    rois: "rois" [B, P, 4] in pixels of the input; score: "score" [1], the least that a detection
    scores, which need not be given. free: h and w may vary.
    """

    content: bool = False
    scale: bool = False
    rois: bool = False
    score: bool = False
    free: bool = False
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        optional = (
            ("content", self.content),
            ("scale", self.scale),
            ("rois", self.rois),
            ("score", self.score),
        )
        names = ("images", *(name for name, wanted in optional if wanted))
        object.__setattr__(self, "names", names)


def inputs_of(detector: Detector, with_nms: bool = False) -> Inputs:
    """What a detector's graph takes. Raises InputError for a method that has none."""
    if with_nms:
        check_suppressible(detector)
    free = not detector.preprocess.same_size
    if not isinstance(detector, RegionDetector):
        if detector.takes_proposals:
            return Inputs(content=True, rois=True, free=free)
        clips = isinstance(detector, DenseDetector) and detector.config.clip_before_nms
        return Inputs(content=with_nms and clips, score=with_nms, free=free)
    if detector.rpn is None:
        return Inputs(content=with_nms, rois=True, score=with_nms, free=free)
    rule = detector.rpn.config
    scale = rule.min_size_first and rule.min_size > 0
    return Inputs(content=True, scale=scale, score=with_nms, free=free)


def with_constant_padding(network: nn.Module) -> None:
    """Replace convolutions that pad as TensorFlow does, by the input's size, with constant padding.

    Right where every map's side is a multiple of the stride, as those of inputs are whose sides are
    multiples of 32; sizes that are symbols then stay simple.
    """
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Conv2d) and type(child) is Conv2dSame:
                (top, bottom), (left, right) = (_padding(child, axis) for axis in (0, 1))
                child.__class__ = nn.Conv2d
                padded = nn.Sequential(nn.ZeroPad2d((left, right, top, bottom)), child)
                setattr(module, name, padded)


def _padding(conv: nn.Conv2d, axis: int) -> tuple[int, int]:
    """Cells before and after, of an axis whose length is a multiple of the stride."""
    reach = (conv.kernel_size[axis] - 1) * conv.dilation[axis] + 1
    both = max(reach - conv.stride[axis], 0)
    return both // 2, both - both // 2


class Graph(nn.Module):
    """The network of a detector, its raw outputs in a fixed order as a tuple.

    with_nms: its detections as well, as `decided` gives them, and the masks of those. Masks are
    drawn for the boxes that are left: a method that has them is exported in no other way. keep: the
    suppression that it uses.
    """

    def __init__(self, detector: Detector, with_nms: bool, keep: Keep) -> None:
        super().__init__()
        self.keep = keep
        self.with_nms = with_nms or isinstance(detector, WithMasks)
        self.detector, self.inputs = detector, inputs_of(detector, self.with_nms)
        self.svms = isinstance(detector, RCNN) and bool(detector.svm_scores)

    def forward(self, images: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.raw(images, *rest).values())

    def raw(self, images: Tensor, *rest: Tensor) -> Raw:
        """The detector's own `forward`, frames replaced by the inputs that tell of them."""
        detector, given = self.detector, dict(zip(self.inputs.names[1:], rest, strict=True))
        if isinstance(detector, RCNN):
            return _of_crops(detector, images, given["content"], given["rois"], self.svms)
        if not isinstance(detector, RegionDetector):
            raw = detector(images)
            if not self.with_nms:
                return raw
            return decided(detector, raw, given.get("content"), given["score"], self.keep)
        features = detector.features(images)
        if detector.rpn is None:
            boxes = given["rois"]
            valid = (boxes[..., 2:] > boxes[..., :2]).all(-1)
        else:
            size = (images.shape[-2], images.shape[-1])
            rows = detector.rpn(detector.rpn_maps(features), size)
            before, keep = detector.rpn.config.proposals_detect
            content = given["content"]
            ranked = detector.rpn.best(rows, before, content, given.get("scale"))
            boxes, _, valid = _suppressed(detector.rpn, ranked, keep, self.keep)
        raw = detector.heads(features, boxes, given.get("content"))
        if "proposals" in raw:  # of heads that move boxes: the RPN's own beside them
            raw["rpn_proposals"] = boxes
        raw = {"proposals": boxes, "valid": valid, **raw}
        if not self.with_nms:
            return raw
        answer = decided(detector, raw, given["content"], given["score"], self.keep)
        if isinstance(detector, WithMasks):
            answer["masks"] = drawn(detector, features, answer)
        return {**answer, "proposals": boxes, "valid": valid}


def _of_crops(model: RCNN, images: Tensor, content: Tensor, rois: Tensor, svms: bool) -> Raw:
    """R-CNN's `forward` on the boxes given, all of them at once."""
    image = torch.arange(images.shape[0])[:, None].expand(-1, rois.shape[1]).flatten()
    crops = model.crop(images, rois.flatten(0, 1), image, content.flip(1).long())
    layers = model.network(crops)
    shape = (images.shape[0], rois.shape[1])
    return {
        "scores": model.scores(layers, svms).unflatten(0, shape),
        "deltas": model.deltas(layers).unflatten(0, shape),
        "proposals": rois,
        "valid": (rois[..., 2:] > rois[..., :2]).all(-1),
    }


def _suppressed(rpn: RPN, ranked: Ranked, count: int, keep: Keep) -> Proposals:
    """`proposal_nms` by one suppression, whose classes are the levels."""
    levels = len(rpn.strides)
    scores = ranked.scores.masked_fill(~ranked.usable, NEVER)
    level = torch.arange(levels, device=scores.device)[:, None]
    by_level = torch.where(ranked.level == level, scores[:, None], NEVER)  # [B, levels, S]
    corners = ranked.boxes
    if rpn.coder.inclusive:
        corners = corners + corners.new_tensor([0.0, 0.0, 1.0, 1.0])
    stays = keep(corners, by_level, count, rpn.config.rpn_nms, NEVER / 2).any(1)
    best, row = scores.masked_fill(~stays, NEVER).topk(torch.sym_min(count, scores.shape[1]), dim=1)
    valid = best > NEVER / 2
    boxes = ranked.boxes.gather(1, row[..., None].expand(-1, -1, 4))
    return Proposals(boxes * valid[..., None], best * valid, valid)
