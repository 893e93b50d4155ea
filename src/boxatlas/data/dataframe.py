"""A table as a pandas DataFrame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from boxatlas.errors import InputError

if TYPE_CHECKING:
    from boxatlas.data.table import Table

_SIDES = ("x1", "y1", "x2", "y2")


def dataframe_of(table: Table) -> Any:
    """See `Table.to_dataframe`."""
    try:
        import pandas  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise InputError(
            "pandas is not installed", field="to_dataframe", hint="pip install 'boxatlas[pandas]'"
        ) from None
    rows = np.flatnonzero(table.counts == 0)
    owner = np.concatenate([table.image_of, rows])
    order = np.argsort(owner, kind="stable")
    owner, none = owner[order], len(rows)
    nothing = np.full((none, 4), np.nan, np.float32)
    boxes = np.concatenate([table.boxes, nothing])[order]
    kinds = [*(table.classes[k] for k in table.labels), *[None] * none]
    ignore = np.concatenate([table.ignore, np.zeros(none, bool)])[order]
    return pandas.DataFrame(
        {
            "path": [table.paths[i] for i in owner],
            "width": table.sizes[owner, 1],
            "height": table.sizes[owner, 0],
            "class": [kinds[k] for k in order],
            **{side: boxes[:, k] for k, side in enumerate(_SIDES)},
            "ignore": ignore,
        }
    )
