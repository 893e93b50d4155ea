"""How fast a detector is, with the parts apart, and what it costs.

FPS is what surveys print: one image at a time, from the network's input to the final boxes
(network, box decoding, suppression), file reading and resizing left out. Those stand beside it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from boxatlas.images import Source, read
from boxatlas.structures import Frame

if TYPE_CHECKING:
    from boxatlas.parts.base import Detector

PARTS = ("read", "preprocess", "proposals", "network", "postprocess")
_WARM_UP = 3
_LEAST, _LEAST_BATCHES = 5, 3  # that are timed, however slow
_TURN = 0.5  # seconds of one detector before the next one's turn
_USUAL_OBJECTS = 100  # what an untrained network is made to find


@dataclass(frozen=True)
class Speed:
    """Seconds are never mixed with milliseconds here: every `_ms` is one, `seconds` the other.

    fps: 1000 / median of network + postprocess at batch 1; fps_between: half of the
    images lie between these; fps_whole: all parts, such as reading,
    preprocessing and a search for proposals, where the method takes them from outside; latency_ms,
    latency_p95_ms: of network + postprocess; parts_ms: medians; throughput: batch
    size -> images a second; images, seconds: what was timed; score: the threshold where one was
    set for untrained weights; peak_memory_mb: of the process on a CPU, of the allocator on a GPU.
    """

    fps: float
    fps_between: tuple[float, float]
    fps_whole: float
    latency_ms: float
    latency_p95_ms: float
    parts_ms: dict[str, float]
    throughput: dict[int, float]
    device: str
    threads: int
    input: tuple[int, int]
    images: int
    seconds: float
    detections: float
    peak_memory_mb: float | None = None
    score: float | None = None
    notes: tuple[str, ...] = field(default_factory=tuple)

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def measure(
    detector: Detector,
    sources: Sequence[Source],
    *,
    seconds: float = 5.0,
    batches: Sequence[int] = (),
    score: float | None = None,
    untrained: bool = False,
    progress: Callable[[str], object] | None = None,
) -> Speed:
    """Time the detector on images, over and over, for about so many seconds a batch size.

    The first rounds warm up and do not count. batches: sizes whose throughput is measured besides
    batch 1. untrained: the weights are random, so that the threshold is set to leave about a
    hundred detections; else suppression would work on thousands or on none.
    """
    one = [(detector, untrained)]
    return measure_together(
        one, sources, seconds=seconds, batches=batches, score=score, progress=progress
    )[0]


def measure_together(
    detectors: Iterable[tuple[Detector, bool]],
    sources: Sequence[Source],
    *,
    seconds: float = 5.0,
    batches: Sequence[int] = (),
    score: float | None = None,
    progress: Callable[[str], object] | None = None,
) -> list[Speed]:
    """Time several detectors in turns, so that what slows the machine slows them alike.

    detectors: each with whether its weights are random. All are held in memory; where the iterable
    makes them one by one, each one's peak is of a process that holds it alone. The rest as in
    `measure`, the seconds being each detector's.
    """
    said: Callable[[str], object] = progress or (lambda _: None)
    images = [read(one) for one in sources[:32]]
    said("warming up")
    before = start = _resident()
    timings: list[_Timing] = []
    for detector, untrained in detectors:
        _reset_peak(detector.device)
        timing = _Timing.warmed(detector, images, score, untrained)
        peak = _peak(detector.device)
        if peak is not None and detector.device.type != "cuda":
            peak -= before - start
        timing.peak, before = peak, _resident()
        timings.append(timing)
    said("batch 1")
    _in_turns(
        [(t.rounds, partial(t.one_by_one, sources), _LEAST) for t in timings],
        seconds,
    )
    for size in batches:
        if size > 1:
            said(f"batch {size}")
            _in_turns(
                [(t.batches(size), partial(t.in_batches, size), _LEAST_BATCHES) for t in timings],
                seconds,
            )
    return [timing.result() for timing in timings]


def _in_turns(
    jobs: Sequence[tuple[list[Any], Callable[[float], object], int]], seconds: float
) -> None:
    """Run each job (its rows, what adds to them until a moment, how many at least) by turns until
    each had its seconds."""
    spent = [0.0] * len(jobs)
    while left := [
        k for k, (rows, _, least) in enumerate(jobs) if spent[k] < seconds or len(rows) < least
    ]:
        for k in left:
            began = time.perf_counter()
            jobs[k][1](began + min(_TURN, seconds - spent[k]))
            spent[k] += time.perf_counter() - began


@dataclass
class _Timing:
    """One detector while it is timed."""

    detector: Detector
    inputs: list[tuple[Tensor, Frame]]
    score: float | None
    untrained: bool
    rounds: list[tuple[float, ...]] = field(default_factory=list)  # seconds of each of PARTS
    found: int = 0
    of_batches: dict[int, list[float]] = field(default_factory=dict)
    peak: float | None = None

    @classmethod
    def warmed(
        cls,
        detector: Detector,
        images: Sequence[np.ndarray],
        score: float | None,
        untrained: bool,
    ) -> _Timing:
        inputs = [detector.preprocess(image) for image in images]
        if untrained and score is None:
            score = usual_score(detector, *_input(detector, [inputs[0]]))
        for k in range(_WARM_UP):
            _timed(detector, *_input(detector, [inputs[k % len(inputs)]]), score)
        return cls(detector, inputs, score, untrained)

    def one_by_one(self, sources: Sequence[Source], until: float) -> None:
        """Whole rounds of one image until a moment, one at least."""
        while True:
            start = time.perf_counter()
            image = read(sources[len(self.rounds) % len(sources)])
            opened = time.perf_counter()
            images, frames = _input(self.detector, [self.detector.preprocess(image)])
            _wait(self.detector.device)
            ready = time.perf_counter()
            searched, network, after, count = _timed(self.detector, images, frames, self.score)
            self.rounds.append((opened - start, ready - opened, searched, network, after))
            self.found += count
            if time.perf_counter() >= until:
                return

    def batches(self, size: int) -> list[float]:
        """Seconds of each batch of that size; the first one warms up."""
        if size not in self.of_batches:
            _timed(self.detector, *self._batch(size), self.score)
        return self.of_batches.setdefault(size, [])

    def in_batches(self, size: int, until: float) -> None:
        """Network and postprocessing of whole batches until a moment, one at least."""
        images, frames = self._batch(size)
        while True:
            _, network, after, _ = _timed(self.detector, images, frames, self.score)
            self.of_batches[size].append(network + after)
            if time.perf_counter() >= until:
                return

    def _batch(self, size: int) -> tuple[Tensor, list[Frame]]:
        return _input(self.detector, [self.inputs[k % len(self.inputs)] for k in range(size)])

    def result(self) -> Speed:
        rounds = np.array(self.rounds)
        both = rounds[:, 3] + rounds[:, 4]
        median = np.median(rounds, 0)
        timed = PARTS if self.detector.takes_proposals else set(PARTS) - {"proposals"}
        throughput = {size: size / float(np.median(t)) for size, t in self.of_batches.items()}
        shape = tuple(int(v) for v in _input(self.detector, [self.inputs[0]])[0].shape[-2:])
        usual = f"random weights: the threshold is set to leave about {_USUAL_OBJECTS} detections"
        return Speed(
            fps=1 / float(np.median(both)),
            fps_between=tuple((1 / np.percentile(both, [75, 25])).tolist()),
            fps_whole=1 / float(np.median(rounds.sum(1))),
            latency_ms=1000 * float(np.median(both)),
            latency_p95_ms=1000 * float(np.percentile(both, 95)),
            parts_ms={n: 1000 * float(v) for n, v in zip(PARTS, median, strict=True) if n in timed},
            throughput={1: 1 / float(np.median(both)), **throughput},
            device=_device_name(self.detector.device),
            threads=torch.get_num_threads(),
            input=(shape[0], shape[1]),
            images=len(rounds),
            seconds=float(rounds.sum()),
            detections=self.found / len(rounds),
            peak_memory_mb=self.peak,
            score=self.score,
            notes=(usual,) if self.untrained else (),
        )


@torch.inference_mode()
def _timed(
    detector: Detector, images: Tensor, frames: Sequence[Frame], score: float | None
) -> tuple[float, float, float, int]:
    """(seconds of the search for proposals, of the network, of decoding and suppression, how many
    detections)."""
    begun = time.perf_counter()
    proposals: Tensor | None = None
    if detector.takes_proposals:
        from boxatlas.parts.region.search import selective_search_proposals

        proposals = selective_search_proposals(
            images,
            frames,
            detector.preprocess,
            most=detector.takes_proposals,
            min_side=detector.min_proposal_side,
        )
    start = time.perf_counter()
    fast = detector.fast()
    raw = fast(images, frames, proposals)
    _wait(detector.device)
    between = time.perf_counter()
    found = fast.postprocess(raw, frames, score=score)
    _wait(detector.device)
    end = time.perf_counter()
    return start - begun, between - start, end - between, sum(len(one) for one in found)


def _input(detector: Detector, made: Sequence[tuple[Tensor, Frame]]) -> tuple[Tensor, list[Frame]]:
    images = detector.preprocess.collate([image for image, _ in made]).to(detector.device)
    return images.contiguous(memory_format=torch.channels_last), [frame for _, frame in made]


@torch.inference_mode()
def usual_score(detector: Detector, images: Tensor, frames: Sequence[Frame]) -> float:
    """The threshold at which about a hundred detections of these images are left."""
    fast = detector.fast()
    raw = fast(images, frames)
    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        kept = fast.postprocess(raw, frames, score=middle)
        if sum(len(one) for one in kept) > _USUAL_OBJECTS * len(frames):
            low = middle
        else:
            high = middle
    return high


def made_images(count: int = 4, size: tuple[int, int] = (480, 640)) -> list[np.ndarray]:
    """Pictures (height, width) of smooth shapes, where no real ones are at hand."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0 : size[0], 0 : size[1]]
    out = []
    for _ in range(count):
        image = np.zeros((*size, 3))
        for _ in range(12):
            y, x = rng.uniform(0, size[0]), rng.uniform(0, size[1])
            wide = rng.uniform(0.04, 0.3) * size[0]
            blob = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * wide**2))
            image += blob[..., None] * rng.uniform(-120, 160, 3)
        out.append((image + 110 + rng.normal(0, 6, image.shape)).clip(0, 255).astype(np.uint8))
    return out


# -- the machine ----------------------------------------------------------------------------------


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):  # Linux: forget the high-water mark of this process
        Path("/proc/self/clear_refs").write_text("5")


def _peak(device: torch.device) -> float | None:
    """Megabytes (2**20 bytes) since the last reset."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    try:
        import resource
        import sys

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 2**10)
    except ImportError:  # Windows
        return None


def _resident() -> float:
    """Megabytes (2**20 bytes) that this process holds now; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.split(':', 1)[1].strip()}, {os.cpu_count()} cores"
    except OSError:
        pass
    return f"cpu, {os.cpu_count()} cores"
