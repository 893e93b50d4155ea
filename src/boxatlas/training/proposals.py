"""The proposals that a method learns from, where it takes them from outside (R-CNN, Fast R-CNN)."""

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


def given(
    recipe: Recipe,
    most: int,
    tables: Sequence[Table],
    folder: Path,
    world: World,
    *,
    min_side: float = 0,
    try_out: bool = False,
) -> tuple[Mapping[str, Any] | None, list[str]]:
    """(image path -> boxes, what to say of them); None where none are wanted.

    The recipe's file, else `proposals.npz` in each data folder, else selective search of every
    image, kept in `folder` and gone on with after a stop. most: how many of an image the method
    takes, 0 where it makes its own; min_side: a search leaves out narrower or lower ones. try_out:
    search an image when it is asked for, and keep none.
    """
    if recipe.proposals is None and most == 0:
        return None, []
    files = [Path(recipe.proposals)] if recipe.proposals else beside(recipe.data)
    if files:
        held = for_images(files, tables, most or None, own=recipe.proposals is None)
        return held, [f"proposals: {', '.join(str(f) for f in files)}, {_mean(held)} an image"]
    if try_out:
        return _Searched(most, min_side), ["proposals: selective search"]
    paths = list(dict.fromkeys(path for table in tables for path in table.paths))
    if world.first:
        _search(paths, folder, most, min_side)
    wait(world)
    held = read_proposals(folder / FILE)
    return held, [f"proposals: selective search, kept in {folder / FILE}, {_mean(held)} an image"]


def _mean(held: Proposals) -> str:
    return f"{len(held.boxes) / max(len(held), 1):.0f}"


def _search(paths: Sequence[str], folder: Path, most: int, min_side: float) -> None:
    about = {
        "maker": "selective_search",
        "mode": "fast",
        "max_boxes": most,
        "min_box_side": min_side,
    }
    with Store(folder, about) as store:
        left = [path for path in paths if path not in store]
        made = selective_search_many(left, max_boxes=most, min_box_side=min_side)
        for path, boxes in zip(left, track(made, "selective search", len(left)), strict=True):
            store.add(path, (0, 0), boxes)
    store.finish()


class _Searched(Mapping[str, NDArray[np.float32]]):
    """Proposals made when they are asked for."""

    def __init__(self, most: int, min_side: float) -> None:
        self.most, self.min_side = most, min_side

    def __getitem__(self, path: str) -> NDArray[np.float32]:
        return selective_search(path, max_boxes=self.most, min_box_side=self.min_side)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0
