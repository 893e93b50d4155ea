"""COCO annotations of the usual shape, read in columns by a compiled scan of the text.

A COCO file is some hundred bytes of JSON an object and nine tenths polygons: as Python objects,
forty million floats would live for a moment. What is not of the usual shape (an RLE, a name that
COCO does not have, a number as text) is left to the JSON parser.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

WORTH = 16 << 20  # bytes of a file from which the scan saves more than loading numba costs
_NAMES = ("id", "image_id", "category_id", "iscrowd", "bbox", "area", "segmentation")
_MOST = 1 << 15  # objects of one scan


@dataclass(frozen=True)
class Rows:
    """N annotations. boxes: x, y, width, height; areas: NaN where not stated; masks: polygons as
    `data.masks` packs them, mask_sizes [N] bytes of each (0: no mask); text: their JSON."""

    ids: NDArray[np.int64]
    image_ids: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    boxes: NDArray[np.float64]
    areas: NDArray[np.float64]
    masks: NDArray[np.float32]
    mask_sizes: NDArray[np.int64]
    text: str

    def __len__(self) -> int:
        return len(self.ids)

    def objects(self) -> list[dict[str, Any]]:
        """The same as JSON has them."""
        return json.loads(f"[{self.text.rstrip(', ' + chr(9) + chr(10) + chr(13))}]")


Scan = Callable[[str, int], tuple[Rows, int]]


def scanner(path: Path) -> Scan | None:
    """scan(text, at) -> the annotations from `at` on and where the next object begins.

    None for a file so small that it is not worth its while.
    """
    if not path.is_file() or path.stat().st_size < WORTH:
        return None
    from boxatlas.data.formats._coco_kernel import rows  # numba takes a moment to load

    names = tuple(np.frombuffer(name.encode(), np.uint8) for name in _NAMES)
    whole, real = np.empty((_MOST, 4), np.int64), np.empty((_MOST, 5))
    ends, masks = np.empty(_MOST, np.int64), np.empty(0, np.float32)
    held, raw = "", np.zeros(1, np.uint8)

    def scan(text: str, at: int) -> tuple[Rows, int]:
        nonlocal held, raw, masks
        if text is not held:  # one text is scanned many times
            ascii_only = text.encode() if text.isascii() else b""
            held, raw = text, np.frombuffer(ascii_only + b"\0", np.uint8)
            if len(masks) < len(raw):  # two characters a number, and a length for each polygon
                masks = np.empty(len(raw), np.float32)
        n, stop = rows(raw, min(at, len(raw) - 1), names, whole, real, masks, ends)
        sizes = np.diff(ends[:n], prepend=0)
        found = Rows(
            whole[:n, 0].copy(),
            whole[:n, 1].copy(),
            whole[:n, 2].copy(),
            whole[:n, 3] == 1,
            real[:n, :4].copy(),
            real[:n, 4].copy(),
            masks[: ends[n - 1] if n else 0].copy(),
            sizes * 4,
            text[at:stop] if n else "",
        )
        return found, stop

    return scan
