"""Progress bars with an estimate of what is left, on standard error.

On a terminal a bar is drawn; elsewhere (a log file) a line is printed now and then.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")
_LINE_EVERY = 15.0  # seconds, where there is no terminal


def console() -> Console:
    """Where everything but results goes: standard error."""
    return Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())


def bar() -> Progress:
    """A progress display: description, bar, count, elapsed, remaining, and a free field `note`."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=console(),
        transient=True,
    )


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield the items, showing how far it is and how long it will take."""
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    if sys.stderr.isatty():
        with bar() as shown:
            task = shown.add_task(description, total=total, note="")
            for item in items:
                yield item
                shown.advance(task)
        return
    start = said = time.monotonic()
    out = console()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - said >= _LINE_EVERY:
            said = now
            left = f", eta {(now - start) / done * (total - done):.0f} s" if total else ""
            out.print(f"{description}: {done}/{total or '?'}{left}", markup=False)
