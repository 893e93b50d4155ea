"""Box regression: how a box is written relative to an anchor, a default box or a proposal.

Public: DeltaCoder.

R-CNN (appendix C) and every two-stage method after it, SSD (equation 2) and RetinaNet use one code:
the shift of the centre in units of the anchor's size and the logarithm of the size ratio. They
differ in the weights and in how programs count pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

CLAMP = math.log(1000 / 16)  # the bound of dw and dh in Detectron and all programs after it


@dataclass(frozen=True)
class DeltaCoder:
    """dx = (cx - cx_a) / w_a, dw = log(w / w_a), dy and dh likewise; each times its weight.

    weights: x, y, w, h; SSD's variances (0.1, 0.1, 0.2, 0.2) are weights (10, 10, 5, 5).
    clamp: upper bound of dw and dh when decoding, None = none; clamp_below: bound them from below
    by its negative too. inclusive: widths are x2 - x1 + 1. inclusive_centre: the centre is that of
    the corner pixels, x1 + (w - 1) / 2, which makes decoding the exact inverse under `inclusive`.
    end_offset is added to the decoded x2 and y2. log_epsilon is added inside the logarithm.
    """

    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    clamp: float | None = None
    clamp_below: bool = False
    inclusive: bool = False
    inclusive_centre: bool = False
    end_offset: float = 0.0
    log_epsilon: float = 0.0

    @classmethod
    def from_variances(cls, variances: tuple[float, float, float, float], **options) -> DeltaCoder:
        """The coder whose deltas are divided by these (SSD's variances, R-CNN's target stds)."""
        x, y, w, h = (1.0 / v for v in variances)
        return cls((x, y, w, h), **options)

    def encode(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """Deltas [..., 4] that turn `anchors` [..., 4] into `boxes` [..., 4], both xyxy."""
        centre, size = self._centre_size(boxes)
        anchor_centre, anchor_size = self._centre_size(anchors)
        shift = (centre - anchor_centre) / anchor_size
        ratio = size / anchor_size
        stretch = torch.log(ratio + self.log_epsilon if self.log_epsilon else ratio)
        return torch.cat([shift, stretch], dim=-1) * boxes.new_tensor(self.weights)

    def decode(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """Boxes [..., 4] xyxy; anchors [N, 1, 4] broadcast against deltas per class [N, C, 4]."""
        anchor_centre, anchor_size = self._centre_size(anchors)
        deltas = deltas / deltas.new_tensor(self.weights)
        stretch = deltas[..., 2:]
        if self.clamp is not None:
            low = -self.clamp if self.clamp_below else None
            stretch = stretch.clamp(min=low, max=self.clamp)
        centre = deltas[..., :2] * anchor_size + anchor_centre
        half = 0.5 * (torch.exp(stretch) * anchor_size - int(self.inclusive_centre))
        return torch.cat([centre - half, centre + half + self.end_offset], dim=-1)

    def _centre_size(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        size = boxes[..., 2:] - boxes[..., :2] + int(self.inclusive)
        return boxes[..., :2] + 0.5 * (size - int(self.inclusive_centre)), size
