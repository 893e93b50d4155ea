"""The packages of the extras `onnx` and `openvino`, imported when they are needed."""

from __future__ import annotations

import importlib
from typing import Any

from boxatlas.errors import InputError


def extra(package: str) -> Any:
    """Raises InputError, naming what to install, where the package is missing."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise InputError(
            "is not installed",
            field=package,
            hint=f"pip install 'boxatlas[{'openvino' if package == 'openvino' else 'onnx'}]'",
        ) from None
