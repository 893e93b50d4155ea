"""AlexNet as Caffe has it (CaffeNet). Krizhevsky, Sutskever, Hinton, NIPS 2012.

Layers carry Caffe's names (conv1 .. conv5, fc6, fc7). CaffeNet pools before it normalises, AlexNet
after; both split conv2, conv4 and conv5 in two groups. Shape letters: B images, R crops.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

LRNOrder = Literal["relu_pool_lrn", "relu_lrn_pool"]


class CaffeNet(nn.Module):
    """Images [B, 3, H, W], BGR 0..255 minus the mean colour -> conv5 [B, 256, H / 16, W / 16].

    Without padding, as R-CNN runs it, 227 x 227 gives 13 x 13; `padded` is Fast R-CNN's form, with
    padding in conv1 (5) and in the pools (1), where cell i lies around pixel 16 i. lrn_order:
    whether a layer pools before it normalises (CaffeNet) or after (AlexNet). Pools round up.
    """

    stride = 16
    channels = 256

    def __init__(self, *, padded: bool = False, lrn_order: LRNOrder = "relu_pool_lrn") -> None:
        super().__init__()
        self.padded, self.lrn_order = padded, lrn_order
        self.conv1 = nn.Conv2d(3, 96, 11, stride=4, padding=5 if padded else 0)
        self.conv2 = nn.Conv2d(96, 256, 5, padding=2, groups=2)
        self.conv3 = nn.Conv2d(256, 384, 3, padding=1)
        self.conv4 = nn.Conv2d(384, 384, 3, padding=1, groups=2)
        self.conv5 = nn.Conv2d(384, 256, 3, padding=1, groups=2)
        # A module each, so that they can be read and have their place in a printed network.
        self.norm1, self.norm2 = LRN(), LRN()
        for name, bias in (
            ("conv1", 0.0),
            ("conv2", 1.0),
            ("conv3", 0.0),
            ("conv4", 1.0),
            ("conv5", 1.0),
        ):
            layer = getattr(self, name)
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.constant_(layer.bias, bias)

    def forward(self, images: Tensor) -> Tensor:
        x = self._reduced(F.relu(self.conv1(images), inplace=True), self.norm1)
        x = self._reduced(F.relu(self.conv2(x), inplace=True), self.norm2)
        x = F.relu(self.conv3(x), inplace=True)
        x = F.relu(self.conv4(x), inplace=True)
        return F.relu(self.conv5(x), inplace=True)

    def _reduced(self, x: Tensor, norm: nn.Module) -> Tensor:
        pad = int(self.padded)
        if self.lrn_order == "relu_lrn_pool":
            return F.max_pool2d(norm(x), 3, 2, pad, ceil_mode=True)
        return norm(F.max_pool2d(x, 3, 2, pad, ceil_mode=True))


class LRN(nn.Module):
    """Local response normalisation across 5 channels: x / (1 + 1e-4 / 5 * sum x^2)^0.75."""

    def forward(self, x: Tensor) -> Tensor:
        return F.local_response_norm(x, 5, alpha=1e-4, beta=0.75, k=1.0)


class FC67(nn.Module):
    """fc6 and fc7 of AlexNet or VGG-16, with ReLU and dropout: [R, inputs] -> [R, 4096] twice."""

    def __init__(self, inputs: int, width: int = 4096) -> None:
        super().__init__()
        self.fc6, self.fc7 = nn.Linear(inputs, width), nn.Linear(width, width)
        for layer in (self.fc6, self.fc7):
            nn.init.normal_(layer.weight, std=0.005)
            nn.init.constant_(layer.bias, 1.0)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """-> (fc6, fc7) after their ReLUs; dropout acts in training, on what goes on."""
        fc6 = F.relu(self.fc6(x))
        fc7 = F.relu(self.fc7(F.dropout(fc6, 0.5, self.training)))
        return fc6, fc7
