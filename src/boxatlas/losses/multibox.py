"""SSD's loss: matched anchors are trained on box and class, the hardest others on background.

Public: multibox_loss, MultiboxLoss, hard_negatives. Liu et al. 2016, section 2.2, equations 1-3.
Shape letters: B images, A anchors, C columns (background first), M objects, P positives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from boxatlas.boxes.coders import DeltaCoder
from boxatlas.boxes.formats import budget
from boxatlas.boxes.matching import Matches
from boxatlas.losses.regression import smooth_l1


@dataclass
class MultiboxLoss:
    """box and classes: scalars, already divided by the positives of the batch (at least 1).

    positive, negative [B, A] bool: who contributed. box_targets [P, 4]: the positives' deltas.
    """

    box: Tensor
    classes: Tensor
    positive: Tensor
    negative: Tensor
    box_targets: Tensor


def hard_negatives(score: Tensor, candidates: Tensor, count: Tensor) -> Tensor:
    """[B, A] bool: of each image's candidates [B, A] the `count` [B] with the largest score."""
    most = int(torch.minimum(count, candidates.sum(dim=1)).max()) if len(count) else 0
    if most == 0:
        return torch.zeros_like(candidates)
    ranked = score.masked_fill(~candidates, -torch.inf).topk(most, dim=1)
    rank = torch.arange(most, device=score.device)
    keep = (rank < count[:, None]) & (ranked.values > -torch.inf)
    return torch.zeros_like(candidates).scatter_(1, ranked.indices, keep)


def multibox_loss(
    logits: Tensor,
    deltas: Tensor,
    matches: Matches,
    anchors: Tensor,
    boxes: Tensor,
    labels: Tensor,
    coder: DeltaCoder,
    *,
    ratio: float = 3.0,
    ranking: Literal["background", "label"] = "background",
    neg_overlap: float | None = 0.5,
    beta: float = 1.0,
    candidates: Tensor | None = None,
    dropped: Tensor | None = None,
    mine_over: Literal["image", "batch"] = "image",
    ignored: Tensor | None = None,
) -> MultiboxLoss:
    """Smooth L1 of the positives' boxes and cross-entropy of positives and mined negatives.

    logits [B, A, C] with background in column 0, deltas [B, A, 4], anchors [A, 4] or [B, A, 4],
    boxes [B, M, 4] and labels [B, M] (0..C-2) of the objects that `matches` refers to.
    Per image, or over the batch (`mine_over`), the `ratio` * positives candidates with the largest
    `ranking` score are mined: -log p of background, or of the candidate's own label, which differs
    only for `dropped` ones. A candidate is a background anchor that overlaps no object by
    `neg_overlap` or more (None: any) and that `candidates` [B, A] allows (RefineDet's filter).
    dropped [B, A]: matched anchors that lose their place but stay candidates under their class.
    ignored [B, M]: objects whose anchors are neither positive nor candidates. An image without
    objects contributes nothing where mining is per image, its background where it is not.
    """
    positive, possible = matches.positive, matches.negative
    if neg_overlap is not None:
        possible = possible & (matches.iou < neg_overlap)
    if dropped is not None:
        positive, possible = positive & ~dropped, possible | (positive & dropped)
    if candidates is not None:
        possible = possible & candidates
    if ignored is not None and ignored.shape[1]:
        positive = positive & ~ignored.gather(1, matches.index.clamp(min=0))
    image, anchor = positive.nonzero(as_tuple=True)
    target = matches.index[image, anchor]
    matched = anchors[anchor] if anchors.dim() == 2 else anchors[image, anchor]
    box_targets = coder.encode(boxes[image, target], matched)

    own = dropped is not None and ranking == "label"
    score = _surprise(logits, matches.labels(labels + 1, 0, 0) if own else None)
    sets = 1 if mine_over == "batch" else len(score)  # the batch as one image, or each image
    most = (positive.reshape(sets, -1).sum(dim=1) * ratio).long()
    negative = hard_negatives(score.reshape(sets, -1), possible.reshape(sets, -1), most)
    negative = negative.reshape(possible.shape)
    rows = (positive | negative).nonzero(as_tuple=True)
    wanted = torch.zeros_like(rows[0])
    if dropped is None:
        wanted[positive[rows]] = labels[image, target] + 1
    else:
        wanted = matches.labels(labels + 1, 0, 0)[rows]
    count = positive.sum().clamp(min=1)
    box = smooth_l1(deltas[image, anchor], box_targets, beta) / count
    classes = F.cross_entropy(logits[rows], wanted, reduction="sum") / count
    return MultiboxLoss(box, classes, positive, negative, box_targets)


@torch.no_grad()
def _surprise(logits: Tensor, labels: Tensor | None) -> Tensor:
    """-log p of each anchor's label [B, A], of background without labels, from logits [B, A, C].

    In parts that stay in cache: only the anchors that are kept need a gradient, later.
    """
    flat = logits.detach().reshape(-1, logits.shape[-1])
    column = None if labels is None else labels.reshape(-1, 1)
    out = flat.new_empty(len(flat))
    step = max(1, budget(flat.device) // max(1, flat.shape[1]))
    for start in range(0, len(flat), step):
        part = slice(start, start + step)
        log_p = torch.log_softmax(flat[part], dim=1)
        own = log_p[:, 0] if column is None else log_p.gather(1, column[part])[:, 0]
        torch.neg(own, out=out[part])
    return out.view(logits.shape[:-1])
