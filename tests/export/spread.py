"""Untrained detectors whose outputs spread as trained ones' do, so that few scores are equal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import boxatlas
from boxatlas.parts.base import Detector
from boxatlas.parts.dense import DenseDetector
from boxatlas.parts.region.detector import RegionDetector
from boxatlas.photos import photos

CLASSES = ("ant", "bee", "cat", "dog")


def spread(name: str, **options: Any) -> Detector:
    """A model whose raw outputs on a photo have a standard deviation of 2 (logits) or 0.3."""
    torch.manual_seed(0)
    detector = boxatlas.create_model(name, classes=CLASSES, **options).eval()
    images, _ = detector.preprocess.batch([photos()[0].path])
    with torch.no_grad():
        for layers, output, wanted in _outputs(detector, images):
            for _ in range(2):  # the second time undoes what biases did to the first
                factor = wanted / float(output().std())
                for layer in layers:
                    layer.weight.mul_(factor)
    return detector


Outputs = Iterator[tuple[Sequence[Any], Any, float]]


def _outputs(detector: Detector, images: Tensor) -> Outputs:
    """(the layers that make an output, the output, how far it should spread)."""
    if isinstance(detector, DenseDetector):
        yield _last(detector, "cls"), lambda: detector(images)["logits"], 2.0
        boxes = [*_last(detector, "reg"), *_last(detector, "box")]
        yield boxes, lambda: detector(images)["deltas"], 0.3
    elif isinstance(detector, RegionDetector):
        yield from _of_regions(detector, images)
    else:
        heads = [m for n, m in detector.named_modules() if n.startswith(("head", "top"))]
        last = [m for m in heads if isinstance(m, nn.Conv2d | nn.Linear)]
        last = last if hasattr(detector, "heads") else last[-1:]
        yield last, lambda: torch.cat([t.flatten() for t in detector(images).values()]), 1.0


def _of_regions(detector: RegionDetector, images: Tensor) -> Outputs:
    features = detector.features(images)
    size = (images.shape[-2], images.shape[-1])
    if detector.rpn is not None:
        rpn: Any = detector.rpn

        def rows() -> Any:
            return rpn(detector.rpn_maps(features), size)

        yield [rpn.head.cls], lambda: torch.cat(rows().logits, 1), 2.0
        yield [rpn.head.box], lambda: torch.cat(rows().deltas, 1), 0.3
    corner = torch.rand(1, 50, 2) * torch.tensor([size[1], size[0]]) * 0.6
    boxes = torch.cat([corner, corner + 0.3 * min(size)], -1)

    def heads() -> Any:
        return detector.heads(detector.features(images), boxes)

    scores = "logits" if "logits" in heads() else "scores"
    named = dict(detector.named_modules())
    classes = [m for n, m in named.items() if n.endswith("cls") and not n.startswith("rpn")]
    moves = [m for n, m in named.items() if n.endswith("box") and not n.startswith("rpn")]
    if scores == "logits":
        yield classes, lambda: heads()["logits"], 2.0
    else:  # a cascade's are probabilities
        yield classes, lambda: heads()["scores"] * 5, 1.0
    yield moves, lambda: heads()["deltas"], 0.3


def _last(detector: Detector, part: str) -> list[nn.Conv2d]:
    """The last convolutions of every branch of a name."""
    found: dict[str, nn.Conv2d] = {}
    for name, module in detector.named_modules():
        if f".{part}." in f".{name}." and isinstance(module, nn.Conv2d):
            pieces = name.split(".")
            at = pieces.index(part)
            found[".".join(pieces[: at + 2]) if pieces[at + 1].isdigit() else part] = module
    return list(found.values())
