"""LabelMe's files of a table, one for each image."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from boxatlas.data.masks import Mask, decode, extent
from boxatlas.data.table import Table
from boxatlas.data.writing.common import truncated_flags


def image_folder(split: str) -> str:
    """Where the images of a split lie in a set of this layout: beside their JSON files."""
    return split


def left_out(table: Table) -> list[str]:
    """What a table holds that this layout has no place for."""
    out = truncated_flags(table)
    if table.masks is not None:
        out.append("boxes and areas of objects with masks: those of the masks are meant")
    if table.category_ids is not None:
        out.append("category ids: classes go by name")
    if (table.image_label >= 0).any():
        out.append("classes of images without boxes")
    return out


def write(
    table: Table, folder: Path, image_names: list[str], splits_of: dict[str, list[int]]
) -> None:
    """SPLIT/*.json of a table (images are not copied)."""
    from boxatlas.files import write_text

    for split, members in splits_of.items():
        for i in members:
            height, width = (int(v) for v in table.sizes[i])
            document = {
                "version": "5.5.0",
                "flags": {},
                "shapes": _written(table, i),
                "imagePath": image_names[i],
                "imageData": None,
                "imageHeight": height,
                "imageWidth": width,
            }
            name = Path(image_names[i]).with_suffix(".json").name
            write_text(folder / split / name, json.dumps(document, ensure_ascii=False))


def _written(table: Table, i: int) -> list[dict[str, Any]]:
    shapes = []
    part = table.objects(i)
    for k in range(part.start, part.stop):
        mask = None if table.masks is None else table.masks[k]
        x1, y1, x2, y2 = (round(float(v), 4) for v in table.boxes[k])
        shape: dict[str, Any] = {
            "label": table.classes[int(table.labels[k])],
            "points": [[x1, y1], [x2, y2]],
            "group_id": None,
            "shape_type": "rectangle",
            "flags": {},
            **({"difficult": True} if table.ignore[k] else {}),
        }
        if isinstance(mask, list):
            for polygon in mask:
                points = [
                    [round(v, 4) for v in polygon[n : n + 2]] for n in range(0, len(polygon), 2)
                ]
                group = k - part.start + 1 if len(mask) > 1 else None
                shapes.append(
                    {**shape, "points": points, "shape_type": "polygon", "group_id": group}
                )
        else:
            shapes.append(shape if mask is None else {**shape, **_picture(mask)})
    return shapes


def _picture(mask: Mask) -> dict[str, Any]:
    """A run-length mask as LabelMe has it; an empty one is left to its box."""
    found = extent(mask)
    if found is None:
        return {}
    x1, y1, x2, y2 = (int(v) for v in found)
    stream = io.BytesIO()
    part = decode(mask)[y1:y2, x1:x2]
    Image.fromarray(part.astype(np.uint8) * 255).save(stream, format="PNG")
    return {
        "points": [[x1, y1], [x2 - 1, y2 - 1]],
        "shape_type": "mask",
        "mask": base64.b64encode(stream.getvalue()).decode(),
    }
