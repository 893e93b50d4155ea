"""boxatlas: every classic object detector, faithful to its paper, in one readable library.

    model = boxatlas.create_model("ssd300_vgg16", num_classes=20)
    detections = boxatlas.load("best.safetensors").detect("photo.jpg", score=0.3)

Names are imported when first used, so that `boxatlas --help` does not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from boxatlas._version import __version__

if TYPE_CHECKING:
    from boxatlas import boxes, data, detectors, evaluation, ops, scenes, training, weights
    from boxatlas.create import create_model, load
    from boxatlas.errors import InputError
    from boxatlas.evaluation import evaluate, predict
    from boxatlas.frame import Frame
    from boxatlas.images import Preprocess
    from boxatlas.parts.base import Detector
    from boxatlas.structures import Batch, Detections, Targets
    from boxatlas.training import train
    from boxatlas.weights import import_model
    from boxatlas.zoo import list_models, model_info

__all__ = [
    "Batch",
    "Detections",
    "Detector",
    "Frame",
    "InputError",
    "Preprocess",
    "Targets",
    "__version__",
    "boxes",
    "create_model",
    "data",
    "detectors",
    "evaluate",
    "evaluation",
    "import_model",
    "list_models",
    "load",
    "model_info",
    "ops",
    "predict",
    "scenes",
    "train",
    "training",
    "weights",
]

_NAMES = {
    "create": ("create_model", "load"),
    "errors": ("InputError",),
    "evaluation": ("evaluate", "predict"),
    "frame": ("Frame",),
    "images": ("Preprocess",),
    "parts.base": ("Detector",),
    "structures": ("Batch", "Detections", "Targets"),
    "training": ("train",),
    "weights": ("import_model",),
    "zoo": ("list_models", "model_info"),
}
_WHERE = {name: module for module, names in _NAMES.items() for name in names}
_MODULES = {"boxes", "data", "detectors", "evaluation", "ops", "scenes", "training", "weights"}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(f"boxatlas.{_WHERE[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"boxatlas.{name}")
    raise AttributeError(f"module 'boxatlas' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
