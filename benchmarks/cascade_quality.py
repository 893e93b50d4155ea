"""How much better each stage of a trained cascade makes the boxes that it is given.

    python benchmarks/cascade_quality.py RUN --data DIR [--split test] [--beside RUN]

For each stage, by the overlap of a box with its object before (0.5 and up), the mean overlap after:
the curve of figures 1 and 4 of the Cascade R-CNN paper. `--beside` is another trained detector (a
single head), whose AP at 0.5 and 0.75 is printed next to the cascade's.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from boxatlas import evaluation
from boxatlas.boxes.formats import pairwise_iou
from boxatlas.data import Table, make_loader, read
from boxatlas.detectors.cascade_rcnn import CascadeRCNN
from boxatlas.parts.region.detector import content_limits
from boxatlas.weights import load

EDGES = torch.tensor([0.5, 0.6, 0.7, 0.8, 0.9, 1.001])


def overlaps(model: CascadeRCNN, table: Table) -> list[tuple[Tensor, Tensor]]:
    """For each stage the overlap of every box with its nearest object, before and after."""
    loader = make_loader(table, model.preprocess, batch_size=1, shuffle=False, seed=0)
    before: list[list[Tensor]] = [[] for _ in range(model.config.stages)]
    after: list[list[Tensor]] = [[] for _ in range(model.config.stages)]
    for batch in loader.epoch(0):
        size = (batch.images.shape[-2], batch.images.shape[-1])
        targets = batch.targets
        objects = targets.boxes[0][targets.valid[0] & ~targets.ignore[0]]
        if len(objects) == 0:
            continue
        features = model.features(batch.images)
        proposals = model.propose(features, batch.frames, size)
        boxes = proposals.boxes[:, proposals.valid[0]]
        limits = content_limits(boxes, batch.frames, size)
        for t, stage in enumerate(model.run(features, boxes, limits)):
            iou, own = pairwise_iou(stage.boxes[0], objects).max(1)
            moved = pairwise_iou(stage.refined[0], objects)
            before[t].append(iou)
            after[t].append(moved.gather(1, own[:, None])[:, 0])
    return [(torch.cat(a), torch.cat(b)) for a, b in zip(before, after, strict=True)]


def curve(before: Tensor, after: Tensor) -> list[tuple[int, float, float]]:
    """Of each bin of EDGES: how many boxes, their mean overlap before and after."""
    bins = torch.bucketize(before, EDGES, right=True)
    rows = []
    for i in range(1, len(EDGES)):
        inside = bins == i
        count = int(inside.sum())
        rows.append(
            (
                count,
                *((float(x[inside].mean()) if count else float("nan")) for x in (before, after)),
            )
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a checkpoint, or a folder that train_alike made")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--beside", type=Path, nargs="*", default=[])
    given = parser.parse_args()
    table = read(given.data, given.split)
    paths = [p / "last.safetensors" if p.is_dir() else p for p in (given.run, *given.beside)]
    model = load(paths[0]).eval()
    assert isinstance(model, CascadeRCNN)
    with torch.inference_mode():
        curves = [curve(a, b) for a, b in overlaps(model, table)]
    print(
        "IoU before   "
        + "   ".join(f"stage {t + 1}: boxes, before -> after" for t in range(len(curves)))
    )
    for i in range(len(EDGES) - 1):
        cells = [f"{n:12d}, {a:.3f} -> {b:.3f}" for n, a, b in (one[i] for one in curves)]
        print(f"{EDGES[i]:.1f}-{min(float(EDGES[i + 1]), 1.0):.1f}   " + "   ".join(cells))
    scores = {}
    for path in paths:
        one = load(path).eval()
        result = evaluation.evaluate(evaluation.predict(one, table, progress=False), table)
        scores[one.name] = {k: round(result["coco"][k], 4) for k in ("AP", "AP50", "AP75")}
        print(one.name, scores[one.name])
    print(json.dumps({"curves": curves, "ap": scores}))


if __name__ == "__main__":
    main()
