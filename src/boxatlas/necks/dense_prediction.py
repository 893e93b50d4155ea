"""DSOD's prediction maps: each computes half of its channels anew and reuses the map before.

Shen et al. 2017, arXiv 1708.01241, section 3.2 (principle 4) and figure 1.
Shape letters: B images; maps are [B, C, H, W], fine to coarse.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxatlas.backbones.dsod import NormReluConv
from boxatlas.necks.blocks import BatchNorm, xavier
from boxatlas.necks.residual import EachMap
from boxatlas.options import Options, habit

HALF = 256  # channels of each half of Second and Third; all coarser maps have half of that


class DensePredictionChoices(Options):
    """How the programs differ in DSOD's prediction maps and predictors."""

    l2norm_maps: Literal["all", "first"] = habit("all", "prediction maps that have the L2 norm")
    last_map: Literal[1, 2] = habit(2, "cells along the coarsest map's side")
    head_norm: bool = habit(True, "predictors have a batch norm and no bias")
    learned_first: bool = habit(
        False, "of a map's halves the one computed anew comes before the one reused"
    )
    blocks_first: bool = habit(
        True, "in the second map the dense blocks' half comes before that of the first map"
    )


class NormPredictor(nn.Sequential):
    """DSOD's predictor: 3x3 convolution without bias, batch norm."""

    def __init__(self, channels: int, out: int) -> None:
        conv = xavier(nn.Conv2d(channels, out, 3, padding=1, bias=False))
        super().__init__(conv, BatchNorm(out, eps=1e-3))


class HalfStep(nn.Module):
    """A map -> the next of about half its size, `half` channels computed anew and `half` reused.

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
        dense = [first, x]
        for step in self.steps:
            dense.append(step(dense[-1]))
        return self.norms(dense)


def steps(grid: tuple[int, int], last_map: int) -> list[tuple[int, bool]]:
    """(channels of a half, exact) of each step after Second, whose grid is given."""
    side, rows = min(grid), []
    while side > last_map:
        exact = side == 3 and last_map == 1
        rows.append((HALF if not rows else HALF // 2, exact))
        side = 1 if exact else (side + 1) // 2
    return rows


def map_channels(channels: Sequence[int], grid: tuple[int, int], last_map: int) -> list[int]:
    """Channels of every map: First keeps its own."""
    return [channels[0], 2 * HALF, *(2 * half for half, _ in steps(grid, last_map))]
