"""boxatlas propose: boxes likely to hold objects, by selective search or by a detector's RPN."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from boxatlas.cli.common import (
    DeviceOption,
    ForceOption,
    JsonOption,
    SeedOption,
    emit,
    pick_device,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from boxatlas.data.proposals import Store
    from boxatlas.errors import InputError
    from boxatlas.proposing import Found

NEEDS_ARGUMENTS = True
_KINDS = ("npz", "json", "pictures")


def command(
    source: Annotated[list[Path], typer.Argument(help="Images, or folders of images.")],
    out: Annotated[Path, typer.Option("--out", help="The folder that is written to.")],
    model: Annotated[
        str | None,
        typer.Option("--model", help="A detector whose RPN proposes, instead of selective search."),
    ] = None,
    mode: Annotated[
        str, typer.Option("--mode", help="single, fast or quality: 1, 8 or 80 hierarchies.")
    ] = "fast",
    max_boxes: Annotated[
        int, typer.Option("--max-boxes", min=1, help="How many of an image are kept, the best.")
    ] = 2000,
    min_side: Annotated[
        float, typer.Option("--min-side", min=0, help="Narrower or lower boxes are dropped.")
    ] = 0,
    width: Annotated[
        int, typer.Option("--width", min=0, help="Wider images are searched at it; 0: never.")
    ] = 500,
    write: Annotated[
        str, typer.Option("--write", help="What is written, of npz, json and pictures.")
    ] = "npz,json,pictures",
    draw: Annotated[int, typer.Option("--draw", min=0, help="Boxes drawn on a picture.")] = 50,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Cores used; all if not given.")
    ] = None,
    force: ForceOption = False,
    device: DeviceOption = "auto",
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Propose boxes for images.

    DIR/proposals.npz holds all of them; in a data set's folder it is what `boxatlas train` gives
    to R-CNN and Fast R-CNN. DIR/json and DIR/pictures have a file for each image.
    Stopped work goes on where it was when the command is given again.

    \b
    boxatlas propose photo.jpg --out boxes
    boxatlas propose VOC2007/JPEGImages --out VOC2007 --write npz
    boxatlas propose photos --out boxes --model runs/faster_rcnn/best.safetensors --max-boxes 300
    boxatlas eval --proposals VOC2007/proposals.npz --data VOC2007 --split test
    """
    from boxatlas.data.proposals import Store
    from boxatlas.proposing import images_under

    kinds = _kinds(write)
    named = images_under(source)
    about, make = _maker(model, mode, max_boxes, min_side, width, device, seed, threads)
    began = time.perf_counter()
    with Store(out, about, force) as store:
        left = {name: path for name, path in named.items() if name not in store}
        made = make(list(left.values()))
        skipped = _fill(store, list(left), made, out, kinds, draw, alone=len(named) == 1)
    whole = store.finish()
    seconds = time.perf_counter() - began
    document = {
        "file": str(store.file), "images": len(whole), "made_now": len(left) - len(skipped),
        "proposals": len(whole.boxes), "per_image": len(whole.boxes) / max(len(whole), 1),
        "seconds": round(seconds, 3), "skipped": skipped, "about": about,
    }  # fmt: skip
    emit(document, as_json, text=(
        f"{document['made_now']} images in {seconds:.1f} s, {document['per_image']:.0f} boxes an "
        f"image\n{store.file} holds {len(whole)} images"
    ))  # fmt: skip


def _fill(
    store: Store, names: list[str], made: Iterator[Found | InputError], out: Path,
    kinds: list[str], draw: int, *, alone: bool,
) -> list[str]:  # fmt: skip
    """Keep what is found as it comes; -> what was passed over. A lone image's error is raised."""
    from boxatlas.errors import InputError
    from boxatlas.progress import track

    skipped: list[str] = []
    for name, found in zip(names, track(made, "proposing", len(names)), strict=True):
        if isinstance(found, InputError):
            if alone:
                raise found
            skipped.append(str(found))
            typer.echo(f"passed over: {found}", err=True)
            continue
        _write(out, name, found, kinds, draw)
        store.add(name, found.pixels.shape[:2], found.boxes, found.scores)
    return skipped


def _maker(
    model: str | None, mode: str, max_boxes: int, min_side: float, width: int, device: str,
    seed: int, threads: int | None,
) -> tuple[dict[str, Any], Any]:  # fmt: skip
    """(what the file will say of its making, paths -> iterator of what was found)."""
    from boxatlas.proposing import by_detector, by_search

    if model is None:
        from boxatlas.ops import SelectiveSearch

        config = SelectiveSearch.of(
            mode=mode, max_boxes=max_boxes, min_box_side=min_side, resize_width=width or None
        )
        about = {"maker": "selective_search", "seed": seed, **config.model_dump(mode="json")}
        return about, lambda paths: by_search(paths, config, seed, threads)
    import torch

    from boxatlas.weights import load

    if threads is not None:
        torch.set_num_threads(threads)
    detector = load(model).to(pick_device(device))
    about = {"maker": detector.name, "weights": str(model), "max_boxes": max_boxes}
    return about, lambda paths: by_detector(detector, paths, max_boxes)


def _kinds(write: str) -> list[str]:
    from boxatlas.errors import InputError, nearest

    kinds = [kind.strip() for kind in write.split(",")]
    for kind in kinds:
        if kind not in _KINDS:
            raise InputError("no such output", field="--write", value=kind,
                             hint=nearest(kind, _KINDS))  # fmt: skip
    return kinds


def _write(out: Path, name: str, found: Found, kinds: list[str], draw: int) -> None:
    """An image's own files; the NPZ of all is the store's."""
    if "json" in kinds:
        _write_json(out / "json" / f"{name}.json", name, found)
    if "pictures" in kinds:
        _write_picture(out / "pictures" / _jpeg(name), found, draw)


def _write_json(path: Path, name: str, found: Found) -> None:
    from boxatlas.files import write_text

    height, width = found.pixels.shape[:2]
    document: dict[str, Any] = {
        "image": name, "width": width, "height": height,
        "boxes": [[round(v, 2) for v in box] for box in found.boxes.tolist()],
    }  # fmt: skip
    if found.scores is not None:
        document["scores"] = [round(v, 5) for v in found.scores.tolist()]
    write_text(path, json.dumps(document))


def _jpeg(name: str) -> str:
    return name if name.lower().endswith((".jpg", ".jpeg")) else f"{name}.jpg"


def _write_picture(path: Path, found: Found, count: int) -> None:
    """The best boxes on the image, the first of them in the strongest colour."""
    from PIL import Image, ImageDraw

    from boxatlas.files import write_with

    picture = Image.fromarray(found.pixels)
    pen = ImageDraw.Draw(picture)
    chosen = found.boxes[:count].tolist()
    for i, (x1, y1, x2, y2) in reversed(list(enumerate(chosen))):
        share = int(255 * i / max(len(chosen), 1))
        edge = (x1, y1, max(x1, x2 - 1), max(y1, y2 - 1))
        pen.rectangle(edge, outline=(255, share, 40), width=2)
    write_with(path, lambda temporary: picture.save(temporary, "JPEG", quality=90))
