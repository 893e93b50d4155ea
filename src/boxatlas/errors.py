"""Errors a user can act on: one line that names the file, the field, the value and what to do."""

from __future__ import annotations

import difflib
import importlib
import reprlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_UNSET = object()
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 3, 400, 400
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = _SHORT.maxset = 30


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
        got = "" if value is _UNSET else f" (got {_short(value)})"
        text = f"{where}: {problem}{got}" if where else f"{problem}{got}"
        if hint:
            text += f"; {hint}"
        super().__init__(shown(" ".join(text.split())))  # one line, whatever the parts held


def shown(name: object) -> str:
    """A name as a line of text that a terminal, a page or a table can show: what is not printable
    (control characters, bytes that are not UTF-8, marks that reverse the text) is escaped."""
    text = str(name)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def cell(name: object) -> str:
    """A name for a table that a spreadsheet opens: as `shown`, and never taken for a formula."""
    text = shown(name)
    return f"'{text}" if text[:1] in tuple("=+-@") else text


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python holds a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")


@contextmanager
def parsing(file: object, problem: str) -> Iterator[None]:
    """Around a parser that is not ours: whatever it raises is an InputError naming the file.

    problem: what is then said, before the parser's own first line.
    """
    try:
        yield
    except InputError:
        raise
    except MemoryError:
        raise InputError("asks for more memory than there is", file=str(file)) from None
    except RecursionError:
        raise InputError("is nested too deeply", file=str(file)) from None
    except Exception as error:  # foreign code on foreign bytes: any kind may come
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        first = (reason.strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{problem}: {first[:200]}", file=str(file)) from None


def optional(package: str) -> Any:
    """A package that an extra of the same name installs. Raises InputError where it is missing."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise InputError(
            "is not installed", field=package, hint=f"pip install 'boxatlas[{package}]'"
        ) from None


def nearest(name: str, choices: Iterable[str]) -> str:
    """A hint naming the choices nearest to `name`, or a few of them where none is near."""
    choices = list(choices)
    found = near(name, choices)
    if found:
        return "did you mean " + " or ".join(repr(c) for c in found) + "?"
    few = ", ".join(choices[:8]) + (", ..." if len(choices) > 8 else "")
    return f"choose from: {few}" if choices else "there are none to choose from"


def near(name: str, choices: Iterable[str]) -> list[str]:
    """At most three choices: those that begin with `name`, else those written much like it."""
    by_lower = {choice.lower(): choice for choice in choices}
    wanted = name.lower()
    longer = sorted((c for c in by_lower if wanted and c.startswith(wanted)), key=len)
    found = longer or difflib.get_close_matches(wanted, by_lower, n=3, cutoff=0.5)
    return [by_lower[one] for one in found[:3]]


def _short(value: object, limit: int = 80) -> str:
    text = _SHORT.repr(value)  # which stops early: a value may unfold to gigabytes
    return text if len(text) <= limit else text[: limit - 3] + "..."
