"""Non-maximum suppression, for many images and classes in one call.

Public: nms, batched_nms, soft_nms; and what detectors give them: Candidates, above,
best_sigmoid_above, top_per_level; proposal_nms (a fixed number of Proposals).

A box goes when its IoU with a better box of its own group that stays is above the threshold
(`suppress="gt"`, the rule of torchvision and of the GPU kernels) or reaches it ("ge", the first CPU
code of Fast R-CNN). Equal scores stay in order. Shape letters: B images, A anchors, K classes,
N boxes, S candidates per image, P proposals per image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torchvision.ops import nms as _torchvision_nms

from boxatlas.boxes.formats import iou as _iou
from boxatlas.options import AtLeastOne, Fraction, Options, setting

Rule = Literal["gt", "ge"]


class SuppressionChoices(Options):
    """Which scored boxes become detections; every method has these."""

    score: Fraction = setting(0.05, "a detection must score more than this")
    nms_iou: Fraction = setting(
        0.5, "of two detections of a class that overlap more than this, the better one stays"
    )
    max_detections: AtLeastOne = setting(100, "detections of an image, over all classes")


# From here on the compiled kernel is 3 to 4 times faster; below, importing it costs more.
_COMPILED_FROM = 1000


def nms(
    boxes: Tensor,
    scores: Tensor,
    threshold: float,
    *,
    inclusive: bool = False,
    suppress: Rule = "gt",
    limit: int | None = None,
) -> Tensor:
    """Rows of boxes [N, 4] that stay, best first, at most `limit` of them."""
    groups = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    return batched_nms(
        boxes, scores, groups, threshold, inclusive=inclusive, suppress=suppress, limit=limit
    )


def batched_nms(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    threshold: float,
    *,
    inclusive: bool = False,
    suppress: Rule = "gt",
    group_candidates: int | None = None,
    limit: int | None = None,
) -> Tensor:
    """Rows of boxes [N, 4] that stay, best first; boxes of different groups [N] do not compete.

    A group is one class of one image, or one level of one image. group_candidates: only so many of
    a group's best enter. limit: at most so many stay of each group.
    """
    if len(boxes) == 0:
        return torch.zeros(0, dtype=torch.int64, device=boxes.device)
    by_score, order, sizes = _ranked(scores, groups, group_candidates)
    rows, ends = by_score[order], sizes.cumsum(0)
    own = boxes[rows].detach()
    if inclusive:
        own = own + own.new_tensor([0.0, 0.0, 1.0, 1.0])
    if boxes.device.type == "cpu" and len(rows) >= _COMPILED_FROM:
        stays = _compiled(own, ends, threshold, suppress, limit)
    else:
        stays = _by_offset(own, sizes, threshold, suppress, limit)
    return by_score[order[stays].sort().values]


def _ranked(scores: Tensor, groups: Tensor, most: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """(rows by falling score, ranks in it group after group, sizes of the groups).

    most: so many of each group's best alone are ranked.
    """
    by_score = scores.sort(descending=True, stable=True).indices
    order = groups[by_score].sort(stable=True).indices
    _, sizes = torch.unique_consecutive(groups[by_score[order]], return_counts=True)
    if most is not None:
        place = torch.arange(len(order), device=order.device)
        place = place - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
        order, sizes = order[place < most], sizes.clamp(max=most)
    return by_score, order, sizes


def _compiled(
    boxes: Tensor, ends: Tensor, threshold: float, suppress: Rule, limit: int | None
) -> Tensor:
    """[N] bool for boxes that lie group after group, best first."""
    import numpy as np

    from boxatlas.boxes._nms_kernel import suppress_sorted

    number = np.float64 if boxes.dtype == torch.float64 else np.float32
    cut = number(threshold)
    # Both rules as `iou > cut` in the boxes' own precision, without rounding the threshold up.
    if (suppress == "ge" and float(cut) >= threshold) or float(cut) > threshold:
        cut = np.nextafter(cut, number(-1))
    planes = boxes.t().contiguous().numpy().astype(number, copy=False)
    stays = suppress_sorted(planes, ends.numpy(), cut, limit or len(boxes))
    return torch.from_numpy(stays)


def _by_offset(
    boxes: Tensor, sizes: Tensor, threshold: float, suppress: Rule, limit: int | None
) -> Tensor:
    """The same by torchvision's NMS, groups moved apart in float64, where that loses no bit."""
    wide = boxes.double()
    index = torch.arange(len(sizes), device=boxes.device).repeat_interleave(sizes)
    if len(sizes) > 1:
        span = 2 ** math.ceil(math.log2(max(float(wide.abs().max()), 0.5) + 1)) * 2
        wide = wide + (index * span)[:, None]
    cut = math.nextafter(threshold, -1) if suppress == "ge" else threshold
    # Scores that fall keep the order that the rows already have.
    falling = torch.arange(len(wide), 0, -1, device=boxes.device, dtype=wide.dtype)
    kept = _torchvision_nms(wide, falling, cut)
    stays = torch.zeros(len(wide), dtype=torch.bool, device=boxes.device)
    stays[kept] = True
    if limit is not None:
        count = stays.cumsum(0)
        before = torch.cat([count.new_zeros(1), count])[sizes.cumsum(0) - sizes]
        stays &= count - before[index] <= limit
    return stays


@torch.no_grad()
def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    *,
    method: Literal["linear", "gaussian"] = "gaussian",
    threshold: float = 0.3,
    sigma: float = 0.5,
    min_score: float = 0.001,
    inclusive: bool = False,
) -> tuple[Tensor, Tensor]:
    """(rows, new scores), best first: scores decay instead of boxes being dropped (1704.04503).

    In turn the best box of each group is final and the group's others are multiplied by
    1 - IoU where that exceeds `threshold` (linear) or by exp(-IoU^2 / sigma) (gaussian). Boxes end
    when their score falls below min_score. All groups [N] run side by side.
    """
    if len(boxes) == 0:
        return torch.zeros(0, dtype=torch.int64, device=boxes.device), scores
    order = groups.sort(stable=True).indices
    _, group, sizes = torch.unique_consecutive(
        groups[order], return_inverse=True, return_counts=True
    )
    place = torch.arange(len(order), device=order.device) - (sizes.cumsum(0) - sizes)[group]
    lead = (len(sizes), int(sizes.max()))
    left = scores.new_full(lead, -1.0)  # [groups, most]; -1: taken or padding
    left[group, place] = scores[order]
    padded = boxes.new_zeros(*lead, 4)
    padded[group, place] = boxes[order]
    final = torch.zeros_like(left)
    every = torch.arange(lead[0], device=boxes.device)
    for _ in range(lead[1]):
        value, best = left.max(dim=1)
        alive = value >= min_score
        if not bool(alive.any()):
            break
        final[every[alive], best[alive]] = value[alive]
        overlap = _iou(padded, padded[every, best][:, None], inclusive)
        if method == "linear":
            decay = torch.where(overlap > threshold, 1 - overlap, torch.ones_like(overlap))
        else:
            decay = torch.exp(-overlap * overlap / sigma)
        left = torch.where(left >= min_score, left * decay, left.new_tensor(-1.0))
        left[every, best] = -1.0
    value = final[group, place]
    keep = (value > 0).nonzero()[:, 0]
    keep = keep[value[keep].sort(descending=True, stable=True).indices]
    return order[keep], value[keep]


class Candidates(NamedTuple):
    """(image, row, label) and score of what may become a detection, flat [N] each."""

    image: Tensor
    row: Tensor
    label: Tensor
    score: Tensor


def above(scores: Tensor, threshold: float, or_equal: bool = False) -> Candidates:
    """Every (row, class) of scores [B, A, K] that exceeds (or equals) the threshold."""
    chosen = scores >= threshold if or_equal else scores > threshold
    image, row, label = chosen.nonzero(as_tuple=True)
    return Candidates(image, row, label, scores[image, row, label])


def best_sigmoid_above(
    logits: Tensor,
    threshold: float,
    top: int,
    splits: Sequence[int] | None = None,
    or_equal: bool = False,
) -> Candidates:
    """As `above`, of sigmoid(logits [B, A, K]), which is computed only where it may pass; at most
    the `top` best pairs of each image, per level where splits are given.

    splits: how many of the A rows each level has (RetinaNet, section 4.1: 1,000 per level).
    """
    cut = -torch.inf
    if 0 < threshold < 1:
        cut = math.log(threshold / (1 - threshold))
        cut -= 1e-3 * max(1.0, abs(cut))  # rounding is left to the comparison of the sigmoids
    _, rows, classes = logits.shape
    where = (logits > cut).flatten().nonzero().squeeze(1)
    score = logits.flatten()[where].sigmoid()
    hit = score >= threshold if or_equal else score > threshold
    where, score = where[hit], score[hit]
    row = where.div(classes, rounding_mode="floor")
    image = row.div(rows, rounding_mode="floor")
    found = Candidates(image, row - image * rows, where - row * classes, score)
    return _best_of_levels(found, top, rows, splits)


def _best_of_levels(
    found: Candidates, top: int, rows: int, splits: Sequence[int] | None
) -> Candidates:
    """The `top` best of each image and level, image by image, level by level, best first."""
    if len(found.score) == 0:
        return found
    ends = torch.tensor([rows] if splits is None else list(splits), device=found.row.device)
    level = torch.bucketize(found.row, ends.cumsum(0), right=True)
    by_score, order, _ = _ranked(found.score, found.image * len(ends) + level, top)
    chosen = by_score[order]
    return Candidates(*(part[chosen] for part in found))


def top_per_level(scores: Tensor, splits: Sequence[int], top: int) -> tuple[Tensor, Tensor]:
    """Each level's `top` best rows: (index [B, S], level [S]), S the same for every image."""
    index, level, start = [], [], 0
    for number, count in enumerate(splits):
        part = scores[:, start : start + count].topk(torch.sym_min(top, count), dim=1).indices
        index.append(part + start)
        level.append(torch.full((part.shape[1],), number, device=scores.device))
        start += count
    return torch.cat(index, dim=1), torch.cat(level)


class Proposals(NamedTuple):
    """A fixed number per image, best first, then padding: boxes [B, P, 4], scores, valid [B, P]."""

    boxes: Tensor
    scores: Tensor
    valid: Tensor


def proposal_nms(
    boxes: Tensor,
    scores: Tensor,
    threshold: float,
    keep: int,
    *,
    usable: Tensor | None = None,
    level: Tensor | None = None,
    inclusive: bool = False,
    suppress: Rule = "gt",
) -> Proposals:
    """The best `keep` of each image after NMS (RPN; Faster R-CNN, section 3.3).

    boxes [B, S, 4], scores [B, S]; usable [B, S]: rows that may be proposed at all; level [S]:
    levels do not compete. Padding has score 0 and box 0.
    """
    images = len(scores)
    usable = torch.ones_like(scores, dtype=torch.bool) if usable is None else usable
    image, row = usable.nonzero(as_tuple=True)
    group = image if level is None else image * (int(level.max()) + 1) + level[row]
    kept = batched_nms(
        boxes[image, row],
        scores[image, row],
        group,
        threshold,
        inclusive=inclusive,
        suppress=suppress,
        limit=keep,
    )
    kept = kept[image[kept].sort(stable=True).indices]
    sizes = torch.bincount(image[kept], minlength=images)
    place = torch.arange(len(kept), device=kept.device)
    place = place - (sizes.cumsum(0) - sizes)[image[kept]]
    fits = place < keep
    image, row, place = image[kept][fits], row[kept][fits], place[fits]
    out = Proposals(
        boxes.new_zeros(images, keep, 4),
        scores.new_zeros(images, keep),
        torch.zeros(images, keep, dtype=torch.bool, device=boxes.device),
    )
    out.boxes[image, place] = boxes[image, row]
    out.scores[image, place] = scores[image, row]
    out.valid[image, place] = True
    return out
