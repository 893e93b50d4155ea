"""What the verbs share: the options that mean the same everywhere, and how results are printed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from boxatlas.errors import InputError, shown
from boxatlas.files import check_writable

if TYPE_CHECKING:
    import torch

    from boxatlas.parts.base import Detector

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on standard output.")
]
DeviceOption = Annotated[
    str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps. auto takes a GPU if any.")
]
EngineOption = Annotated[
    str | None,
    typer.Option(
        "--engine",
        help="auto, torch, onnx or openvino; auto takes the fastest here that finds the same.",
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Makes the run repeatable.")]
DataOption = Annotated[
    list[Path],
    typer.Option("--data", help="A folder in VOC, COCO or YOLO layout; may be given again."),
]
FormatOption = Annotated[
    str | None, typer.Option("--format", help="The layout; found by looking if not given.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace what is at --out.")]


def pick_device(name: str) -> torch.device:
    """The torch device of that name. Raises InputError where there is none such here."""
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"no such device here: {reason}", field="--device", value=name, hint="use auto or cpu"
        ) from None
    return device


def open_detector(what: str, device: torch.device, engine: str | None = None) -> Detector:
    """The detector of a checkpoint, a run's folder, a model's name (then its bundled weights) or
    "bundled".

    engine: what runs the network, as `create.load` has it; "auto" says on standard error which it
    took. Raises InputError, naming what is there, where it is none of these.
    """
    from boxatlas.create import load

    detector = load(what, engine=engine).to(device)
    if engine == "auto":
        print(f"engine: {detector.engine}", file=sys.stderr)
    return detector


def reserve_file(path: Path, force: bool) -> None:
    """Raise InputError where something is at `path` that may not be replaced.

    Nothing is removed: by --force the old file stays until the new one is whole. Raises it too
    where the folder cannot be written into.
    """
    check_writable(path.parent)
    if path.is_dir():
        raise InputError("is a folder, not a file", file=path, hint="pass another --out")
    if path.exists() and not force:
        raise InputError("already exists", file=path, hint="pass another --out, or --force")


def reserve(folder: Path, force: bool) -> Path:
    """A folder that may be written into: new or empty, or by --force one that holds something.

    Nothing is removed; files of the same names are replaced. Raises InputError otherwise.
    """
    check_folder(folder)
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise InputError("already exists", file=folder, hint="pass another --out, or --force")
    return folder


def check_folder(folder: Path) -> None:
    """Raise InputError where --out cannot be a folder to write into."""
    there = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    if there.exists() and not there.is_dir():
        raise InputError("is a file, not a folder", file=there, hint="pass another --out")
    check_writable(folder)


def refuse(context: typer.Context, names: Iterable[str], why: str, hint: str | None = None) -> None:
    """Raise InputError for the first of these options that was given on the command line.

    names: the command's parameters; why: what makes them idle here.
    """
    options = {param.name: "/".join(param.opts) for param in context.command.params}
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise InputError(f"does not apply: {why}", field=options[name], hint=hint)


def emit(
    document: Any,
    as_json: bool,
    *,
    rows: Sequence[Mapping[str, Any]] | None = None,
    title: str | None = None,
    text: str | None = None,
) -> None:
    """Print the result: `document` as JSON, or `rows` as a table and `text` for people."""
    if as_json:
        json.dump(document, sys.stdout, indent=2, default=_plain, allow_nan=False)
        sys.stdout.write("\n")
        return
    if rows:
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(
            title=None if title is None else Text(shown(title)),
            title_justify="left",
            box=SIMPLE_HEAD,
            padding=(0, 1),
        )
        for name in rows[0]:
            values = [row[name] for row in rows if row[name] is not None]
            number = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
            table.add_column(
                Text(shown(name)),
                justify="right" if number else "left",
                no_wrap=number,
                overflow="fold",
            )
        for row in rows:  # as text: brackets in a name are no markup
            table.add_row(*(Text(_cell(value)) for value in row.values()))
        width = None if sys.stdout.isatty() else 240  # a file has no edge to wrap at
        Console(highlight=False, width=width).print(table)
    if text:
        print(text)


def _plain(value: Any) -> Any:
    for method in ("tolist", "item"):  # tensors and numpy values
        if hasattr(value, method):
            return getattr(value, method)()
    return str(value)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else shown(value)
