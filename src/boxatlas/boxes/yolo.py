"""YOLO's boxes: cells, priors, and the four numbers a network says of each.

Public: PriorChoices, Objects, PriorCoder, shape_iou, cell_of, kmeans_priors.
Boxes here are centre x, centre y, width, height as fractions of the network input.
Shape letters: B images, M objects, A priors of a cell, H x W cells, N boxes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from boxatlas.boxes.formats import xyxy_to_cxcywh
from boxatlas.options import Options, Positive, setting

Location = Literal["cell", "linear", "prior"]
Anchors = Annotated[tuple[tuple[Positive, Positive], ...], Field(min_length=1)]
_LARGEST = 30.0  # of log(width / prior): a stray value must not overflow


class PriorChoices(Options):
    """The shapes that boxes are predicted from."""

    anchors: Anchors | Literal["data"] | None = setting(
        None, "(width, height) of each prior; none: as published; data: clusters of the objects"
    )


@dataclass(frozen=True)
class Objects:
    """The objects of a batch: boxes [B, M, 4], labels [B, M] int64, valid [B, M] bool."""

    boxes: Tensor
    labels: Tensor
    valid: Tensor

    def __getitem__(self, images: Any) -> Objects:
        """The objects of some images (indices, a mask, a slice)."""
        return Objects(self.boxes[images], self.labels[images], self.valid[images])

    @classmethod
    def of_pixels(
        cls, boxes: Tensor, labels: Tensor, valid: Tensor, size: tuple[int, int], smallest: float
    ) -> Objects:
        """From xyxy [B, M, 4] in pixels of an input of `size` (height, width).

        Objects with a side below `smallest` (of the input) are left out, and those whose centre
        lies outside.
        """
        height, width = size
        scale = boxes.new_tensor([width, height, width, height])
        fractions = xyxy_to_cxcywh(boxes / scale)
        centre, side = fractions[..., :2], fractions[..., 2:]
        fits = (side >= smallest).all(-1) & ((centre >= 0) & (centre < 1)).all(-1)
        return cls(fractions, labels, valid & fits)


def cell_of(boxes: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(row, column) of the cell that holds each centre, for a grid of (rows, columns).

    The product is float32, as in Darknet: a centre on a border belongs to the cell it rounds to.
    """
    rows, columns = grid
    row = (boxes[..., 1] * rows).long().clamp(0, rows - 1)
    column = (boxes[..., 0] * columns).long().clamp(0, columns - 1)
    return row, column


def shape_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of widths and heights as if the centres were one: [..., 2] and [..., 2] -> [...]."""
    shared = torch.minimum(a, b).prod(-1)
    return shared / (a.prod(-1) + b.prod(-1) - shared).clamp(min=torch.finfo(a.dtype).tiny)


@dataclass(frozen=True)
class PriorCoder:
    """Numbers <-> boxes. Sizes are prior * exp(t) always (arXiv 1612.08242, section 2).

    location "cell": the centre is the cell's corner + t, where t is a sigmoid; "linear": the same
    without the sigmoid; "prior": the cell's middle + t * prior (Faster R-CNN's way).
    """

    location: Location = "cell"

    def activate(self, raw: Tensor, dim: int) -> Tensor:
        """Raw numbers x, y, w, h, objectness, classes along `dim` with the sigmoids applied.

        Of x, y (where the location has one) and objectness; classes stay logits.
        """
        xy, wh, objectness, classes = raw.split([2, 2, 1, raw.shape[dim] - 5], dim)
        if self.location == "cell":
            xy = xy.sigmoid()
        return torch.cat([xy, wh, objectness.sigmoid(), classes], dim)

    def decode(self, t: Tensor, cell: Tensor, prior: Tensor, grid: tuple[int, int]) -> Tensor:
        """t [..., 4] (activated), cell [..., 2] (column, row), prior [..., 2] in cells -> boxes."""
        scale = t.new_tensor([grid[1], grid[0]])
        step = t[..., :2]
        centre = cell + 0.5 + step * prior if self.location == "prior" else cell + step
        size = prior * t[..., 2:4].clamp(max=_LARGEST).exp()
        return torch.cat([centre, size], -1) / torch.cat([scale, scale])

    def encode(self, boxes: Tensor, cell: Tensor, prior: Tensor, grid: tuple[int, int]) -> Tensor:
        """boxes [..., 4] -> t [..., 4]: what the activated numbers should be."""
        scale = boxes.new_tensor([grid[1], grid[0]])
        centre = boxes[..., :2] * scale - cell
        if self.location == "prior":
            centre = (centre - 0.5) / prior
        size = (boxes[..., 2:] * scale / prior).clamp(min=torch.finfo(boxes.dtype).tiny)
        return torch.cat([centre, size.log()], -1)

    def decode_map(self, t: Tensor, priors: Tensor) -> Tensor:
        """t [B, A, >=4, H, W] (activated), priors [A, 2] in cells -> boxes [B, A, H, W, 4]."""
        rows, columns = t.shape[-2:]
        y, x = torch.meshgrid(
            torch.arange(rows, device=t.device, dtype=t.dtype),
            torch.arange(columns, device=t.device, dtype=t.dtype),
            indexing="ij",
        )
        cell = torch.stack([x, y], -1)
        prior = priors.to(t)[:, None, None, :]
        return self.decode(t[:, :, :4].movedim(2, -1), cell, prior, (rows, columns))


def kmeans_priors(
    shapes: Tensor,
    k: int = 5,
    *,
    distance: Literal["iou", "euclidean"] = "iou",
    update: Literal["mean", "median"] = "mean",
    max_iterations: int = 1000,
    start: Tensor | None = None,
) -> tuple[Tensor, Tensor, int]:
    """Dimension clusters (section 2): (priors [k, 2], cluster of each box [N], iterations).

    shapes [N, 2] are widths and heights in any unit. The distance is 1 - IoU of boxes that share a
    centre, or Euclid's. `start` [k, 2] or the first k boxes start; an empty cluster stays where it
    is; it ends when no box changes its cluster. Raises ValueError for fewer boxes than clusters.
    """
    if not 1 <= k <= len(shapes):
        raise ValueError(f"{k} clusters of {len(shapes)} boxes")
    priors = (shapes[:k] if start is None else start).clone()
    nearest = torch.full((len(shapes),), -1, device=shapes.device)
    for iteration in range(1, max_iterations + 1):
        if distance == "iou":
            new = shape_iou(shapes[:, None], priors).argmax(1)
        else:
            new = (shapes[:, None] - priors).square().sum(-1).argmin(1)
        if torch.equal(new, nearest):
            return priors, nearest, iteration
        nearest = new
        for cluster in nearest.unique().tolist():
            members = shapes[nearest == cluster]
            if update == "mean":
                priors[cluster] = members.mean(0)
            else:
                priors[cluster] = members.quantile(0.5, dim=0)
    return priors, nearest, max_iterations
