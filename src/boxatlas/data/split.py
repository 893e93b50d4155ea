"""Splitting a data set: seeded, every class in proportion, look-alikes kept together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from boxatlas.data.table import Table
from boxatlas.errors import InputError


def parts_of(text: str) -> dict[str, float]:
    """Shares that sum to 1 of `train=0.8,val=0.1,test=0.1`. Raises InputError for other texts."""
    parts: dict[str, float] = {}
    for piece in text.split(","):
        name, _, share = piece.partition("=")
        name = name.strip()
        try:
            value = float(share)
        except ValueError:
            value = -1.0
        if not name.isidentifier() or not 0 < value <= 100 or name in parts:
            raise InputError(
                "must be name=share, ...",
                field="--parts",
                value=text,
                hint="for example train=0.8,val=0.1,test=0.1",
            )
        parts[name] = value
    total = sum(parts.values())
    return {name: value / total for name, value in parts.items()}


def stratified(
    table: Table,
    parts: Mapping[str, float],
    *,
    seed: int = 0,
    groups: NDArray[np.int64] | None = None,
) -> dict[str, list[int]]:
    """Image numbers of each part, in order.

    Iterative stratification (Sechidis et al. 2011): the class with the fewest images left goes
    first, each of its images to the part that lacks most of that class. groups [N]: images of one
    number stay together.
    """
    names, shares = list(parts), np.array(list(parts.values()))
    groups = np.arange(len(table)) if groups is None else groups
    _, group = np.unique(groups, return_inverse=True)
    holds = _holdings(table, group)
    rng = np.random.default_rng(seed)
    wanted = shares[:, None] * holds.sum(0)  # [parts, classes + 2], what each part still lacks
    size = holds.shape[1] - 1  # the last column counts images
    left = np.ones(len(holds), bool)
    part = np.full(len(holds), -1)
    while left.any():
        remaining = (holds[left, :size] > 0).sum(0)
        rarest = int(np.where(remaining > 0, remaining, len(holds) + 1).argmin())
        mine = np.flatnonzero(left & (holds[:, rarest] > 0))
        # Large groups first: the small ones even out what they upset.
        order = rng.permutation(mine)
        for g in order[np.argsort(-holds[order, rarest], kind="stable")]:
            lack = wanted[:, rarest]
            best = np.flatnonzero(lack >= lack.max() - 1e-9)
            if len(best) > 1:
                images = wanted[best, size]
                best = best[images >= images.max() - 1e-9]
            chosen = int(rng.choice(best))
            part[g], left[g] = chosen, False
            wanted[chosen] -= holds[g]
    owner = part[group]
    return {name: np.flatnonzero(owner == n).tolist() for n, name in enumerate(names)}


def held_out(
    images: NDArray[np.int64], count: int, seed: int, groups: NDArray[np.int64]
) -> NDArray[np.int64]:
    """`count` of these images, drawn by the seed, in order; fewer where groups leave no choice.

    groups [N]: images of one number are all drawn, or none. Where no group is small enough, they
    are drawn one by one.
    """
    order = images[np.random.default_rng([seed, len(images)]).permutation(len(images))]
    mine = groups[order]
    size = {int(g): int(n) for g, n in zip(*np.unique(mine, return_counts=True), strict=True)}
    taken: set[int] = set()
    drawn = 0
    for group in mine.tolist():
        if group not in taken and drawn + size[group] <= count:
            taken.add(group)
            drawn += size[group]
    if not taken:
        return np.sort(order[:count])
    return np.sort(order[np.isin(mine, list(taken))])


def _holdings(table: Table, group: NDArray[np.int64]) -> NDArray[np.float64]:
    """[groups, classes + 2]: images of a group that show each class, that show none, all images."""
    classes = len(table.classes)
    shows = np.zeros((len(table), classes + 2))
    shows[table.image_of, table.labels] = 1
    shows[:, classes] = table.counts == 0
    shows[:, classes + 1] = 1
    holds = np.zeros((int(group.max(initial=-1)) + 1, classes + 2))
    np.add.at(holds, group, shows)
    return holds


def shares(table: Table, members: Mapping[str, Sequence[int]]) -> list[dict[str, object]]:
    """A row for each class: the share of its objects that each part holds."""
    rows = []
    for label, name in enumerate(table.classes):
        of_class = table.image_of[table.labels == label]
        row: dict[str, object] = {"class": name, "objects": len(of_class)}
        for part, images in members.items():
            inside = np.isin(of_class, np.asarray(images, np.int64)).sum()
            row[part] = round(float(inside / len(of_class)), 4) if len(of_class) else None
        rows.append(row)
    return rows
