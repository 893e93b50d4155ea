"""MobileNet (the first) as two feature maps. Howard et al. 2017, arXiv 1704.04861, table 1.

Shape letters: B images; a map is [B, C, H / stride, W / stride].
"""

from __future__ import annotations

from torch import Tensor, nn

# Width and stride of each depthwise-separable block after the first convolution (32, stride 2).
BLOCKS = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1), (512, 1), (512, 1),
    (512, 1), (512, 1), (1024, 2), (1024, 1),
)  # fmt: skip


class MobileNetV1(nn.Module):
    """Images -> [the last map of stride 16 (512), of stride 32 (1024)]."""

    def __init__(self) -> None:
        super().__init__()
        self.channels, self.strides = [512, 1024], [16, 32]
        rows: list[nn.Module] = [_unit(3, 32, 3, 2)]
        channels = 32
        for width, stride in BLOCKS:
            rows.append(
                nn.Sequential(
                    *_unit(channels, channels, 3, stride, channels), *_unit(channels, width, 1, 1)
                )
            )
            channels = width
        self.blocks = nn.ModuleList(rows)
        self._fine = len(rows) - 3  # the last block before the stride to 32

    def forward(self, images: Tensor) -> list[Tensor]:
        x, fine = images, images
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i == self._fine:
                fine = x
        return [fine, x]


def _unit(channels: int, width: int, kernel: int, stride: int, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(channels, width, kernel, stride, kernel // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out")
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True))
