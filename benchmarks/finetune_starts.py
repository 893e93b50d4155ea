"""Fine-tune the light detector alike from the bundled detector, from ImageNet, and from nothing.

    python benchmarks/finetune_starts.py --data BLOOD_CELLS --out RUNS --steps 200

The same model, size, data, batches, rates and steps; early layers are frozen and norms folded into
the convolutions where the start has learned weights, and not where it is random, since layers that
never learned cannot stay as they are. Each start has a run folder below --out, so that a killed
comparison goes on where it stood. The table is printed as the documents have it and kept as
starts.json.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import torch

from boxatlas import evaluation
from boxatlas.data import read
from boxatlas.training import Recipe, train
from boxatlas.weights import load
from boxatlas.weights.bundle import DEFAULT

LABELS = {"bundled": "the bundled detector", "imagenet": "ImageNet weights", "none": "nothing"}
_EARLY = ("conv_stem*", "blocks.0*", "blocks.1*")


def recipe_of(start: str, given: argparse.Namespace) -> Recipe:
    learned = start != "none"
    return Recipe.of(
        model=DEFAULT,
        options={"size": given.size, "fold_norms": learned},
        init=start,
        data=[str(given.data)],
        train_split=given.train_split,
        val_split="none",
        iterations=given.steps,
        batch=given.batch,
        optimizer="adamw",
        lr=given.lr,
        weight_decay=0.02,
        clip=10.0,
        schedule="cosine",
        final_lr=0.01,
        ema=0.99,
        warmup=given.steps // 10,
        augment="ssd",
        augment_options={"zoom_out": 0.3, "zoom_ratio": 2.0},
        seed=given.seed,
        precision="fp32",
        freeze=[f"backbone.body.{n}" for n in _EARLY] if learned else [],
        lr_scale={"backbone.*": 0.2} if learned else {},
        save_minutes=2.0,
    )


def trained(start: str, given: argparse.Namespace) -> dict[str, Any]:
    """Train, or take what was trained before; measure on the split asked for."""
    folder = given.out / f"{start}-{given.seed}"
    answer = folder / f"{given.split}.json"
    if answer.exists():
        return json.loads(answer.read_text(encoding="utf-8"))
    run = train(recipe_of(start, given), folder, resume=folder.exists())
    table = read(given.data, given.split)
    found = evaluation.predict(load(run.last).eval(), table, progress=False)
    result = evaluation.evaluate(found, table, "voc12")
    with open(folder / "metrics.csv", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    row = {
        "start": start,
        "mAP": result["mAP"],
        "coco": result["coco"]["AP"],
        "per_class": result["per_class"],
        "loss": float(last["loss"]),
        "steps": run.iterations,
        "seconds_a_step": round(float(last["seconds"]) / float(last["iteration"]), 3),
        "data": Path(given.data).name,
        "split": given.split,
        "images": result["images"],
    }
    answer.write_text(json.dumps(row, indent=1), encoding="utf-8")
    return row


def table_of(rows: list[dict[str, Any]]) -> str:
    """The rows as a table of the documents."""
    names = list(rows[0]["per_class"])
    heads = ["start", "mAP@0.5", "COCO AP", *names, "last loss", "s/step"]
    lines = [" | ".join(heads), " | ".join(["---"] + ["--:"] * (len(heads) - 1))]
    for row in rows:
        aps = [row["per_class"][name] for name in names]
        cells = [row["mAP"], row["coco"], *aps, row["loss"]]
        shown = ["-" if v is None else f"{v:.3f}" for v in cells]
        seconds = f"{row['seconds_a_step']:.2f}"
        lines.append(" | ".join([LABELS[row["start"]], *shown, seconds]))
    return "\n".join(f"| {line} |" for line in lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="test", help="what is measured on")
    parser.add_argument("--train-split", default="train", help="what is learned")
    parser.add_argument("--out", type=Path, default=Path("runs/starts"))
    parser.add_argument("--starts", nargs="+", default=list(LABELS), choices=list(LABELS))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="of PyTorch; 0 = its own choice")
    given = parser.parse_args(arguments)
    if given.threads:
        torch.set_num_threads(given.threads)
    rows = [trained(start, given) for start in given.starts]
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "starts.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    first = rows[0]
    print(
        f"{first['data']} {first['split']}, {first['images']} images; {first['steps']} steps of "
        f"{given.batch} at {given.size} pixels, seed {given.seed}\n"
    )
    print(table_of(rows))


if __name__ == "__main__":
    main()
