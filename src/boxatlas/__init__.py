"""boxatlas: every classic object detector, faithful to its paper, in one readable library.

    model = boxatlas.create_model("ssd300_vgg16", num_classes=20)
    found = boxatlas.load("best.safetensors").detect("photo.jpg", score=0.3)

Names are imported when first used, so that `boxatlas --help` does not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from boxatlas._version import __version__

if TYPE_CHECKING:
    from boxatlas import boxes, data, ops, weights
    from boxatlas.create import create_model
    from boxatlas.errors import InputError
    from boxatlas.evaluation import evaluate
    from boxatlas.parts.base import Detector
    from boxatlas.structures import Batch, Detections, Frame, Targets
    from boxatlas.weights import load
    from boxatlas.zoo import list_models, model_info

__all__ = [
    "Batch", "Detections", "Detector", "Frame", "InputError", "Targets", "__version__", "boxes",
    "create_model", "data", "evaluate", "list_models", "load", "model_info", "ops", "weights",
]  # fmt: skip

_WHERE = {
    "Batch": "boxatlas.structures",
    "Detections": "boxatlas.structures",
    "Frame": "boxatlas.structures",
    "Targets": "boxatlas.structures",
    "Detector": "boxatlas.parts.base",
    "InputError": "boxatlas.errors",
    "create_model": "boxatlas.create",
    "evaluate": "boxatlas.evaluation",
    "list_models": "boxatlas.zoo",
    "load": "boxatlas.weights",
    "model_info": "boxatlas.zoo",
}
_MODULES = ("boxes", "data", "ops", "weights")


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"boxatlas.{name}")
    raise AttributeError(f"module 'boxatlas' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
