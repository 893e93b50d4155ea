"""Checking the re-implementation against vectors that the original programs computed.

A case is a pair NAME.json + NAME.npz. Its `run` block says which program made it and from what;
weights and inputs are made from names and seeds (`fill`), so no checkpoint is needed. Each module
of this folder that defines CASES, a dict from `run.case` to a handler, adds handlers: a handler
takes a `Case` and returns the computed value of every output by its name.

Public: run (a folder of cases), OURS (the folder that comes with the package), Case, Result,
UnsupportedError.
"""

from boxatlas.verify.case import Case, UnsupportedError
from boxatlas.verify.runner import OURS, Result, find, handlers, run, run_case

__all__ = ["OURS", "Case", "Result", "UnsupportedError", "find", "handlers", "run", "run_case"]
