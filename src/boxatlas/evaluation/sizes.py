"""How large a model is: parameters and multiply-adds.

`sizes.json` holds them for the registered models, so that listing them builds none;
`python -m boxatlas.evaluation.sizes [PATTERN...]` counts them anew.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from boxatlas.create import create_model
from boxatlas.structures import Frame
from boxatlas.zoo import list_models, model_info

if TYPE_CHECKING:
    from boxatlas.parts.base import Detector

_FILE = Path(__file__).with_name("sizes.json")
_IMAGE = (480, 640)  # height, width of the image that is counted


@dataclass(frozen=True)
class Size:
    """parameters: learnable numbers; multiply_adds: of the network for one 640 x 480 image, in
    convolutions and matrix products; input: (height, width) that it becomes."""

    parameters: int
    multiply_adds: int
    input: tuple[int, int]


def size_of(detector: Detector) -> Size:
    """Count a detector's network for one image, with as many proposals as the method takes."""
    parameters = sum(p.numel() for p in detector.parameters())
    images, frames = detector.preprocess.batch([np.zeros((*_IMAGE, 3), np.uint8)])
    mode = detector.training
    detector.eval()
    try:
        if detector.takes_proposals:  # each costs the same: two counts tell what one does
            few, more = (_counted(detector, images, frames, count) for count in (2, 4))
            counted = few + (more - few) // 2 * (detector.takes_proposals - 2)
        else:
            counted = _counted(detector, images, frames)
    finally:
        detector.train(mode)
    return Size(parameters, counted, (int(images.shape[-2]), int(images.shape[-1])))


@torch.no_grad()
def _counted(
    detector: Detector, images: Tensor, frames: Sequence[Frame], proposals: int = 0
) -> int:
    """Multiply-adds of one forward; nothing is computed where the method can do without values."""
    from torch.utils.flop_counter import FlopCounterMode

    if not proposals:
        state = {name: value.to("meta") for name, value in detector.state_dict().items()}
        counter = FlopCounterMode(display=False)
        # A method that ranks or suppresses needs real numbers.
        with contextlib.suppress(RuntimeError), counter:
            functional_call(detector, state, (images.to("meta"), frames))
            return int(counter.get_total_flops()) // 2
    counter, device = FlopCounterMode(display=False), detector.device
    boxes = None
    if proposals:
        boxes = torch.tensor([[8.0, 8.0, 200.0, 200.0]], device=device).repeat(1, proposals, 1)
    with counter:
        detector(images.to(device), frames, boxes)
    return int(counter.get_total_flops()) // 2


@lru_cache(maxsize=1)
def _known() -> dict[str, Any]:
    return json.loads(_FILE.read_text(encoding="utf-8")) if _FILE.is_file() else {}


def known_size(name: str) -> Size | None:
    """Of a registered model with `model_info`'s classes, from the file; None where it has none."""
    entry = _known().get(name)
    return None if entry is None else Size(**{**entry, "input": tuple(entry["input"])})


def main(patterns: Sequence[str] = ()) -> None:
    """Count the registered models that match (all if none is given) and write them to the file."""
    from boxatlas.files import write_text
    from boxatlas.progress import track

    chosen = {name: None for pattern in patterns or ("*",) for name in list_models(pattern)}
    sizes = {name: entry for name, entry in _known().items() if name in list_models()}
    for name in track(list(chosen), "counting"):
        model = create_model(name, num_classes=model_info(name).classes)
        sizes[name] = asdict(size_of(model))
        rows = (f'  "{name}": {json.dumps(size)}' for name, size in sorted(sizes.items()))
        write_text(_FILE, "{\n" + ",\n".join(rows) + "\n}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
