"""Small data sets on disk, for the tests of what reads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from boxatlas.data.masks import Mask
from boxatlas.data.table import Table
from boxatlas.data.writing import WRITERS

LAYOUTS = ("voc", "coco", "yolo", "fiftyone", "labelstudio", "labelme", "csv")
CLASSES = ("cat", "dog", "tea pot")


def picture(path: Path, size: tuple[int, int], seed: int = 0) -> Path:
    """A photo-like JPEG or PNG of `size` (height, width); no two seeds look alike."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(small).resize((size[1], size[0]), Image.Resampling.BICUBIC).save(path)
    return path


def table_of(
    boxes: Sequence[Sequence[Sequence[float]]],
    labels: Sequence[Sequence[int]],
    sizes: Sequence[tuple[int, int]],
    *,
    masks: Sequence[Mask] | None = None,
    ignore: Sequence[bool] | None = None,
    classes: Sequence[str] = CLASSES,
) -> Table:
    """A table of images named 0.png, 1.png, ..., which do not exist yet."""
    flat = np.array([b for image in boxes for b in image], np.float32).reshape(-1, 4)
    counts = [len(image) for image in boxes]
    return Table(
        tuple(classes),
        [f"{i}.png" for i in range(len(boxes))],
        list(range(1, len(boxes) + 1)),
        np.array(sizes, np.int32).reshape(-1, 2),
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        flat,
        np.array([x for image in labels for x in image], np.int32),
        np.zeros(len(flat), bool) if ignore is None else np.array(ignore, bool),
        masks,
    )


def write_set(
    folder: Path, table: Table, layout: str, splits: dict[str, list[int]] | None = None
) -> Path:
    """The table as a data set in that layout, images included."""
    members = {"train": list(range(len(table)))} if splits is None else splits
    names = [Path(path).name for path in table.paths]
    for split, images in members.items():
        for i in images:
            height, width = table.sizes[i].tolist()
            place = folder / WRITERS[layout].image_folder(split)
            picture(place / names[i], (height, width), seed=i)
    WRITERS[layout].write(table, folder, names, members)
    return folder


def two_images() -> Table:
    """Five objects of three classes, one of them ignored, one image without any."""
    return table_of(
        [
            [[10, 20, 60, 90], [0, 0, 100, 80.5], [30.25, 10.125, 31.5, 12]],
            [],
            [[5, 5, 40, 60], [50, 5, 70, 20]],
        ],
        [[0, 1, 2], [], [1, 0]],
        [(100, 120), (64, 64), (70, 80)],
        ignore=[False, True, False, False, False],
    )
