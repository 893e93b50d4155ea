"""DSOD's prediction maps: each learns half of its channels and takes the other half from before.

Shen et al. 2017, arXiv 1708.01241, section 3.2 (principle 4) and figure 1.
Shape letters: B images; maps are [B, C, H, W], fine to coarse.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxatlas.backbones.dsod import NormReluConv
from boxatlas.necks.residual import EachMap

HALF = 256  # channels of each half of Second and Third; all coarser maps have half of that


class HalfStep(nn.Module):
    """A map -> the next of about half its size, `half` channels learned and `half` reused.

    learned: 1x1, 3x3 of stride 2. reused: 2x2 max pool, 1x1. exact: 3x3 without padding and a pool
    that rounds down (3 cells become 1). plain: 1x1, 3x3 to all the channels, as SSD does.
    """

    def __init__(
        self, channels: int, half: int, *, dense: bool, learned_first: bool, exact: bool
    ) -> None:
        super().__init__()
        self.learned_first, self.exact = learned_first, exact
        width = half if dense else 2 * half
        self.squeeze = NormReluConv(channels, half)
        self.learn = NormReluConv(half, width, 3, 2, 0 if exact else 1)
        self.reuse = NormReluConv(channels, half) if dense else None

    def forward(self, x: Tensor) -> Tensor:
        learned = self.learn(self.squeeze(x))
        if self.reuse is None:
            return learned
        reused = self.reuse(F.max_pool2d(x, 2, 2, ceil_mode=not self.exact))
        return torch.cat([learned, reused] if self.learned_first else [reused, learned], 1)


class DensePrediction(nn.Module):
    """[First, the backbone's last map at half its size] -> First, Second, Third, ... each normed.

    dense: as the paper has it; off: plain. learned_first, blocks_first: the order of the halves.
    last_map: down to 2x2 (as released) or to one cell. norms: makes the norm of each map.
    """

    def __init__(
        self,
        channels: Sequence[int],
        grid: tuple[int, int],
        norms: Sequence[nn.Module],
        *,
        dense: bool,
        learned_first: bool,
        blocks_first: bool,
        last_map: int,
    ) -> None:
        super().__init__()
        first, last = channels
        self.blocks_first = blocks_first
        self.last = NormReluConv(last, HALF if dense else 2 * HALF)
        self.skip = NormReluConv(first, HALF) if dense else None
        self.steps = nn.ModuleList()
        width = 2 * HALF
        for half, exact in steps(grid, last_map):
            self.steps.append(
                HalfStep(width, half, dense=dense, learned_first=learned_first, exact=exact)
            )
            width = 2 * half
        self.channels = map_channels(channels, grid, last_map)
        self.norms = EachMap(norms)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        first, x = maps[0], self.last(maps[1])
        if self.skip is not None:
            pooled = F.max_pool2d(first, 2, 2, ceil_mode=True)
            skip = self.skip(pooled)
            x = torch.cat([x, skip] if self.blocks_first else [skip, x], 1)
        made = [first, x]
        for step in self.steps:
            made.append(step(made[-1]))
        return self.norms(made)


def steps(grid: tuple[int, int], last_map: int) -> list[tuple[int, bool]]:
    """(channels of a half, exact) of each step after Second, whose grid is given."""
    side, made = min(grid), []
    while side > last_map:
        exact = side == 3 and last_map == 1
        made.append((HALF if not made else HALF // 2, exact))
        side = 1 if exact else (side + 1) // 2
    return made


def map_channels(channels: Sequence[int], grid: tuple[int, int], last_map: int) -> list[int]:
    """Channels of every map: First keeps its own."""
    return [channels[0], 2 * HALF, *(2 * half for half, _ in steps(grid, last_map))]
