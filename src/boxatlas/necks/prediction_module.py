"""DSSD's prediction modules: what stands between a map and its predictors.

Fu et al. 2017, arXiv 1701.06659, section 3.1 and figure 2. Maps are [B, C, H, W].
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from boxatlas.necks.residual import Residual
from boxatlas.options import Options, habit

Kind = Literal["a", "b", "c", "d"]


class PredictionModuleChoices(Options):
    """How the released network differs from the paper's figure."""

    module_kernel: Literal[1, 3] = habit(
        3, "kernel of a prediction module's middle convolution: released 3, drawn 1"
    )


def prediction_module(kind: Kind, channels: int, width: int, kernel: int, eps: float) -> nn.Module:
    """Figure 2: (a) nothing, (b) identity shortcut, (c) 1x1 shortcut, (d) two of (c)."""
    if kind == "a":
        return nn.Identity()
    if kind == "b":
        return Residual(channels, width, channels, middle=kernel, identity=True, eps=eps)
    first = Residual(channels, width, 4 * width, middle=kernel, eps=eps)
    if kind == "c":
        return first
    return nn.Sequential(first, Residual(4 * width, width, 4 * width, middle=kernel, eps=eps))


def module_channels(kind: Kind, channels: int, width: int) -> int:
    """Channels that a map of so many has after its prediction module."""
    return channels if kind in ("a", "b") else 4 * width
