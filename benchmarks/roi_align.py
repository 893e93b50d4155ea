"""RoIAlign beside torchvision's on the CPU, with the same answer, in one interleaved run.

    python benchmarks/roi_align.py [--threads 1] [--repeats 10]

1000 RoIs of 256 channels and 7 x 7 bins: from one map, and spread over a pyramid. Times are CPU
seconds of the process with one thread, wall seconds with several.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign, roi_align

from boxatlas.boxes.formats import pyramid_level
from boxatlas.ops import roi as ours

TARGET = 5.0


def boxes(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """[count, 4] in an input of 800 x 1216, sides spread evenly in octaves."""
    side = low * (high / low) ** torch.rand(count, 2, generator=generator)
    at = torch.rand(count, 2, generator=generator) * (torch.tensor([1216.0, 800.0]) - side)
    return torch.cat([at, at + side], 1)


def interleaved(runs: list[Callable[[], Tensor]], repeats: int, threads: int) -> list[list[float]]:
    clock = time.process_time if threads == 1 else time.perf_counter
    times: list[list[float]] = [[] for _ in runs]
    for repeat in range(repeats + 2):
        for run, out in zip(runs, times, strict=True):
            start = clock()
            run()
            if repeat >= 2:
                out.append(clock() - start)
    return times


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    strides = (4, 8, 16, 32)
    maps = [torch.randn(1, 256, 800 // s, 1216 // s, generator=generator) for s in strides]
    last = [m.contiguous(memory_format=torch.channels_last) for m in maps]
    few = boxes(1000, 32, 500, generator)
    rois = torch.cat([torch.zeros(1000, 1), few], 1)
    pooler = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    named = {str(i): m for i, m in enumerate(maps)}
    levels = pyramid_level(few, 2, 5) - 2
    scales = [1 / s for s in strides]
    cases = {
        "one map, stride 16": (
            lambda: roi_align(maps[2], rois, 7, 1 / 16, 2),
            lambda: ours.roi_align(last[2], rois, 7, 1 / 16, 2, aligned=False),
        ),
        "pyramid": (
            lambda: pooler(named, [few], [(800, 1216)]),
            lambda: ours.pyramid_pool(
                last, scales, rois, levels, 7, sampling_ratio=2, aligned=False
            ),
        ),
    }
    print(f"1000 RoIs, 256 channels, 7 x 7, {options.threads} threads")
    short = []
    for name, (peer, mine) in cases.items():
        torch.testing.assert_close(mine(), peer(), rtol=1e-4, atol=1e-4)
        a, b = interleaved([peer, mine], options.repeats, options.threads)
        ratio = statistics.median(x / y for x, y in zip(a, b, strict=True))
        print(
            f"{name}: torchvision {1e3 * statistics.median(a):.1f} ms, "
            f"boxatlas {1e3 * statistics.median(b):.1f} ms, x{ratio:.2f} "
            f"(target x{TARGET})"
        )
        if ratio < TARGET:
            short.append(name)
    sys.exit(f"below target: {', '.join(short)}" if short else 0)


if __name__ == "__main__":
    main()
