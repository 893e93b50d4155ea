"""Reorg: a map of half the size whose cells hold four cells of the first. arXiv 1612.08242, 2.

Public: ReorgChoices, reorg, Reorg. Shape letters: B images, C channels, H x W cells, s stride.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from boxatlas.options import Options, habit

Order = Literal["darknet", "space_to_depth"]


class ReorgChoices(Options):
    """How a passthrough brings a finer map in."""

    reorg_order: Order = habit(
        "darknet", "order of the passthrough's channels: of the public weights, or row by row"
    )


def reorg(x: Tensor, stride: int = 2, order: Order = "darknet") -> Tensor:
    """[B, C, H, W] -> [B, C * s * s, H / s, W / s]; only the order of the numbers changes.

    "space_to_depth": channel (s * row parity + column parity) * C + c holds every s-th cell of
    channel c. "darknet", with which the public weights were trained, reads the memory of an image
    as C / s² channels of sH x sW cells, takes those apart so, and gives the result its new shape.
    Raises ValueError where s does not divide the sides (or s² the channels, for "darknet").
    """
    b, c, h, w = x.shape
    s = stride
    if h % s or w % s or (order == "darknet" and c % (s * s)):
        raise ValueError(f"reorg of stride {s} does not divide {c} x {h} x {w}")
    if order == "space_to_depth":
        cells = x.reshape(b, c, h // s, s, w // s, s).permute(0, 3, 5, 1, 2, 4)
    else:
        cells = x.reshape(b, c // (s * s), h, s, w, s).permute(0, 3, 5, 1, 2, 4)
    return cells.reshape(b, c * s * s, h // s, w // s)


class Reorg(nn.Module):
    """`reorg` as a layer."""

    def __init__(self, stride: int = 2, order: Order = "darknet") -> None:
        super().__init__()
        self.stride = stride
        self.order: Order = order

    def forward(self, x: Tensor) -> Tensor:
        return reorg(x, self.stride, self.order)
