"""Darknet's files of a table."""

from __future__ import annotations

from pathlib import Path

from boxatlas.data.table import Table
from boxatlas.data.writing import yolo
from boxatlas.errors import InputError, nearest


def image_folder(split: str) -> str:
    """Where the images of a split lie in a set of this layout."""
    return yolo.image_folder(split)


def left_out(table: Table) -> list[str]:
    """What a table holds that this layout has no place for."""
    return yolo.left_out(table)


def write(
    table: Table, folder: Path, image_names: list[str], splits_of: dict[str, list[int]]
) -> None:
    """set.data, set.names, a list for each split and labels/SPLIT/*.txt (images are not copied)."""
    from boxatlas.files import write_text

    names = {"train": "train", "val": "valid", "test": "test"}
    for split in splits_of:
        if split not in names:
            raise InputError(
                "a .data file has no such split",
                field="split",
                value=split,
                hint=nearest(split, names),
            )
    head = [f"classes = {len(table.classes)}", "names = set.names"]
    for split, members in splits_of.items():
        head.append(f"{names[split]} = {split}.txt")
        images = "".join(f"images/{split}/{Path(image_names[i]).name}\n" for i in members)
        write_text(folder / f"{split}.txt", images)
        for i in members:
            lines = yolo.lines_for(table, i)
            if table.image_label[i] >= 0:
                lines = [f"{table.image_label[i]} 0 0 0 0"]
            name = Path(image_names[i]).with_suffix(".txt").name
            write_text(folder / "labels" / split / name, "".join(f"{line}\n" for line in lines))
    write_text(folder / "set.names", "".join(f"{name}\n" for name in table.classes))
    write_text(folder / "set.data", "\n".join(head) + "\n")
