"""Colour distortion and what follows it, in one pass over the pixels.

Brightness, contrast, saturation, hue, mirroring, the channels' order and normalisation touch each
pixel once, in floats. Saturation scales the distance of each channel from the largest one; hue
turns the colour about the grey axis of HSV.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boxatlas.images import Preprocess


@dataclass(frozen=True)
class Distortion:
    """value + add and a clip to 0..255, * gain and a clip, saturation * and hue + (fraction of a
    turn, within half of one) in HSV, * last and a clip."""

    add: float = 0.0
    gain: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    last: float = 1.0


NO_DISTORTION = Distortion()


def painted(
    pixels: NDArray[np.uint8],
    at: tuple[int, int],
    size: tuple[int, int],
    fill: tuple[float, float, float],
    mirror: bool,
    distortion: Distortion,
    preprocess: Preprocess,
) -> Tensor:
    """pixels [h, w, 3] at (top, left) of a network input [3, *size]; the rest is `fill` (RGB).

    The fill is not distorted. `mirror` turns the whole left to right.
    """
    flipped = slice(None, None, -1 if preprocess.channels == "bgr" else 1)
    std, mean = np.array(preprocess.std)[flipped], np.array(preprocess.mean)[flipped]
    factor, shift = preprocess.scale / std, -mean / std  # of red, green, blue
    out = np.empty((3, *size), np.float32)
    planes = out[flipped]
    top, left = at
    height, width = pixels.shape[:2]
    if (height, width) != size:
        planes[:] = (np.array(fill) * factor + shift)[:, None, None]
        if mirror:
            left = size[1] - left - width
    d = distortion
    table = ((np.arange(256) + d.add).clip(0, 255) * d.gain).clip(0, 255).astype(np.float32)
    _kernel()(
        pixels[:, ::-1] if mirror else pixels,
        planes[:, top : top + height, left : left + width],
        table,
        np.float32(d.saturation),
        np.float32(d.hue % 1.0 * 6),
        np.float32(d.last),
        factor.astype(np.float32),
        shift.astype(np.float32),
    )
    return torch.from_numpy(out)


@lru_cache(maxsize=1)
def _kernel() -> Any:
    from boxatlas.ops.compiled import compiled

    return compiled(_paint, fastmath=True, error_model="numpy")


def _paint(
    pixels: Any,
    out: Any,
    table: Any,
    saturation: Any,
    turn: Any,
    last: Any,
    factor: Any,
    shift: Any,
) -> None:
    """Compiled. turn: hue in sixths of a turn, 0..6."""
    zero, one, two = np.float32(0), np.float32(1), np.float32(2)
    three, four, six, most = np.float32(3), np.float32(4), np.float32(6), np.float32(255)
    plain = saturation == one and turn == zero
    for y in range(pixels.shape[0]):
        for x in range(pixels.shape[1]):
            r, g, b = table[pixels[y, x, 0]], table[pixels[y, x, 1]], table[pixels[y, x, 2]]
            if not plain:
                high = max(r, max(g, b))
                spread = high - min(r, min(g, b))
                if spread > zero:
                    inverse = one / spread
                    grow = min(saturation, high * inverse)  # saturation ends at 1
                    if turn == zero:
                        r = high - (high - r) * grow
                        g = high - (high - g) * grow
                        b = high - (high - b) * grow
                    else:
                        if high == r:
                            hue = (g - b) * inverse + six
                        elif high == g:
                            hue = (b - r) * inverse + two
                        else:
                            hue = (r - g) * inverse + four
                        hue, spread = hue + turn, spread * grow
                        hue -= six if hue >= six else zero
                        hue -= six if hue >= six else zero  # 0..6
                        red = abs(hue - three) - one
                        green = two - abs(hue - two)
                        blue = two - abs(hue - four)
                        low = high - spread
                        r = low + spread * max(zero, min(one, red))
                        g = low + spread * max(zero, min(one, green))
                        b = low + spread * max(zero, min(one, blue))
            out[0, y, x] = min(r * last, most) * factor[0] + shift[0]
            out[1, y, x] = min(g * last, most) * factor[1] + shift[1]
            out[2, y, x] = min(b * last, most) * factor[2] + shift[2]
