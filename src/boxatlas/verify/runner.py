"""Running every case of a folder against our implementation.

Public: OURS, find, handlers, run_case, run, Result, Handler.
"""

from __future__ import annotations

import fnmatch
import gc
import importlib
import pkgutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from boxatlas.errors import InputError, nearest
from boxatlas.verify.case import Case, UnsupportedError
from boxatlas.verify.compare import Outcome, compare

Handler = Callable[[Case], Mapping[str, Any]]
OURS = Path(__file__).parent / "cases"  # come with the package


@dataclass(frozen=True)
class Result:
    """What became of one case; `outcomes` has one entry per output that was compared."""

    name: str
    case: str
    status: Literal["pass", "fail", "unsupported"]
    outcomes: list[Outcome] = field(default_factory=list)
    reason: str = ""
    seconds: float = 0.0

    @property
    def absolute(self) -> float:
        """The largest absolute error of the outputs that count."""
        return max((o.absolute for o in self.outcomes if not o.informational), default=0.0)

    @property
    def relative(self) -> float:
        """The largest relative error of the outputs that count."""
        return max((o.relative for o in self.outcomes if not o.informational), default=0.0)


def handlers() -> dict[str, Handler]:
    """`run.case` -> handler, of every module of this folder that defines CASES."""
    package = importlib.import_module("boxatlas.verify")
    found: dict[str, Handler] = {}
    for module in pkgutil.iter_modules(package.__path__):
        cases = getattr(importlib.import_module(f"boxatlas.verify.{module.name}"), "CASES", {})
        twice = found.keys() & cases.keys()
        if twice:
            raise ValueError(f"two modules handle {sorted(twice)}")
        found.update(cases)
    return found


def find(folder: Path, only: str = "*") -> list[Path]:
    """The cases' JSON files whose name matches a shell pattern. Raises InputError where none is."""
    if not folder.is_dir():
        raise InputError("is not a folder of cases", file=folder)
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise InputError("holds no case", file=folder, hint="a case is NAME.json and NAME.npz")
    chosen = [path for path in paths if fnmatch.fnmatchcase(path.stem, only)]
    if not chosen:
        hint = nearest(only, [path.stem for path in paths])
        raise InputError("no case matches", file=folder, field="--only", value=only, hint=hint)
    lonely = [p for p in folder.glob("*.npz") if not p.with_suffix(".json").exists()]
    for path in lonely:
        if fnmatch.fnmatchcase(path.stem, only):
            raise InputError(
                "has no .json beside it",
                file=path,
                hint="a case is a .json and a .npz of the same name",
            )
    return chosen


def run_case(case: Case, handler: Handler | None) -> Result:
    """Compute and compare one case. A handler that raises fails its case and no other."""
    start = time.perf_counter()
    if handler is None:
        return Result(case.name, case.case, "unsupported", reason="no handler for this case")
    try:
        with torch.no_grad():
            values = handler(case)
    except UnsupportedError as error:
        return Result(case.name, case.case, "unsupported", reason=str(error))
    except InputError as error:
        if str(error.file).startswith(str(case.path.with_suffix(""))):
            raise  # the case's own files are broken, which is not ours to answer for
        return Result(case.name, case.case, "fail", reason=str(error))
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return Result(case.name, case.case, "fail", reason=reason[:300])
    outcomes = []
    for entry in case.outputs:
        if entry["name"] in values:
            outcomes.append(compare(case, entry, values[entry["name"]]))
        else:
            missing = float("inf")
            shown = bool(entry.get("informational"))
            outcomes.append(
                Outcome(entry["name"], False, missing, missing, "is not computed", shown)
            )
    wrong = [o for o in outcomes if not o.ok and not o.informational]
    reason = "; ".join(f"{o.name} {o.reason}" for o in wrong[:3])
    if len(wrong) > 3:
        reason += f"; and {len(wrong) - 3} more"
    status = "fail" if wrong else "pass"
    return Result(case.name, case.case, status, outcomes, reason, time.perf_counter() - start)


def run(folder: str | Path, only: str = "*") -> Iterator[Result]:
    """Every case of a folder in turn; what one case used is freed before the next.

    Raises InputError for a folder, pattern or file that is wrong: no broken pair is passed over.
    """
    paths = find(Path(folder), only)
    for path in paths:
        Case(path)  # all pairs are looked at before the first runs
    known = handlers()
    for path in paths:
        case = Case(path)
        result = run_case(case, known.get(case.case))
        del case
        gc.collect()
        yield result
