"""Drawing the positives and negatives that a two-stage method learns from.

Public: Sample, sample. Shape letters: B images, A anchors or proposals, S samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Sample:
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
) -> Sample:
    """Draw up to `count` rows per image without replacement, at most a fraction of them positive.

    positive, negative [B, A] bool say what may be drawn. The rest of `count` is filled with
    negatives; where there are too few, fewer are drawn (S is the largest number of any image).
    count None takes everything. The draw is random from `generator`, or the rows of lowest
    `priority` [B, A] first where that is given.
    """
    images, rows = positive.shape
    total = rows if count is None else min(count, rows)
    most = rows if count is None else int(count * positive_fraction)
    key = _random(positive, generator) if priority is None else priority.expand_as(positive)
    take_positive = positive.sum(dim=1).clamp(max=most)
    keep = _lowest(key, positive, take_positive, min(most, total))
    take_negative = negative.sum(dim=1)
    if count is not None:
        take_negative = torch.minimum(take_negative, count - take_positive)
    drop = _lowest(key, negative, take_negative, total)
    # Ranks: positives in row order, then negatives in row order, then nothing.
    order = torch.arange(rows, device=key.device).expand(images, rows)
    place = torch.where(keep, order, torch.where(drop, order + rows, 2 * rows))
    width = int((take_positive + take_negative).max()) if images else 0
    place = place.sort(dim=1).values[:, :width] if width else place[:, :0]
    valid = place < 2 * rows
    index = torch.where(valid, place % max(rows, 1), 0)
    return Sample(index, valid, place < rows)


def _random(like: Tensor, generator: torch.Generator | None) -> Tensor:
    device = like.device if generator is None else generator.device
    return torch.rand(like.shape, generator=generator, device=device).to(like.device)


def _lowest(key: Tensor, allowed: Tensor, take: Tensor, most: int) -> Tensor:
    """[B, A] bool: the `take` [B] allowed rows of lowest key, of equal ones the earlier."""
    if most == 0 or key.shape[1] == 0:
        return torch.zeros_like(allowed)
    order = key.masked_fill(~allowed, float("inf")).sort(dim=1, stable=True).indices[:, :most]
    chosen = torch.arange(order.shape[1], device=key.device) < take[:, None]
    return torch.zeros_like(allowed).scatter_(1, order, chosen)
