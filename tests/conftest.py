"""What tests share: where the real data is, if it is there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_SHARED = Path(os.environ.get("BOXATLAS_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets; skips where it is absent."""
    folder = _SHARED / "data"
    if not folder.is_dir():
        pytest.skip("needs the real data sets: set BOXATLAS_SHARED to the folder that holds data/")
    return folder


@pytest.fixture(scope="session")
def parity_dir() -> Path:
    """The parity vectors that the package carries."""
    from boxatlas.verify import OURS

    return OURS
