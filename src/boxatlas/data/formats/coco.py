"""MS COCO: annotations/*.json beside the image folders. A box is x, y, width, height in pixels."""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from boxatlas.data.formats import coco_rows, json_stream
from boxatlas.data.formats.building import (
    Box,
    Builder,
    by_stem,
    images_below,
    json_number,
    leaves,
    stated_size,
)
from boxatlas.data.table import Table
from boxatlas.errors import InputError

CACHED = True  # a table depends on nothing but the annotations and the names of files
FIELD = "annotations[{}]"
_PLAIN, _MOST_AREA = (int, float), 1e18
_OF_IMAGE = frozenset(("id", "file_name", "height", "width"))
_OF_ANNOTATION = frozenset(
    ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation")
)
_LISTS, _OF_FIFTYONE = ("images", "annotations"), ("classes", "samples")
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
            if _holds_lists(path):
                found[_PREFIX.sub("", path.stem) or path.stem] = path
    short = {re.sub(r"20\d\d$", "", name): name for name in found}
    if len(short) == len(found):
        return {s: found[name] for s, name in short.items()}
    return found


def _holds_lists(path: Path) -> bool:
    """Whether a JSON file has one of COCO's lists; it is read only up to the first of them.

    One that cannot be read so far, and is no list itself, goes by its name.
    """
    try:
        for key, i, _ in json_stream.members(path):
            if key in _LISTS and i is not None:
                return True
            if key in _OF_FIFTYONE:
                return False
    except InputError:
        pass
    return bool(_PREFIX.match(path.stem)) and not _begins_as_list(path)


def _begins_as_list(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
    except OSError:
        return False


def read(folder: Path, split: str | None, builder: Builder) -> Table:
    """The images of a split, or of all of them."""
    files = _files(folder)
    if split is not None:
        return read_file(files[split], folder, builder)
    if not files:
        raise InputError("holds no annotation file", file=folder)
    parts = []
    for path in files.values():
        one = Builder(builder.strict)
        parts.append(read_file(path, folder, one))
        builder.problems += one.problems
        builder.headers |= one.headers
    return Table.join(parts)


def annotation_files(folder: Path) -> list[Path]:
    """Every text file that describes the set."""
    return list(_files(folder).values())


def images_of(folder: Path) -> dict[str, Path]:
    """The images by name."""
    return by_stem(folder)


def read_file(path: Path, folder: Path, builder: Builder) -> Table:
    """One annotation file, whose images lie in or below `folder`.

    The file is taken in piece by piece, in whatever order its lists come; only flat arrays stay.
    """
    taking = _Taking(path, builder, _Finder(path, folder))
    lists = {
        "images": taking.image,
        "categories": taking.category,
        "annotations": taking.annotation,
    }
    found = set()
    for key, i, value in json_stream.members(path, coco_rows.scanner(path)):
        take = lists.get(key)
        if take is None:
            _keep(builder.head, key, i, value)
            continue
        if i is None:
            raise InputError("must be a list", file=path, field=key)
        found.add(key)
        if i < 0:
            continue
        if isinstance(value, coco_rows.Rows):
            if key == "annotations" and taking.rows(value, i):
                continue
            values = value.objects()
        else:
            values = [value]
        for n, one in enumerate(values, i):
            try:
                if not isinstance(one, dict):
                    raise InputError("must be an object", file=path, field=f"{key}[{n}]", value=one)
                take(one, n)
            except InputError as error:
                builder.refuse(error)
    for key in lists:
        if key not in found:
            raise InputError("the list is missing", file=path, field=key)
    return taking.table()


def _keep(head: dict[str, Any], key: str, i: int | None, value: Any) -> None:
    """A piece of what a document holds besides COCO's lists."""
    if i is None or i < 0:
        head[key] = value
    else:
        head[key] += value.objects() if isinstance(value, coco_rows.Rows) else [value]


class _Taking:
    """Rows as they come. What names an image or a category is looked up at the end."""

    def __init__(self, path: Path, builder: Builder, find: _Finder) -> None:
        self.path, self.builder, self.find = path, builder, find
        self.names: dict[Any, str] = {}
        self.images: dict[Any, int] = {}
        self.refused: set[Any] = set()  # images that cannot be used: their objects say nothing new
        self.image_ids, self.category_ids = list[Any](), list[Any]()
        self.seen: set[Any] = set()

    def image(self, image: dict[str, Any], i: int) -> None:
        id_, name, path = image.get("id"), image.get("file_name"), self.path
        field = f"images[{i}]"
        if not isinstance(id_, int | str) or not isinstance(name, str) or not name:
            raise InputError(
                "an image needs `id` and `file_name`", file=path, field=field, value=image
            )
        if id_ in self.images:
            raise InputError("two images of one id", file=path, field=f"{field}.id", value=id_)
        try:
            size = stated_size(image.get("height"), image.get("width"), path, f"{field}.")
            found = self.find(name, field)
        except InputError:
            self.refused.add(id_)
            raise
        self.builder.image(found, id_, size, path, extra=self.extra(image, _OF_IMAGE))
        self.images[id_] = len(self.images)

    def category(self, category: dict[str, Any], i: int) -> None:
        id_, name = category.get("id"), category.get("name")
        if not isinstance(id_, int | str) or not isinstance(name, str):
            raise InputError(
                "a category needs `id` and `name`",
                file=self.path,
                field=f"categories[{i}]",
                value=category,
            )
        field = f"categories[{i}]"
        if id_ in self.names:
            raise InputError(
                "two categories of one id", file=self.path, field=f"{field}.id", value=id_
            )
        if name in self.names.values():
            if not self.builder.strict:  # its objects are of the class of that name
                self.names[id_] = name
            raise InputError(
                "two categories of one name", file=self.path, field=f"{field}.name", value=name
            )
        self.names[id_] = name
        more = {key: value for key, value in category.items() if key not in ("id", "name")}
        if more:
            self.builder.class_extras[name] = more
            self.builder.extra_names |= dict.fromkeys(more)

    def extra(self, thing: dict[str, Any], known: frozenset[str]) -> str:
        """What it holds besides what is known, as JSON; "" for nothing."""
        if thing.keys() <= known:
            return ""
        more = {key: value for key, value in thing.items() if key not in known}
        self.builder.extra_names |= dict.fromkeys(more)
        try:
            return json.dumps(more)
        except RecursionError:
            raise InputError("is nested too deep", file=self.path, field=next(iter(more))) from None

    def annotation(self, thing: dict[str, Any], i: int) -> None:
        path = self.path
        id_, image, category = thing.get("id"), thing.get("image_id"), thing.get("category_id")
        if not isinstance(image, int | str) or not isinstance(category, int | str):
            key = "category_id" if isinstance(image, int | str) else "image_id"
            raise InputError(
                f"an annotation needs `{key}`",
                file=path,
                field=f"annotations[{i}].{key}",
                value=thing.get(key),
            )
        if isinstance(id_, int | str):
            if id_ in self.seen:
                raise InputError(
                    "two annotations of one id", file=path, field=f"annotations[{i}].id", value=id_
                )
            self.seen.add(id_)
        box, area = self.box(thing.get("bbox"), i), self.area(thing.get("area"), i)
        crowd = thing.get("iscrowd")
        if crowd is not None and (isinstance(crowd, str) or crowd not in (0, 1)):
            raise InputError(
                "must be 0 or 1", file=path, field=f"annotations[{i}].iscrowd", value=crowd
            )
        try:
            self.builder.add(
                box,
                0,
                i,
                ignore=bool(crowd),
                area=area,
                mask=thing.get("segmentation") or None,
                image=0,
                extra=self.extra(thing, _OF_ANNOTATION),
            )
        except (ValueError, TypeError, OverflowError) as error:
            raise InputError(
                f"is no mask: {error}", file=path, field=f"annotations[{i}].segmentation"
            ) from None
        self.image_ids.append(image)
        self.category_ids.append(category)

    def rows(self, rows: coco_rows.Rows, i: int) -> bool:
        """Annotations from the i-th on; False, and none taken, where one of them has a flaw."""
        ids = set(rows.ids.tolist())
        flawed = len(ids) < len(rows) or not self.seen.isdisjoint(ids)
        flawed |= bool(((rows.areas < 0) | (rows.areas >= _MOST_AREA)).any())  # NaN: none is stated
        if flawed or not (np.abs(rows.boxes).max(initial=0) < 1e8):
            return False
        self.seen |= ids
        boxes = np.concatenate([rows.boxes[:, :2], rows.boxes[:, :2] + rows.boxes[:, 2:]], 1)
        self.builder.add_many(boxes, i, ignore=rows.crowd, areas=rows.areas)
        self.builder.masks.add_many(rows.masks, rows.mask_sizes)
        self.image_ids += rows.image_ids.tolist()
        self.category_ids += rows.category_ids.tolist()
        return True

    def area(self, area: Any, i: int) -> float:
        """NaN where it is not stated."""
        if area is None:
            return math.nan
        plain = type(area) in _PLAIN
        if not plain or not 0 <= area < _MOST_AREA:
            problem = "is not a number"
            if plain and area == area:  # not NaN
                problem = "must be 0 or more" if area < 0 else "is far too large"
            raise InputError(problem, file=self.path, field=f"annotations[{i}].area", value=area)
        return area

    def box(self, box: Any, i: int) -> Box:
        field = f"annotations[{i}].bbox"
        if not isinstance(box, list) or len(box) != 4:
            raise InputError(
                "a box is [x, y, width, height]", file=self.path, field=field, value=box
            )
        x, y, w, h = box
        plain = type(x) in _PLAIN and type(y) in _PLAIN and type(w) in _PLAIN and type(h) in _PLAIN
        if not plain or not -1e8 < x + y + w + h < 1e8:
            x, y, w, h = (json_number(v, self.path, f"{field}[{n}]") for n, v in enumerate(box))
        return (x, y, x + w, y + h)

    def table(self) -> Table:
        """Labels in the order of the category ids."""
        names: dict[str, Any] = {}
        for id_, name in sorted(self.names.items(), key=lambda n: (isinstance(n[0], str), n)):
            names.setdefault(name, id_)
        order = list(names)
        index = {id_: order.index(name) for id_, name in self.names.items()}
        builder, kept = self.builder, []
        for row, (image, category) in enumerate(
            zip(self.image_ids, self.category_ids, strict=True)
        ):
            owner, label = self.images.get(image), index.get(category)
            if owner is not None and label is not None:
                builder.owners[row], builder.labels[row] = owner, label
                kept.append(row)
                continue
            if image in self.refused and label is not None:
                continue
            key = "image_id" if owner is None else "category_id"
            what = "an image that is not listed" if owner is None else "no such category"
            value = image if owner is None else category
            field = f"annotations[{builder.numbers[row]}].{key}"
            builder.refuse(InputError(what, file=self.path, field=field, value=value))
        builder.keep(kept)
        return replace(builder.table(order, "coco"), category_ids=tuple(names.values()))


class _Finder:
    """Where an image lies: in the split's folder, in a folder of all images, or elsewhere below.

    A bare name is looked for below the split's own folder, or below the whole set where the split
    has none (minival2014 is of val2014), and must be there once: an image of another split that
    happens to have the same name is not the one that is meant.
    """

    def __init__(self, annotations: Path, folder: Path) -> None:
        stem = _PREFIX.sub("", annotations.stem)
        short = re.sub(r"20\d\d$", "", stem)
        own = [folder / stem, folder / "images" / stem, folder / short, folder / "images" / short]
        if annotations.parent not in (folder, folder / "annotations"):
            own.append(annotations.parent)
        own = [r for r in dict.fromkeys(own) if r.is_dir() and r not in (folder, folder / "images")]
        shared = [folder / "images", folder, annotations.parent]
        self.roots = [r for r in dict.fromkeys([*own, *shared]) if r.is_dir()]
        self.listed = [{p.name for p in root.iterdir()} for root in self.roots]
        self.annotations, self.wide = annotations, own or [folder]
        self.below: dict[str, list[Path]] | None = None

    def __call__(self, name: str, field: str) -> Path:
        if leaves(name):
            raise InputError(
                "a path that leaves the folder",
                file=self.annotations,
                field=f"{field}.file_name",
                value=name,
            )
        for root, names in zip(self.roots, self.listed, strict=True):
            if name in names or ("/" in name and os.path.isfile(root / name)):
                return root / name
        found = self._below().get(name, [])
        if len(found) != 1:
            several = f": {len(found)} others below have its name" if found else ""
            raise InputError(
                f"the image is missing{several}",
                file=self.annotations,
                field=f"{field}.file_name",
                value=name,
            )
        return found[0]

    def _below(self) -> dict[str, list[Path]]:
        if self.below is None:
            self.below = {}
            for path in dict.fromkeys(p for root in self.wide for p in images_below(root)):
                self.below.setdefault(path.name, []).append(path)
        return self.below


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


def image_folder(split: str) -> str:
    """Where the images of a split lie in a set of this layout."""
    return split


def write(
    table: Table, folder: Path, image_names: list[str], splits_of: dict[str, list[int]]
) -> None:
    """annotations/instances_SPLIT.json of a table (images are not copied)."""
    from boxatlas.files import write_text

    for split, members in splits_of.items():
        text = json.dumps(document_of(table, image_names, members))
        write_text(folder / "annotations" / f"instances_{split}.json", text)


def left_out(table: Table) -> list[str]:
    """What a table holds that this layout has no place for."""
    return [] if table.truncated is None else [f"truncated: {int(table.truncated.sum())} flags"]
