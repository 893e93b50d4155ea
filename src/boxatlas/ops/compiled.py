"""Compiling small kernels with numba: cached in the user's cache folder, free of the GIL."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any


def cache_folder() -> Path:
    """Where this user's compiled kernels and cached readings lie; BOXATLAS_CACHE overrules."""
    if "BOXATLAS_CACHE" in os.environ:
        return Path(os.environ["BOXATLAS_CACHE"])
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return base / "boxatlas"


def compiled(function: Callable[..., Any], **options: Any) -> Any:
    """`function` compiled at its first call, once for this machine's user."""
    import numba

    if "NUMBA_CACHE_DIR" not in os.environ:
        numba.config.CACHE_DIR = str(cache_folder() / "kernels")  # type: ignore[attr-defined]
    return numba.njit(function, cache=True, nogil=True, **options)


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="boxatlas")


def in_threads(work: Callable[[int, int], object], count: int, threads: int) -> None:
    """Call work(start, stop) on shares of range(count), side by side where it pays."""
    threads = max(1, min(threads, count // 8))
    if threads == 1:
        work(0, count)
        return
    edges = [count * i // threads for i in range(threads + 1)]
    for future in [_pool(threads).submit(work, a, b) for a, b in itertools.pairwise(edges)]:
        future.result()
