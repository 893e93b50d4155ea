"""A table as COCO's document."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from boxatlas.data.table import Table


def document_of(table: Table, image_names: list[str], members: list[int]) -> dict[str, Any]:
    """The COCO document of some images of a table.

    Ids of images and categories stay where the table has them as numbers; annotation ids begin
    at 1, since some evaluators take 0 for none.
    """
    images, annotations, areas = [], [], table.object_areas
    extras = table.extras if table.extras is not None and table.extras.layout == "coco" else None
    ids: list[Any] = [table.ids[i] for i in members]
    if not all(type(id_) is int for id_ in ids) or len(set(ids)) < len(ids):
        ids = [i + 1 for i in members]
    kinds: list[Any] = list(table.category_ids or ())
    if not kinds or not all(type(kind) is int for kind in kinds):
        kinds = list(range(1, len(table.classes) + 1))
    for i, id_ in zip(members, ids, strict=True):
        height, width = (int(v) for v in table.sizes[i])
        images.append(
            {
                "id": id_,
                "file_name": image_names[i],
                "height": height,
                "width": width,
                **_parsed(extras and extras.images, i),
            }
        )
        part = table.objects(i)
        for k in range(part.start, part.stop):
            x1, y1, x2, y2 = (float(v) for v in table.boxes[k])
            mask = None if table.masks is None else table.masks[k]
            if isinstance(mask, list):  # float32 has about seven digits
                mask = [[round(v, 3) for v in polygon] for polygon in mask]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": id_,
                    "category_id": kinds[int(table.labels[k])],
                    "bbox": [round(v, 4) for v in (x1, y1, x2 - x1, y2 - y1)],
                    "area": round(float(areas[k]), 4),
                    "iscrowd": int(table.ignore[k]),
                    **({"segmentation": mask} if mask is not None else {}),
                    **_parsed(extras and extras.objects, k),
                }
            )
    more = {} if extras is None else extras.classes
    categories = [
        {"id": id_, "name": name, **more.get(name, {})}
        for id_, name in zip(kinds, table.classes, strict=True)
    ]
    head = {} if extras is None else extras.head(members)
    return {**head, "images": images, "annotations": annotations, "categories": categories}


def _parsed(texts: list[str] | None, i: int) -> dict[str, Any]:
    return json.loads(texts[i]) if texts and texts[i] else {}
