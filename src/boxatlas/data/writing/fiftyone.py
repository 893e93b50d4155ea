"""FiftyOne's labels.json of a table."""

from __future__ import annotations

import json
from pathlib import Path

from boxatlas.data.table import Table
from boxatlas.data.writing.common import without_masks


def image_folder(split: str) -> str:
    """Where the images of a split lie in a set of this layout."""
    return f"{split}/data"


def left_out(table: Table) -> list[str]:
    """What a table holds that this layout has no place for."""
    return without_masks(table, "are numbered from 0")


def write(
    table: Table, folder: Path, image_names: list[str], splits_of: dict[str, list[int]]
) -> None:
    """SPLIT/labels.json of a table (images are not copied)."""
    from boxatlas.files import write_text

    for split, members in splits_of.items():
        labels = {}
        for i in members:
            height, width = (float(v) for v in table.sizes[i])
            part = table.objects(i)
            labels[Path(image_names[i]).with_suffix("").as_posix()] = [
                {
                    "label": int(table.labels[k]),
                    "bounding_box": [
                        round(float(v), 8)
                        for v in (
                            x1 / width,
                            y1 / height,
                            (x2 - x1) / width,
                            (y2 - y1) / height,
                        )
                    ],
                    "attributes": _flags(table, k),
                }
                for k in range(part.start, part.stop)
                for x1, y1, x2, y2 in [table.boxes[k].tolist()]
            ]
        document = {"classes": list(table.classes), "labels": labels}
        write_text(folder / split / "labels.json", json.dumps(document, ensure_ascii=False))


def _flags(table: Table, k: int) -> dict[str, bool]:
    out = {"iscrowd": True} if table.ignore[k] else {}
    if table.truncated is not None:
        out["truncated"] = bool(table.truncated[k])
    return out
