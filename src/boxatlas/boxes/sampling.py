"""Drawing the positives and negatives that a two-stage method learns from.

Public: Draw, sample. Shape letters: B images, A anchors or proposals, S samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Draw:
    """index [B, S] int64 into the A rows of each image, positives first, each part in row order.

    valid [B, S]: a real draw, not padding. positive [B, S]: drawn as a positive.
    """

    index: Tensor
    valid: Tensor
    positive: Tensor

    def masks(self, count: int) -> tuple[Tensor, Tensor]:
        """(positive, negative), each [B, count] bool over all rows."""
        chosen = self.index.new_zeros(len(self.index), count + 1, dtype=torch.bool)
        spare = torch.full_like(self.index, count)  # padding lands in a column that is dropped
        positive = chosen.clone().scatter_(
            1, torch.where(self.valid & self.positive, self.index, spare), True
        )
        negative = chosen.scatter_(
            1, torch.where(self.valid & ~self.positive, self.index, spare), True
        )
        return positive[:, :count], negative[:, :count]


def sample(
    positive: Tensor,
    negative: Tensor,
    count: int | None,
    positive_fraction: float = 0.5,
    generator: torch.Generator | None = None,
    priority: Tensor | None = None,
) -> Draw:
    """Draw up to `count` rows per image without replacement, at most a fraction of them positive.

    positive, negative [B, A] bool say what may be drawn. The rest of `count` is filled with
    negatives; where there are too few, fewer are drawn (S is the largest number of any image).
    count None takes everything. The draw is random from `generator`, or the rows of lowest
    `priority` [B, A] first where that is given.
    """
    images = len(positive)
    keep, drop = positive, negative
    if count is not None:
        first = priority is not None
        key = _random(positive, generator) if priority is None else priority.expand_as(positive)
        take = positive.sum(dim=1).clamp(max=int(count * positive_fraction))
        keep = _lowest(key, positive, take, int(count * positive_fraction), first)
        drop = _lowest(key, negative, count - take, count, first)
    heads, tails = keep.sum(dim=1), drop.sum(dim=1)
    width = int((heads + tails).max()) if images else 0
    place = torch.arange(width, device=positive.device).expand(images, width)
    index = torch.zeros_like(place).contiguous()
    _write(index, keep, torch.zeros_like(heads))
    _write(index, drop, heads)
    return Draw(index, place < (heads + tails)[:, None], place < heads[:, None])


def _random(like: Tensor, generator: torch.Generator | None) -> Tensor:
    device = like.device if generator is None else generator.device
    return torch.rand(like.shape, generator=generator, device=device).to(like.device)


def _lowest(key: Tensor, allowed: Tensor, take: Tensor, most: int, in_order: bool) -> Tensor:
    """[B, A] bool: up to `take` [B] (`most` at most) allowed rows of lowest key.

    in_order: of equal keys the earlier row, which takes a stable sort.
    """
    most = min(most, key.shape[1])
    if most == 0:
        return torch.zeros_like(allowed)
    key = key.masked_fill(~allowed, float("inf"))
    if in_order:
        order = key.sort(dim=1, stable=True).indices[:, :most]
    else:
        order = key.topk(most, dim=1, largest=False).indices
    chosen = torch.arange(most, device=key.device) < take[:, None]
    return torch.zeros_like(allowed).scatter_(1, order, chosen) & allowed


def _write(index: Tensor, mask: Tensor, start: Tensor) -> None:
    """Put each image's rows of `mask` [B, A], in order, into `index` [B, S] from `start` [B] on."""
    image, row = mask.nonzero(as_tuple=True)
    sizes = mask.sum(dim=1)
    place = torch.arange(len(row), device=row.device) - (sizes.cumsum(0) - sizes)[image]
    index[image, place + start[image]] = row
