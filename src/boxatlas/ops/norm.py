"""Normalisation layers of the papers.

Public: L2Norm, L2NormChoices.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from boxatlas.options import Options, Positive, habit

EpsPlace = Literal["inside_root", "added_to_root", "norm_clamped_below", "clamp_sum_of_squares"]


class L2NormChoices(Options):
    """How the programs keep the L2 norm from dividing by 0."""

    norm_eps: Positive = habit(1e-10, "epsilon of the L2 norm")
    norm_place: EpsPlace = habit("inside_root", "where the L2 norm's epsilon goes")


class L2Norm(nn.Module):
    """Each position's channels scaled to unit length, then by a learned factor per channel.

    ParseNet; SSD puts it on conv4_3 with factors that start at 20. Input and output [B, C, H, W].
    eps_place: sqrt(sum + eps), "inside_root" (the authors' Caffe, eps 1e-10); sqrt(sum) + eps,
    "added_to_root"; max(sqrt(sum), eps), "norm_clamped_below"; sqrt(max(sum, eps)),
    "clamp_sum_of_squares".
    """

    def __init__(
        self,
        channels: int,
        scale: float = 20.0,
        eps: float = 1e-10,
        eps_place: EpsPlace = "inside_root",
    ) -> None:
        super().__init__()
        self.eps, self.eps_place = eps, eps_place
        self.weight = nn.Parameter(torch.full((channels,), float(scale)))

    def forward(self, x: Tensor) -> Tensor:
        if self.eps_place == "inside_root":
            norm = (x.square().sum(dim=1, keepdim=True) + self.eps).sqrt()
        elif self.eps_place == "clamp_sum_of_squares":
            norm = x.square().sum(dim=1, keepdim=True).clamp(min=self.eps).sqrt()
        else:  # vector_norm has a gradient where all channels are 0, the square root has none
            norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)
            added = self.eps_place == "added_to_root"
            norm = norm + self.eps if added else norm.clamp(min=self.eps)
        return x / norm * self.weight[:, None, None]

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps}, eps_place={self.eps_place!r}"
