"""Priors for a data set: clusters of its boxes' widths and heights (YOLO9000, arXiv 1612.08242,
section 2, "Dimension Clusters").

Shape letters: T objects, N distinct objects that are clustered, K priors, R restarts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from boxatlas.boxes.yolo import kmeans_priors, shape_iou
from boxatlas.data.table import Table
from boxatlas.errors import InputError

Distance = Literal["iou", "euclidean"]
Update = Literal["mean", "median"]
_MOST = 50_000  # objects that are clustered; the average IoU is that of all
_CHUNK = 1 << 20  # objects whose IoU is taken at a time


@dataclass(frozen=True)
class Priors:
    """shapes [K, 2] (width, height as fractions of the image, smallest first), the average over
    all objects of the IoU with the best prior, how many objects each prior is best for."""

    shapes: Tensor
    average_iou: float
    counts: tuple[int, ...]
    distance: Distance

    def pixels(self, size: tuple[int, int]) -> list[tuple[float, float]]:
        """(width, height) of each prior in an input of `size` (height, width)."""
        scaled = self.shapes * torch.tensor([size[1], size[0]], dtype=self.shapes.dtype)
        return [(round(w, 2), round(h, 2)) for w, h in scaled.tolist()]


def shapes_of(table: Table, size: tuple[int, int] | None = None) -> Tensor:
    """[T, 2] float64: width and height of every object that has an area, as fractions of its image.

    size (height, width): of a letterboxed input instead, of which they are fractions then. Raises
    InputError where there is none.
    """
    boxes = torch.from_numpy(table.boxes).double()
    sides = boxes[:, 2:] - boxes[:, :2]
    image = torch.from_numpy(table.sizes[table.image_of][:, [1, 0]].copy()).double()
    if size is None:
        shapes = sides / image
    else:
        to = torch.tensor([size[1], size[0]], dtype=torch.float64)
        shapes = sides * (to / image).amin(1, keepdim=True) / to
    shapes = shapes[(sides > 0).all(1) & (image > 0).all(1) & ~torch.from_numpy(table.ignore)]
    if len(shapes) == 0:
        raise InputError("there is no box with an area", field="data")
    return shapes


def cluster(
    shapes: Tensor,
    k: int,
    *,
    distance: Distance = "iou",
    update: Update = "mean",
    seed: int = 0,
    restarts: int = 3,
) -> Priors:
    """K priors of shapes [T, 2]: the best of some k-means, each begun by k-means++.

    Arthur and Vassilvitskii 2007: each next centre is drawn with a chance in proportion to its
    squared distance from the nearest one so far. Raises InputError for fewer boxes than priors.
    """
    if not 1 <= k <= len(shapes):
        raise InputError(
            "there are fewer boxes than priors" if k > 0 else "must be at least 1",
            field="k",
            value=k,
        )
    rng = torch.Generator().manual_seed(seed)
    seen = shapes
    if len(shapes) > _MOST:
        seen = shapes[torch.randperm(len(shapes), generator=rng)[:_MOST]]
    best: Priors | None = None
    for _ in range(restarts):
        start = _spread(seen, k, distance, rng)
        found, _, _ = kmeans_priors(seen, k, distance=distance, update=update, start=start)
        found = found[found.prod(1).argsort()]
        average, counts = quality(shapes, found)
        if best is None or average > best.average_iou:
            best = Priors(found, average, counts, distance)
    assert best is not None
    return best


def _spread(shapes: Tensor, k: int, distance: Distance, rng: torch.Generator) -> Tensor:
    """k-means++: [K, 2] of the shapes, far from one another."""
    chosen = [int(torch.randint(len(shapes), (1,), generator=rng))]
    least = torch.full((len(shapes),), float("inf"), dtype=shapes.dtype)
    while len(chosen) < k:
        centre = shapes[chosen[-1]]
        if distance == "iou":
            far = (1 - shape_iou(shapes, centre)).square()
        else:
            far = (shapes - centre).square().sum(1)
        least = torch.minimum(least, far)
        chance = least if float(least.sum()) > 0 else torch.ones_like(least)
        chosen.append(int(torch.multinomial(chance, 1, generator=rng)))
    return shapes[chosen]


def quality(shapes: Tensor, priors: Tensor) -> tuple[float, tuple[int, ...]]:
    """(average over shapes [T, 2] of the IoU with the best prior, objects of each prior [K])."""
    total, counts = 0.0, torch.zeros(len(priors), dtype=torch.int64)
    for part in shapes.split(_CHUNK):
        best, own = shape_iou(part[:, None], priors).max(1)
        total += float(best.sum())
        counts += own.bincount(minlength=len(priors))
    return total / len(shapes), tuple(counts.tolist())


def curve(
    shapes: Tensor,
    ks: Sequence[int],
    *,
    update: Update = "mean",
    seed: int = 0,
    each: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> list[dict[str, Any]]:
    """Average IoU against k, clustered by IoU and, for comparison, by Euclid's distance."""
    rows = []
    for k in each(ks):
        row: dict[str, Any] = {"k": k}
        for distance in ("iou", "euclidean"):
            row[distance] = cluster(
                shapes, k, distance=distance, update=update, seed=seed
            ).average_iou
        rows.append(row)
    return rows


def plot(rows: Sequence[dict[str, Any]], shapes: Tensor, priors: Priors, path: Path) -> None:
    """A picture: average IoU against k beside the priors among the objects."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    from boxatlas.drawing import colour
    from boxatlas.files import write_with

    figure = Figure(figsize=(10, 4.5), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    ks = [row["k"] for row in rows]
    left.plot(ks, [row["iou"] for row in rows], "o-", label="clustered by IoU")
    left.plot(ks, [row["euclidean"] for row in rows], "s--", label="by Euclid's distance")
    left.axvline(len(priors.shapes), color="0.7", linewidth=1)
    left.set(xlabel="k", ylabel="average IoU with the best prior", xticks=ks)
    left.grid(alpha=0.3)
    left.legend()
    step = max(1, len(shapes) // 4000)
    right.scatter(*shapes[::step].T.tolist(), s=3, alpha=0.25, color="0.5", linewidths=0)
    for n, (w, h) in enumerate(priors.shapes.tolist()):
        hue = tuple(v / 255 for v in colour(n))
        right.add_patch(Rectangle((0, 0), w, h, fill=False, color=hue, linewidth=1.5))
        right.plot([w], [h], "o", color=hue)
    right.set_title(f"{len(priors.shapes)} priors, average IoU {priors.average_iou:.3f}")
    right.set(
        xlabel="width (fraction of the image)",
        ylabel="height",
        xlim=(0, 1.02),
        ylim=(0, 1.02),
        aspect="equal",
    )
    write_with(path, lambda temporary: figure.savefig(temporary, format="png"))
