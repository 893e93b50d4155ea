"""What every reader needs: collecting rows into a table, numbers checked, paths held inside."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from boxatlas.data.table import Mask, Table
from boxatlas.errors import InputError
from boxatlas.images import IMAGE_SUFFIXES, size_of


class Builder:
    """Rows of a table, image by image."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.ids: list[str | int] = []
        self.sizes: list[tuple[int, int]] = []
        self.counts: list[int] = []
        self.boxes: list[tuple[float, float, float, float]] = []
        self.labels: list[int] = []
        self.ignore: list[bool] = []
        self.masks: list[Mask] = []
        self.image_label: list[int] = []
        self.notes: list[str] = []

    def image(
        self, path: Path, id_: str | int, size: tuple[int, int] | None, image_label: int = -1
    ) -> None:
        """Begin an image; size (height, width), or None to read it from the file later."""
        self.paths.append(str(path))
        self.ids.append(id_)
        self.sizes.append(size or (0, 0))
        self.counts.append(0)
        self.image_label.append(image_label)

    def add(
        self, box: tuple[float, float, float, float], label: int, ignore: bool = False,
        mask: Mask = None,
    ) -> None:  # fmt: skip
        """An object of the image begun last."""
        self.counts[-1] += 1
        self.boxes.append(box)
        self.labels.append(label)
        self.ignore.append(ignore)
        self.masks.append(mask)

    def table(self, classes: Sequence[str]) -> Table:
        """What was collected. Sizes that no annotation states are read from the images' headers."""
        unknown = [i for i, size in enumerate(self.sizes) if size == (0, 0)]
        if unknown:
            with ThreadPoolExecutor() as pool:
                for i, size in zip(
                    unknown, pool.map(size_of, (self.paths[i] for i in unknown)), strict=True
                ):
                    self.sizes[i] = size
        masks = self.masks if any(m is not None for m in self.masks) else None
        return Table(
            tuple(classes), self.paths, self.ids,
            np.asarray(self.sizes, np.int32).reshape(-1, 2),
            np.concatenate([[0], np.cumsum(self.counts, dtype=np.int64)]),
            np.asarray(self.boxes, np.float32).reshape(-1, 4),
            np.asarray(self.labels, np.int32), np.asarray(self.ignore, bool), masks,
            np.asarray(self.image_label, np.int32), tuple(self.notes),
        )  # fmt: skip


def number(value: Any, file: Path, field: str) -> float:
    """A finite number, given as text or number; InputError otherwise."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        raise InputError("is not a number", file=file, field=field, value=value) from None
    if not math.isfinite(found):
        raise InputError("is not a finite number", file=file, field=field, value=value)
    return found


def inside(folder: Path, name: str, file: Path, field: str) -> Path:
    """folder / name, which must not lead out of `folder`."""
    path = folder / name
    if ".." in Path(name).parts or Path(name).is_absolute():
        raise InputError("a path that leaves the folder", file=file, field=field, value=name)
    return path


def read_text(path: Path) -> str:
    """A text file as UTF-8 (a byte order mark is dropped), or Latin-1 where it is not UTF-8."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise InputError("no such file", file=path) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def by_stem(folder: Path) -> dict[str, Path]:
    """The images of a folder and below by their path within it, without suffix."""
    if not folder.is_dir():
        return {}
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            found[path.relative_to(folder).with_suffix("").as_posix()] = path
    return found
