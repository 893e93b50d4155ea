"""The command line: one file per verb, found by name.

A verb's module defines `command` (a function) or `app` (a typer group of sub-verbs) and imports
torch only inside the function, so that help answers at once.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from boxatlas._version import __version__
from boxatlas.errors import InputError, nearest

_SHARED = {"common"}
_INTERRUPTED = 130
# What other programs call things.
_OTHER_VERBS = {
    "predict": "that is `boxatlas detect`",
    "infer": "that is `boxatlas detect`",
    "val": "that is `boxatlas eval`",
    "test": "that is `boxatlas eval`",
    "validate": "that is `boxatlas eval`; for labels `boxatlas data check`",
    "help": "see boxatlas --help",
}
_OTHER_DATA_VERBS = {
    "validate": "that is `boxatlas data check`",
    "verify": "that is `boxatlas data check`",
    "show": "that is `boxatlas data view`",
    "info": "that is `boxatlas data stats`",
}
_OTHER_OPTIONS = {
    "conf": "--score",
    "confidence": "--score",
    "threshold": "--score",
    "iou": "--nms-iou",
    "weights": "--model",
    "checkpoint": "--model",
    "batch": "--batch-size",
    "classes": "--class",
    "max_det": "--max-detections",
    "output": "--out",
    "save_dir": "--out",
    "project": "--out",
}
_UsageError: Any = typer.BadParameter.__mro__[1]  # Click's, which typer has within it or beside it


class _Verbs(TyperGroup):
    """A group of verbs that names the nearest one where there is none of that name."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            others = {None: _OTHER_VERBS, "data": _OTHER_DATA_VERBS}.get(_verb(ctx), {})
            raise InputError(
                "no such command",
                field=_verb(ctx),
                value=args[0],
                hint=others.get(args[0]) or nearest(args[0], self.list_commands(ctx)),
            )
        return super().resolve_command(ctx, args)


def _version(shown: bool) -> None:
    if shown:
        typer.echo(f"boxatlas {__version__}")
        raise typer.Exit


def build() -> typer.Typer:
    """The program with every verb of this folder."""
    app = typer.Typer(
        name="boxatlas",
        cls=_Verbs,
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
            app.add_typer(module.app, name=name, cls=_Verbs)
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
        code = build()(args=arguments, prog_name="boxatlas", obj=arguments, standalone_mode=False)
        if code == _INTERRUPTED:  # what typer makes of Ctrl-C
            print("boxatlas: stopped", file=sys.stderr)
        sys.exit(code)
    except InputError as error:
        if debug:
            raise
        print(f"boxatlas: error: {error}", file=sys.stderr)
        sys.exit(2)
    except _UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
        else:
            print(f"boxatlas: error: {_explained(error)}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        print("boxatlas: stopped", file=sys.stderr)
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)


def _explained(error: Any) -> InputError:
    """A misuse of the command line as one line that names the option and the value."""
    if error.ctx and hasattr(error, "possibilities"):
        known = [o for one in error.ctx.command.params for o in one.opts if o.startswith("--")]
        return InputError(
            "no such option",
            field=_verb(error.ctx),
            value=error.option_name,
            hint=_hint(_verb(error.ctx), error.option_name, known),
        )
    hint = f"see {error.ctx.command_path} --help" if error.ctx else None
    refused = getattr(error.__cause__, "errors", list)()  # pydantic's, which hold the value
    if not refused:
        return InputError(error.format_message().rstrip("."), hint=hint)
    value = refused[0]["input"]
    problem = "not a number" if _is_nan(value) else error.message  # no bound is what it offends
    return InputError(problem, field=error.param.opts[0], value=value, hint=hint)


def _hint(verb: str | None, option: str, known: list[str]) -> str:
    """What an option of another program, or a key of the recipe, is called here."""
    name = option.lstrip("-").replace("-", "_")
    if verb == "train":
        from boxatlas.training.recipe import Recipe

        ours = {"imgsz": "model.size", "size": "model.size", "weights": "init"}
        ours |= {"batch_size": "batch", "learning_rate": "lr"}
        key = ours.get(name, name)
        if key in Recipe.model_fields or key.startswith("model."):
            return f"that is --set {key}=VALUE"
    meant = _OTHER_OPTIONS.get(name)
    return f"that is {meant} here" if meant in known else nearest(option, known)


def _verb(ctx: Any) -> str | None:
    return ctx.command_path.removeprefix("boxatlas").strip() or None


def _is_nan(text: object) -> bool:
    try:
        return math.isnan(float(str(text)))
    except ValueError:
        return False
