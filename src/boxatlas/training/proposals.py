"""The proposals that a method is trained on, where it takes them from outside (Fast R-CNN)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxatlas.data.proposals import FILE, Proposals, Store, beside, for_images, read_proposals
from boxatlas.data.table import Table
from boxatlas.ops import selective_search, selective_search_many
from boxatlas.progress import track
from boxatlas.training.distributed import World, wait
from boxatlas.training.recipe import Recipe


def proposals_for(
    recipe: Recipe,
    most: int,
    tables: Sequence[Table],
    folder: Path,
    world: World,
    *,
    min_side: float = 0,
    try_out: bool = False,
) -> tuple[Mapping[str, Any] | None, list[str]]:
    """(image path -> boxes, lines to log); None where the method takes none.

    The recipe's file, else `proposals.npz` in each data folder, else selective search of every
    image, kept in `folder` and resumed after a stop. most: how many of an image the method takes,
    0 where it makes its own; min_side: a search leaves out narrower or lower ones. try_out: search
    an image only when it is read, and keep nothing.
    """
    if recipe.proposals is None and most == 0:
        return None, []
    files = [Path(recipe.proposals)] if recipe.proposals else beside(recipe.data)
    if files:
        proposals = for_images(files, tables, most or None, own=recipe.proposals is None)
        names = ", ".join(str(file) for file in files)
        return proposals, [f"proposals: {names}, {_mean(proposals)} an image"]
    if try_out:
        return _Searched(most, min_side), ["proposals: selective search"]
    paths = list(dict.fromkeys(path for table in tables for path in table.paths))
    if world.first:
        _search(paths, folder, most, min_side)
    wait(world)
    file = folder / FILE
    proposals = read_proposals(file)
    return proposals, [f"proposals: selective search, kept in {file}, {_mean(proposals)} an image"]


def _mean(proposals: Proposals) -> str:
    return f"{len(proposals.boxes) / max(len(proposals), 1):.0f}"


def _search(paths: Sequence[str], folder: Path, most: int, min_side: float) -> None:
    about = {
        "maker": "selective_search",
        "mode": "fast",
        "max_boxes": most,
        "min_box_side": min_side,
    }
    with Store(folder, about) as store:
        left = [path for path in paths if path not in store]
        searches = selective_search_many(left, max_boxes=most, min_box_side=min_side)
        for path, boxes in zip(left, track(searches, "selective search", len(left)), strict=True):
            store.add(path, (0, 0), boxes)
    store.finish()


class _Searched(Mapping[str, NDArray[np.float32]]):
    """Proposals that are searched for when they are read."""

    def __init__(self, most: int, min_side: float) -> None:
        self.most, self.min_side = most, min_side

    def __getitem__(self, path: str) -> NDArray[np.float32]:
        return selective_search(path, max_boxes=self.most, min_box_side=self.min_side)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0
