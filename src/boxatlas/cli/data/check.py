"""boxatlas data check: what is wrong with a data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from boxatlas.cli.common import FormatOption, JsonOption, emit
from boxatlas.cli.data.common import FolderArgument

if TYPE_CHECKING:
    from boxatlas.data.doctor import Report

_SHOWN = 3  # of each kind, where not all are asked for


def command(
    folder: FolderArgument,
    fix: Annotated[
        Path | None,
        typer.Option("--fix", metavar="OUT", help="Write a repaired copy, list what was done."),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="List every flaw, not a few a kind.")
    ] = False,
    images: Annotated[
        bool, typer.Option("--images/--no-images", help="Whether to decode the images too.")
    ] = True,
    format: FormatOption = None,
    as_json: JsonOption = False,
) -> None:
    """List every flaw of a data set with its file and place. Exits with 1 if there are errors.

    Errors spoil training or evaluation; warnings are worth a look. All cores decode the images.

    \b
    boxatlas data check photos
    boxatlas data check photos --all --no-images
    boxatlas data check photos --fix photos_fixed
    boxatlas data check photos --json > flaws.json
    """
    from boxatlas.data.doctor import check
    from boxatlas.progress import track

    def each(found: Any, total: int) -> Any:
        return track(found, "looking at images", total)

    report = check(folder, format, images=images, each=each)
    document: dict[str, Any] = {
        "folder": str(folder),
        "layout": report.layout,
        "evidence": {name: seen.what for name, seen in report.seen.items()},
        "files not used": report.unused,
        "notes": report.notes,
        "images": report.images,
        "objects": report.objects,
        "splits": report.splits,
        "errors": sum(flaw.count for flaw in report.errors),
        "counts": report.counts,
        "flaws": [flaw.as_dict() for flaw in report.flaws],
    }
    if not as_json:
        _tell(report, every)
    if fix is not None:
        _fix(report, fix, document, as_json)
    if as_json:
        emit(document, True)
    if report.errors:
        raise typer.Exit(1)


def _tell(report: Report, every: bool) -> None:
    from boxatlas.data.doctor import KINDS

    mine = report.seen.get(report.layout)
    print(f"layout {report.layout}: {mine.what if mine else 'as --format says'}")
    for name, seen in report.seen.items():
        if name != report.layout:
            print(f"  it looks like {name} too: {seen.what}")
    counts = report.counts
    rows = [
        {"": KINDS[kind].level, "flaw": kind, "what": KINDS[kind].meaning, "count": n}
        for kind, n in counts.items()
    ]
    if rows:
        emit(None, False, rows=rows)
    shown: dict[str, int] = {}
    order = {kind: n for n, kind in enumerate(counts)}
    for flaw in sorted(report.flaws, key=lambda flaw: order[flaw.kind]):
        shown[flaw.kind] = shown.get(flaw.kind, 0) + 1
        if every or shown[flaw.kind] <= _SHOWN:
            print(f"{flaw.level}: {flaw}")
        elif shown[flaw.kind] == _SHOWN + 1:
            print(f"  ... and more of {flaw.kind}: --all lists them")
    for note in report.notes:
        print(note)
    if report.unused:
        told = ", ".join(f"{suffix} {n}" for suffix, n in report.unused.items())
        print(f"files that nothing was read from: {told}")
    errors = sum(flaw.count for flaw in report.errors)
    warnings = sum(counts.values()) - errors
    splits = ", ".join(f"{name} {n}" for name, n in report.splits.items())
    print(
        f"{report.images} images{f' ({splits})' if splits else ''}, {report.objects} objects: "
        f"{errors} errors, {warnings} warnings"
    )


def _fix(report: Report, out: Path, document: dict[str, Any], as_json: bool) -> None:
    from boxatlas.data.doctor import Flaw, check
    from boxatlas.data.doctor.renew import layout_of_copy
    from boxatlas.data.doctor.repair import repair
    from boxatlas.errors import InputError
    from boxatlas.progress import track

    def each(found: Any) -> Any:
        return track(found, "copying images")

    actions, layout = repair(report, out, each), layout_of_copy(report)
    try:
        left = check(out, layout, images=False).errors
    except InputError as error:  # nothing is left of the set
        left = [Flaw("file_invalid", str(out), "", error.problem)]
    document["repaired"] = {
        "folder": str(out),
        "layout": layout,
        "actions": [a.as_dict() for a in actions],
        "errors left": [flaw.as_dict() for flaw in left],
    }
    if as_json:
        return
    anew = layout != report.layout
    for action in actions:
        print(f"repaired: {action.flaw}: {action.did}")
    for flaw in left:
        print(f"still there: {flaw}")
    told = f" in layout {layout}, since {report.layout} is not written" if anew else ""
    print(f"{out}: a copy{told} with {len(actions)} repairs, {len(left)} errors left")
