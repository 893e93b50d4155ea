"""Tables written in the layouts that others read: annotations alone, images are not copied."""

from __future__ import annotations

from types import ModuleType

from boxatlas.data.writing import (
    coco,
    csv_boxes,
    darknet,
    fiftyone,
    labelme,
    labelstudio,
    voc,
    yolo,
)

# Each has image_folder(split), left_out(table) and write(table, folder, image_names, splits_of).
WRITERS: dict[str, ModuleType] = {
    "voc": voc,
    "coco": coco,
    "yolo": yolo,
    "darknet": darknet,
    "fiftyone": fiftyone,
    "labelstudio": labelstudio,
    "labelme": labelme,
    "csv": csv_boxes,
}
