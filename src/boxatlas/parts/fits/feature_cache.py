"""Features of every image's boxes on disk: what R-CNN's SVMs and box regressors are fitted to.

Shape letters: N images, T boxes of all images, D width of a feature.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxatlas.errors import InputError
from boxatlas.files import write_text
from boxatlas.progress import console

_COMMIT = 16  # images between two notes of how far it is


class FeatureCache:
    """[T, D] float16 in one file whose size is known before the first image.

    counts [N]: boxes of each image. `done` images are there already; the next ones are `add`ed in
    order. Work that was stopped resumes where it was, if counts and width are the same. Raises
    InputError where the disk has no room.
    """

    def __init__(self, folder: Path, counts: Sequence[int], width: int) -> None:
        self.folder, self.file, self.note = folder, folder / "features.npy", folder / "done.json"
        self.offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        shape = (int(self.offsets[-1]), width)
        self.about = {"shape": list(shape), "images": len(counts)}
        held = json.loads(self.note.read_text()) if self.note.is_file() else {}
        self.done = held.get("done", 0) if held.get("about") == self.about else 0
        if self.done == 0 or not self.file.is_file():
            self.done = 0
            self.file.unlink(missing_ok=True)
            self._check_room()
        self.rows: np.memmap[Any, Any] = np.lib.format.open_memmap(
            self.file, "r+" if self.done else "w+", np.float16, shape
        )

    @property
    def gigabytes(self) -> float:
        """The size of the whole file, in units of 1e9 bytes."""
        return 2 * self.about["shape"][0] * self.about["shape"][1] / 1e9

    def announced(self) -> str:
        """Say how large the file will be before it is filled; returns what progress is called."""
        boxes, width = self.about["shape"]
        console().print(
            f"features: {boxes} boxes of {width} numbers, {self.gigabytes:.2f} GB in {self.file}",
            markup=False,
        )
        return "features"

    def _check_room(self) -> None:
        free = shutil.disk_usage(self.folder).free / 1e9
        if self.gigabytes > free:
            problem = f"the feature cache takes {self.gigabytes:.1f} GB and the disk has {free:.1f}"
            hint = "use fewer proposals: --set model.max_proposals=500"
            raise InputError(problem, file=self.folder, hint=hint)

    def add(self, features: NDArray[np.floating]) -> None:
        """The features of the next image, [its count, D]."""
        part = self.of(self.done)
        self.rows[part] = features
        self.done += 1
        if self.done % _COMMIT == 0:
            self.commit()

    def commit(self) -> None:
        """What was added up to here survives a stop."""
        self.rows.flush()
        write_text(self.note, json.dumps({"about": self.about, "done": self.done}))

    def of(self, image: int) -> slice:
        """The rows of an image."""
        return slice(int(self.offsets[image]), int(self.offsets[image + 1]))

    def remove(self) -> None:
        """The work is over: give the room back."""
        del self.rows
        self.file.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)
