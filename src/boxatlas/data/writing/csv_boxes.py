"""A CSV file of a table for each split."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from boxatlas.data.table import Table
from boxatlas.data.writing.common import truncated_flags, without_masks


def image_folder(split: str) -> str:
    """Where the images of a split lie in a set of this layout: beside their CSV file."""
    return split


def left_out(table: Table) -> list[str]:
    """What a table holds that this layout has no place for."""
    return without_masks(table, "go by name") + truncated_flags(table)


def write(
    table: Table, folder: Path, image_names: list[str], splits_of: dict[str, list[int]]
) -> None:
    """SPLIT/_annotations.csv of a table, as Roboflow has it (images are not copied).

    A column `ignore` follows where an object is ignored.
    """
    from boxatlas.files import write_with

    more = ["ignore"] if table.ignore.any() else []
    head = ["filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax", *more]
    for split, members in splits_of.items():

        def rows(members: list[int] = members) -> Iterator[list[Any]]:
            for i in members:
                height, width = table.sizes[i].tolist()
                part = table.objects(i)
                start = [image_names[i], width, height]
                for k in range(part.start, part.stop):
                    corners = [f"{v:.4f}".rstrip("0").rstrip(".") for v in table.boxes[k].tolist()]
                    flag = [int(table.ignore[k])] if more else []
                    yield [*start, table.classes[int(table.labels[k])], *corners, *flag]
                if part.start == part.stop:
                    yield [*start, *[""] * (5 + len(more))]

        def save(temporary: Path, rows: Any = rows) -> None:
            with open(temporary, "w", encoding="utf-8", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows([head, *rows()])

        write_with(folder / split / "_annotations.csv", save)
