"""Reading annotations of COCO train2017's size: seconds and memory of one core.

    python benchmarks/read_annotations.py [--images 118000] [--objects 860000]

The annotations are made up (polygons of 4 to 42 points, so that the file is about as large as the
real one), the images are empty files: only their names are looked at. The first reading makes the
table, the second takes it from the cache. Each runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def make(folder: Path, images: int, objects: int) -> None:
    rng = np.random.default_rng(0)
    (folder / "annotations").mkdir(parents=True)
    (folder / "train2017").mkdir()
    for i in range(images):
        (folder / "train2017" / f"{i:012d}.jpg").touch()
    with open(folder / "annotations" / "instances_train2017.json", "w") as file:
        rows = ", ".join(
            json.dumps(
                {
                    "license": 3,
                    "file_name": f"{i:012d}.jpg",
                    "height": 480,
                    "width": 640,
                    "id": i,
                    "coco_url": f"http://images.example/train2017/{i:012d}.jpg",
                }
            )
            for i in range(images)
        )
        file.write(f'{{"info": {{}}, "licenses": [], "images": [{rows}], "annotations": [')
        for k in range(objects):
            points = rng.random((int(rng.integers(4, 43)), 2)) * (640, 480)
            (x1, y1), (x2, y2) = points.min(0), points.max(0)
            row = {
                "segmentation": [points.round(2).ravel().tolist()],
                "area": round((x2 - x1) * (y2 - y1) / 2, 4),
                "iscrowd": 0,
                "image_id": int(rng.integers(images)),
                "bbox": [round(float(v), 2) for v in (x1, y1, x2 - x1, y2 - y1)],
                "category_id": int(rng.integers(1, 81)),
                "id": k + 1,
            }
            file.write((", " if k else "") + json.dumps(row))
        names = [{"id": i, "name": f"class {i}", "supercategory": ""} for i in range(1, 81)]
        file.write(f'], "categories": {json.dumps(names)}}}')


def one(folder: Path) -> None:
    from boxatlas.data import read

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start, cpu = time.perf_counter(), time.process_time()
    table = read(folder, "train")
    print(
        json.dumps(
            {
                "images": len(table),
                "objects": len(table.labels),
                "seconds": round(time.perf_counter() - start, 2),
                "cpu seconds": round(time.process_time() - cpu, 2),
                "peak MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
                "MB before": round(before),
                "boxes sum": float(table.boxes.astype(np.float64).sum()),
                "mask bytes": table.masks.data.nbytes,
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=118_000)
    parser.add_argument("--objects", type=int, default=860_000)
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        one(arguments.read)
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "coco"
        make(folder, arguments.images, arguments.objects)
        size = (folder / "annotations" / "instances_train2017.json").stat().st_size
        print(f"annotation file: {size / 1e6:.0f} MB")
        environment = {**os.environ, "BOXATLAS_CACHE": f"{place}/cache", "OMP_NUM_THREADS": "1"}
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        for what in ("read", "from the cache"):
            command = [sys.executable, __file__, "--read", str(folder)]
            done = subprocess.run(command, env=environment, check=True, capture_output=True)
            print(f"{what}: {done.stdout.decode().strip()}")


if __name__ == "__main__":
    main()
