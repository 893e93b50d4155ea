"""The SSD family's `boxes` block of a case as default boxes.

Public: from_block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from boxatlas.boxes.anchors import DefaultBoxLevel, default_boxes


def from_block(block: Mapping[str, Any], form: str | None = None) -> Tensor:
    """The boxes [A, 4] of a `boxes` block in its own form and unit, or in another `form`."""
    levels = []
    for level in block["levels"]:
        plain = DefaultBoxLevel(
            grid=tuple(level["grid"]),
            step=level["step"],
            min_size=level["min_size"],
            max_size=level["max_size"],
            ratios=tuple(level["ratios"]),
            offset=level["offset"],
        )
        levels.append(_ordered(plain, level.get("shapes"), block["truncate_sizes"]))
    return default_boxes(
        levels,
        tuple(block["image"]),
        clip=block["clip"],
        truncate_sizes=block["truncate_sizes"],
        form=form or block["form"],  # pyright: ignore[reportArgumentType]
        unit=block["unit"],
        centre=block["centre"],
    )


def _ordered(
    level: DefaultBoxLevel, shapes: list[list[float]] | None, truncate: bool
) -> DefaultBoxLevel:
    """The level with its boxes in the order of `shapes`, which are rounded to six digits."""
    if not shapes:
        return level
    own = level.cell(truncate)
    order = [min(own, key=lambda o: abs(o[0] - w) + abs(o[1] - h)) for w, h in shapes]
    return level if order == own else replace(level, shapes=tuple(order))
