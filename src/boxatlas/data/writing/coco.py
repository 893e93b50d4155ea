"""COCO's files of a table."""

from __future__ import annotations

import json
from pathlib import Path

from boxatlas.data.coco_document import document_of
from boxatlas.data.table import Table
from boxatlas.data.writing.common import truncated_flags


def image_folder(split: str) -> str:
    """Where the images of a split lie in a set of this layout."""
    return split


def left_out(table: Table) -> list[str]:
    """What a table holds that this layout has no place for."""
    return truncated_flags(table)


def write(
    table: Table, folder: Path, image_names: list[str], splits_of: dict[str, list[int]]
) -> None:
    """annotations/instances_SPLIT.json of a table (images are not copied)."""
    from boxatlas.files import write_text

    for split, members in splits_of.items():
        text = json.dumps(document_of(table, image_names, members))
        write_text(folder / "annotations" / f"instances_{split}.json", text)
