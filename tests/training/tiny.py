"""A detector small enough to train in milliseconds, and made-up images for it.

`python tiny.py RUN [ITERATIONS]` trains it in a folder: what the tests stop and start again.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxatlas.images import Preprocess
from boxatlas.options import Options
from boxatlas.parts.base import ClassRows, Detector, Phase
from boxatlas.structures import Batch, Frame, Targets
from boxatlas.training.checkpoint import read_header
from boxatlas.training.distributed import world
from boxatlas.training.loop import run
from boxatlas.training.phases import Job
from boxatlas.training.recipe import Recipe

CLASSES = ("cat", "dog")
SIDE = 16


class Tiny(Detector):
    """Two convolutions with a norm, dropout, and a head that guesses the classes in the image."""

    def __init__(self, classes: Sequence[str] = CLASSES, stages: list[Phase] | None = None) -> None:
        super().__init__(classes, Preprocess(size=(SIDE, SIDE)), Options())
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Conv2d(8, 8, 3, 2, 1)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(8, 1 + len(classes))
        self.box = nn.Linear(8, 4)
        self.stages = stages or [Phase()]
        self.register_buffer("fitted", torch.zeros(2))

    def forward(
        self, images: Tensor, frames: Any = None, proposals: Any = None
    ) -> dict[str, Tensor]:
        x = self.drop(F.relu(self.body(self.stem(images)))).mean((2, 3))
        return {"logits": self.head(x), "box": self.box(x)}

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        raw, targets = self(batch.images), batch.targets
        wanted = torch.zeros_like(raw["logits"])
        images, objects = targets.valid.nonzero(as_tuple=True)
        wanted[images, targets.labels[images, objects] + 1] = 1.0
        noise = torch.rand(wanted.shape, generator=generator, device=wanted.device)
        losses = {
            "cls": F.binary_cross_entropy_with_logits(raw["logits"], wanted * (0.9 + 0.1 * noise))
        }
        if len(images):  # deliberately no path to `box` where there is no object
            losses["loc"] = F.smooth_l1_loss(
                raw["box"][images] * SIDE, targets.boxes[images, objects]
            )
        else:
            losses["loc"] = losses["cls"].new_zeros(())
        return losses

    def class_rows(self) -> dict[str, ClassRows]:
        return {"head.weight": ClassRows(1, 1), "head.bias": ClassRows(1, 1)}

    def phases(self) -> list[Phase]:
        return self.stages

    def fit_mean(self, loader: Any, folder: Path, track: Callable[..., Any]) -> None:
        batches = list(track(loader.epoch(0), "fitting"))
        self.fitted[0] = sum(len(b) for b in batches)
        self.fitted[1] = torch.cat([b.images for b in batches]).mean()


def stored(
    model: Tiny, paths: list[str], folder: Path, track: Callable[..., Any]
) -> dict[str, float]:
    """In place of `proposing.stored`: proposals that only depend on the model's weights."""
    file = folder / "made.txt"
    if not file.exists():
        file.write_text(repr(model.head.bias.sum().item()))
    return {"from": float(file.read_text())}


class Made:
    """The agreed loader: batches that depend on (seed, epoch, number) alone."""

    workers = 0

    def __init__(
        self, batch: int, count: int = 6, seed: int = 0, rank: int = 0, **kinds: Any
    ) -> None:
        self.batch, self.count, self.seed, self.rank = batch, count, seed, rank
        self.spoiled: int | None = kinds.get("spoiled")
        self.empty: bool = kinds.get("empty", False)
        self.pause: float = kinds.get("pause", 0.0)
        self.given: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return self.count

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        self.given.append((epoch, start))
        for number in range(start, self.count):
            time.sleep(self.pause)
            yield self.make(epoch, number)

    def make(self, epoch: int, number: int) -> Batch:
        seed = ((self.seed * 100 + epoch) * 100 + number) * 10 + self.rank
        rng = torch.Generator().manual_seed(seed)
        images = torch.rand(self.batch, 3, SIDE, SIDE, generator=rng)
        if self.spoiled == number:
            images[0] = torch.nan
        boxes, labels = [], []
        for i in range(self.batch):
            many = 0 if self.empty else (i + number) % 3
            boxes.append(torch.tensor([[2.0, 2.0, 9.0, 9.0]]).repeat(many, 1))
            labels.append(torch.arange(many) % 2)
        frames = [Frame((SIDE, SIDE), (SIDE, SIDE))] * self.batch
        names = [f"image_{epoch}_{number}_{i}.jpg" for i in range(self.batch)]
        return Batch(images, frames, Targets.collate(boxes, labels), names=names)


RECIPE = Recipe.of(
    model="tiny",
    iterations=24,
    batch=4,
    lr=0.1,
    weight_decay=1e-3,
    warmup=4,
    ema=0.9,
    clip=1.0,
    eval_every=8,
    save_every=5,
    log_every=3,
    schedule="cosine",
)


def job(folder: Path, recipe: Recipe = RECIPE, model: Tiny | None = None, **kinds: Any) -> Job:
    """A job whose loader makes its images and whose metric is a number computed of the weights."""
    torch.manual_seed(0)
    model = model or Tiny()
    made: list[Made] = []

    def loader(recipe: Recipe, batch: int, proposals: Any = None, learning: bool = True) -> Made:
        made.append(Made(batch, seed=recipe.seed, **kinds))
        made[-1].proposals, made[-1].learning = proposals, learning  # type: ignore[attr-defined]
        return made[-1]

    def evaluate(detector: Detector) -> dict[str, Any]:
        with torch.no_grad():
            total = float(sum(p.double().sum() for p in detector.parameters()))
        return {"metric": "voc12", "mAP": abs(total) % 1}

    folder.mkdir(parents=True, exist_ok=True)
    out = Job(recipe, model, folder, loader, evaluate, table=SimpleNamespace(paths=[]))
    out.made = made  # type: ignore[attr-defined]
    return out


def main(folder: str, iterations: str = "24", pause: str = "0") -> None:
    torch.set_num_threads(1)
    recipe = RECIPE.changed({"iterations": int(iterations)})
    with world(torch.device("cpu")) as (here, _):
        one = job(Path(folder), recipe, pause=float(pause), rank=here.rank, empty=here.rank == 1)
        one.world = here
        run(one)
        if here.first:
            header = read_header(Path(folder))
            assert header is not None
            print("done", header["position"].trained)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
