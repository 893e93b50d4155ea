"""boxatlas detect: what is in these pictures."""

from __future__ import annotations

import csv
import glob
import io
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from boxatlas.cli.common import (
    DeviceOption,
    EngineOption,
    ForceOption,
    JsonOption,
    emit,
    open_detector,
    pick_device,
    reserve,
)
from boxatlas.errors import InputError, cell, shown
from boxatlas.files import check_file

if TYPE_CHECKING:
    from boxatlas.parts.base import Detector, Request
    from boxatlas.structures import Detections

NEEDS_ARGUMENTS = True


Sources = Annotated[
    list[str], typer.Argument(metavar="SOURCE...", help="Pictures, folders, or patterns.")
]
Model = Annotated[
    str, typer.Option("--model", metavar="CKPT|MODEL|bundled", help="Which detector.")
]
Score = Annotated[
    float, typer.Option("--score", min=0, max=1, help="Show what scores at least this.")
]
Out = Annotated[
    Path | None, typer.Option("--out", help="A folder for pictures, detections.json and .csv.")
]
Pictures = Annotated[
    bool, typer.Option("--pictures/--no-pictures", help="Draw the boxes on copies.")
]
Only = Annotated[
    list[str] | None, typer.Option("--class", help="Only this class; may be given again.")
]
Overlap = Annotated[
    float | None,
    typer.Option(
        "--nms-iou", min=0, max=1, help="Of two that overlap more, one stays; else the model's."
    ),
]
Most = Annotated[int | None, typer.Option("--max-detections", min=1, help="Of a picture, at most.")]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Pictures at once, on a GPU.")]


def command(
    source: Sources,
    model: Model = "bundled",
    score: Score = 0.3,
    out: Out = None,
    pictures: Pictures = True,
    only: Only = None,
    nms_iou: Overlap = None,
    max_detections: Most = None,
    batch_size: BatchSize = 8,
    force: ForceOption = False,
    device: DeviceOption = "auto",
    engine: EngineOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find objects in pictures.

    With --out: pictures/ with boxes drawn, detections.json as COCO has it (with its images and
    categories), detections.csv. A folder is searched with everything below it. A picture that
    cannot be read is named and passed over, and the exit code is then 1; where none can be read, 2.

    \b
    boxatlas detect photo.jpg --out found
    boxatlas detect photos 'more/*.png' --model runs/ssd --score 0.5 --out found
    boxatlas detect photo.jpg --json
    """
    from boxatlas.parts.base import Request

    files = find_pictures(source)
    if out is not None:
        reserve(out, force)
    detector = open_detector(model, pick_device(device), engine)
    request = Request.checked(detector, score, only or None, nms_iou, max_detections)
    names = _names(files)
    found: list[tuple[Path, Detections]] = []
    broken: list[str] = []
    for path, result in _detected(detector, files, request, batch_size, broken):
        if out is not None and pictures:
            _save_picture(result, out / "pictures" / names[path], broken)
        result.image = None
        found.append((path, result))
    if not found:
        raise _unreadable(broken)
    document = _document(found, detector, broken)
    if out is not None:
        _write(out, document, found)
    text = _text(found, out, as_json)
    emit(document, as_json, text=text)
    if broken:
        raise typer.Exit(1)


def find_pictures(sources: Sequence[str]) -> list[Path]:
    """Files, the pictures in and below folders, and what matches patterns; each once, in order.

    Raises InputError for what is not there and for a folder or pattern without a picture.
    """
    from boxatlas.images import IMAGE_SUFFIXES

    files: dict[Path, None] = {}
    for source in sources:
        path = Path(source)
        if path.is_dir():
            inside = sorted(
                p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and not p.is_dir()
            )
            if not inside:
                raise InputError("holds no picture", file=path)
            files.update(dict.fromkeys(inside))
        elif path.is_file():
            files[path] = None
        elif glob.has_magic(source):
            matched = [Path(p) for p in sorted(glob.glob(source, recursive=True))]
            matched = [p for p in matched if p.is_file() and p.suffix.lower() in IMAGE_SUFFIXES]
            if not matched:
                raise InputError("no picture matches", file=source)
            files.update(dict.fromkeys(matched))
        else:
            if os.path.lexists(path):
                check_file(path)  # a pipe, a link that leads nowhere
            address = "://" in source
            hint = "addresses are not read: save the picture first" if address else None
            raise InputError("no such file or folder", file=source, hint=hint)
    return list(files)


def _names(files: Sequence[Path]) -> dict[Path, str]:
    """A name of its own for each picture, told apart by a number where two are the same."""
    taken: set[str] = set()
    names = {}
    for path in files:
        stem = shown(path.stem)[:100].replace("\\", "_")  # for any file system
        name, number = f"{stem}.jpg", 2
        while name.lower() in taken:
            name, number = f"{stem}-{number}.jpg", number + 1
        taken.add(name.lower())
        names[path] = name
    return names


def _detected(
    detector: Detector,
    files: Sequence[Path],
    request: Request,
    batch_size: int,
    broken: list[str],
) -> Iterator[tuple[Path, Detections]]:
    """Detections of each file that can be read, with its pixels, a few files at once."""
    from boxatlas.images import read
    from boxatlas.progress import track

    at_once = detector.together(batch_size)
    chunks = [files[k : k + at_once] for k in range(0, len(files), at_once)]
    for chunk in track(chunks, "detecting"):
        opened = []
        for path in chunk:
            try:
                opened.append((path, read(path)))
            except InputError as error:
                broken.append(str(error))
                if len(files) > 1:
                    _say(f"passed over: {error}")
        results = detector.detect_pixels([p for _, p in opened], request) if opened else []
        for (path, pixels), result in zip(opened, results, strict=True):
            result.path, result.image = str(path), pixels
            yield path, result


def _say(line: str) -> None:
    from boxatlas.progress import console

    console().print(line, style="yellow", markup=False)


def _unreadable(broken: Sequence[str]) -> InputError:
    """What is said where no picture could be read."""
    if len(broken) == 1:
        return InputError(broken[0])
    return InputError(f"none of the {len(broken)} pictures can be read, as said above")


def _save_picture(result: Detections, path: Path, broken: list[str]) -> None:
    """A picture that cannot be written is named; it costs no result."""
    try:
        result.save(path)
    except InputError as error:
        broken.append(str(error))
        _say(str(error))


def _document(
    found: Sequence[tuple[Path, Detections]], detector: Detector, broken: Sequence[str]
) -> dict[str, Any]:
    """COCO's layout: images, categories, and annotations that carry a score."""
    images, annotations = [], []
    for i, (path, one) in enumerate(found, 1):
        images.append(
            {"id": i, "file_name": str(path), "height": one.size[0], "width": one.size[1]}
        )
        for row in one.to_coco(i):
            w, h = row["bbox"][2:]
            annotations.append({"id": len(annotations) + 1, **row, "area": w * h, "iscrowd": 0})
    categories = [{"id": k, "name": name} for k, name in enumerate(detector.classes, 1)]
    return {
        "model": detector.name,
        "images": images,
        "annotations": annotations,
        "categories": categories,
        "unreadable": list(broken),
    }


def _write(out: Path, document: dict[str, Any], found: Sequence[tuple[Path, Detections]]) -> None:
    from boxatlas.files import write_text

    write_text(out / "detections.json", json.dumps(document) + "\n")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "class", "score", "x1", "y1", "x2", "y2"])
    for path, one in found:
        for name, score, box in zip(
            one.names, one.scores.tolist(), one.boxes.tolist(), strict=True
        ):
            writer.writerow([cell(path), cell(name), f"{score:.4f}", *(f"{v:.2f}" for v in box)])
    write_text(out / "detections.csv", text.getvalue())


def _text(found: Sequence[tuple[Path, Detections]], out: Path | None, quiet: bool) -> str:
    """A line for each picture: how many of which class, and the best score of it."""
    if quiet:
        return ""
    lines = []
    for path, one in found:
        best: dict[str, tuple[int, float]] = {}
        for name, score in zip(one.names, one.scores.tolist(), strict=True):
            count, top = best.get(name, (0, 0.0))
            best[name] = (count + 1, max(top, score))
        said = ", ".join(f"{n} {shown(name)} (best {s:.2f})" for name, (n, s) in best.items())
        lines.append(f"{shown(path)}: {said or 'nothing'}")
    if out is not None:
        lines.append(f"written: {out}")
    return "\n".join(lines)
