"""What a pooled RoI goes through: fully connected layers, and the outputs of class and box.

Shape letters: B images, P RoIs of an image, R = B * P, C channels, K classes, D box columns.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from boxatlas.ops.roi import MapLinear
from boxatlas.parts.base import Raw
from boxatlas.parts.region.roi import RoIChoices


class TwoFC(nn.Module):
    """Two fully connected layers: FPN's box head (Lin et al. 2016, section 4.2), without dropout,
    and with it Fast R-CNN's fc6 and fc7."""

    def __init__(self, channels: int, size: int, width: int = 1024, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc6 = MapLinear(channels * size * size, width)
        self.fc7 = nn.Linear(width, width)
        self.width, self.dropout = width, dropout

    def forward(self, rois: Tensor) -> Tensor:
        """[R, C, size, size] -> [R, width]."""
        x = F.relu(self.fc6(rois), inplace=True)
        x = F.relu(self.fc7(F.dropout(x, self.dropout, self.training)), inplace=True)
        return F.dropout(x, self.dropout, self.training)


class ConvFC(nn.Module):
    """Four 3x3 convolutions with batch norm, then a fully connected layer."""

    def __init__(self, channels: int, size: int, width: int = 1024, convs: int = 4) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
            )
            for _ in range(convs)
        )
        self.fc = MapLinear(channels * size * size, width)
        self.width = width

    def forward(self, rois: Tensor) -> Tensor:
        for conv in self.convs:
            rois = F.relu(conv(rois), inplace=True)
        return F.relu(self.fc(rois), inplace=True)


class BoxPredictor(nn.Module):
    """Class logits [R, K + 1] and deltas [R, D * 4].

    D is K, or 1 where a box serves every class (`class_agnostic`), and one more where the first is
    the background's, which nothing reads (`background_box`).
    """

    def __init__(self, config: RoIChoices, width: int, classes: int) -> None:
        super().__init__()
        self.cls = nn.Linear(width, classes + 1)
        self.offset = int(config.background_box)
        self.box = nn.Linear(width, ((1 if config.class_agnostic else classes) + self.offset) * 4)
        for layer, std in ((self.cls, 0.01), (self.box, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.cls(x), self.box(x)


def per_roi(logits: Tensor, deltas: Tensor, boxes: Tensor) -> Raw:
    """Rows of B * P RoIs -> logits [B, P, C], deltas [B, P, D, 4]; there may be no RoI at all."""
    lead = boxes.shape[:2]
    return {
        "logits": logits.unflatten(0, lead),
        "deltas": deltas.unflatten(0, lead).unflatten(-1, (deltas.shape[-1] // 4, 4)),
    }
