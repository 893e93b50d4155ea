"""What the tests of the single-shot family share: tiny models, made batches."""

from __future__ import annotations

from typing import Any

import torch

import boxatlas
from boxatlas.parts.single_shot import SingleShot
from boxatlas.structures import Batch, Frame, Targets

SIZE = 64
TINY: dict[str, dict[str, Any]] = {
    "ssd300_vgg16": {},
    "fssd300_vgg16": {},
    "rfbnet300_vgg16": {},
    "refinedet320_vgg16": {},
    "dsod300": {"backbone": "dsod", "stem": 8, "bottleneck": 8, "growth": 4},
    "dssd321_r101": {"module_widths": 16, "decoder_width": 16, "extra_width": 16},
    "m2det320_vgg16": {"tums": 2, "planes": 16, "scales": 3},
}


def tiny(name: str, **options: Any) -> SingleShot:
    """A model of the family that runs in milliseconds, always the same."""
    torch.manual_seed(0)
    own = {"backbone": "timm/test_efficientnet", "size": SIZE, **TINY.get(name, {}), **options}
    model = boxatlas.create_model(name, num_classes=3, **own)
    assert isinstance(model, SingleShot)
    return model


def batch(size: int = SIZE, objects: int = 3) -> Batch:
    """Two images; the objects, some of them alike, are all in the first."""
    generator = torch.Generator().manual_seed(1)
    truth = torch.tensor([[6.0, 6, 30, 32], [8.0, 6, 33, 33], [36.0, 30, 62, 62]])[:objects]
    targets = Targets.collate([truth, truth[:0]], [torch.arange(objects), torch.arange(0)])
    frames = [Frame((size, size), (size, size))] * 2
    return Batch(torch.randn(2, 3, size, size, generator=generator), frames, targets)
