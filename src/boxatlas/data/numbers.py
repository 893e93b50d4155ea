"""A number as a file or a program gives it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from boxatlas.errors import InputError

_LARGEST = 1e9  # no coordinate or size is larger


def number(value: Any, file: str | Path, field: str) -> float:
    """A finite number, given as text or number; InputError otherwise."""
    try:
        if isinstance(value, str) and ("_" in value or not value.isascii()):
            raise ValueError  # Python's own ways to write 10: 1_0, full-width digits
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        raise InputError("is not a number", file=file, field=field, value=value) from None
    if not math.isfinite(found):
        raise InputError("is not a finite number", file=file, field=field, value=value)
    if abs(found) > _LARGEST:
        raise InputError("is far too large", file=file, field=field, value=value)
    return found
