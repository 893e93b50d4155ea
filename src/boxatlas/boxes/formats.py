"""Boxes as numbers: formats, areas, overlaps, clipping.

Public: xyxy_to_cxcywh, cxcywh_to_xyxy, xyxy_to_xywh, xywh_to_xyxy, area, iou, pairwise_iou,
pairwise_ioa, clip, large_enough, pyramid_level.

Boxes are xyxy in continuous pixels (or fractions of the image) unless a name says otherwise.
`inclusive` is the convention of the first R-CNN programs: corners are pixel indices that belong to
the box, so that its width is x2 - x1 + 1. Shape letters: N, M boxes.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Elements of one temporary: what fits a CPU's cache, and what keeps a GPU busy.
CPU_BUDGET = 1 << 18
GPU_BUDGET = 1 << 25


def budget(device: torch.device) -> int:
    """How many elements a temporary may have, so that memory stays bounded and caches are used."""
    return CPU_BUDGET if device.type == "cpu" else GPU_BUDGET


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """[..., 4] corners -> centre, width, height."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """[..., 4] centre, width, height -> corners."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def xyxy_to_xywh(boxes: Tensor) -> Tensor:
    """[..., 4] corners -> first corner, width, height (COCO's form)."""
    return torch.cat([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], dim=-1)


def xywh_to_xyxy(boxes: Tensor) -> Tensor:
    """[..., 4] first corner, width, height -> corners."""
    return torch.cat([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], dim=-1)


def area(boxes: Tensor, inclusive: bool = False) -> Tensor:
    """[..., 4] -> [...]; a box whose corners are swapped has a negative side."""
    size = boxes[..., 2:] - boxes[..., :2] + int(inclusive)
    return size[..., 0] * size[..., 1]


def iou(a: Tensor, b: Tensor, inclusive: bool = False) -> Tensor:
    """Overlap of each pair [..., 4], [..., 4] -> [...]; differentiable; 0 for two empty boxes."""
    low = torch.maximum(a[..., :2], b[..., :2])
    high = torch.minimum(a[..., 2:], b[..., 2:])
    size = (high - low + int(inclusive)).clamp(min=0)
    shared = size[..., 0] * size[..., 1]
    union = area(a, inclusive) + area(b, inclusive) - shared
    return shared / union.clamp(min=torch.finfo(union.dtype).tiny)


def pairwise_iou(a: Tensor, b: Tensor, inclusive: bool = False) -> Tensor:
    """Overlap of every pair: [..., N, 4], [..., M, 4] -> [..., N, M]. Carries no gradient.

    Beside the result no temporary is larger than the budget; two empty boxes overlap by 0.
    """
    return _pairwise(a, b, inclusive, over_union=True)


def pairwise_ioa(a: Tensor, b: Tensor, inclusive: bool = False) -> Tensor:
    """Intersection over the area of `a`: [..., N, 4], [..., M, 4] -> [..., N, M]. No gradient.

    How much of each box of `a` lies in a crowd or ignored region of `b`.
    """
    return _pairwise(a, b, inclusive, over_union=False)


@torch.no_grad()
def _pairwise(a: Tensor, b: Tensor, inclusive: bool, over_union: bool) -> Tensor:
    planes = b.movedim(-1, 0).contiguous()  # four rows [..., M]: the inner loops run along memory
    lead = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    rows = max(1, budget(a.device) // max(1, planes[0].numel()))
    if a.shape[-2] <= rows:
        return _overlap(a, planes, inclusive, over_union)
    out = a.new_empty(*lead, a.shape[-2], b.shape[-2])
    for start in range(0, a.shape[-2], rows):
        part = a[..., start : start + rows, :]
        out[..., start : start + rows, :] = _overlap(part, planes, inclusive, over_union)
    return out


def _overlap(a: Tensor, planes: Tensor, inclusive: bool, over_union: bool) -> Tensor:
    one = int(inclusive)
    ax1, ay1, ax2, ay2 = a.unsqueeze(-2).unbind(-1)  # [..., N, 1]
    bx1, by1, bx2, by2 = planes.unsqueeze(-2)  # [..., 1, M]
    shared = torch.minimum(ax2, bx2).sub_(torch.maximum(ax1, bx1))
    height = torch.minimum(ay2, by2).sub_(torch.maximum(ay1, by1))
    if one:
        shared.add_(one)
        height.add_(one)
    shared.clamp_(min=0).mul_(height.clamp_(min=0))
    area_a = (ax2 - ax1 + one) * (ay2 - ay1 + one)
    if not over_union:
        return shared.div_(area_a.clamp_(min=torch.finfo(a.dtype).tiny))
    area_b = (bx2 - bx1 + one) * (by2 - by1 + one)
    union = torch.add(area_a, area_b, out=height).sub_(shared)
    return shared.div_(union.clamp_(min=torch.finfo(a.dtype).tiny))


def clip(boxes: Tensor, size: tuple[float, float], max_offset: float = 0.0) -> Tensor:
    """[..., 4] clipped to an image of `size` (height, width).

    max_offset is added to the far limits: -1 keeps inclusive corners on the last pixel.
    """
    height, width = size
    limit = boxes.new_tensor([width, height, width, height]) + max_offset
    return torch.minimum(boxes.clamp(min=0), limit)


def large_enough(boxes: Tensor, side: float, inclusive: bool = False) -> Tensor:
    """[..., 4] -> [...] bool: both sides are at least `side`."""
    return ((boxes[..., 2:] - boxes[..., :2] + int(inclusive)) >= side).all(dim=-1)


def pyramid_level(
    boxes: Tensor,
    k_min: int = 2,
    k_max: int = 5,
    k0: int = 4,
    canonical_size: float = 224.0,
    *,
    inclusive: bool = False,
    epsilon_inside_log: float = 0.0,
    epsilon_outside_log: float = 1e-6,
    add_k0_inside_floor: bool = True,
) -> Tensor:
    """The pyramid level of each box [..., 4] -> [...] int64 in k_min..k_max (FPN, equation 1).

    The epsilons decide where a box of exactly 112, 224 or 448 goes; each program has its own.
    """
    size = area(boxes, inclusive).clamp(min=0).sqrt()
    level = torch.log2(size / canonical_size + epsilon_inside_log) + epsilon_outside_log
    level = torch.floor(k0 + level) if add_k0_inside_floor else k0 + torch.floor(level)
    return level.clamp(k_min, k_max).to(torch.int64)  # log2(0) = -inf is clamped too
