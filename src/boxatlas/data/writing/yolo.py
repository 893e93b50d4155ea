"""YOLO's files of a table."""

from __future__ import annotations

from pathlib import Path

from boxatlas.data.masks import Mask
from boxatlas.data.table import Table
from boxatlas.data.writing.common import one_polygon_or_box, single_polygon
from boxatlas.errors import InputError


def image_folder(split: str) -> str:
    """Where the images of a split lie in a set of this layout."""
    return f"images/{split}"


def left_out(table: Table) -> list[str]:
    """What a table holds that this layout has no place for."""
    out = []
    if table.ignore.any():
        out.append(
            f"ignored objects (difficult, crowd): {int(table.ignore.sum())} flags; "
            "they become ordinary objects"
        )
    out += one_polygon_or_box(table)
    if table.category_ids is not None:
        out.append("category ids: classes are numbered from 0")
    return out


def write(
    table: Table, folder: Path, image_names: list[str], splits_of: dict[str, list[int]]
) -> None:
    """data.yaml and labels/SPLIT/*.txt of a table (images are not copied)."""
    import yaml

    from boxatlas.files import write_text

    for split in ("names", "path"):
        if split in splits_of:
            raise InputError("no split of data.yaml can have this name", field="split", value=split)
    for split, members in splits_of.items():
        for i in members:
            lines = [f"{line}\n" for line in lines_for(table, i)]
            name = Path(image_names[i]).with_suffix(".txt").name
            write_text(folder / "labels" / split / name, "".join(lines))
    text = yaml.safe_dump(
        {**{s: f"images/{s}" for s in splits_of}, "names": dict(enumerate(table.classes))},
        sort_keys=False,
        allow_unicode=True,
    )
    write_text(folder / "data.yaml", text)


def lines_for(table: Table, i: int) -> list[str]:
    """A line for each object: its polygon where it is one, else its box."""
    height, width = (float(v) for v in table.sizes[i])
    part, lines = table.objects(i), []
    boxes, labels = table.boxes[part].tolist(), table.labels[part].tolist()
    masks: list[Mask] = [None] * len(boxes) if table.masks is None else list(table.masks[part])
    for (x1, y1, x2, y2), label, mask in zip(boxes, labels, masks, strict=True):
        polygon = single_polygon(mask)
        if polygon is None:
            row = [
                (x1 + x2) / 2 / width,
                (y1 + y2) / 2 / height,
                (x2 - x1) / width,
                (y2 - y1) / height,
            ]
        else:
            row = [v / (height if k % 2 else width) for k, v in enumerate(polygon)]
        lines.append(f"{label} " + " ".join(f"{v:.8f}" for v in row))
    return lines
