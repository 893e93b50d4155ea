"""The eight colour spaces of selective search, each channel as 8 bits.

Uijlings et al., IJCV 2013, section 3.2 and table 1: they differ in how far a channel follows the
intensity of the light, shadows and highlights, so that one of them suits each image.
Shape letters: C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from boxatlas.errors import InputError, nearest
from boxatlas.ops.compiled import compiled

Planes = NDArray[np.uint8]


def convert(image: NDArray[np.uint8], space: str) -> Planes:
    """RGB [H, W, 3] -> uint8 [C, H, W] in one of COLOUR_SPACES.

    A channel's whole range is spread over 0..255. Raises InputError for another name.
    """
    if space not in COLOUR_SPACES:
        problem = "no such colour space"
        hint = nearest(space, COLOUR_SPACES)
        raise InputError(problem, field="colour space", value=space, hint=hint)
    return COLOUR_SPACES[space](np.require(image, np.uint8, ["C", "W"]))


def _byte(values: NDArray[np.floating]) -> Planes:
    return (values.clip(0, 255) + 0.5).astype(np.uint8)


def _rgb(image: NDArray[np.uint8]) -> Planes:
    return np.ascontiguousarray(image.transpose(2, 0, 1))


def _intensity(image: NDArray[np.uint8]) -> Planes:
    """The mean of the three channels: one channel."""
    return _byte(image.sum(axis=2, dtype=np.int32) * np.float32(1 / 3))[None]


def _chromaticity(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """r = R / (R + G + B) and so on; black, which has none, counts as grey. [3, H, W]"""
    planes = image.transpose(2, 0, 1).astype(np.float32)
    total = planes.sum(axis=0)
    return np.where(total > 0, planes / np.maximum(total, 1), np.float32(1 / 3))


def _normalised_rgb(image: NDArray[np.uint8]) -> Planes:
    return _byte(_chromaticity(image) * 255)


def _rg_intensity(image: NDArray[np.uint8]) -> Planes:
    """Normalised red and green, and the intensity."""
    return np.concatenate([_byte(_chromaticity(image)[:2] * 255), _intensity(image)])


def _opponent(image: NDArray[np.uint8]) -> Planes:
    """The opponent colours divided by the intensity: two channels.

    O1 / O3 = sqrt(3/2) (r - g) and O2 / O3 = (r + g - 2 b) / sqrt(2), of the normalised r, g, b.
    """
    r, g, b = _chromaticity(image)
    return _byte(np.stack([(r - g + 1) * 127.5, (r + g - 2 * b + 2) * 85]))


def _hsv(image: NDArray[np.uint8]) -> Planes:
    out = np.empty((3, *image.shape[:2]), np.uint8)
    _hsv_kernel(image, out)
    return out


def _hue(image: NDArray[np.uint8]) -> Planes:
    return np.ascontiguousarray(_hsv(image)[:1])


@compiled
def _hsv_kernel(image, out):
    """Hue over the whole circle, saturation and value, each 0..255."""
    height, width, _ = image.shape
    for y in range(height):
        for x in range(width):
            r, g, b = (
                np.float32(image[y, x, 0]),
                np.float32(image[y, x, 1]),
                np.float32(image[y, x, 2]),
            )
            top = max(r, g, b)
            span = top - min(r, g, b)
            hue = np.float32(0.0)
            if span > 0:
                if top == r:
                    hue = (g - b) / span
                elif top == g:
                    hue = (b - r) / span + np.float32(2.0)
                else:
                    hue = (r - g) / span + np.float32(4.0)
                if hue < 0:
                    hue += np.float32(6.0)
            out[0, y, x] = int(hue * np.float32(255.0 / 6.0) + np.float32(0.5))
            if top > 0:
                out[1, y, x] = int(span * np.float32(255.0) / top + np.float32(0.5))
            else:
                out[1, y, x] = 0
            out[2, y, x] = int(top)


_STEPS = 1 << 15  # of the table of cube roots: finer than a byte of L, a or b can tell


def _lab_tables() -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """sRGB byte -> linear light; linear RGB -> XYZ over the white of D65; t -> f(t) of CIE Lab."""
    s = np.arange(256) / 255
    linear = np.where(s <= 0.04045, s / 12.92, ((s + 0.055) / 1.055) ** 2.4)
    matrix = np.array(
        [
            [0.412453, 0.357580, 0.180423],
            [0.212671, 0.715160, 0.072169],
            [0.019334, 0.119193, 0.950227],
        ]
    )
    t = np.arange(_STEPS + 1) / _STEPS
    root = np.where(t > (6 / 29) ** 3, np.cbrt(t), t * (29 / 6) ** 2 / 3 + 4 / 29)
    tables = linear, matrix / matrix.sum(axis=1, keepdims=True), root
    return tuple(table.astype(np.float32) for table in tables)  # type: ignore[return-value]


_LAB_TABLES = _lab_tables()


def _lab(image: NDArray[np.uint8]) -> Planes:
    """CIE Lab under D65: L * 255 / 100, a + 128, b + 128."""
    out = np.empty((3, *image.shape[:2]), np.uint8)
    _lab_kernel(image, out, *_LAB_TABLES)
    return out


@compiled
def _lab_kernel(image, out, linear, matrix, root):
    height, width, _ = image.shape
    half, steps = np.float32(0.5), np.float32(len(root) - 1)
    for y in range(height):
        for x in range(width):
            r, g, b = linear[image[y, x, 0]], linear[image[y, x, 1]], linear[image[y, x, 2]]
            fx = root[int((matrix[0, 0] * r + matrix[0, 1] * g + matrix[0, 2] * b) * steps + half)]
            fy = root[int((matrix[1, 0] * r + matrix[1, 1] * g + matrix[1, 2] * b) * steps + half)]
            fz = root[int((matrix[2, 0] * r + matrix[2, 1] * g + matrix[2, 2] * b) * steps + half)]
            out[0, y, x] = int(
                (np.float32(116.0) * fy - np.float32(16.0)) * np.float32(2.55) + half
            )
            out[1, y, x] = int(np.float32(500.0) * (fx - fy) + np.float32(128.5))
            out[2, y, x] = int(np.float32(200.0) * (fy - fz) + np.float32(128.5))


COLOUR_SPACES: dict[str, Callable[[NDArray[np.uint8]], Planes]] = {
    "RGB": _rgb,
    "I": _intensity,
    "Lab": _lab,
    "rgI": _rg_intensity,
    "HSV": _hsv,
    "rgb": _normalised_rgb,
    "C": _opponent,
    "H": _hue,
}
