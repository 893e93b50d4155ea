"""Errors a user can act on: one line that names the file, the field, the value and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

_UNSET = object()


class InputError(ValueError):
    """Something the user gave is wrong. The command line prints it as one line and exits with 2."""

    def __init__(
        self,
        problem: str,
        *,
        file: str | Path | None = None,
        field: str | None = None,
        value: object = _UNSET,
        hint: str | None = None,
    ) -> None:
        self.problem, self.file, self.field, self.hint = problem, file, field, hint
        where = ": ".join(str(part) for part in (file, field) if part is not None)
        shown = "" if value is _UNSET else f" (got {_short(value)})"
        text = f"{where}: {problem}{shown}" if where else f"{problem}{shown}"
        if hint:
            text += f"; {hint}"
        super().__init__(" ".join(text.split()))  # one line, whatever the parts held


def nearest(name: str, choices: Iterable[str]) -> str:
    """A hint naming the choices nearest to `name`, or a few of them where none is near."""
    choices = list(choices)
    found = difflib.get_close_matches(name, choices, n=3, cutoff=0.5)
    if found:
        return "did you mean " + " or ".join(repr(c) for c in found) + "?"
    few = ", ".join(choices[:8]) + (", ..." if len(choices) > 8 else "")
    return f"choose from: {few}" if choices else "there are none to choose from"


def _short(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
