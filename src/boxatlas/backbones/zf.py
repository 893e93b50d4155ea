"""ZF, the fast model of Zeiler & Fergus 2013, arXiv 1311.2901, as Faster R-CNN's release has it.

Layers carry Caffe's names (conv1 .. conv5). Shape letters: B images.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class ZF(nn.Module):
    """Images [B, 3, H, W], BGR 0..255 minus the mean colour -> [conv5 [B, 256, H / 16, W / 16]].

    Responses are normalised within their own channel, and pools round up.
    """

    channels = (256,)
    strides = (16,)

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 96, 7, stride=2, padding=3)
        self.conv2 = nn.Conv2d(96, 256, 5, stride=2, padding=2)
        self.conv3 = nn.Conv2d(256, 384, 3, padding=1)
        self.conv4 = nn.Conv2d(384, 384, 3, padding=1)
        self.conv5 = nn.Conv2d(384, 256, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = images
        for conv in (self.conv1, self.conv2):
            x = own_channel_lrn(F.relu(conv(x), inplace=True))
            x = F.max_pool2d(x, 3, 2, 1, ceil_mode=True)
        for conv in (self.conv3, self.conv4, self.conv5):
            x = F.relu(conv(x), inplace=True)
        return [x]


def own_channel_lrn(x: Tensor, size: int = 3, alpha: float = 5e-5, beta: float = 0.75) -> Tensor:
    """x / (1 + alpha * mean of x^2 around it)^beta, over size x size cells of its own map."""
    near = F.avg_pool2d(x * x, size, 1, size // 2)
    return x * (1 + alpha * near).pow(-beta)
