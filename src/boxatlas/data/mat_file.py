"""Proposals of R-CNN's and Fast R-CNN's .mat files, read in a process of their own.

scipy's reader is compiled code that a damaged file can crash: only the child ends with it. What the
child read reaches this process as an npz, which is checked like any other.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxatlas.archives import read_npz
from boxatlas.errors import InputError
from boxatlas.files import check_file

_SECONDS = 1800  # a file that takes longer than the largest published ones is stuck


def read_mat(path: Path) -> dict[str, NDArray[Any]]:
    """names [N], counts [N] and boxes [P, 4], xyxy as the file has them: 1-based, inclusive.

    Raises InputError for a file that is no such .mat, is damaged, or crashes its reader.
    """
    check_file(path)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "read.npz"
        command = [sys.executable, "-P", "-m", "boxatlas.data.mat_file", str(path), str(out)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            problem = "not a proposal file of R-CNN: reading it does not end"
            raise InputError(problem, file=path) from None
        if done.returncode == 1:
            last = (done.stderr.strip().splitlines() or ["damaged"])[-1]
            raise InputError(f"not a proposal file of R-CNN: {last[:200]}", file=path)
        if done.returncode != 0:
            raise InputError("not a proposal file of R-CNN: it crashes its reader", file=path)
        return read_npz(out)


def _copy(path: str, out: str) -> None:
    """In the child: `images` (names) and `boxes` (a cell of [P, 4], y1 x1 y2 x2) as an npz."""
    from scipy.io import loadmat

    held = loadmat(path, variable_names=["images", "boxes"])
    names = [str(cell.item()) for cell in held["images"].ravel()]
    rows = [np.asarray(cell, np.float32).reshape(-1, 4) for cell in held["boxes"].ravel()]
    if len(names) != len(rows):
        raise ValueError(f"{len(names)} images but {len(rows)} lists of boxes")
    boxes = np.concatenate([np.zeros((0, 4), np.float32), *rows])[:, [1, 0, 3, 2]]
    np.savez(
        out,
        names=np.array(names, np.str_),
        counts=np.array([len(row) for row in rows], np.int64),
        boxes=boxes,
    )


if __name__ == "__main__":
    try:
        _copy(*sys.argv[1:])
    except Exception as error:  # foreign code on foreign bytes: any kind may come
        sys.exit(f"{type(error).__name__}: {error}")
