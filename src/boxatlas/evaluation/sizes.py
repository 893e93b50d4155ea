"""How large a model is: parameters and multiply-adds.

`sizes.json` holds them for the registered models, so that listing them builds none;
`python -m boxatlas.evaluation.sizes` writes it anew. Others are built once, when asked for.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from boxatlas.registry import create_model, list_models

if TYPE_CHECKING:
    from boxatlas.detectors.base import Detector

_FILE = Path(__file__).with_name("sizes.json")
_IMAGE = (480, 640)  # height, width of the image that is counted


@dataclass(frozen=True)
class Size:
    """parameters: learnable numbers; multiply_adds: of the network for one 640 x 480 image, in
    convolutions and matrix products (None: not countable); input: (height, width) it becomes."""

    parameters: int
    multiply_adds: int | None
    input: tuple[int, int]


def size_of(detector: Detector) -> Size:
    """Count a detector's network: one forward of a made image."""
    from torch.utils.flop_counter import FlopCounterMode

    parameters = sum(p.numel() for p in detector.parameters())
    image = torch.zeros(*_IMAGE, 3, dtype=torch.uint8).numpy()
    images, frames = detector.preprocess.batch([image])
    counted: int | None = None
    counter = FlopCounterMode(display=False)
    mode = detector.training
    try:
        with torch.no_grad(), counter:
            detector.eval()(images.to(detector.device), frames)
        counted = int(counter.get_total_flops()) // 2
    finally:
        detector.train(mode)
    return Size(parameters, counted, (int(images.shape[-2]), int(images.shape[-1])))


@lru_cache(maxsize=1)
def _known() -> dict[str, Any]:
    return json.loads(_FILE.read_text(encoding="utf-8")) if _FILE.is_file() else {}


def known_size(name: str) -> Size | None:
    """Of a registered model with the 20 classes of VOC, from the file; None where it has none."""
    entry = _known().get(name)
    return None if entry is None else Size(**{**entry, "input": tuple(entry["input"])})


def model_size(name: str) -> Size:
    """The same, built and counted where the file has none."""
    return known_size(name) or size_of(create_model(name))


def main() -> None:
    """Count every registered model and write the file."""
    from boxatlas.files import write_text
    from boxatlas.progress import track

    sizes = {name: asdict(size_of(create_model(name))) for name in track(list_models(), "counting")}
    rows = (f'  "{name}": {json.dumps(size)}' for name, size in sorted(sizes.items()))
    write_text(_FILE, "{\n" + ",\n".join(rows) + "\n}\n")


if __name__ == "__main__":
    main()
