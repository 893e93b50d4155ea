"""MS COCO: annotations/*.json beside the image folders. A box is x, y, width, height in pixels."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from boxatlas.data.formats.building import Builder, by_stem, number, read_text
from boxatlas.data.table import Table
from boxatlas.errors import InputError

_PREFIX = re.compile(r"^(instances|annotations|_annotations\.coco)[_.-]?")


def looks_like(folder: Path) -> bool:
    return bool(_files(folder))


def splits(folder: Path) -> list[str]:
    """instances_train2017.json is the split train2017; its year may be left out where unique."""
    return sorted(_files(folder))


def _files(folder: Path) -> dict[str, Path]:
    """Split -> annotation file: annotations/*.json, or one JSON in each split's image folder."""
    found: dict[str, Path] = {}
    for path in sorted((folder / "annotations").glob("*.json")):
        if not path.stem.startswith(("person_keypoints", "captions", "panoptic", "stuff")):
            found[_PREFIX.sub("", path.stem) or path.stem] = path
    if not found:  # Roboflow's export: train/_annotations.coco.json
        for path in sorted(folder.glob("*/_annotations.coco.json")):
            found[path.parent.name] = path
    if not found:
        for path in sorted(folder.glob("*.json")):
            if '"annotations"' in _head(path) or '"images"' in _head(path):
                found[_PREFIX.sub("", path.stem) or path.stem] = path
    short = {re.sub(r"20\d\d$", "", name): name for name in found}
    if len(short) == len(found):
        return {s: found[name] for s, name in short.items()}
    return found


def _head(path: Path) -> str:
    with open(path, "rb") as file:
        return file.read(4096).decode("utf-8", "replace")


def read(folder: Path, split: str | None) -> Table:
    """The images of a split, or of all of them."""
    files = _files(folder)
    chosen = list(files.values()) if split is None else [files[split]]
    return Table.join([read_file(path, folder) for path in chosen])


def read_file(path: Path, folder: Path) -> Table:
    """One annotation file, whose images lie in or below `folder`."""
    document = load(path)
    categories = _categories(document, path)
    index = {id_: i for i, id_ in enumerate(categories)}
    builder, grouped = Builder(), _grouped(document, path)
    find = _Finder(path, folder)
    for i, image in enumerate(document["images"]):
        field = f"images[{i}]"
        id_, name = image.get("id"), image.get("file_name")
        if not isinstance(id_, int | str) or not isinstance(name, str):
            raise InputError(
                "an image needs `id` and `file_name`", file=path, field=field, value=image
            )
        height, width = image.get("height"), image.get("width")
        size = None
        if height and width:
            size = (int(number(height, path, f"{field}.height")),
                    int(number(width, path, f"{field}.width")))  # fmt: skip
        builder.image(find(name, field), id_, size)
        for k, thing in grouped.pop(id_, ()):
            _object(builder, thing, f"annotations[{k}]", index, path)
    if grouped:
        id_, rows = next(iter(grouped.items()))
        raise InputError("an annotation of an image that is not listed", file=path,
                         field=f"annotations[{rows[0][0]}].image_id", value=id_)  # fmt: skip
    return builder.table(list(categories.values()))


def load(path: Path) -> dict[str, Any]:
    """The JSON with its three lists."""
    try:
        document = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"is not valid JSON: {error}", file=path) from None
    except RecursionError:
        raise InputError("is nested too deep", file=path) from None
    if not isinstance(document, dict):
        raise InputError("is not a COCO file: no object at the top", file=path)
    for key in ("images", "annotations", "categories"):
        value = document.get(key)
        if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
            raise InputError("must be a list of objects", file=path, field=key)
    return document


def _categories(document: dict[str, Any], path: Path) -> dict[Any, str]:
    """Category id -> name, by id."""
    found: dict[Any, str] = {}
    for i, category in enumerate(document["categories"]):
        id_, name = category.get("id"), category.get("name")
        if not isinstance(id_, int | str) or not isinstance(name, str):
            raise InputError("a category needs `id` and `name`", file=path,
                             field=f"categories[{i}]", value=category)  # fmt: skip
        if id_ in found or name in found.values():
            raise InputError("two categories of one id or name", file=path,
                             field=f"categories[{i}]", value=name)  # fmt: skip
        found[id_] = name
    return dict(sorted(found.items(), key=lambda item: (isinstance(item[0], str), item[0])))


def _grouped(document: dict[str, Any], path: Path) -> dict[Any, list[tuple[int, dict[str, Any]]]]:
    grouped: dict[Any, list[tuple[int, dict[str, Any]]]] = {}
    for k, thing in enumerate(document["annotations"]):
        image = thing.get("image_id")
        if not isinstance(image, int | str):
            raise InputError("an annotation needs `image_id`", file=path,
                             field=f"annotations[{k}].image_id", value=image)  # fmt: skip
        grouped.setdefault(image, []).append((k, thing))
    return grouped


def _object(
    builder: Builder, thing: dict[str, Any], field: str, index: dict[Any, int], path: Path
) -> None:
    category = thing.get("category_id")
    if not isinstance(category, int | str) or category not in index:
        raise InputError(
            "no such category", file=path, field=f"{field}.category_id", value=category
        )
    box = thing.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        raise InputError(
            "a box is [x, y, width, height]", file=path, field=f"{field}.bbox", value=box
        )
    if all(type(v) in (int, float) for v in box) and all(map(math.isfinite, box)):
        x, y, w, h = box
    else:
        x, y, w, h = (number(v, path, f"{field}.bbox[{n}]") for n, v in enumerate(box))
    mask = thing.get("segmentation") or None
    builder.add((x, y, x + w, y + h), index[category], bool(thing.get("iscrowd", 0)), mask)


class _Finder:
    """Where an image lies: beside its annotations, in the split's folder, or anywhere below."""

    def __init__(self, annotations: Path, folder: Path) -> None:
        stem = _PREFIX.sub("", annotations.stem)
        short = re.sub(r"20\d\d$", "", stem)
        roots = [folder / stem, folder / "images" / stem, folder / short, folder / "images" / short,
                 folder / "images", folder, annotations.parent]  # fmt: skip
        self.roots = [r for r in dict.fromkeys(roots) if r.is_dir()]
        self.listed = [{p.name for p in root.iterdir()} for root in self.roots]
        self.folder, self.annotations = folder, annotations
        self.below: dict[str, Path] | None = None

    def __call__(self, name: str, field: str) -> Path:
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise InputError("a path that leaves the folder", file=self.annotations,
                             field=f"{field}.file_name", value=name)  # fmt: skip
        for root, names in zip(self.roots, self.listed, strict=True):
            if name in names or ("/" in name and (root / name).is_file()):
                return root / name
        if self.below is None:
            self.below = {p.name: p for p in by_stem(self.folder).values()}
        found = self.below.get(Path(name).name)
        if found is None:
            raise InputError("the image is missing", file=self.annotations,
                             field=f"{field}.file_name", value=name)  # fmt: skip
        return found


def document_of(table: Table, image_names: list[str], members: list[int]) -> dict[str, Any]:
    """The COCO document of some images of a table; annotation ids begin at 1."""
    images, annotations = [], []
    for i in members:
        height, width = (int(v) for v in table.sizes[i])
        images.append({"id": i + 1, "file_name": image_names[i], "height": height, "width": width})
        part = table.objects(i)
        for k in range(part.start, part.stop):
            x1, y1, x2, y2 = (float(v) for v in table.boxes[k])
            mask = None if table.masks is None else table.masks[k]
            annotations.append({
                "id": len(annotations) + 1, "image_id": i + 1,
                "category_id": int(table.labels[k]) + 1,
                "bbox": [round(v, 4) for v in (x1, y1, x2 - x1, y2 - y1)],
                "area": round((x2 - x1) * (y2 - y1), 4), "iscrowd": int(table.ignore[k]),
                **({"segmentation": mask} if mask is not None else {}),
            })  # fmt: skip
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(table.classes)]
    return {"images": images, "annotations": annotations, "categories": categories}


def write(
    table: Table, folder: Path, image_names: list[str], splits_of: dict[str, list[int]]
) -> None:
    """annotations/instances_SPLIT.json of a table (images are not copied)."""
    from boxatlas.files import write_text

    for split, members in splits_of.items():
        text = json.dumps(document_of(table, image_names, members))
        write_text(folder / "annotations" / f"instances_{split}.json", text)
