"""Opening the picture of a table's image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from boxatlas.errors import InputError
from boxatlas.images import read


def opened(path: str, stated: tuple[int, int] | NDArray[np.int32]) -> NDArray[np.uint8]:
    """The picture as uint8 RGB [H, W, 3], upright.

    stated: height and width as the annotations have them. Raises InputError where the picture has
    another size: its boxes would lie elsewhere, as those of a picture before its EXIF rotation do.
    """
    picture = read(path)
    height, width = (int(v) for v in stated)
    if picture.shape[:2] != (height, width):
        raise InputError(
            f"is {picture.shape[1]} x {picture.shape[0]}, but its annotation states "
            f"{width} x {height} (width x height)",
            file=path,
            field="size",
            hint="`boxatlas data check` finds all of these, --fix mends them",
        )
    return picture
