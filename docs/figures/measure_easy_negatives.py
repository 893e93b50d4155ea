"""Measure who makes up the loss of a trained detector; writes measured/easy_negatives.json.

    python -m docs.figures.measure_easy_negatives DATA [--model bundled] [--split val]

For each default box: the cross-entropy that it would cost if all were trained. A box is an object's
as SSD matches; background is easy where the detector gives it a probability above 0.9. Beside all
boxes alike: three hard negatives for each positive (SSD), and the focal weight (1 - p)^2.
"""

from __future__ import annotations

import argparse
import json

import torch
from docs.figures.curves import MEASURED

import boxatlas
from boxatlas.data import read as read_table
from boxatlas.figures.assigned import batch_of
from boxatlas.images import read
from boxatlas.losses.multibox import hard_negatives


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--split", default="val")
    given = parser.parse_args()
    model, table = boxatlas.load(given.model), read_table(given.data, given.split)
    names = ("every box", "3 hard ones for each object", "focal weight, gamma 2")
    sums = {name: torch.zeros(3, dtype=torch.float64) for name in names}
    column = [model.classes.index(name) + 1 for name in table.classes]
    boxes = 0
    for i in range(len(table)):
        row = table[i]
        batch = batch_of(model, [read(row.path)], [row.boxes], [row.ignore])
        with torch.no_grad():
            log_p = model(batch.images)["logits"][0].log_softmax(-1)
            index = model.assigned(batch)[0].index[0]
        boxes += len(index)
        labels = torch.tensor([column[k] for k in row.labels.tolist()] or [0])
        target = torch.where(index >= 0, labels[index.clamp(min=0)], 0)
        loss = -log_p.gather(1, target[:, None])[:, 0]
        own, easy = index >= 0, (index < 0) & (log_p[:, 0].exp() > 0.9)
        parts = torch.stack([own, ~own & ~easy, easy])
        mined = hard_negatives(loss[None], ~own[None], 3 * own.sum()[None])[0]
        weights = (torch.ones_like(loss), (own | mined).float(), (1 - (-loss).exp()) ** 2)
        for name, weight in zip(names, weights, strict=True):
            sums[name] += (parts * (weight * loss)).sum(1)
    shares = {
        name: dict(
            zip(
                ("objects", "hard background", "easy background"),
                (total / total.sum()).tolist(),
                strict=True,
            )
        )
        for name, total in sums.items()
    }
    document = {
        "model": given.model,
        "data": f"{len(table.classes)} classes, split {given.split}",
        "images": len(table),
        "boxes": boxes,
        "shares": shares,
    }
    MEASURED.mkdir(exist_ok=True)
    text = json.dumps(document, indent=1) + "\n"
    (MEASURED / "easy_negatives.json").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
