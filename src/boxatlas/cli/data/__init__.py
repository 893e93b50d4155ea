"""`boxatlas data`: one file for each of its verbs, found by name."""

from __future__ import annotations

import importlib
import pkgutil

import typer

_SHARED = {"common"}

app = typer.Typer(
    help="Check, look at, convert, split and download data sets.", no_args_is_help=True
)

for _found in sorted(pkgutil.iter_modules(__path__), key=lambda m: m.name):
    if _found.name not in _SHARED:
        _module = importlib.import_module(f"{__name__}.{_found.name}")
        app.command(_found.name, no_args_is_help=True)(_module.command)
