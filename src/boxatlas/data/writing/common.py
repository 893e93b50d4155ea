"""What writers share: what a layout cannot hold, and a mask as one polygon."""

from __future__ import annotations

from boxatlas.data.masks import Mask
from boxatlas.data.table import Table


def without_masks(table: Table, classes: str) -> list[str]:
    """What a layout of boxes and names leaves out of a table; classes: how those go there."""
    out = []
    if table.masks is not None:
        masks = sum(mask is not None for mask in table.masks)
        out.append(f"masks: {masks}, with the areas measured on them")
    if table.category_ids is not None:
        out.append(f"category ids: classes {classes}")
    return out


def one_polygon_or_box(table: Table) -> list[str]:
    """What a layout leaves out in which an object is a box or one polygon, not both."""
    out = truncated_flags(table)
    held = [mask for mask in table.masks or () if mask is not None]
    kept = sum(single_polygon(mask) is not None for mask in held)
    if len(held) > kept:
        out.append(f"masks: {len(held) - kept} that are no single polygon; their boxes are kept")
    if kept:
        out.append(f"boxes of {kept} polygons: an object is one or the other there")
    return out


def truncated_flags(table: Table) -> list[str]:
    """What a layout without VOC's *truncated* leaves out."""
    flags = 0 if table.truncated is None else int(table.truncated.sum())
    return [f"truncated: {flags} flags"] if flags else []


def single_polygon(mask: Mask) -> list[float] | None:
    """The mask where it is one polygon, None where it is another or none."""
    return mask[0] if isinstance(mask, list) and len(mask) == 1 and len(mask[0]) >= 6 else None
