"""The table of models. A method's file says what the method is and registers its models:

    METHOD = Method("SSD", "SSD: Single Shot MultiBox Detector", "1512.02325", 2015, "one-stage")

    @METHOD.model("VGG-16", "300", Published("VOC07 test (07+12)", "mAP@0.5", 77.2))
    def ssd300_vgg16(classes, **options): ...

Parts are never registered: they are imports, so that jumping works. `zoo` looks models up, `create`
makes them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

Build = TypeVar("Build", bound=Callable[..., Any])

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
class Method:
    """A paper's method: what all of its models have in common."""

    name: str
    title: str
    arxiv: str
    year: int
    family: str  # "one-stage" | "two-stage"

    def model(
        self, backbone: str, input: str, *published: Published, classes: int = len(VOC_CLASSES)
    ) -> Callable[[Build], Build]:
        """Register a builder `name(classes, **options) -> Detector` under its own name.

        classes: how many the network has whose parameters are listed, where not VOC's 20.
        """

        def register(build: Build) -> Build:
            name = build.__name__
            if name in MODELS:
                raise ValueError(f"two models are called {name}")
            summary = (build.__doc__ or "").strip().split("\n")[0]
            MODELS[name] = ModelInfo(
                name,
                self.name,
                self.title,
                self.arxiv,
                self.year,
                self.family,
                backbone,
                input,
                published,
                summary,
                build,
                classes,
            )
            return build

        return register


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
    input: str  # "300", "shorter side 800"
    published: tuple[Published, ...]
    summary: str
    build: Callable[..., Any]  # (classes, **options) -> Detector
    classes: int = len(VOC_CLASSES)  # of the network whose parameters are listed


MODELS: dict[str, ModelInfo] = {}
