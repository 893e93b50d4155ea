"""Does a detector learn a few images by heart? AP at 0.5 on the images that it is trained on.

    python benchmarks/overfit.py MODEL --data DIR [--images 16] [--steps 400] [--size 192]

No augmentation; the first images of the training split, always the same. Training stops once the
wanted AP is reached, by boxes and, where the method draws them, by masks. Methods that take
proposals are given those of selective search. Exits 1 where it is not.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from alike import light
from boxatlas import evaluation
from boxatlas.create import create_model
from boxatlas.data import Table, make_loader, read
from boxatlas.images import read as read_image
from boxatlas.ops import selective_search_many
from boxatlas.parts.base import Detector
from boxatlas.training import Recipe
from boxatlas.training.loop import run
from boxatlas.training.phases import Job


def apart(table: Table, cells: int, most: int) -> list[int]:
    """The first images that have objects, of which no two lie in one cell of the grid."""
    chosen = []
    for i in range(len(table)):
        boxes = table.boxes[table.objects(i)]
        height, width = (float(v) for v in table.sizes[i])
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2 / (width, height) * cells
        if len(boxes) and len({tuple(c) for c in centre.astype(int)}) == len(boxes):
            chosen.append(i)
        if len(chosen) == most:
            break
    return chosen


class ReachedError(Exception):
    """The wanted AP was measured."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="MODEL[:OPTION=VALUE,]")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="train")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument(
        "--cells", type=int, default=0, help="no cell of a grid of so many a side has two centres"
    )
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--every", type=int, default=50, help="steps between measurements")
    parser.add_argument("--wanted", type=float, default=0.9)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    one = light(given.model, given.size)
    table = read(given.data, given.split)
    if given.cells:
        table = table.select(apart(table, given.cells, given.images))
    table = table[: given.images]
    recipe = Recipe.of(
        model=one.model,
        options=one.options,
        init=one.init,
        iterations=given.steps,
        batch=given.batch,
        optimizer="adamw",
        lr=given.lr,
        weight_decay=0.0,
        clip=10.0,
        schedule="cosine",
        final_lr=0.1,
        warmup=min(20, given.steps // 10),
        eval_every=given.every,
        seed=given.seed,
        log_every=given.every,
    )
    torch.manual_seed(given.seed)
    options = {**one.options, **({"pretrained": True} if one.init == "imagenet" else {})}
    model = create_model(one.model, classes=table.classes, **options)
    best = 0.0
    searched: dict[str, Any] | None = None
    if model.takes_proposals:
        boxes = selective_search_many([read_image(path) for path in table.paths], mode="fast")
        searched = dict(zip(table.paths, boxes, strict=True))

    def loader(recipe: Recipe, batch: int, proposals: Any = None, learning: bool = True) -> Any:
        return make_loader(
            table,
            model.preprocess,
            batch_size=batch,
            shuffle=learning,
            seed=recipe.seed,
            drop_last=learning,
            proposals=searched if proposals is None else proposals,
        )

    def judge(detector: Detector) -> dict[str, Any]:
        nonlocal best
        found = evaluation.predict(detector.eval(), table, progress=False, proposals=searched)
        result = evaluation.evaluate(found, table)
        value, shown = result["mAP"], ""
        if "coco_masks" in result:  # boxes and masks both
            value = min(value, result["coco_masks"]["AP50"])
            shown = f", masks {result['coco_masks']['AP50']:.4f}"
        best = max(best, value)
        print(f"AP at 0.5 on the {len(table)} images: {result['mAP']:.4f}{shown}", flush=True)
        if best >= given.wanted:
            raise ReachedError
        return result

    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(ReachedError):
        run(Job(recipe, model, Path(folder), loader, judge, table))
    print(
        f"{given.model}: {best:.4f} of {given.wanted} wanted, after {int(model.images_seen)} images"
    )
    sys.exit(best < given.wanted)


if __name__ == "__main__":
    main()
