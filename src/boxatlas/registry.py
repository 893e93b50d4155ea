"""Whole methods by name. Parts are never registered: they are imports, so that jumping works."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boxatlas.errors import InputError, nearest

if TYPE_CHECKING:
    from boxatlas.detectors.base import Detector

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip


@dataclass(frozen=True)
class Published:
    """One published result of a model."""

    data: str  # "VOC07 test (07+12)", "COCO test-dev"
    metric: str  # "mAP@0.5", "AP"
    value: float
    fps: float | None = None
    hardware: str | None = None
    source: str = ""


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a registered model without building it."""

    name: str
    method: str  # "SSD"
    title: str  # the paper
    arxiv: str
    year: int
    family: str  # "one-stage" | "two-stage"
    backbone: str
    size: str  # "300", "shorter side 800"
    published: tuple[Published, ...]
    summary: str
    build: Callable[..., Detector]
    classes: int = len(VOC_CLASSES)  # of the network whose size is listed


_MODELS: dict[str, ModelInfo] = {}


def register_model(
    *,
    method: str,
    title: str,
    arxiv: str,
    year: int,
    family: str,
    backbone: str,
    size: str,
    published: Sequence[Published] = (),
    classes: int = len(VOC_CLASSES),
) -> Callable[[Callable[..., Detector]], Callable[..., Detector]]:
    """Register a builder `name(classes, **options) -> Detector` under its own name.

    classes: how many the network has whose size is listed, where that is not VOC's 20.
    """

    def decorate(build: Callable[..., Detector]) -> Callable[..., Detector]:
        name = build.__name__
        if name in _MODELS:
            raise ValueError(f"two models are called {name}")
        summary = (build.__doc__ or "").strip().split("\n")[0]
        _MODELS[name] = ModelInfo(
            name,
            method,
            title,
            arxiv,
            year,
            family,
            backbone,
            size,
            tuple(published),
            summary,
            build,
            classes,
        )
        return build

    return decorate


def _models() -> dict[str, ModelInfo]:
    import boxatlas.detectors  # noqa: F401  registers every method

    return _MODELS


def list_models(pattern: str = "*") -> list[str]:
    """The names of the models that match a shell pattern, sorted."""
    return sorted(fnmatch.filter(_models(), pattern))


def model_info(name: str) -> ModelInfo:
    """What is known of a model. Raises InputError, naming the nearest, where there is none."""
    models = _models()
    if name not in models:
        raise InputError("no such model", field="model", value=name, hint=nearest(name, models))
    return models[name]


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    classes: Sequence[str] | None = None,
    weights: str | Path | None = None,
    **options: Any,
) -> Detector:
    """Build a detector by name.

    classes names the objects; num_classes makes up names; with neither, the 20 classes of VOC.
    weights: None, a checkpoint's path, or "bundled" (then its options hold unless others are
    given). options are the fields of the method's
    config: its switches (ideas of the paper's ablations) and its conventions.
    Raises InputError for an unknown model or option, naming the nearest, and where two classes have
    one name.
    """
    info = model_info(name)
    if isinstance(classes, str) or (classes is not None and not len(classes)):
        raise InputError("must be names, at least one", field="classes", value=classes)
    if classes is not None and num_classes is not None and len(classes) != num_classes:
        raise InputError(f"{len(classes)} class names but num_classes={num_classes}")
    if classes is None:
        if num_classes is None or num_classes == len(VOC_CLASSES):
            classes = VOC_CLASSES
        elif num_classes < 1:
            raise InputError("a detector needs a class", field="num_classes", value=num_classes)
        else:
            classes = [f"class{i}" for i in range(num_classes)]
    if weights == "bundled":
        from boxatlas.weights import bundled_options

        options = {**bundled_options(name), **options}
    model = info.build(tuple(classes), **options)
    for one, times in Counter(model.classes).items():  # a tree's words were told apart by now
        if times > 1:
            raise InputError(f"{times} classes have this name", field="classes", value=one)
    model.name, model.options = name, dict(options)
    if weights is not None:
        from boxatlas.weights import load_into

        load_into(model, weights)
    return model
