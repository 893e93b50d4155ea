"""Operators: what a region sees of a feature map, and selective search.

Names are imported when first used; selective search needs numba, the rest of the package does not.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from boxatlas.ops.grouping import Hierarchy
    from boxatlas.ops.masks import mask_targets, paste_masks, rasterise
    from boxatlas.ops.psroi import psroi_align, psroi_pool
    from boxatlas.ops.roi import pyramid_pool, roi_align, roi_pool
    from boxatlas.ops.search import (
        SelectiveSearch,
        hierarchies,
        selective_search,
        selective_search_many,
    )

__all__ = [
    "Hierarchy",
    "SelectiveSearch",
    "hierarchies",
    "mask_targets",
    "paste_masks",
    "psroi_align",
    "psroi_pool",
    "pyramid_pool",
    "rasterise",
    "roi_align",
    "roi_pool",
    "selective_search",
    "selective_search_many",
]

_NAMES = {
    "grouping": ("Hierarchy",),
    "masks": ("mask_targets", "paste_masks", "rasterise"),
    "psroi": ("psroi_align", "psroi_pool"),
    "roi": ("pyramid_pool", "roi_align", "roi_pool"),
    "search": ("SelectiveSearch", "hierarchies", "selective_search", "selective_search_many"),
}
_WHERE = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(f"boxatlas.ops.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'boxatlas.ops' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
