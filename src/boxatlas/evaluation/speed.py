"""How fast a detector is, with the parts apart, and what it costs.

FPS is what surveys print: one image at a time, from the network's input to the final boxes
(network, box decoding, suppression), file reading and resizing left out. Those stand beside it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
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
_LEAST = 5  # timed images, however slow
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
    said: Callable[[str], object] = progress or (lambda _: None)
    said("warming up")
    images = [read(one) for one in sources[:32]]
    inputs = [detector.preprocess(image) for image in images]
    if untrained and score is None:
        score = usual_score(detector, *_input(detector, [inputs[0]]))
    for k in range(_WARM_UP):
        _timed(detector, *_input(detector, [inputs[k % len(inputs)]]), score)
    timed = PARTS if detector.takes_proposals else tuple(p for p in PARTS if p != "proposals")
    said("batch 1")
    _reset_peak(detector.device)
    rounds, found, spent = _rounds(detector, sources, seconds, score)
    peak = _peak(detector.device)
    both = rounds[:, 3] + rounds[:, 4]
    median = np.median(rounds, 0)
    throughput = {1: 1 / float(np.median(both))}
    for size in batches:
        if size > 1:
            said(f"batch {size}")
            throughput[size] = _throughput(detector, inputs, size, seconds, score)
    shape = tuple(int(v) for v in _input(detector, [inputs[0]])[0].shape[-2:])
    return Speed(
        fps=1 / float(np.median(both)),
        fps_between=tuple((1 / np.percentile(both, [75, 25])).tolist()),
        fps_whole=1 / float(np.median(rounds.sum(1))),
        latency_ms=1000 * float(np.median(both)),
        latency_p95_ms=1000 * float(np.percentile(both, 95)),
        parts_ms={n: 1000 * float(v) for n, v in zip(PARTS, median, strict=True) if n in timed},
        throughput=throughput,
        device=_device_name(detector.device),
        threads=torch.get_num_threads(),
        input=(shape[0], shape[1]),
        images=len(rounds),
        seconds=spent,
        detections=found,
        peak_memory_mb=peak,
        score=score,
        notes=(f"random weights: the threshold is set to leave about {_USUAL_OBJECTS} detections",)
        if untrained
        else (),
    )


def _rounds(
    detector: Detector, sources: Sequence[Source], seconds: float, score: float | None
) -> tuple[np.ndarray, float, float]:
    """Times [rounds, PARTS] in seconds, the mean number of detections, and the seconds spent."""
    rows, found = [], 0
    began = time.perf_counter()
    while len(rows) < _LEAST or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        image = read(sources[len(rows) % len(sources)])
        opened = time.perf_counter()
        images, frames = _input(detector, [detector.preprocess(image)])
        _wait(detector.device)
        ready = time.perf_counter()
        searched, network, after, count = _timed(detector, images, frames, score)
        rows.append((opened - start, ready - opened, searched, network, after))
        found += count
    return np.array(rows), found / len(rows), time.perf_counter() - began


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


def _throughput(
    detector: Detector,
    inputs: Sequence[tuple[Tensor, Frame]],
    size: int,
    seconds: float,
    score: float | None,
) -> float:
    """Images a second of network + postprocess in batches of `size`; the median round."""
    images, frames = _input(detector, [inputs[k % len(inputs)] for k in range(size)])
    _timed(detector, images, frames, score)
    rounds: list[float] = []
    began = time.perf_counter()
    while len(rounds) < 3 or time.perf_counter() - began < seconds:
        _, network, after, _ = _timed(detector, images, frames, score)
        rounds.append(network + after)
    return size / float(np.median(rounds))


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
