"""Which program computes a checkpoint's network: torch, ONNX Runtime, OpenVINO, or the fastest.

The graph is written once into a folder `.boxatlas` beside the checkpoint, named by its content, and
what is known of it (whether an engine agrees with torch, how fast each is here) stands beside it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import statistics
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from boxatlas._version import __version__
from boxatlas.errors import InputError, nearest
from boxatlas.export.check import agreement
from boxatlas.export.deployed import Deployed, open_onnx
from boxatlas.export.runtimes import RUNTIMES
from boxatlas.export.writing import export_onnx
from boxatlas.fetching import digest_of
from boxatlas.files import check_writable, write_text
from boxatlas.parts.base import Detector

ENGINES = ("auto", "torch", *RUNTIMES)
_PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino"}
_ROUNDS = 9  # of the timing, after two that are not counted
_SOURCE = (480, 640)  # height, width of the picture that is timed


def by_engine(detector: Detector, checkpoint: Path, engine: str) -> Detector:
    """The detector just loaded from `checkpoint`, its network run by `engine`.

    auto: the fastest here of those that find what torch finds; `Detector.engine` says which.
    Raises InputError for an unknown engine, a missing extra, a method without a graph, and where
    an engine that is asked for by name finds other things than torch.
    """
    if engine not in ENGINES:
        raise InputError(
            "no such engine", field="engine", value=engine, hint=nearest(engine, ENGINES)
        )
    if engine == "torch":
        return detector
    cache = _Cache(detector, checkpoint)
    if engine != "auto":
        deployed = cache.opened(engine)
        if not cache.agrees(engine, deployed):
            raise InputError(
                "finds other things than torch", file=checkpoint, field="engine", value=engine
            )
        return deployed
    return cache.fastest()


class _Cache:
    """The graph of one checkpoint and what is known of it."""

    def __init__(self, detector: Detector, checkpoint: Path) -> None:
        self.detector = detector
        key = [digest_of(checkpoint), __version__, *map(version, ("torch", "onnx", "onnxscript"))]
        name = hashlib.sha256(" ".join(key).encode()).hexdigest()[:24]
        folder = _folder(checkpoint.absolute())
        self.graph, self.notes = folder / f"{name}.onnx", folder / f"{name}.json"
        self.known = self._read()

    def _read(self) -> dict[str, Any]:
        """What was noted; nothing where the notes are damaged: they are made anew."""
        try:
            known = json.loads(self.notes.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}

    def _note(self, key: str, value: Any) -> None:
        self.known[key] = value
        write_text(self.notes, json.dumps(self.known, indent=1))

    def opened(self, engine: str) -> Deployed:
        """The graph by an engine; written and verified where there is none, or a damaged one."""
        if self.graph.is_file():
            try:
                return open_onnx(self.graph, engine)
            except InputError:
                if find_spec(_PACKAGES[engine]) is None:
                    raise
        export_onnx(self.detector, self.graph)
        self.known = {}
        self._note(f"agrees: {_release('onnx')}", True)
        return open_onnx(self.graph, engine)

    def agrees(self, engine: str, deployed: Deployed) -> bool:
        """Whether an engine finds what torch finds: compared once, then remembered."""
        key = f"agrees: {_release(engine)}"
        if not isinstance(self.known.get(key), bool):
            self._note(key, agreement(self.detector, deployed).holds)
        return self.known[key]

    def fastest(self) -> Detector:
        """By the times of this machine, taken once."""
        installed = [name for name in RUNTIMES if find_spec(_PACKAGES[name]) is not None]
        if not installed:
            return self.detector
        key = "ms: " + _machine([*installed])
        times = self.known.get(key)
        if not (isinstance(times, dict) and times and set(times) <= {"torch", *installed}):
            times = self._timed(installed)
            self._note(key, times)
        best = min(times, key=times.__getitem__)
        return self.detector if best == "torch" else self.opened(best)

    def _timed(self, installed: list[str]) -> dict[str, float]:
        """Median milliseconds of a whole detection by each engine that agrees, taken in turn."""
        engines: dict[str, Detector] = {"torch": self.detector}
        for name in installed:
            deployed = self.opened(name)
            if self.agrees(name, deployed):
                engines[name] = deployed
        noise = np.random.default_rng(0)
        picture = noise.integers(0, 256, (*_SOURCE, 3), dtype=np.uint8)
        taken: dict[str, list[float]] = {name: [] for name in engines}
        for _ in range(_ROUNDS + 2):
            for name, detector in engines.items():
                start = time.perf_counter()
                detector.detect_pixels([picture])
                taken[name].append(1000 * (time.perf_counter() - start))
        return {name: statistics.median(values[2:]) for name, values in taken.items()}


def _folder(checkpoint: Path) -> Path:
    """`.boxatlas` beside a checkpoint; the user's cache for the package's own and where nothing can
    be written."""
    beside = checkpoint.parent / ".boxatlas"
    if Path(__file__).parents[1] not in checkpoint.parents:
        try:
            check_writable(beside)
        except InputError:
            pass
        else:
            return beside
    base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return base / "boxatlas" / "engines"


def _release(engine: str) -> str:
    return f"{engine} {version(_PACKAGES[engine])}"


def _machine(installed: list[str]) -> str:
    """What the times depend on beside the network."""
    parts = [platform.node(), platform.machine(), f"{torch.get_num_threads()} threads"]
    return ", ".join([*parts, *map(_release, installed)])
