"""How an image became a network input, and the way back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Frame:
    """How one source image became a network input, so that it can be undone.

    A point (x, y) of the source lies at (x * scale[0] + offset[0], y * scale[1] + offset[1]) in the
    input. Stretching, letterboxing and tiling differ only in these numbers.
    """

    source: tuple[int, int]  # height, width of the source image, in pixels
    content: tuple[int, int]  # height, width of its content within the input, in pixels
    scale: tuple[float, float] = (1.0, 1.0)  # x, y
    offset: tuple[float, float] = (0.0, 0.0)  # x, y, in input pixels

    def apply(self, boxes: Tensor) -> Tensor:
        """Boxes [..., 4] of the source -> boxes in the input."""
        scale = boxes.new_tensor([*self.scale, *self.scale])
        return boxes * scale + boxes.new_tensor([*self.offset, *self.offset])

    def undo(self, boxes: Tensor, clip: bool = True) -> Tensor:
        """Boxes [..., 4] of the input -> boxes in the source, clipped to it."""
        scale = boxes.new_tensor([*self.scale, *self.scale])
        boxes = (boxes - boxes.new_tensor([*self.offset, *self.offset])) / scale
        if clip:
            height, width = self.source
            limit = boxes.new_tensor([width, height, width, height])
            boxes = torch.minimum(boxes.clamp(min=0), limit)
        return boxes
