"""Label Studio's tasks of a table, and the labelling configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from boxatlas.data.formats.labelstudio import CONFIG, TASKS
from boxatlas.data.table import Table
from boxatlas.data.writing.common import one_polygon_or_box, single_polygon


def image_folder(split: str) -> str:
    """Where the images of a split lie in a set of this layout."""
    return "images"


def left_out(table: Table) -> list[str]:
    """What a table holds that this layout has no place for."""
    out = one_polygon_or_box(table)
    if table.category_ids is not None:
        out.append("category ids: classes go by name")
    return out


def write(
    table: Table, folder: Path, image_names: list[str], splits_of: dict[str, list[int]]
) -> None:
    """tasks.json and the labelling configuration of a table (images are not copied)."""
    from xml.sax.saxutils import quoteattr

    from boxatlas.files import write_text

    tasks = []
    for split, members in splits_of.items():
        for i in members:
            part = table.objects(i)
            result = [_written(table, i, k) for k in range(part.start, part.stop)]
            address = f"/data/local-files/?d=images/{image_names[i]}"
            tasks.append(
                {
                    "id": len(tasks) + 1,
                    "data": {"image": address, "split": split},
                    "annotations": [{"result": result}],
                }
            )
    write_text(folder / TASKS, json.dumps(tasks, ensure_ascii=False))
    labels = "".join(f"      <Label value={quoteattr(name)}/>\n" for name in table.classes)
    tools = "".join(
        f'    <{tool} name="{name}" toName="image">\n{labels}    </{tool}>\n'
        for tool, name in (("RectangleLabels", "box"), ("PolygonLabels", "polygon"))
    )
    image = '    <Image name="image" value="$image"/>\n'
    write_text(folder / CONFIG, f"<View>\n{image}{tools}</View>\n")


def _written(table: Table, i: int, k: int) -> dict[str, Any]:
    height, width = (int(v) for v in table.sizes[i])
    x1, y1, x2, y2 = (float(v) for v in table.boxes[k])
    mask = None if table.masks is None else single_polygon(table.masks[k])
    name = table.classes[int(table.labels[k])]
    if mask is None:
        kind, tool = "rectanglelabels", "box"
        value: dict[str, Any] = {
            "x": round(x1 / width * 100, 6),
            "y": round(y1 / height * 100, 6),
            "width": round((x2 - x1) / width * 100, 6),
            "height": round((y2 - y1) / height * 100, 6),
            "rotation": 0,
        }
    else:
        kind, tool = "polygonlabels", "polygon"
        points = zip(mask[0::2], mask[1::2], strict=True)
        value = {
            "points": [[round(x / width * 100, 6), round(y / height * 100, 6)] for x, y in points]
        }
    return {
        "id": f"object{k}",
        "type": kind,
        "from_name": tool,
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {**value, kind: [name]},
        **({"meta": {"ignore": True}} if table.ignore[k] else {}),
    }
