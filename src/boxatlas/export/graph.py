"""What an exported file computes: a detector's network as a graph with named inputs and outputs.

Shape letters: B images, h x w pixels, P proposals, S boxes that enter suppression.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from boxatlas.boxes.nms import Proposals
from boxatlas.errors import InputError
from boxatlas.parts.base import Detector, Raw
from boxatlas.parts.region.detector import RegionDetector
from boxatlas.parts.region.masks import WithMasks
from boxatlas.parts.region.rpn import RPN, Ranked

_NEVER = -1e30  # a logit that nothing has, below what suppression looks at


@dataclass(frozen=True)
class Inputs:
    """What a graph takes besides "images" [B, 3, h, w], which `Preprocess.batch` gives.

    content: "content" [B, 2], the width and height that each picture reaches within the input, to
    which proposals are clipped; scale: "scale" [B], pixels of the input for one of the source;
    boxes: "boxes" [B, P, 4] in pixels of the input. free: h and w may vary.
    """

    content: bool = False
    scale: bool = False
    boxes: bool = False
    free: bool = False
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        optional = (("content", self.content), ("scale", self.scale), ("boxes", self.boxes))
        names = ("images", *(name for name, wanted in optional if wanted))
        object.__setattr__(self, "names", names)


def inputs_of(detector: Detector) -> Inputs:
    """What a detector's graph takes. Raises InputError for a method that has none."""
    free = not detector.preprocess.same_size
    if not isinstance(detector, RegionDetector):
        if detector.takes_proposals:
            raise InputError(
                "looks at crops of the picture, one network call for each: it has no graph",
                field="model",
                value=detector.name,
            )
        return Inputs(free=free)
    if isinstance(detector, WithMasks):
        raise InputError("masks are not exported", field="model", value=detector.name)
    if detector.rpn is None:
        return Inputs(boxes=True, free=free)
    rule = detector.rpn.config
    return Inputs(content=True, scale=rule.min_size_first and rule.min_size > 0, free=free)


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
    """The network of a detector, its raw outputs in a fixed order as a tuple."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector, self.inputs = detector, inputs_of(detector)

    def forward(self, images: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.raw(images, *rest).values())

    def raw(self, images: Tensor, *rest: Tensor) -> Raw:
        """The detector's own `forward`, frames replaced by the inputs that tell of them."""
        detector, given = self.detector, dict(zip(self.inputs.names[1:], rest, strict=True))
        if not isinstance(detector, RegionDetector):
            return detector(images)
        features = detector.features(images)
        if detector.rpn is None:
            boxes = given["boxes"]
            valid = (boxes[..., 2:] > boxes[..., :2]).all(-1)
        else:
            size = (images.shape[-2], images.shape[-1])
            rows = detector.rpn(detector.rpn_maps(features), size)
            before, keep = detector.rpn.config.proposals_detect
            content = given["content"]
            ranked = detector.rpn.best(rows, before, content, given.get("scale"))
            boxes, _, valid = _suppressed(detector.rpn, ranked, keep)
        raw = detector.heads(features, boxes, given.get("content"))
        if "proposals" in raw:  # of heads that move boxes: the RPN's own beside them
            raw["rpn_proposals"] = boxes
        return {"proposals": boxes, "valid": valid, **raw, **detector.extra_raw(features)}


def _suppressed(rpn: RPN, ranked: Ranked, keep: int) -> Proposals:
    """`proposal_nms` by one NonMaxSuppression, whose classes are the levels."""
    levels = len(rpn.strides)
    scores = ranked.scores.masked_fill(~ranked.usable, _NEVER)
    level = torch.arange(levels, device=scores.device)[:, None]
    by_level = torch.where(ranked.level == level, scores[:, None], _NEVER)  # [B, levels, S]
    corners = ranked.boxes
    if rpn.coder.inclusive:
        corners = corners + corners.new_tensor([0.0, 0.0, 1.0, 1.0])
    stays = kept(corners, by_level, keep, rpn.config.rpn_nms, _NEVER / 2).any(1)
    best, row = scores.masked_fill(~stays, _NEVER).topk(torch.sym_min(keep, scores.shape[1]), dim=1)
    valid = best > _NEVER / 2
    boxes = ranked.boxes.gather(1, row[..., None].expand(-1, -1, 4))
    return Proposals(boxes * valid[..., None], best * valid, valid)


def kept(boxes: Tensor, scores: Tensor, most: int, iou: float, score: float) -> Tensor:
    """[B, C, S] bool: which boxes [B, S, 4] stay in each class of scores [B, C, S].

    The standard operator NonMaxSuppression: at most `most` of a class, those above `score`.
    """
    chosen = torch.onnx.ops.symbolic(
        "NonMaxSuppression",
        (
            boxes,
            scores,
            torch.tensor([most]),
            torch.tensor([iou], dtype=torch.float32),
            torch.tensor([score], dtype=torch.float32),
        ),
        dtype=torch.int64,
        shape=(_any_number(), 3),
    )
    stays = torch.zeros_like(scores, dtype=torch.float32)
    one = torch.ones_like(chosen[:, 0], dtype=torch.float32)
    return stays.index_put((chosen[:, 0], chosen[:, 1], chosen[:, 2]), one) > 0


def _any_number() -> int:
    """A size that only running the graph tells."""
    size: int = torch.zeros(1, dtype=torch.int64).sum().item()  # pyright: ignore
    torch._check(size >= 0)
    return size
