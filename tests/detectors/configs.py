"""The config classes of all methods, found where methods are: nothing is built."""

from __future__ import annotations

import sys

import boxatlas.detectors  # noqa: F401  imports every method
from boxatlas.options import Options
from boxatlas.registry import MODELS


def config_classes() -> list[type[Options]]:
    """Every class of options that a method's file defines."""
    found: dict[type[Options], None] = {}
    for name, module in sorted(sys.modules.items()):
        if name.startswith("boxatlas.detectors."):
            for value in vars(module).values():
                if (
                    isinstance(value, type)
                    and issubclass(value, Options)
                    and value.__module__ == name
                ):
                    found[value] = None
    return list(found)


def files_of_models() -> set[str]:
    """The modules in which models are registered."""
    return {info.build.__module__ for info in MODELS.values()}


def shown(cls: type[Options]) -> str:
    return f"{cls.__module__.rsplit('.', 1)[1]}.{cls.__name__}"
