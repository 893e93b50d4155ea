"""Augmentation. Each kind is one file: options, and a call that draws everything from one `rng`."""

from __future__ import annotations

from typing import Any

from boxatlas.data.transforms.flip import Flip, NoAugmentation
from boxatlas.data.transforms.sample import Sample, View, rendered
from boxatlas.data.transforms.ssd import SSDAugmentation
from boxatlas.data.transforms.yolo import YoloAugmentation
from boxatlas.errors import InputError, nearest
from boxatlas.options import Options

KINDS: dict[str, type[Options]] = {
    "none": NoAugmentation,
    "flip": Flip,
    "ssd": SSDAugmentation,
    "yolo": YoloAugmentation,
}


def augmentation(name: str, **options: Any) -> Any:
    """The augmentation of that name. Raises InputError for an unknown name or option."""
    if name not in KINDS:
        raise InputError(
            "no such augmentation", field="augment", value=name, hint=nearest(name, KINDS)
        )
    return KINDS[name].of(**options)


__all__ = ["KINDS", "Sample", "View", "augmentation", "rendered"]
