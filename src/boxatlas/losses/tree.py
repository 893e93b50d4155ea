"""Losses over a WordTree: the path of a label, and images that have a label but no box.

Public: tree_classes (a class loss for `region_loss`), path_loss, image_loss.
Redmon & Farhadi 2016, arXiv 1612.08242, section 4. Shape letters: B images, A priors, N nodes,
H x W cells, P places, T labels, D the longest path, S the largest group.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from boxatlas.losses.yolo import ClassLoss, Losses, Places
from boxatlas.wordtree import WordTree

ImageObjectness = Literal["push_to_0.3", "zero", "none"]
ImagePick = Literal["objectness_times_class", "class"]
_BUDGET = 2**25  # numbers of a temporary
_FLOOR = 0.3  # "we assume that the predicted box overlaps ... by at least .3 IOU"


def path_loss(logits: Tensor, row: Tensor, label: Tensor, tree: WordTree) -> Tensor:
    """Softmax cross-entropies along the paths of labels, summed: logits [P, N], row, label [T].

    Row row[t] of the logits has label[t]: each group on the way from it to the root is trained to
    its member on that way; other groups, and those below the label, are not trained. Of two labels
    of a row that meet in a group, the later counts.
    """
    index = tree.on(logits.device)
    path = index.paths[label]  # [T, D]
    order, step = (path >= 0).nonzero(as_tuple=True)
    node = path[order, step]
    group = index.group_of[node]
    key, inverse = (row[order] * len(index.sizes) + group).unique(return_inverse=True)
    last = torch.full_like(key, -1).scatter_reduce(0, inverse, order, "amax")
    keep = order == last[inverse]
    at, node, group = row[order][keep], node[keep], group[keep]
    members = logits[at[:, None], index.members[group]]
    members = members.masked_fill(~index.real[group], -torch.inf)
    return (members.logsumexp(1) - logits[at, node]).sum()


def tree_classes(tree: WordTree) -> ClassLoss:
    """The class loss of `region_loss` over a tree."""

    def loss(logits: Tensor, places: Places, labels: Tensor) -> Tensor:
        return path_loss(logits, places.choice, places.label, tree)

    return loss


@torch.no_grad()
def path_log_probability(logits: Tensor, label: Tensor, tree: WordTree) -> Tensor:
    """log of the absolute probability of label [B] at every place of logits [B, A, N, H, W]."""
    index = tree.on(logits.device)
    path = index.paths[label]  # [B, D]
    on = path >= 0
    group = index.group_of[path.clamp(min=0)]
    columns, real = index.members[group], index.real[group]  # [B, D, S]
    images, priors, _, rows, width = logits.shape
    flat = columns.flatten(1)[:, None, :, None, None]
    members = logits.gather(2, flat.expand(-1, priors, -1, rows, width))
    members = members.view(images, priors, *columns.shape[1:], rows, width)
    members = members.masked_fill(~real[:, None, :, :, None, None], -torch.inf)
    total = members.logsumexp(3)  # [B, A, D, H, W]
    chosen = path.clamp(min=0)[:, None, :, None, None].expand(-1, priors, -1, rows, width)
    steps = (logits.gather(2, chosen) - total).masked_fill(~on[:, None, :, None, None], 0.0)
    return steps.sum(2)


def pick(numbers: Tensor, label: Tensor, tree: WordTree, rule: ImagePick) -> Tensor:
    """[B]: the place (prior, row, column, flat) that answers for an image's label."""
    numbers = numbers.detach()
    # Every member of every group on the path is looked at in every place: a few images at once.
    wide = numbers[0, :, 0].numel() * tree.on(numbers.device).paths.shape[1] * max(tree.sizes)
    places = []
    together = max(1, _BUDGET // wide)
    for some, labels in zip(numbers.split(together), label.split(together), strict=True):
        score = path_log_probability(some[:, :, 5:], labels, tree)
        if rule == "objectness_times_class":
            score = score + some[:, :, 4].clamp(min=torch.finfo(numbers.dtype).tiny).log()
        places.append(score.flatten(1).argmax(1))
    return torch.cat(places)


def image_loss(
    numbers: Tensor,
    label: Tensor,
    tree: WordTree,
    *,
    rule: ImagePick = "objectness_times_class",
    objectness: ImageObjectness = "push_to_0.3",
    suppress_others: bool = True,
    object_scale: float = 5.0,
    noobject_scale: float = 1.0,
    class_scale: float = 1.0,
) -> Losses:
    """Images of a known class without a box: numbers [B, A, 5 + N, H, W] activated, label [B].

    One place is trained to the label's path: the one that is surest of it, weighed by its
    objectness (`rule`). Its objectness is raised to 0.3 where it is lower (the IoU that is
    assumed), or left ("zero"); with suppress_others every other place is trained to objectness 0
    ("none": that one too).
    """
    images, _, _, rows, width = numbers.shape
    with torch.no_grad():
        place = pick(numbers, label, tree, rule)
    image = torch.arange(images, device=numbers.device)
    column, rest = place % width, place // width
    at = (image, rest // rows, rest % rows, column)
    predicted = numbers.permute(0, 1, 3, 4, 2)[at]
    current = numbers[:, :, 4]
    wanted = torch.zeros_like(current)
    weight = torch.full_like(current, noobject_scale if suppress_others else 0.0)
    if objectness == "push_to_0.3":
        wanted[at] = _FLOOR
        weight[at] = object_scale * (predicted[:, 4].detach() < _FLOOR).to(weight.dtype)
    elif objectness == "zero":
        weight[at] = 0.0
    return {
        "objectness": (0.5 * weight * (current - wanted).square()).sum(),
        "classes": class_scale * path_loss(predicted[:, 5:], image, label, tree),
    }
