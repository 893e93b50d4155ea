"""Make the package's bundled detector of a run: half-precision weights and their card.

    python benchmarks/bundle.py runs/bundled/best.safetensors --data VOC --force

The written file itself, not the checkpoint it comes from, is evaluated on --split (the final
number: it has chosen nothing) and timed; --metrics takes the JSON of `boxatlas eval` of that file
instead. Without --out the pair goes into the package's own folder, once both are whole; a pair that
is there already is replaced by --force alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from boxatlas.errors import InputError
from boxatlas.files import replacing
from boxatlas.weights import load
from boxatlas.weights.bundle import FOLDER, card_text, write_card, write_weights

DATA = (
    "PASCAL VOC 2007 and 2012, a part of their images scaled to a long side of 320 pixels: 4251 "
    "training images, a tenth of which chose the weights; the test images chose nothing"
)
TERMS = (
    "the annotations are those of the PASCAL VOC challenges; the photos come from Flickr and stay "
    "under their owners' terms. No photo is in this file. The ImageNet weights that training began "
    "with are of timm's tf_efficientnet_lite0 (Apache-2.0)"
)


def measured(file: Path, data: list[Path], split: str, seconds: float) -> dict[str, Any]:
    """As `boxatlas eval FILE --metric voc07 --json` has it."""
    from boxatlas.data import read
    from boxatlas.evaluation import evaluate, predict
    from boxatlas.evaluation.errors import mistakes
    from boxatlas.evaluation.speed import measure

    detector, table = load(file), read(data, split)
    found = predict(detector, table)
    speed = measure(detector, table.paths[:16], seconds=seconds)
    return {
        "data": [str(d) for d in data],
        "split": split,
        **evaluate(found, table, "voc07"),
        "errors": mistakes(found, table).document(),
        "fps": speed.fps,
        "speed": speed.document(),
    }


def bundle(given: argparse.Namespace) -> dict[str, Any]:
    """Make the pair elsewhere, put it into --out when it is whole, and return the card.

    Raises InputError where there is a pair already (without --force) and for what cannot be read.
    """
    out: Path = given.out
    with tempfile.TemporaryDirectory(prefix="boxatlas-bundle-") as folder:
        file, about = write_weights(given.checkpoint, Path(folder))
        card_file = file.with_suffix(".json")
        for path in (out / file.name, out / card_file.name):
            if path.exists() and not given.force:
                raise InputError("already exists", file=path, hint="pass another --out, or --force")
        if given.metrics is None:
            metrics = measured(file, given.data, given.split, given.seconds)
        else:
            metrics = read_metrics(given.metrics)
        card = write_card(
            file, about, metrics, data=given.about_data, terms=given.terms, notes=given.note
        )
        # Both lie whole beside the old pair before the first of them takes its place.
        with replacing(out / file.name) as weights, replacing(out / card_file.name) as described:
            shutil.copyfile(file, weights)
            shutil.copyfile(card_file, described)
    return card


def read_metrics(file: Path) -> dict[str, Any]:
    """The JSON of an evaluation. Raises InputError for another file."""
    try:
        metrics = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"the evaluation cannot be read: {error}", file=file) from None
    if not isinstance(metrics, dict):
        raise InputError("is not what `boxatlas eval --json` writes", file=file)
    return metrics


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="best.safetensors of a run")
    parser.add_argument("--data", type=Path, action="append", help="what is measured on")
    parser.add_argument("--split", default="test")
    parser.add_argument("--metrics", type=Path, help="the JSON of an evaluation of the file")
    parser.add_argument("--out", type=Path, default=FOLDER, help="a folder for the pair")
    parser.add_argument("--force", action="store_true", help="replace the pair that is there")
    parser.add_argument("--about-data", default=DATA, help="what it learned from, for the card")
    parser.add_argument("--terms", default=TERMS, help="the terms of the data, for the card")
    parser.add_argument("--note", action="append", default=[], help="what else it fails at")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long speed is measured")
    given = parser.parse_args(arguments)
    if (given.data is None) == (given.metrics is None):
        parser.error("give --data, to evaluate now, or --metrics")
    try:
        card = bundle(given)
    except InputError as error:
        parser.exit(2, f"{error}\n")
    print(card_text(card))


if __name__ == "__main__":
    main()
