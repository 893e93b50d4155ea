"""SSD's augmentation, images a second of one core, beside torchvision.transforms.v2's pipeline.

    python benchmarks/data_loading.py [--rounds 9]

Both take decoded 500 x 375 photos with four boxes to normalised 300 x 300 floats, photometric
distortion, zoom-out, IoU crop, flip and resize; the two are timed in turn in one run. A second pair
adds the JPEG's decoding. Seconds are CPU seconds of this process.
"""

from __future__ import annotations

import argparse
import io
import os
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from boxatlas.data.transforms import Sample, augmentation
from boxatlas.images import Preprocess, read

torch.set_num_threads(1)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def photos(count: int = 10, width: int = 500, height: int = 375) -> list[np.ndarray]:
    """Pictures with detail at every scale: smoothed noise of several sizes."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(count):
        picture = np.zeros((height, width, 3), np.float32)
        for size in (4, 16, 64, 256):
            noise = rng.integers(0, 256, (size * 3 // 4, size, 3), dtype=np.uint8)
            layer = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
            picture += np.asarray(layer, np.float32) / 4
        made.append(picture.astype(np.uint8))
    return made


def peers() -> Callable[..., object]:
    return v2.Compose(
        [
            v2.RandomPhotometricDistort(p=0.5),
            v2.RandomZoomOut(fill={tv_tensors.Image: (123, 117, 104), "others": 0}),
            v2.RandomIoUCrop(),
            v2.RandomHorizontalFlip(),
            v2.Resize((300, 300), antialias=True),
            v2.SanitizeBoundingBoxes(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    images = photos()
    rng = np.random.default_rng(1)
    sides = rng.uniform(60, 250, (len(images), 4, 2))
    corner = rng.random((len(images), 4, 2)) * ((500, 375) - sides)
    boxes = np.concatenate([corner, corner + sides], -1).astype(np.float32)
    labels, ignore = np.arange(4, dtype=np.int32), np.zeros(4, bool)
    files = []
    for image in images:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "JPEG", quality=90)
        files.append(stream.getvalue())
    transform, ours = peers(), augmentation("ssd")
    preprocess = Preprocess(size=(300, 300), mean=MEAN, std=STD)

    def torchvision_of(picture: torch.Tensor, i: int) -> object:
        target = {
            "boxes": tv_tensors.BoundingBoxes(
                torch.from_numpy(boxes[i]), format="XYXY", canvas_size=(375, 500)
            ),
            "labels": torch.from_numpy(labels),
        }
        return transform(tv_tensors.Image(picture), target)

    def ours_of(picture: np.ndarray, i: int) -> object:
        return ours(Sample(picture, boxes[i], labels, ignore), preprocess, rng)

    def decoded(data: bytes) -> torch.Tensor:
        from torchvision.io import ImageReadMode, decode_jpeg

        return decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)

    tensors = [torch.from_numpy(image.copy()).permute(2, 0, 1).contiguous() for image in images]
    runs: dict[str, Callable[[], object]] = {
        "augment: torchvision v2": lambda: [torchvision_of(t, i) for i, t in enumerate(tensors)],
        "augment: ours": lambda: [ours_of(p, i) for i, p in enumerate(images)],
        "decode + augment: torchvision": lambda: [
            torchvision_of(decoded(f), i) for i, f in enumerate(files)
        ],
        "decode + augment: ours": lambda: [ours_of(read(f), i) for i, f in enumerate(files)],
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            start = time.process_time()
            run()
            if turn:
                times[name].append(time.process_time() - start)
    names = list(runs)
    for base, own in (names[:2], names[2:]):
        slow, fast = (float(np.median(times[n])) / len(images) for n in (base, own))
        print(f"{base:32s} {1 / slow:6.0f} images/s")
        print(f"{own:32s} {1 / fast:6.0f} images/s   x{slow / fast:.2f}")


if __name__ == "__main__":
    main()
