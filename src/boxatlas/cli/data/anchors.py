"""boxatlas data anchors: priors that fit a data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from boxatlas.cli.common import ForceOption, FormatOption, JsonOption, SeedOption, emit
from boxatlas.cli.data.common import FolderArgument, SplitOption, chosen_splits, unused

if TYPE_CHECKING:
    from boxatlas.data.anchors import Priors

Count = Annotated[int, typer.Option("--k", min=1, max=100, help="How many priors.")]
Size = Annotated[int, typer.Option("--size", min=8, help="Side of the network's input, in pixels.")]
Stride = Annotated[int, typer.Option("--stride", min=1, help="Pixels of a cell.")]
Letterbox = Annotated[
    bool, typer.Option("--letterbox", help="The input keeps the aspect, as in YOLOv3.")
]
UpTo = Annotated[int, typer.Option("--up-to", min=1, max=40, help="Compare k = 1 to this many.")]
Median = Annotated[bool, typer.Option("--median", help="Centres are medians instead of means.")]
Plot = Annotated[Path | None, typer.Option("--out", metavar="PNG", help="Write a plot.")]


def command(
    folder: FolderArgument,
    k: Count = 5,
    size: Size = 416,
    stride: Stride = 32,
    letterbox: Letterbox = False,
    most: UpTo = 10,
    median: Median = False,
    split: SplitOption = None,
    out: Plot = None,
    seed: SeedOption = 0,
    force: ForceOption = False,
    format: FormatOption = None,
    as_json: JsonOption = False,
) -> None:
    """Cluster the boxes' widths and heights by IoU (YOLO9000, section 2): priors for this data.

    Takes the training split where there is one. The table compares the average IoU of k = 1, 2, ...
    clusters, by IoU and by Euclid's distance.

    \b
    boxatlas data anchors photos --k 5
    boxatlas data anchors photos --k 9 --size 608 --letterbox --out anchors.png --json
    """
    from boxatlas.data import Table, splits
    from boxatlas.data.anchors import cluster, curve, plot, shapes_of
    from boxatlas.progress import track

    if out is not None:
        unused(out, force)
    known = splits(folder, format)
    split = split or next((name for name in ("train", "trainval") if name in known), None)
    table = Table.join(list(chosen_splits(folder, split, format).values()))
    shapes = shapes_of(table, (size, size) if letterbox else None)
    update = "median" if median else "mean"
    found = cluster(shapes, k, update=update, seed=seed)
    ks = range(1, min(max(most, k), len(shapes)) + 1)
    rows = curve(
        shapes, ks, update=update, seed=seed, each=lambda steps: track(steps, "clustering", len(ks))
    )
    if out is not None:
        plot(rows, shapes, found, out)
    document = {
        "k": k,
        "split": split,
        "objects": len(shapes),
        "size": size,
        **_priors(found, size, stride),
        "curve": rows,
        "plot": out and str(out),
    }
    if not as_json:
        _tables(document, stride)
    emit(
        document,
        as_json,
        text=f"average IoU {found.average_iou:.4f} over {len(shapes)} objects"
        + (f" of {split}" if split else ""),
    )


def _priors(found: Priors, size: int, stride: int) -> dict[str, Any]:
    """The clusters as fractions of the input, in its pixels, and in cells of `stride` pixels."""
    pixels = found.pixels((size, size))
    return {
        "average_iou": found.average_iou,
        "fractions": found.shapes.tolist(),
        "pixels": pixels,
        "cells": [(round(w / stride, 4), round(h / stride, 4)) for w, h in pixels],
        "counts": found.counts,
    }


def _tables(document: dict[str, Any], stride: int) -> None:
    curve = [
        {"k": row["k"], "average IoU": row["iou"], "by Euclid": row["euclidean"]}
        for row in document["curve"]
    ]
    emit(None, False, rows=curve)
    priors = [
        {"width": w, "height": h, f"cells of {stride}": f"{x:.2f}, {y:.2f}", "objects": n}
        for (w, h), (x, y), n in zip(
            document["pixels"], document["cells"], document["counts"], strict=True
        )
    ]
    size = document["size"]
    emit(None, False, rows=priors, title=f"{document['k']} priors in pixels of {size} x {size}")
