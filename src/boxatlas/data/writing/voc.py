"""VOC's files of a table."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from boxatlas.data.table import Table
from boxatlas.data.writing.common import without_masks


def image_folder(split: str) -> str:
    """Where the images of a split lie in a set of this layout."""
    return "JPEGImages"


def left_out(table: Table) -> list[str]:
    """What a table holds that this layout has no place for."""
    return without_masks(table, "go by name")


def write(
    table: Table, folder: Path, image_names: list[str], splits_of: dict[str, list[int]]
) -> None:
    """Annotations, ImageSets and classes.txt of a table (images are not copied)."""
    from boxatlas.files import write_text

    for i, file_name in enumerate(image_names):
        write_text(
            folder / "Annotations" / f"{Path(file_name).stem}.xml", _xml(table, i, file_name)
        )
    for split, members in splits_of.items():
        ids = "".join(f"{Path(image_names[i]).stem}\n" for i in members)
        write_text(folder / "ImageSets" / "Main" / f"{split}.txt", ids)
    write_text(folder / "classes.txt", "".join(f"{name}\n" for name in table.classes))


def _xml(table: Table, i: int, file_name: str) -> str:
    height, width = (int(v) for v in table.sizes[i])
    rows: list[Any] = [
        "<annotation>",
        f"\t<filename>{escape(file_name)}</filename>",
        f"\t<size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
        "\t<segmented>0</segmented>",
    ]
    extras = table.extras if table.extras is not None and table.extras.layout == "voc" else None
    if extras is not None and extras.images[i]:
        rows.append(f"\t{extras.images[i]}")
    part = table.objects(i)
    truncated = None if table.truncated is None else table.truncated[part].tolist()
    more = extras.objects[part] if extras is not None else []
    for k, (box, label, ignore) in enumerate(
        zip(
            table.boxes[part].tolist(),
            table.labels[part].tolist(),
            table.ignore[part].tolist(),
            strict=True,
        )
    ):
        x1, y1, x2, y2 = (_short(v) for v in (box[0] + 1, box[1] + 1, box[2], box[3]))
        cut = "" if truncated is None else f"<truncated>{int(truncated[k])}</truncated>"
        cut += more[k] if more else ""
        rows.append(
            f"\t<object><name>{escape(table.classes[label])}</name>{cut}"
            f"<difficult>{int(ignore)}</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
            f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        )
    return "\n".join([*rows, "</annotation>", ""])


def _short(value: float) -> str:
    return re.sub(r"\.?0+$", "", f"{value:.4f}")
