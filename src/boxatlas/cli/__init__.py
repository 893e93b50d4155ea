"""The command line: one file per verb, found by name.

A verb's module defines `command` (a function) or `app` (a typer group of sub-verbs) and imports
torch only inside the function, so that help answers at once.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys

import typer

from boxatlas._version import __version__
from boxatlas.errors import InputError

_SHARED = {"common"}


def _version(shown: bool) -> None:
    if shown:
        typer.echo(f"boxatlas {__version__}")
        raise typer.Exit


def build() -> typer.Typer:
    """The program with every verb of this folder."""
    app = typer.Typer(
        name="boxatlas",
        help="Every classic object detector, faithful to its paper.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def options(
        version: bool = typer.Option(
            False, "--version", help="Print the version.", callback=_version, is_eager=True
        ),
        debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
    ) -> None:
        pass

    for found in sorted(pkgutil.iter_modules(__path__), key=lambda m: m.name):
        if found.name in _SHARED:
            continue
        module = importlib.import_module(f"{__name__}.{found.name}")
        name = found.name.removesuffix("_")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name)
        else:
            app.command(name, no_args_is_help=getattr(module, "NEEDS_ARGUMENTS", False))(
                module.command
            )
    return app


def main(arguments: list[str] | None = None) -> None:
    """Run; a user's mistake is one line on standard error and exit code 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    if debug:  # accepted anywhere on the line
        arguments = [a for a in arguments if a != "--debug"]
    try:
        build()(args=arguments, prog_name="boxatlas", obj=arguments)
    except InputError as error:
        if debug:
            raise
        print(f"boxatlas: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("boxatlas: stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
