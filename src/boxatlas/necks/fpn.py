"""Feature pyramid network. Lin et al. 2016, arXiv 1612.03144, section 3.

Shape letters: B images; maps are [B, C, H, W], fine to coarse.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from boxatlas.options import Options, habit

Extra = Literal["none", "maxpool", "conv", "c5", "p5"]


class CoarseLevelChoices(Options):
    """How RetinaNet's programs make the levels above P5."""

    p6_from: Literal["c5", "p5"] = habit("c5", "the map that P6 is computed from")
    relu_before_p7: bool = habit(True, "P7 is computed from relu(P6), not from P6 itself")


class FPN(nn.Module):
    """Maps C_l..C_5 -> P_l..P_5 of one width, and coarser maps where `extra` asks for them.

    Each level is the 1x1 lateral of its map plus the level above, doubled (nearest), then a 3x3
    that removes the aliasing; no activation. top_down, lateral: off, they are the ablation of the
    paper's table 1 (d, e). extra: "maxpool" adds P6 = P5 subsampled (section 4.1, footnote),
    "conv" P6 = 3x3 stride 2 on P5; "c5" and "p5" P6 = 3x3 stride 2 on that map and P7 = 3x3
    stride 2 on relu(P6) (RetinaNet).
    norm: a maker of norms after each convolution, which then has no bias.
    """

    def __init__(
        self,
        channels: Sequence[int],
        width: int = 256,
        *,
        extra: Extra = "none",
        top_down: bool = True,
        lateral: bool = True,
        relu_before_p7: bool = True,
        norm: type[nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.extra, self.top_down, self.lateral = extra, top_down, lateral
        self.relu_before_p7 = relu_before_p7

        def conv(inner: int, kernel: int) -> nn.Sequential:
            made = [nn.Conv2d(inner, width, kernel, padding=kernel // 2, bias=norm is None)]
            return nn.Sequential(*made, *([norm(width)] if norm else []))

        # Without lateral connections only the top level feeds the pyramid.
        self.inner = nn.ModuleList(
            conv(c, 1) if lateral or i == len(channels) - 1 else nn.Identity()
            for i, c in enumerate(channels)
        )
        self.outer = nn.ModuleList(conv(width, 3) for _ in channels)
        if extra in ("conv", "c5", "p5"):
            self.p6 = nn.Conv2d(channels[-1] if extra == "c5" else width, width, 3, 2, 1)
        if extra in ("c5", "p5"):
            self.p7 = nn.Conv2d(width, width, 3, 2, 1)
        self.channels = [width] * (
            len(channels) + {"none": 0, "maxpool": 1, "conv": 1}.get(extra, 2)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        above = self.inner[-1](maps[-1])
        merged = [above]
        for c, inner in zip(maps[-2::-1], list(self.inner)[-2::-1], strict=True):
            if self.lateral:
                level = inner(c)
                if self.top_down:
                    level = level + F.interpolate(above, size=c.shape[-2:], mode="nearest")
            else:
                level = F.interpolate(above, size=c.shape[-2:], mode="nearest")
            merged.append(level)
            above = level
        levels = [conv(m) for conv, m in zip(self.outer, merged[::-1], strict=True)]
        if self.extra == "maxpool":
            levels.append(F.max_pool2d(levels[-1], 1, 2))
        elif self.extra == "conv":
            levels.append(self.p6(levels[-1]))
        elif self.extra in ("c5", "p5"):
            p6 = self.p6(maps[-1] if self.extra == "c5" else levels[-1])
            levels += [p6, self.p7(F.relu(p6) if self.relu_before_p7 else p6)]
        return levels
