"""R-CNN with and without fine-tuning, SVMs and box regression: two runs, one look at an image.

    boxatlas train rcnn_efficientnet_lite0 --data DIR --out tuned
    boxatlas train rcnn_efficientnet_lite0 --data DIR --out plain --set model.fine_tune=false
    python benchmarks/rcnn_ablation.py tuned plain --data DIR --split test --proposals FILE

The network describes every proposal once; the variants differ in what is made of that. Prints AP at
IoU 0.5 of each variant, the seconds of an image, and by how much the regressors move boxes that
start at each IoU with an object of their class.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from boxatlas.boxes.formats import pairwise_iou
from boxatlas.data import Table, make_loader, read
from boxatlas.data.proposals import Proposals, read_proposals
from boxatlas.detectors.rcnn import RCNN
from boxatlas.evaluation import evaluate
from boxatlas.progress import track
from boxatlas.structures import Batch, Detections
from boxatlas.weights import load

SCORE = {"softmax": 0.01, "SVMs": 1 / (1 + float(np.e))}


def described(model: RCNN, table: Table, proposals: Proposals) -> Iterator[tuple[Batch, dict]]:
    """Each image with the layers of all its proposals."""
    loader = make_loader(
        table, model.preprocess, batch_size=1, shuffle=False, seed=0, proposals=proposals
    )
    fast = model.fast()
    assert isinstance(fast, RCNN)
    for batch in track(loader.epoch(0), "describing", len(loader)):
        assert batch.proposals is not None
        boxes = batch.proposals[0]
        image = torch.zeros(len(boxes), dtype=torch.int64)
        parts = list(fast.features(batch.images, boxes, image, batch.frames))
        yield batch, {name: torch.cat([p[name] for p in parts]) for name in parts[0]}


def scores_of(model: RCNN, found: dict[str, Tensor], tuned: bool) -> dict[str, Tensor]:
    margins = F.linear(found[model.config.feature_layer], model.svm_weight, model.svm_bias)
    out = {"SVMs": margins.sigmoid()}
    if tuned:
        out = {"softmax": model.logits(found["fc7"]).softmax(-1)[:, 1:], **out}
    return out


def moves(model: RCNN, batch: Batch, deltas: Tensor) -> list[tuple[float, float]]:
    """(IoU before, IoU after) of each proposal and object that overlap by 0.1."""
    targets = batch.targets
    keep = targets.valid[0] & ~targets.ignore[0]
    objects, labels = targets.boxes[0][keep], targets.labels[0][keep]
    assert batch.proposals is not None
    boxes = batch.proposals[0]
    row, column = (pairwise_iou(boxes, objects) > 0.1).nonzero(as_tuple=True)
    moved = model.coder.decode(deltas[row, labels[column]], boxes[row])
    both = [torch.diagonal(pairwise_iou(b, objects[column])) for b in (boxes[row], moved)]
    return list(zip(*(b.tolist() for b in both), strict=True))


@torch.no_grad()
def measured(folder: Path, table: Table, proposals: Proposals) -> list[dict]:
    """Rows of the table for one run, and the moves of its boxes, printed."""
    model = load(folder / "best.safetensors").eval()
    assert isinstance(model, RCNN)
    tuned = model.config.fine_tune
    found: dict[tuple[str, bool], list[Detections]] = {}
    pairs: list[tuple[float, float]] = []
    began = time.process_time()
    for batch, layers in described(model, table, proposals):
        deltas = model.deltas(layers)
        pairs += moves(model, batch, deltas)
        for name, scores in scores_of(model, layers, tuned).items():
            for regressed in (False, True):
                raw = {
                    "scores": scores[None],
                    "deltas": deltas[None] * float(regressed),
                    "proposals": batch.proposals,
                    "valid": batch.valid,
                }
                made = model.postprocess(raw, batch.frames, score=SCORE[name])
                found.setdefault((name, regressed), []).extend(made)
    seconds = (time.process_time() - began) / len(table)
    rows = []
    for (name, regressed), made in found.items():
        result = evaluate(made, table, "voc07")
        rows.append(
            {
                "fine-tuned": tuned,
                "classifier": name,
                "boxes moved": regressed,
                **{k: result[k] for k in ("voc07", "voc12")},
                "s": seconds,
            }
        )
    print(f"{folder}: proposals and objects by IoU before, mean IoU after")
    before, after = np.array(pairs).T
    for low in np.arange(0.1, 1.0, 0.1):
        part = (before >= low) & (before < low + 0.1)
        if part.any():
            print(
                f"  {low:.1f} to {low + 0.1:.1f}: {part.sum():6d}  "
                f"{before[part].mean():.3f} -> {after[part].mean():.3f}"
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--data", required=True)
    parser.add_argument("--split")
    parser.add_argument("--proposals", required=True)
    parser.add_argument("--most", type=int, default=200)
    chosen = parser.parse_args()
    table = read([chosen.data], chosen.split)
    proposals = read_proposals(chosen.proposals).first(chosen.most)
    proposals.check(table)
    rows = [row for run in chosen.runs for row in measured(run, table, proposals)]
    print("fine-tuned  classifier  boxes moved   voc07   voc12  s/image")
    for row in rows:
        print(
            f"{row['fine-tuned']!s:10}  {row['classifier']:10}  {row['boxes moved']!s:11}  "
            f"{row['voc07']:.4f}  {row['voc12']:.4f}  {row['s']:.2f}"
        )


if __name__ == "__main__":
    main()
