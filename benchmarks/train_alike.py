"""Train any detectors alike, the same backbone, data, batches and number of steps, and compare.

    python benchmarks/train_alike.py --data DIR --out RUNS --steps 600 --size 192 \\
        --models ssdlite320_efficientnet_lite0 retinanet320_efficientnet_lite0_fpn

Each model has a run folder below --out: a killed comparison goes on where it stood when started
again, and a finished model is not trained anew. The table is printed and kept as alike.json.
--keep-first folds the backbone's norms and keeps its layers up to stride 4 as ImageNet left them: a
step takes about half the time, so that inputs can be larger.
Methods that take proposals are given those of DIR/proposals.npz (see `boxatlas propose`).
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import torch

from alike import LIGHT, Light, light
from boxatlas import evaluation
from boxatlas.data import read
from boxatlas.data.proposals import beside, for_images
from boxatlas.training import Recipe, train
from boxatlas.weights import load


def recipe_of(one: Light, given: argparse.Namespace) -> Recipe:
    return Recipe.of(
        model=one.model,
        options=one.options,
        init=one.init,
        data=[str(given.data)],
        iterations=given.steps,
        batch=given.batch,
        optimizer="adamw",
        lr=given.lr,
        weight_decay=0.02,
        clip=10.0,
        schedule="cosine",
        final_lr=0.01,
        ema=0.99,
        warmup=min(50, given.steps // 10),
        augment=given.augment,
        eval_every=given.steps,
        seed=given.seed,
        train_split=given.train_split,
        val_split="none",
        precision="fp32",
        freeze=one.first if given.keep_first else [],
        save_minutes=2.0,
        lr_scale={name: float(factor) for name, factor in (p.split("=") for p in given.lr_scale)},
    )


def trained(one: Light, given: argparse.Namespace) -> dict[str, Any]:
    """Train, or take what was trained before; measure on the split asked for."""
    folder = given.out / one.folder
    answer = folder / f"{given.split}.json"
    if answer.exists():
        return json.loads(answer.read_text())
    run = train(recipe_of(one, given), folder, resume=folder.exists())
    model = load(run.last).eval()
    table = read(given.data, given.split)
    files = beside([given.data]) if model.takes_proposals else []
    most = model.takes_proposals
    proposals = for_images(files, [table], most, own=True) if files else None
    found = evaluation.predict(model, table, progress=False, proposals=proposals)
    result = evaluation.evaluate(found, table)
    row = {
        "model": one.label,
        "mAP": result["mAP"],
        "coco": result["coco"]["AP"],
        "per_class": result["per_class"],
        "steps": run.iterations,
        "seconds_a_step": seconds_a_step(folder),
        "parameters": sum(p.numel() for p in model.parameters()),
        "input": list(model.preprocess.size),
        "data": Path(given.data).name,
        "split": given.split,
    }
    answer.write_text(json.dumps(row, indent=1))
    return row


def seconds_a_step(folder: Path) -> float:
    """From the last row of the run's log, whatever stops it had."""
    with open(folder / "metrics.csv", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    return round(float(last["seconds"]) / float(last["iteration"]), 3)


def show(rows: list[dict[str, Any]]) -> None:
    first = rows[0]["mAP"]
    width = max(len(row["model"]) for row in rows)
    print(f"{'model':{width}}  mAP@0.5  of the first  COCO AP  s/step  M parameters")
    for row in rows:
        numbers = (
            row["mAP"],
            row["mAP"] / max(first, 1e-9),
            row["coco"],
            row["seconds_a_step"],
            row["parameters"] / 1e6,
        )
        print(
            f"{row['model']:{width}}  "
            + "{:7.3f}  {:12.2f}  {:7.3f}  {:6.2f}  {:12.1f}".format(*numbers)
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="test", help="what is measured on")
    parser.add_argument("--train-split", default="train", help="what is learned")
    parser.add_argument("--out", type=Path, default=Path("runs/alike"))
    parser.add_argument("--models", nargs="+", default=list(LIGHT), metavar="NAME[:OPTION=VALUE,]")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument(
        "--lr-scale",
        nargs="*",
        default=[],
        metavar="PATTERN=FACTOR",
        help="layers that learn at another rate",
    )
    parser.add_argument("--augment", default="flip")
    parser.add_argument("--keep-first", action="store_true", help="of the backbone; see above")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rows = []
    for text in given.models:
        one = light(text, given.size, folded=given.keep_first)
        print(f"{text}: {one.options}", flush=True)
        rows.append(trained(one, given))
        show(rows)
    (given.out / "alike.json").write_text(json.dumps(rows, indent=1))
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; "
        f"{given.steps} steps of {given.batch} images, {given.size} px"
    )


if __name__ == "__main__":
    main()
