"""How sure the order of the field is: bootstraps over the test images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from boxatlas.data import Table, read
from boxatlas.errors import InputError
from boxatlas.evaluation import evaluate
from boxatlas.evaluation.diagnosis import paired
from boxatlas.field import report, results
from boxatlas.field.judging import found_file, read_found

Document = dict[str, Any]
FIRST = 100  # test images that a file can be checked on


def sure(out: Path, data: str | Path, folder: Path) -> Iterator[Document]:
    """95 % intervals of each method's COCO AP, and of its difference to the method that follows it
    after equally many images. What is known of the same files already is not computed again.

    out: the folder of all runs, with the detections; folder: of the results. Yields, after each,
    {"intervals": {sha256 of a file: {"name", "images", "AP": [low, high], "first": AP and voc07 of
    the first test images, for those who check the file}},
    "pairs": [{"images", "better", "worse", "files": their sha256, "AP", "low", "high"}]}. Raises
    InputError where nothing was judged.
    """
    known = results.read_results(folder)
    if not known:
        raise InputError("nothing was judged yet", hint="boxatlas field train")
    held = results.read_document(folder, "pairs.json")
    table = read(data, "test")
    document: Document = {"intervals": {}, "pairs": []}
    for images in report.stages(known):
        rows = report.table(known, images, {}, {})
        for row in rows:
            kept = held.get("intervals", {}).get(row["sha256"])
            document["intervals"][row["sha256"]] = kept or _interval(row, out, table)
            yield document
        same_start = [row for row in rows if row["start"] == "bundled"]
        for better, worse in pairwise(same_start):
            document["pairs"].append(_kept(held, better, worse) or _pair(better, worse, out, table))
            yield document


def _interval(row: Mapping[str, Any], out: Path, table: Table) -> Document:
    """By the difference to a detector that finds nothing, whose AP is 0 in every sample."""
    found = read_found(found_file(out, row["name"], row["images"]), table)
    nothing = [one[:0] for one in found]
    difference = paired(nothing, found, table)
    between = [difference["low"], difference["high"]]
    measured = evaluate(found[:FIRST], table[:FIRST], "voc07")
    first = {"AP": measured["coco"]["AP"], "voc07": measured["voc07"]}
    return {"name": row["name"], "images": row["images"], "AP": between, "first": first}


def _pair(better: Mapping[str, Any], worse: Mapping[str, Any], out: Path, table: Table) -> Document:
    first, second = (
        read_found(found_file(out, row["name"], row["images"]), table) for row in (worse, better)
    )
    return {
        "images": better["images"],
        "better": better["name"],
        "worse": worse["name"],
        "files": [better["sha256"], worse["sha256"]],
        **paired(first, second, table),
    }


def _kept(
    held: Mapping[str, Any], better: Mapping[str, Any], worse: Mapping[str, Any]
) -> Document | None:
    files = [better["sha256"], worse["sha256"]]
    return next((one for one in held.get("pairs", ()) if one["files"] == files), None)
