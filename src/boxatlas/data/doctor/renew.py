"""A repaired copy of a set whose files are not edited where they stand: it is written anew.

What was read goes into the copy, mended; in the same layout where that is written, else in COCO's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from boxatlas.data.convert import convert
from boxatlas.data.doctor import Report
from boxatlas.data.doctor.plan import Action, Plan
from boxatlas.data.doctor.reading import Part
from boxatlas.data.masks import Mask
from boxatlas.data.table import Table
from boxatlas.data.writing import WRITERS

Each = Callable[[Iterable[Any]], Iterable[Any]]
_OF_DARKNET = frozenset(("", "train", "val", "test"))  # splits that a .data file has


def layout_of_copy(report: Report) -> str:
    """The layout that a repaired copy will have."""
    other = report.layout == "darknet" and not _OF_DARKNET.issuperset(report.splits)
    return report.layout if report.layout in WRITERS and not other else "coco"


def renewed(
    report: Report,
    plan: Plan,
    actions: list[Action],
    out: Path,
    copy: Callable[[str, Path], None],
    each: Each,
) -> list[str]:
    """Write the copy; returns what it cannot hold. copy: of an image, to a path."""
    tables = {part.split or "": mended(part, plan, actions) for part in report.parts}
    tables = {split: table for split, table in tables.items() if len(table)}
    return convert(tables, out, layout_of_copy(report), each, copy)[1]


def mended(part: Part, plan: Plan, actions: list[Action]) -> Table:
    """A part's table as the plan has it. What could not be read is not in it to begin with."""
    table = part.table
    boxes, sizes = table.boxes.copy(), table.sizes.copy()
    keep = np.ones(len(boxes), bool)
    masks: list[Mask] | None = None if table.masks is None else list(table.masks)
    mine = [action.flaw for action in actions if action.flaw.row is not None]
    for flaw in (action.flaw for action in actions if isinstance(action.flaw.remedy, tuple)):
        if flaw.kind == "box_format" and flaw.remedy[0].split == part.split:
            boxes[flaw.remedy[1]] = flaw.remedy[2]
    for flaw in mine:
        split, k = flaw.row or ("", 0)
        if split != part.split:
            continue
        if isinstance(flaw.remedy, list):
            boxes[k] = flaw.remedy
        elif flaw.remedy == "drop":
            keep[k] = False
        elif masks is not None:
            mask = masks[k]
            whole = isinstance(mask, list) and flaw.remedy == "polygons"
            masks[k] = [p for p in mask or () if len(p) >= 6] or None if whole else None
    for i, path in enumerate(table.paths):
        if path in plan.sizes:
            sizes[i] = plan.sizes[path]
    gone = plan.images | plan.leaked.get(part.split or "", set())
    stay = [i for i, path in enumerate(table.paths) if path not in gone and sizes[i].all()]
    return replace(table, boxes=boxes, sizes=sizes, masks=masks).where(keep).select(stay)
