"""A locally connected layer: a convolution with filters of its own at every position."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LocallyConnected(nn.Module):
    """[B, C, H, W] of one size (stride 1) -> [B, filters, H, W].

    weight [H * W, filters, C * k * k], bias [filters, H * W].
    """

    def __init__(self, channels: int, filters: int, kernel: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.channels, self.filters, self.kernel, self.size = channels, filters, kernel, size
        positions, fan_in = size[0] * size[1], channels * kernel * kernel
        self.weight = nn.Parameter(torch.empty(positions, filters, fan_in))
        self.bias = nn.Parameter(torch.zeros(filters, positions))
        bound = (2 / fan_in) ** 0.5
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        patches = F.unfold(x, self.kernel, padding=self.kernel // 2)  # [B, C * k * k, H * W]
        out = torch.einsum("bcl,lfc->bfl", patches, self.weight) + self.bias
        return out.reshape(x.shape[0], self.filters, *self.size)
