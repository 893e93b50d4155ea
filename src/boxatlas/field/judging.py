"""Judging an entry of the field: the packed file itself, on the test images."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from boxatlas.archives import read_npz
from boxatlas.data import Table, read
from boxatlas.errors import InputError
from boxatlas.evaluation import evaluate, interval, predict
from boxatlas.evaluation.errors import mistakes
from boxatlas.evaluation.sizes import size_of
from boxatlas.fetching import digest_of
from boxatlas.field import results
from boxatlas.field.plan import FAMILIES, Entry, entry, options_of
from boxatlas.files import make_folder, replacing
from boxatlas.structures import Detections
from boxatlas.weights import load
from boxatlas.weights.bundle import about_file, write_card, write_weights
from boxatlas.weights.packing import Packing
from boxatlas.weights.reading import read as read_weights

SMALL = "test_small"  # on which the loss by packing is measured
LARGEST_ALL = 100_000_000  # bytes of all files of the distribution together
DATA = (
    "PASCAL VOC 2007 and 2012, a part of their images scaled to a long side of 320 pixels: 4251 "
    "training images; a tenth of them chose the families' rates, the test images chose nothing"
)
TERMS = (
    "the annotations are those of the PASCAL VOC challenges; the photos come from Flickr and stay "
    "under their owners' terms. No photo is in this file"
)
START = "its backbone began as that of the bundled detector, which had learned from these images"
_HALF_UP_TO = 3_000_000  # parameters: with more, all methods together would not fit into 100 MB


def packed_file(out: Path, name: str, images: int) -> Path:
    """Where the file lies that was judged of an entry after so many images."""
    return out / "packed" / f"{name}-{images}.safetensors"


def found_file(out: Path, name: str, images: int) -> Path:
    """Where the detections lie that it made in the test images."""
    return out / "found" / f"{name}-{images}.npz"


def judged_file(out: Path, name: str, point: Mapping[str, Any]) -> Path:
    """The packed file that a stored point was measured on.

    Raises InputError where it is not among the runs, or is another one.
    """
    file = packed_file(out, name, point["images"])
    if not file.is_file():
        raise InputError(
            "is not among these runs", file=file, hint="pass the --out of its training"
        )
    if digest_of(file) != point["sha256"]:
        raise InputError("is not the file that was judged", file=file)
    return file


def check_data(data: str | Path) -> None:
    """Raise InputError where a data set lacks a split that the field needs."""
    for split in ("train", "test", SMALL):
        read(data, split)


def judge(
    one: Entry,
    trained: Path,
    data: str | Path,
    images: int,
    out: Path,
    device: str | torch.device = "cpu",
) -> dict[str, Any]:
    """Pack a trained detector, measure that very file, and return what is to be kept of it.

    out: the folder of all runs; the packed file and what it found stay there.
    """
    file = packed_file(out, one.name, images)
    make_folder(file.parent)
    detector = load(trained).to(device)
    parameters = sum(p.numel() for p in detector.parameters())
    packing: Packing = "half" if parameters <= _HALF_UP_TO else "rows of 8 bits"
    _, about = write_weights(trained, file.parent, name=file.stem, packing=packing)
    table = read(data, "test")
    small = load(file).to(device)
    found = predict(small, table)
    save_found(found_file(out, one.name, images), found)
    measured = evaluate(found, table, "voc07")
    size = size_of(small)
    seconds = (read_weights(trained)[1] or {}).get("trained", {}).get("seconds")
    return {
        "images": images,
        "seconds": seconds,
        **{key: about[key] for key in ("bytes", "sha256", "packing")},
        "lost_by_packing": _lost(detector, small, read(data, SMALL)),
        "parameters": size.parameters,
        "multiply_adds": size.multiply_adds,
        "test_images": len(table),
        "voc07": measured["voc07"],
        "voc07_interval": interval(found, table, "voc07"),
        "voc12": measured["voc12"],
        "coco": measured["coco"],
        "per_class": measured["per_class"],
        "lost": mistakes(found, table).document()["lost_ap"],
    }


def about(one: Entry) -> dict[str, Any]:
    """What a file of results says of the entry."""
    return {
        "model": one.model,
        "options": options_of(one),
        "start": one.start,
        "family": one.family,
        "rate": FAMILIES[one.family].lr,
        "note": one.note,
    }


def _lost(whole: Any, small: Any, table: Table) -> float:
    """COCO AP before packing less that after."""
    before, after = (evaluate(predict(d, table), table)["coco"]["AP"] for d in (whole, small))
    return before - after


def save_found(path: Path, found: Sequence[Detections]) -> None:
    """Detections of a table's images, in its order, as flat arrays."""
    make_folder(path.parent)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(
            file,
            counts=np.array([len(one) for one in found]),
            boxes=np.concatenate([one.boxes.numpy() for one in found]).astype(np.float32),
            scores=np.concatenate([one.scores.numpy() for one in found]).astype(np.float32),
            labels=np.concatenate([one.labels.numpy() for one in found]).astype(np.int16),
        )


def read_found(path: Path, table: Table) -> list[Detections]:
    """What `save_found` wrote of a table whose classes are the detector's.

    Raises InputError where it is of other images.
    """
    held = read_npz(path)
    if len(held["counts"]) != len(table):
        raise InputError("holds the detections of other images", file=path)
    ends = np.cumsum(held["counts"])
    found = []
    for i, (end, count) in enumerate(zip(ends, held["counts"], strict=True)):
        rows = slice(int(end - count), int(end))
        found.append(
            Detections(
                torch.from_numpy(held["boxes"][rows]),
                torch.from_numpy(held["scores"][rows]),
                torch.from_numpy(held["labels"][rows].astype(np.int64)),
                table.classes,
                (int(table.sizes[i][0]), int(table.sizes[i][1])),
            )
        )
    return found


def publish(out: Path, folder: Path, to: Path) -> list[Path]:
    """Put each entry's longest training that was judged, and its card, into the distribution.

    out: the folder of all runs; folder: of the results; to: of the distribution's files. Entries
    that start from ImageNet show what the start does, and stay out. Raises InputError where a file
    is not the one that was judged, or the files are too large.
    """
    points = {
        name: results.latest(document)
        for name, document in results.read_results(folder).items()
        if entry(name).start != "imagenet"
    }
    total = sum(point["bytes"] for point in points.values())
    if total > LARGEST_ALL:
        raise InputError(f"all files take {total / 1e6:.0f} MB, not {LARGEST_ALL / 1e6:.0f}")
    written = []
    for name, point in points.items():
        source = judged_file(out, name, point)
        make_folder(to)
        with replacing(to / f"{name}.safetensors") as temporary:
            shutil.copyfile(source, temporary)
        written.append(to / f"{name}.safetensors")
        metrics = {**point, "data": ["voc20"], "split": "test", "metric": "voc07"}
        metrics |= {"mAP": point["voc07"], "images": point["test_images"]}
        metrics["errors"] = {"lost_ap": point["lost"]}
        about = about_file(written[-1], point["packing"])
        write_card(written[-1], about, metrics, data=DATA, terms=TERMS, notes=[START])
    return written
