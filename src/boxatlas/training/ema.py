"""The exponential moving average of the weights: what is evaluated and kept."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from boxatlas.parts.base import Detector


class Ema:
    """A second detector whose weights follow the first: e <- d e + (1 - d) w.

    d = min(decay, (1 + n) / (10 + n)) after n updates, so that the start is forgotten soon.
    Buffers (batch-norm statistics, counts) are taken as they are.
    """

    def __init__(self, model: Detector, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.model = copy.deepcopy(model).requires_grad_(False)
        self._pairs(model)

    def _pairs(self, model: Detector) -> None:
        self._average = [p.detach() for p in self.model.parameters()]
        self._weights = [p.detach() for p in model.parameters()]
        buffers = list(zip(self.model.buffers(), model.buffers(), strict=True))
        self._kept: list[Tensor] = [mine for mine, _ in buffers]
        self._buffers: list[Tensor] = [theirs for _, theirs in buffers]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are now."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        # The foreach forms are what torch's own averages use: one call for all tensors.
        torch._foreach_lerp_(self._average, self._weights, 1 - decay)  # pyright: ignore
        if self._kept:
            torch._foreach_copy_(self._kept, self._buffers)  # pyright: ignore
