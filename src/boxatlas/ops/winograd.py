"""3x3 convolutions on a CPU with a quarter of the multiplications: Winograd's minimal filtering.

Lavin & Gray 2015, arXiv 1509.09308, F(4x4, 3x3): a tile of 4 x 4 outputs is made from 6 x 6 inputs
by 36 products instead of 144, between two transforms that only add and scale. The products of all
tiles and channels are 36 matrix products. The result agrees with direct convolution to about 1e-5
of its largest value, five times its own rounding. Shape letters: B images, C input and K output
channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Equation 15 there: G of F(4x4, 3x3); B and A are written out in the compiled kernel.
_G = ((1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6),
      (1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1))  # fmt: skip
_BLOCK = 128  # tiles at once: what is transformed stays near the core, and memory stays small


def transformed(weight: Tensor) -> Tensor:
    """G w G^T of each filter: [K, C, 3, 3] -> [36, C, K]."""
    filters, channels, _, _ = weight.shape
    g = torch.tensor(_G, dtype=torch.float64)
    cells = weight.detach().permute(2, 3, 1, 0).reshape(9, -1).double()
    return (torch.kron(g, g) @ cells).float().view(36, channels, filters)


def tiles(shape: tuple[int, ...] | torch.Size) -> int:
    """How many tiles a batch [B, C, H, W] of that shape has."""
    return shape[0] * math.ceil(shape[2] / 4) * math.ceil(shape[3] / 4)


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor, low: float = -math.inf, high: float = math.inf
) -> Tensor:
    """Stride 1, padding 1: x [B, C, H, W] float32 on the CPU, weight as `transformed` gives it,
    bias [K] -> [B, K, H, W], channels last, clamped to low..high. No gradient.
    """
    import numpy as np

    from boxatlas.ops._winograd_kernel import enter, leave  # numba takes a moment to load
    from boxatlas.ops.compiled import in_threads

    count, threads = tiles(x.shape), torch.get_num_threads()
    _, channels, filters = weight.shape
    cells = x.detach().permute(0, 2, 3, 1).contiguous().numpy()
    batch, height, width, _ = cells.shape
    grid = math.ceil(height / 4), math.ceil(width / 4)
    out = np.empty((batch, height, width, filters), np.float32)
    shift, limits = bias.detach().numpy(), (np.float32(low), np.float32(high))
    for first in range(0, count, _BLOCK):
        many = min(_BLOCK, count - first)
        v = torch.empty(36, many, channels, dtype=torch.float32)
        entered = v.numpy()
        in_threads(lambda a, b, v=entered, f=first: enter(v, cells, f, *grid, a, b), many, threads)
        m = torch.bmm(v, weight).numpy()
        in_threads(
            lambda a, b, m=m, f=first: leave(out, m, shift, *limits, f, *grid, a, b), many, threads
        )
    return torch.from_numpy(out).permute(0, 3, 1, 2)
