"""Which object each anchor answers for.

Public: Matches, Assigned, BACKGROUND, IGNORED, MatchChoices, match_bipartite (SSD),
match_argmax_per_object (its ports), match_thresholds (RPN, RetinaNet, RoI heads, cascades),
ignore_inside.

All take anchors [A, 4] or [B, A, 4] and a padded batch of objects [B, M, 4] with valid [B, M], and
return Matches over [B, A]. No temporary grows past the budget of `formats`: images and objects are
taken in chunks. Shape letters: B images, A anchors, M objects; b, m those of one chunk.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from boxatlas.boxes.formats import budget, pairwise_ioa, pairwise_iou
from boxatlas.options import Fraction, Options, setting

BACKGROUND = -1
IGNORED = -2


class MatchChoices(Options):
    """From which overlap an anchor answers for an object, in SSD's family and RetinaNet.

    SSD's family also takes its hard negatives from the boxes below it.
    """

    match_iou: Fraction = setting(
        0.5, "SSD, section 2.2: a box that overlaps an object by this or more is positive", gt=0
    )


@dataclass
class Matches:
    """index [B, A] int64: the object in 0..M-1, BACKGROUND or IGNORED.

    iou [B, A]: the anchor's best overlap with any object of its image, 0 where there is none.
    """

    index: Tensor
    iou: Tensor

    @property
    def positive(self) -> Tensor:
        """[B, A] bool: the anchor answers for an object."""
        return self.index >= 0

    @property
    def negative(self) -> Tensor:
        """[B, A] bool: the anchor is background."""
        return self.index == BACKGROUND

    def pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """(image, anchor, object) of every positive, each [P]; image by image, in anchor order."""
        image, anchor = self.positive.nonzero(as_tuple=True)
        return image, anchor, self.index[image, anchor]

    def labels(self, labels: Tensor, background: int, ignored: int = IGNORED) -> Tensor:
        """Each anchor's class [B, A] from the objects' labels [B, M]."""
        if labels.shape[1] == 0:
            own = torch.full_like(self.index, background)
        else:
            own = labels.gather(1, self.index.clamp(min=0))
        own = torch.where(self.index == BACKGROUND, background, own)
        return torch.where(self.index == IGNORED, ignored, own)


@dataclass(frozen=True)
class Assigned:
    """Whom the boxes of one step learn for.

    name: what they are ("default boxes", "RoIs"); boxes [A, 4] or [B, A, 4] xyxy in pixels of the
    input; index [B, A] as in `Matches`: an object of the batch's targets, BACKGROUND or IGNORED.
    """

    name: str
    boxes: Tensor
    index: Tensor


@dataclass
class _Best:
    """The best of each side, from one pass over the overlaps."""

    iou: Tensor  # [B, A]
    index: Tensor  # [B, A], right where iou >= floor
    object_iou: Tensor  # [B, M]
    object_anchor: Tensor  # [B, M]


def _batched(anchors: Tensor, count: int) -> Tensor:
    return anchors.expand(count, -1, -1) if anchors.dim() == 2 else anchors


def _chunks(
    anchors: Tensor, boxes: Tensor, inclusive: bool, usable: Tensor | None
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Overlaps (images, objects, iou [b, m, A]) of one chunk of the batch at a time.

    An image's objects come in order; each chunk sees all anchors. Anchors that are not usable
    overlap nothing.
    """
    images, objects = boxes.shape[:2]
    count = max(1, anchors.shape[-2])
    most = max(1, budget(boxes.device) // count)
    rows = min(most, max(objects, 1))
    together = max(1, most // rows) if objects <= most else 1
    for start in range(0, images, together):
        image = slice(start, min(start + together, images))
        own = anchors if anchors.dim() == 2 else anchors[image]
        for first in range(0, objects, rows):
            part = slice(first, min(first + rows, objects))
            iou = pairwise_iou(boxes[image, part], own, inclusive)
            if usable is not None:
                keep = usable if usable.dim() == 1 else usable[image, None]
                iou.masked_fill_(~keep, 0.0)
            yield image, part, iou


def _best(
    anchors: Tensor,
    boxes: Tensor,
    valid: Tensor,
    floor: float,
    inclusive: bool,
    usable: Tensor | None = None,
) -> _Best:
    size, count = len(boxes), anchors.shape[-2]
    found = _Best(
        boxes.new_zeros(size, count),
        torch.zeros(size, count, dtype=torch.int64, device=boxes.device),
        boxes.new_zeros(valid.shape),
        torch.zeros(valid.shape, dtype=torch.int64, device=boxes.device),
    )
    if count == 0 or valid.shape[1] == 0:
        return found
    boxes = boxes * valid[..., None]  # a padded row is an empty box: it overlaps nothing
    for image, part, iou in _chunks(anchors, boxes, inclusive, usable):
        found.object_iou[image, part], found.object_anchor[image, part] = iou.max(dim=2)
        _update(found, image, part, iou, floor)
    found.object_iou.masked_fill_(~valid, 0.0)
    return found


def _update(found: _Best, image: slice, part: slice, iou: Tensor, floor: float) -> None:
    """Fold a chunk into the best object of each anchor; of equal ones the first object stays.

    Finding a maximum is ten times cheaper than finding where it is, and only anchors that reach
    `floor` need to know where.
    """
    top = iou.amax(dim=1)
    row, column = ((top > found.iou[image]) & (top >= floor)).nonzero(as_tuple=True)
    where = iou.transpose(1, 2)[row, column].argmax(dim=1)
    found.index[image][row, column] = where + part.start
    torch.maximum(found.iou[image], top, out=found.iou[image])


def match_bipartite(
    anchors: Tensor,
    boxes: Tensor,
    valid: Tensor,
    threshold: float = 0.5,
    min_iou: float = 1e-6,
    inclusive: bool = False,
) -> Matches:
    """SSD's matching (section 2.2): a best anchor of its own for every object, then a threshold.

    First the globally best (anchor, object) pair is taken, then the best among the anchors and
    objects that are left, as long as the overlap exceeds min_iou; of equal pairs the lower anchor,
    then the lower object. Then every other anchor takes its best object where the overlap is at
    least `threshold` (> 0). Nothing is ignored.
    """
    with torch.no_grad():
        best = _best(anchors, boxes, valid, threshold, inclusive)
        index = torch.where(best.iou >= threshold, best.index, BACKGROUND)
        if valid.shape[1] == 0:
            return Matches(index, best.iou)
        image, anchor, owner = _bipartite_pairs(
            _batched(anchors, len(boxes)), boxes, best, min_iou, inclusive
        )
        index[image, anchor] = owner
        return Matches(index, best.iou)


def _bipartite_pairs(
    anchors: Tensor, boxes: Tensor, best: _Best, min_iou: float, inclusive: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The greedy pairs of all images as (image, anchor, object)."""
    first_iou = best.object_iou.cpu().numpy()
    first_anchor = best.object_anchor.cpu().numpy()
    pairs: list[tuple[int, int, int]] = []
    for i, (values, own) in enumerate(zip(first_iou, first_anchor, strict=True)):
        objects = (values > min_iou).nonzero()[0]
        chosen = own[objects]
        if len(set(chosen.tolist())) == len(chosen):  # everyone's first choice is free
            pairs += [(i, int(a), int(o)) for a, o in zip(chosen, objects, strict=True)]
        else:
            wishes = _Wishes(anchors[i], boxes[i], min_iou, inclusive)
            pairs += [(i, a, o) for a, o in _greedy(wishes, objects.tolist(), chosen, values)]
    image, anchor, owner = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 3).t()
    device = boxes.device
    return image.to(device), anchor.to(device), owner.to(device)


class _Wishes:
    """For one image: an object's next best anchors among those that are still free."""

    depth = 32  # how many to list at once

    def __init__(self, anchors: Tensor, boxes: Tensor, min_iou: float, inclusive: bool) -> None:
        self.anchors, self.boxes = anchors, boxes
        self.min_iou, self.inclusive = min_iou, inclusive
        self.free = torch.ones(len(anchors), dtype=torch.bool, device=boxes.device)

    def of(self, objects: list[int]) -> list[list[tuple[float, int]]]:
        """Per object [(-iou, anchor), ...], the best last; empty where no free anchor overlaps."""
        rows = max(1, budget(self.boxes.device) // max(1, len(self.anchors)))
        lists: list[list[tuple[float, int]]] = []
        for start in range(0, len(objects), rows):
            iou = (
                pairwise_iou(
                    self.boxes[objects[start : start + rows]], self.anchors, self.inclusive
                ).float()
                * self.free
            )
            # The bits of a positive float32 sort as the number does; below them, the lower anchor.
            order = torch.arange(iou.shape[1] - 1, -1, -1, device=iou.device)
            keys = (iou.view(torch.int32).to(torch.int64) << 32) | order
            top = keys.topk(min(self.depth, iou.shape[1]), dim=1).values
            anchor = (iou.shape[1] - 1 - (top & 0xFFFFFFFF)).cpu()
            value = iou.gather(1, anchor.to(iou.device)).cpu()
            for v, a in zip(value.tolist(), anchor.tolist(), strict=True):
                near = [(-x, y) for x, y in zip(v, a, strict=True) if x > self.min_iou]
                lists.append(near[::-1])
        return lists


def _greedy(wishes: _Wishes, objects: list[int], chosen, values) -> Iterator[tuple[int, int]]:
    """(anchor, object) of one image, the globally best pair first.

    A heap holds every free object's best wish; one whose anchor was taken meanwhile wishes again.
    """
    taken: set[int] = set()
    counts: dict[int, int] = {}
    for anchor in chosen.tolist():
        counts[anchor] = counts.get(anchor, 0) + 1
    rivals = [o for o, a in zip(objects, chosen.tolist(), strict=True) if counts[a] > 1]
    lists = dict(zip(rivals, wishes.of(rivals), strict=True))
    heap: list[tuple[float, int, int]] = []
    for o, a in zip(objects, chosen.tolist(), strict=True):
        value, anchor = lists[o].pop() if lists.get(o) else (-float(values[o]), a)
        heap.append((value, anchor, o))
    heapq.heapify(heap)
    while heap:
        value, anchor, o = heapq.heappop(heap)
        if anchor not in taken:
            taken.add(anchor)
            wishes.free[anchor] = False
            yield anchor, o
            continue
        own = lists.setdefault(o, [])
        while own and own[-1][1] in taken:
            own.pop()
        if not own:
            own[:] = wishes.of([o])[0]
        if own:
            value, anchor = own.pop()
            heapq.heappush(heap, (value, anchor, o))


def match_argmax_per_object(
    anchors: Tensor, boxes: Tensor, valid: Tensor, threshold: float = 0.5, inclusive: bool = False
) -> Matches:
    """The matching of SSD's PyTorch ports: a threshold, then each object takes its best anchor.

    Objects take theirs in list order and a later one overwrites an earlier one, which may be left
    with none. An object that no anchor overlaps takes anchor 0.
    """
    with torch.no_grad():
        best = _best(anchors, boxes, valid, threshold, inclusive)
        index = torch.where(best.iou >= threshold, best.index, BACKGROUND)
        if valid.shape[1] == 0 or anchors.shape[-2] == 0:
            return Matches(index, best.iou)
        objects = torch.arange(valid.shape[1], device=boxes.device).expand_as(valid)
        claim = torch.full_like(index, BACKGROUND)
        claim.scatter_reduce_(
            1, best.object_anchor, torch.where(valid, objects, BACKGROUND), "amax"
        )
        return Matches(torch.where(claim >= 0, claim, index), best.iou)


def match_thresholds(
    anchors: Tensor,
    boxes: Tensor,
    valid: Tensor,
    high: float,
    low: float | None = None,
    *,
    low_quality: Literal["off", "argmax", "argmax_including_zero", "claim"] = "off",
    low_quality_min_iou: float = 0.0,
    negative_wins: bool = False,
    usable: Tensor | None = None,
    inclusive: bool = False,
) -> Matches:
    """RPN's and RetinaNet's rule: positive from `high` up, background below `low`, ignored between.

    low None: no gap. low_quality (Faster R-CNN, section 3.1.2, i): the anchors that come nearest to
    an object are positive too, all equal ones, if they overlap it by more than 0 and at least
    low_quality_min_iou; "argmax": they answer for their own best object; "claim": for the object
    they came nearest to, a later object overwriting; "argmax_including_zero": an object that no
    anchor overlaps makes every anchor with overlap 0 positive (as py-faster-rcnn has it).
    negative_wins: an anchor below `low` stays background even so. usable [A] or [B, A]: the others
    are IGNORED and count for nothing (anchors that cross the border). high must exceed 0.
    """
    low = high if low is None else low
    with torch.no_grad():
        best = _best(anchors, boxes, valid, high, inclusive, usable)
        index = torch.where(best.iou >= high, best.index, IGNORED)
        index = torch.where(best.iou < low, BACKGROUND, index)
        if low_quality != "off" and valid.shape[1] and anchors.shape[-2]:
            nearest = _nearest(
                anchors, boxes, valid, best, low_quality, low_quality_min_iou, inclusive, usable
            )
            if negative_wins:
                nearest = torch.where(best.iou < low, BACKGROUND, nearest)
            index = torch.where(nearest >= 0, nearest, index)
        if usable is not None:
            index = index.masked_fill(~usable.expand_as(index), IGNORED)
        return Matches(index, best.iou)


def _nearest(
    anchors: Tensor,
    boxes: Tensor,
    valid: Tensor,
    best: _Best,
    rule: str,
    min_iou: float,
    inclusive: bool,
    usable: Tensor | None,
) -> Tensor:
    """[B, A]: the object of an anchor that comes nearest to some object, else BACKGROUND."""
    wanted = valid & (best.object_iou >= min_iou)
    if rule != "argmax_including_zero":
        wanted = wanted & (best.object_iou > 0)
    nearest = torch.full_like(best.index, BACKGROUND)
    boxes = boxes * valid[..., None]
    for image, part, iou in _chunks(anchors, boxes, inclusive, usable):
        hit = (iou == best.object_iou[image, part, None]) & wanted[image, part, None]
        row, obj, column = hit.nonzero(as_tuple=True)
        # Of several objects the last one stands.
        nearest[image].view(-1).scatter_reduce_(
            0, row * nearest.shape[1] + column, obj + part.start, "amax"
        )
    if rule != "claim":
        row, column = (nearest >= 0).nonzero(as_tuple=True)
        nearest[row, column] = _own_best(anchors, boxes, row, column, inclusive)
    return nearest


def _own_best(
    anchors: Tensor, boxes: Tensor, row: Tensor, column: Tensor, inclusive: bool
) -> Tensor:
    """The best object of the anchors (row, column), [n] each; of equal ones the first."""
    own = anchors[column] if anchors.dim() == 2 else anchors[row, column]
    step = max(1, budget(boxes.device) // max(1, boxes.shape[1]))
    parts = [
        pairwise_iou(some[:, None], boxes[image], inclusive)[:, 0].argmax(dim=1)
        for some, image in zip(own.split(step), row.split(step), strict=True)
    ]
    return torch.cat(parts) if parts else row


def ignore_inside(
    matches: Matches, anchors: Tensor, boxes: Tensor, ignore: Tensor, threshold: float = 0.5
) -> Matches:
    """Background anchors that lie in an ignored region (COCO crowd) become IGNORED.

    boxes [B, M, 4], ignore [B, M]; an anchor lies in a region if at least `threshold` of its area
    does.
    """
    if not bool(ignore.any()):
        return matches
    index = matches.index.clone()
    anchors = _batched(anchors, len(boxes))
    for image in ignore.any(dim=1).nonzero().flatten().tolist():
        inside = torch.zeros(index.shape[1], dtype=torch.bool, device=index.device)
        regions = boxes[image][ignore[image]]
        step = max(1, budget(boxes.device) // max(1, index.shape[1]))
        for part in regions.split(step):
            inside |= (pairwise_ioa(anchors[image], part) >= threshold).any(dim=1)
        index[image].masked_fill_(inside & (index[image] == BACKGROUND), IGNORED)
    return Matches(index, matches.iou)
