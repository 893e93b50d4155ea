"""Selective search beside OpenCV contrib's, fast mode: the worth of the boxes and their cost.

    python benchmarks/selective_search.py DATA [--split test] [--images 50] [--repeats 3]

DATA is a labelled folder in any layout. Both get the same decoded photos, one thread each, in turn
in one run; the seconds are CPU seconds of this process. At equal numbers of boxes: the mean over
classes of the average best overlap (MABO) and the share of objects met at IoU 0.5 and more, each
averaged over several seeds of the random ranking. Needs the extra `opencv`.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np

from boxatlas.data import Table, read
from boxatlas.evaluation.proposals import Measured, measure
from boxatlas.images import read as read_image
from boxatlas.ops import selective_search

Search = Callable[[np.ndarray, int], np.ndarray]
COUNTS = (100, 500, 1000, 2000)


def opencv(image: np.ndarray, seed: int) -> np.ndarray:
    """OpenCV's boxes as xyxy. Its ranking draws from the C library, so that seeds have no say."""
    searcher = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    searcher.setBaseImage(np.ascontiguousarray(image[..., ::-1]))
    searcher.switchToSelectiveSearchFast()
    boxes = searcher.process().astype(np.float32)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def ours(image: np.ndarray, seed: int) -> np.ndarray:
    return selective_search(image, mode="fast", seed=seed, threads=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--split", default=None)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    cv2.setNumThreads(1)
    table = read([chosen.data], chosen.split)
    table = table.select(np.arange(min(chosen.images, len(table))))
    searches: dict[str, Search] = {"OpenCV": opencv, "boxatlas": ours}
    photos = [read_image(path) for path in table.paths]
    for search in searches.values():  # compiling, first touches
        search(photos[0], 0)
    seconds = {name: np.zeros((chosen.repeats, len(photos))) for name in searches}
    boxes = {name: [[] for _ in range(chosen.repeats)] for name in searches}
    for repeat in range(chosen.repeats):
        for i, photo in enumerate(photos):
            for name, search in searches.items():
                start = time.process_time()
                found = search(photo, repeat)
                seconds[name][repeat, i] = time.process_time() - start
                boxes[name][repeat].append(found)
    report(table, boxes, seconds)


def report(
    table: Table, boxes: dict[str, list[list[np.ndarray]]], seconds: dict[str, np.ndarray]
) -> None:
    print(f"{len(table)} photos, {int((~table.ignore).sum())} objects not marked difficult")
    print(f"{'':10}{'boxes':>7}{'s/image':>9}" + "".join(f"  MABO@{n:<5}r@{n:<5}" for n in COUNTS))
    for name, repeats in boxes.items():
        scores: list[Measured] = [measure(found, table, counts=COUNTS) for found in repeats]
        count = np.mean([len(b) for found in repeats for b in found])
        line = f"{name:10}{count:7.0f}{np.median(seconds[name]):9.3f}"
        for i in range(len(COUNTS)):
            mabo = np.mean([s.mabo[i] for s in scores])
            recall = np.mean([s.recall[i, 0] for s in scores])
            line += f"  {mabo:.4f}    {recall:.4f} "
        print(line)
    ratios = seconds["OpenCV"] / seconds["boxatlas"]
    print(
        f"OpenCV's seconds over ours: {seconds['OpenCV'].sum() / seconds['boxatlas'].sum():.2f} "
        f"(median of photos {np.median(ratios):.2f}, least {ratios.min():.2f})"
    )


if __name__ == "__main__":
    main()
