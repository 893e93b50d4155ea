"""boxatlas verify: the re-implementation against the originals' numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from boxatlas.cli.common import JsonOption, emit


def command(
    folder: Annotated[
        Path | None,
        typer.Argument(help="A folder of cases, each NAME.json and NAME.npz; ours if not given."),
    ] = None,
    only: Annotated[str, typer.Option("--only", help="Names that match this pattern.")] = "*",
    as_json: JsonOption = False,
) -> None:
    """Compare what our code computes with what the original programs computed.

    Prints one line per case with its largest absolute and relative error. Exits with 1 if a case
    fails or nothing here can run it.

    \b
    boxatlas verify
    boxatlas verify --only 'op_ssd*'
    boxatlas verify vectors --only 'ssd300*' --json
    """
    from boxatlas.verify import OURS, run

    counts = {"pass": 0, "fail": 0, "unsupported": 0}
    cases = []
    for result in run(OURS if folder is None else folder, only):
        counts[result.status] += 1
        cases.append(_row(result))
        if not as_json:
            print(_line(result), flush=True)
    totals = {
        "passed": counts["pass"],
        "failed": counts["fail"],
        "unsupported": counts["unsupported"],
    }
    text = ", ".join(f"{count} {what}" for what, count in totals.items())
    emit({"cases": cases, **totals}, as_json, text=text)
    if counts["fail"] or counts["unsupported"]:
        raise typer.Exit(1)


def _line(result) -> str:
    errors = f"abs {result.absolute:.2e}  rel {result.relative:.2e}" if result.outcomes else ""
    line = f"{result.name:<46} {errors:<27} {result.status}"
    return f"{line}: {result.reason}" if result.reason else line


def _row(result) -> dict:
    return {
        "name": result.name,
        "case": result.case,
        "status": result.status,
        "reason": result.reason,
        "seconds": round(result.seconds, 3),
        "max_absolute_error": _finite(result.absolute) if result.outcomes else None,
        "max_relative_error": _finite(result.relative) if result.outcomes else None,
        "outputs": [
            {
                "name": o.name,
                "ok": o.ok,
                "max_absolute_error": _finite(o.absolute),
                "max_relative_error": _finite(o.relative),
                "reason": o.reason,
                "informational": o.informational,
            }
            for o in result.outcomes
        ],
    }


def _finite(value: float) -> float | None:
    return value if abs(value) != float("inf") else None  # JSON has no infinity
