"""Looking models up by name, and building them without weights."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import boxatlas.detectors  # noqa: F401  every method registers its models
from boxatlas.errors import InputError, nearest
from boxatlas.parts.base import Detector
from boxatlas.registry import MODELS, VOC_CLASSES, ModelInfo


def list_models(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """The names of the models that match a shell pattern, sorted; capital letters do not count.

    pretrained: only those whose trained weights the package carries, so that `load(name)` detects.
    """
    names = sorted(fnmatch.filter(MODELS, pattern.lower()))
    carried = files("boxatlas").joinpath("weights", "bundled")
    return [n for n in names if not pretrained or carried.joinpath(f"{n}.safetensors").is_file()]


def model_info(name: str) -> ModelInfo:
    """What is known of a model. Raises InputError, naming the nearest, where there is none."""
    if name not in MODELS:
        raise InputError("no such model", field="model", value=name, hint=nearest(name, MODELS))
    return MODELS[name]


def class_names(num_classes: int | None, classes: Sequence[str] | None) -> tuple[str, ...]:
    """`classes`, or made-up names of so many, or with neither VOC's 20.

    Raises InputError where the two disagree and where there is no class.
    """
    if isinstance(classes, str) or (classes is not None and not len(classes)):
        raise InputError("must be names, at least one", field="classes", value=classes)
    if classes is not None and num_classes is not None and len(classes) != num_classes:
        raise InputError(f"{len(classes)} class names but num_classes={num_classes}")
    if classes is not None:
        return tuple(classes)
    if num_classes is not None and not isinstance(num_classes, int):
        raise InputError("must be a whole number", field="num_classes", value=num_classes)
    if num_classes is None or num_classes == len(VOC_CLASSES):
        return VOC_CLASSES
    if num_classes < 1:
        raise InputError("a detector needs a class", field="num_classes", value=num_classes)
    return tuple(f"class{i}" for i in range(num_classes))


def build(name: str, classes: Sequence[str], options: Mapping[str, Any]) -> Detector:
    """A model of these classes and options, its weights random.

    Raises InputError for an unknown model or option and where two classes have one name.
    """
    model: Detector = model_info(name).build(tuple(classes), **options)
    for word, times in Counter(model.classes).items():  # a tree's words were told apart by now
        if times > 1:
            raise InputError(f"{times} classes have this name", field="classes", value=word)
    model.name, model.options = name, type(model.config).current(options)
    return model


def refuse_idle(model: Detector, options: Mapping[str, Any]) -> None:
    """Raise InputError for a choice that does nothing in this detector."""
    idle = model.idle()
    for name in options:
        if name in idle:
            raise InputError(
                f"does nothing in {model.name}: {idle[name]}", field=name, value=options[name]
            )
