"""MLFPN, the multi-level feature pyramid of M2Det: feature fusion (FFM), thinned U-shape modules
(TUM), scale-wise feature aggregation (SFAM).

Zhao et al. 2018, arXiv 1811.04533, section 3 and figures 2 to 4.
Shape letters: B images; maps are [B, C, H, W], fine to coarse.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxatlas.necks.blocks import BatchNorm, ConvNorm, xavier
from boxatlas.options import AtLeastOne, Options, habit, setting

Form = Literal["paper", "released"]


class MLFPNChoices(Options):
    """How the authors' code differs from their paper."""

    form: Form = habit("paper", "the U-shapes' form: the paper's figure 4 or the authors' code")
    shared_leach: bool = habit(
        False, "one convolution narrows the base feature for all U-shapes (released form)"
    )
    shared_sfam: bool = habit(False, "one attention for all scales, not one for each")
    sfam_ratio: AtLeastOne = setting(16, "by what factor the attention narrows its channels")
    norm_largest: bool = habit(False, "batch norm on the finest scale")


class BaseFusion(nn.Module):
    """FFMv1: a shallow and a deep map of the backbone -> a base feature, at the shallow's size."""

    def __init__(self, shallow: int, deep: int, widths: tuple[int, int] = (256, 512)) -> None:
        super().__init__()
        self.shallow = ConvNorm(shallow, widths[0], 3)
        self.deep = ConvNorm(deep, widths[1], 1)
        self.channels = sum(widths)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        shallow, deep = self.shallow(maps[0]), self.deep(maps[1])
        return torch.cat([shallow, _up(deep, shallow)], 1)


class ThinUShape(nn.Module):
    """TUM: down by strided convolutions, up again with each map added, `scales` maps at the end.

    "paper" (figure 4c): on the way up a 3x3 before each enlarging, the encoder's maps as they are,
    and 1x1 to half of `width` on every map; the input must be `width` wide. "released": a 1x1 at
    the top, a 3x3 on the encoder's maps, and 1x1 at full width on all maps but the coarsest.
    side: of the input; the last convolution has no padding where the map allows that.
    """

    def __init__(self, channels: int, width: int, scales: int, side: int, form: Form) -> None:
        super().__init__()
        self.form = form
        steps = scales - 1
        self.encoder = nn.ModuleList()
        for i in range(steps):
            last = i == steps - 1 and side >= 3
            shape = (3, 1, 0) if last else (3, 2, 1)
            self.encoder.append(ConvNorm(channels if i == 0 else width, width, *shape))
            side = side - 2 if last else (side + 1) // 2
        paper = form == "paper"
        self.top = nn.Identity() if paper else ConvNorm(width, width, 1)
        # Of the map of each step on the way up, coarse to fine: the deeper map's 3x3, or its own.
        sources = [width] * steps if paper else [width] * (steps - 1) + [channels]
        self.decoder = nn.ModuleList(ConvNorm(c, width, 3) for c in sources)
        self.channels = width // 2 if paper else width
        self.smooth = nn.ModuleList(
            ConvNorm(width, self.channels, 1) for _ in range(scales if paper else steps)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        encoded = [x]
        for layer in self.encoder:
            encoded.append(layer(encoded[-1]))
        made = [self.top(encoded[-1])]
        for layer, own in zip(self.decoder, reversed(encoded[:-1]), strict=True):
            if self.form == "paper":
                made.append(_up(layer(made[-1]), own) + own)
            else:
                made.append(_up(made[-1], own) + layer(own))
        plain = len(made) - len(self.smooth)  # the coarsest stays as it is in the released form
        smoothed = [layer(y) for layer, y in zip(self.smooth, made[plain:], strict=True)]
        return [*made[:plain], *smoothed][::-1]


class Attention(nn.Module):
    """Squeeze and excitation of one scale (figure 3): each channel by what the whole map says."""

    def __init__(self, channels: int, ratio: int) -> None:
        super().__init__()
        self.squeeze = xavier(nn.Conv2d(channels, max(1, channels // ratio), 1))
        self.excite = xavier(nn.Conv2d(max(1, channels // ratio), channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        weights = self.squeeze(F.adaptive_avg_pool2d(x, 1)).relu()
        return x * self.excite(weights).sigmoid()


class MLFPN(nn.Module):
    """Base feature -> `tums` U-shapes in a row -> for each scale the maps of all levels, joined.

    FFMv2 feeds each U-shape after the first with the base feature, narrowed, and the largest map of
    the one before; base off: with that map alone. sfam: attention on each joined scale.
    shared_leach: one convolution narrows for all; shared_sfam: one attention for all scales;
    norm_largest: batch norm on the finest scale. `channels` says what is returned.
    """

    def __init__(
        self,
        shallow: int,
        deep: int,
        side: int,
        *,
        tums: int = 8,
        scales: int = 6,
        width: int = 256,
        form: Form = "paper",
        base: bool = True,
        sfam: bool = True,
        ratio: int = 16,
        shared_leach: bool = False,
        shared_sfam: bool = False,
        norm_largest: bool = False,
    ) -> None:
        super().__init__()
        self.base, self.shared_leach = BaseFusion(shallow, deep), shared_leach
        paper = form == "paper"
        narrow, out = width // 2, width // 2 if paper else width
        # The first has nothing before it; in the paper's form it takes as wide an input as others.
        first = width if paper else narrow
        leached = [first, *([narrow] * (tums - 1) if base and not shared_leach else [])]
        self.leach = nn.ModuleList(ConvNorm(self.base.channels, w, 1) for w in leached)
        self.widen = nn.ModuleList(
            [] if base else [ConvNorm(out, width, 1) for _ in range(tums - 1)]
        )
        inputs = [first] + [narrow + out if base else width] * (tums - 1)
        self.tums = nn.ModuleList(ThinUShape(c, width, scales, side, form) for c in inputs)
        total = out * tums
        made = 0 if not sfam else 1 if shared_sfam else scales
        self.attention = nn.ModuleList(Attention(total, ratio) for _ in range(made))
        self.norm = BatchNorm(total) if norm_largest else nn.Identity()
        self.channels = [total] * scales

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        base = self.base(maps)
        levels: list[list[Tensor]] = []
        for i, tum in enumerate(self.tums):
            if i == 0:
                x = self.leach[0](base)
            elif len(self.widen):
                x = self.widen[i - 1](levels[-1][0])
            else:
                leach = self.leach[0 if self.shared_leach else i]
                x = torch.cat([leach(base), levels[-1][0]], 1)
            levels.append(tum(x))
        joined = [torch.cat(scale, 1) for scale in zip(*levels, strict=True)]
        if len(self.attention):
            shared = len(self.attention) == 1
            joined = [self.attention[0 if shared else i](x) for i, x in enumerate(joined)]
        return [self.norm(joined[0]), *joined[1:]]


def _up(x: Tensor, like: Tensor) -> Tensor:
    """Nearest neighbour to the size of another map."""
    return F.interpolate(x, size=like.shape[-2:], mode="nearest")
