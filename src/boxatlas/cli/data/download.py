"""boxatlas data download: the public sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from boxatlas.cli.common import JsonOption, emit


def command(
    name: Annotated[str, typer.Argument(help="voc2007, voc2012 or coco2017.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="The folder; if not given, the set's name.")
    ] = None,
    mirror: Annotated[
        str | None,
        typer.Option("--mirror", metavar="URL", help="Where the archives lie, if elsewhere."),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the archives too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Fetch a public data set from its publisher, check it, unpack it.

    Stopped at any moment, it goes on where it was. voc2007 takes 0.9 GB, voc2012 2 GB,
    coco2017 20 GB, and as much again while it unpacks. Mind the images' own terms of use.

    \b
    boxatlas data download voc2007
    boxatlas data download coco2017 --out /disk/coco --keep
    """
    from boxatlas.data.download import SETS, download
    from boxatlas.errors import InputError, nearest

    if name not in SETS:
        raise InputError("no such data set", field="download", value=name, hint=nearest(name, SETS))
    out = out or Path(name)
    with bars() as advance:
        fresh = download(SETS[name], out, mirror=mirror, keep_archives=keep, advance=advance)
    document = {"folder": str(out), "set": name, "fetched": fresh}
    text = f"{out}: {name} is there" + ("" if fresh else " already")
    emit(document, as_json, text=text)


def bars():
    """A bar of bytes for each archive; on a log file, a line now and then."""
    import sys
    import time
    from contextlib import contextmanager

    from rich import progress

    from boxatlas.progress import console

    @contextmanager
    def shown():
        if not sys.stderr.isatty():
            yield _line_maker(time, console())
            return
        bars = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(bar_width=24),
            progress.DownloadColumn(),
            progress.TransferSpeedColumn(),
            progress.TextColumn("eta"),
            progress.TimeRemainingColumn(),
            console=console(),
        )
        with bars:

            def advance(name: str):
                task = bars.add_task(name, total=None)
                return lambda done, total: bars.update(task, completed=done, total=total)

            yield advance

    return shown()


def _line_maker(time, out):
    def advance(name: str):
        said = [time.monotonic()]

        def tell(done: int, total: int | None) -> None:
            if time.monotonic() - said[0] > 15:
                said[0] = time.monotonic()
                of = f" of {total / 1e6:.0f}" if total else ""
                out.print(f"{name}: {done / 1e6:.0f}{of} MB")

        return tell

    return advance
