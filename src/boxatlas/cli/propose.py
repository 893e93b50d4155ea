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
    check_folder,
    emit,
    pick_device,
    refuse,
)
from boxatlas.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from boxatlas.data.proposals import Proposals, Store
    from boxatlas.proposing import ImageProposals

NEEDS_ARGUMENTS = True
_KINDS = ("npz", "json", "pictures")


Sources = Annotated[list[Path], typer.Argument(help="Images, or folders of images.")]
Out = Annotated[Path, typer.Option("--out", help="The folder that is written to.")]
Model = Annotated[
    str | None,
    typer.Option("--model", help="A detector whose RPN proposes, instead of selective search."),
]
Mode = Annotated[
    str, typer.Option("--mode", help="single, fast or quality: 1, 8 or 80 hierarchies.")
]
MaxBoxes = Annotated[
    int, typer.Option("--max-boxes", min=1, help="How many of an image are kept, the best.")
]
MinSide = Annotated[
    float, typer.Option("--min-side", min=0, help="Narrower or lower boxes are dropped.")
]
Width = Annotated[
    int, typer.Option("--width", min=0, help="Wider images are searched at it; 0: never.")
]
Written = Annotated[str, typer.Option("--write", help="npz (written in any case), json, pictures.")]
Drawn = Annotated[int, typer.Option("--draw", min=0, help="Boxes drawn on a picture.")]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Cores used; all if not given.")
]


def command(
    context: typer.Context,
    source: Sources,
    out: Out,
    model: Model = None,
    mode: Mode = "fast",
    max_boxes: MaxBoxes = 2000,
    min_side: MinSide = 0,
    width: Width = 500,
    write: Written = "npz,json,pictures",
    draw: Drawn = 50,
    threads: Threads = None,
    force: ForceOption = False,
    device: DeviceOption = "auto",
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Propose boxes for images.

    DIR/proposals.npz holds all of them; in a data set's folder it is what `boxatlas train` gives
    to R-CNN and Fast R-CNN. DIR/json and DIR/pictures have a file for each image.
    The same command without --force resumes stopped work: an image that is done is not searched
    again, and only those of its files are written that are missing.

    \b
    boxatlas propose photo.jpg --out boxes
    boxatlas propose VOC2007/JPEGImages --out VOC2007 --write npz
    boxatlas propose photos --out boxes --model runs/faster_rcnn/best.safetensors --max-boxes 300
    boxatlas eval --proposals VOC2007/proposals.npz --data VOC2007 --split test
    """
    from boxatlas.data.proposals import Store

    _refuse_idle(context, model, write)
    kinds = _kinds(write)
    check_folder(out)
    about, make = _maker(model, mode, max_boxes, min_side, width, device, seed, threads)
    began = time.perf_counter()
    with Store(out, about, force) as store:
        named = _named(source, out, store)
        files = {name: _files(out, name, kinds) for name in named}
        _check(named, files, store)
        left = [name for name in named if name not in store]
        made = make([named[name] for name in left])
        skipped = _fill(store, named, left, made)
    if len(skipped) == len(named):
        raise InputError("holds no image that can be read", file=", ".join(map(str, source)))
    kept = [(name, path) for name in named if name in store for path in files[name]]
    whole = _finished(store, [path for _, path in kept])
    written = _write_missing(kept, named, whole, draw, threads)
    document = {
        "file": str(store.file),
        "images": len(whole),
        "made_now": len(left) - len(skipped),
        "files_written": written,
        "proposals": len(whole.boxes),
        "per_image": len(whole.boxes) / max(len(whole), 1),
        "seconds": round(time.perf_counter() - began, 3),
        "skipped": skipped,
        "about": about,
    }
    _say(as_json, document)


def _finished(store: Store, files: list[Path]) -> Proposals:
    """All proposals; the files that show boxes which are replaced are taken away."""
    if store.replaces:
        for path in files:
            path.unlink(missing_ok=True)
    return store.finish()


def _say(as_json: bool, document: dict[str, Any]) -> None:
    emit(
        document,
        as_json,
        text=(
            f"{document['made_now']} images in {document['seconds']:.1f} s, "
            f"{document['per_image']:.0f} boxes an image\n"
            f"{document['files_written']} JSON files and pictures were written\n"
            f"{document['file']} holds {document['images']} images"
        ),
    )


def _refuse_idle(context: typer.Context, model: str | None, write: str) -> None:
    """Raise InputError for an option that was given and would change nothing."""
    if model is None:
        refuse(context, ["device"], "selective search is compiled for the CPU")
    else:
        refuse(context, ["mode", "width", "seed"], "--model is no selective search")
    if "pictures" not in _kinds(write):
        refuse(context, ["draw"], "no picture is written", hint="--write pictures")


def _named(source: list[Path], out: Path, store: Store) -> dict[str, Path]:
    """Name -> file of the images of the sources, without the pictures drawn of them before."""
    from boxatlas.proposing import images_under

    drawn = {path.resolve() for name in store.before for path in _files(out, name, ["pictures"])}
    named = {
        name: path
        for name, path in images_under(source).items()
        if name in store.before or path.resolve() not in drawn
    }
    if not named:
        raise InputError(
            "holds no image but pictures of proposals", file=", ".join(map(str, source))
        )
    return named


def _check(named: dict[str, Path], files: dict[str, list[Path]], store: Store) -> None:
    """Raise InputError, before any work, where a file would be lost or stand for another image."""
    from boxatlas.progress import track

    done = [name for name in named if name in store]
    for name in track(done, "checking", len(done)):
        store.check(name, named[name])
    images = {path.resolve() for path in named.values()}
    owner: dict[Path, str] = {}
    for name, path in ((name, path) for name, paths in files.items() for path in paths):
        if path.resolve() in images:
            raise InputError(
                "is one of the images, and would be replaced", file=path, hint="pass another --out"
            )
        if owner.setdefault(path, name) != name:
            raise InputError(
                f"would be the picture of {owner[path]} and of {name}",
                file=path,
                hint="propose for each into an --out of its own",
            )
        if path.exists() and name not in store and not store.replaces:
            raise InputError("already exists", file=path, hint="pass another --out, or --force")


def _fill(
    store: Store,
    named: dict[str, Path],
    left: list[str],
    results: Iterator[ImageProposals | InputError],
) -> list[str]:
    """Store proposals as they arrive; return the messages of skipped images. A single image's error
    is raised."""
    from boxatlas.data.proposals import mark_of
    from boxatlas.progress import track

    skipped: list[str] = []
    for name, result in zip(left, track(results, "proposing", len(left)), strict=True):
        if isinstance(result, InputError):
            if len(named) == 1:
                raise result
            skipped.append(str(result))
            typer.echo(f"skipped: {result}", err=True)
            continue
        size = result.pixels.shape[:2]
        store.add(name, size, result.boxes, result.scores, mark_of(named[name]))
    return skipped


def _maker(
    model: str | None,
    mode: str,
    max_boxes: int,
    min_side: float,
    width: int,
    device: str,
    seed: int,
    threads: int | None,
) -> tuple[dict[str, Any], Any]:
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

    from boxatlas.fetching import digest_of
    from boxatlas.weights import file_of, load

    if threads is not None:
        torch.set_num_threads(threads)
    detector = load(model).to(pick_device(device))
    weights = file_of(model)
    about = {
        "maker": detector.name,
        "weights": model,
        "sha256": digest_of(weights),
        "max_boxes": max_boxes,
        "min_box_side": min_side,
    }
    return about, lambda paths: by_detector(detector, paths, max_boxes, min_side=min_side)


def _kinds(write: str) -> list[str]:
    from boxatlas.errors import nearest

    kinds = [kind.strip() for kind in write.split(",")]
    for kind in kinds:
        if kind not in _KINDS:
            raise InputError(
                "no such output", field="--write", value=kind, hint=nearest(kind, _KINDS)
            )
    return kinds


def _files(out: Path, name: str, kinds: list[str]) -> list[Path]:
    """An image's own files; the NPZ of all is the store's."""
    picture = name if name.lower().endswith((".jpg", ".jpeg")) else f"{name}.jpg"
    made = {"json": out / "json" / f"{name}.json", "pictures": out / "pictures" / picture}
    return [path for kind, path in made.items() if kind in kinds]


def _write_missing(
    files: list[tuple[str, Path]],
    named: dict[str, Path],
    whole: Proposals,
    draw: int,
    threads: int | None,
) -> int:
    """Make those of the images' files that are not there, of the stored boxes; -> how many."""
    from boxatlas.ops.search import in_order
    from boxatlas.progress import track

    missing = [(name, path) for name, path in files if not path.exists()]

    def write(one: tuple[str, Path]) -> None:
        name, path = one
        if path.suffix == ".json":
            _write_json(path, name, whole)
        else:
            _write_picture(path, named[name], whole[name][:draw].tolist())

    for _ in track(in_order(write, missing, threads), "writing", len(missing)):
        pass
    return len(missing)


def _write_json(path: Path, name: str, whole: Proposals) -> None:
    from boxatlas.files import write_text

    i = whole.find(name)
    height, width = whole.sizes[i].tolist()
    document: dict[str, Any] = {
        "image": name,
        "width": width,
        "height": height,
        "boxes": [[round(v, 2) for v in box] for box in whole[name].tolist()],
    }
    if whole.scores is not None:
        document["scores"] = [round(v, 5) for v in whole.scores[whole.part(i)].tolist()]
    write_text(path, json.dumps(document))


def _write_picture(path: Path, image: Path, boxes: list[list[float]]) -> None:
    """The boxes on the image, the first of them in the strongest colour."""
    from PIL import Image, ImageDraw

    from boxatlas.files import write_with
    from boxatlas.images import read

    picture = Image.fromarray(read(image))
    pen = ImageDraw.Draw(picture)
    for i, (x1, y1, x2, y2) in reversed(list(enumerate(boxes))):
        share = int(255 * i / max(len(boxes), 1))
        edge = (x1, y1, max(x1, x2 - 1), max(y1, y2 - 1))
        pen.rectangle(edge, outline=(255, share, 40), width=2)
    write_with(path, lambda temporary: picture.save(temporary, "JPEG", quality=90))
