"""COCO's lists taken in, one piece at a time."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from boxatlas.data.formats import coco_rows
from boxatlas.data.formats.building import Box, Builder, stated_size
from boxatlas.data.formats.coco_files import (
    Finder,
)
from boxatlas.data.masks import extent
from boxatlas.data.table import Table
from boxatlas.errors import InputError

_PLAIN, _MOST_AREA = (int, float), 1e18
_OF_IMAGE = frozenset(("id", "file_name", "height", "width"))
_OF_ANNOTATION = frozenset(
    ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation")
)


class Taking:
    """Rows as they come. What names an image or a category is looked up at the end."""

    def __init__(self, path: Path, builder: Builder, find: Finder) -> None:
        self.path, self.builder, self.find = path, builder, find
        self.names: dict[Any, str] = {}
        self.images: dict[Any, int] = {}
        self.refused: set[Any] = set()  # images that cannot be used: their objects say nothing new
        self.image_ids, self.category_ids = list[Any](), list[Any]()
        self.seen: set[Any] = set()

    def image(self, image: dict[str, Any], i: int) -> None:
        name, path, field = image.get("file_name"), self.path, f"images[{i}]"
        id_ = self.id(image.get("id"), f"{field}.id")
        if id_ is None or not isinstance(name, str) or not name:
            raise InputError(
                "an image needs `id` and `file_name`", file=path, field=field, value=image
            )
        if id_ in self.images:
            raise InputError("two images of one id", file=path, field=f"{field}.id", value=id_)
        try:
            sides = image.get("height"), image.get("width")
            size = stated_size(*sides, path, f"{field}.", self.builder.number)
            found = self.find(name, field)
        except InputError:
            self.refused.add(id_)
            raise
        self.builder.image(found, id_, size, path, extra=self.extra(image, _OF_IMAGE))
        self.images[id_] = len(self.images)

    def id(self, value: Any, field: str) -> int | str | None:
        """An id, a whole number that is written as a fraction (1.0) as one; None: it is none."""
        found = plain_id(value)
        if type(value) is float and found is not None:
            self.builder.oddly(value, self.path, field)
        return found

    def category(self, category: dict[str, Any], i: int) -> None:
        field, name = f"categories[{i}]", category.get("name")
        id_ = self.id(category.get("id"), f"{field}.id")
        if type(name) in _PLAIN:
            self.builder.oddly(name, self.path, f"{field}.name")
            name = str(name)
        if id_ is None or not isinstance(name, str):
            raise InputError(
                "a category needs `id` and `name`", file=self.path, field=field, value=category
            )
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
        path, field = self.path, f"annotations[{i}]"
        image = self.id(thing.get("image_id"), f"{field}.image_id")
        category = self.id(thing.get("category_id"), f"{field}.category_id")
        if image is None or category is None:
            key = "image_id" if image is None else "category_id"
            raise InputError(
                f"an annotation needs `{key}`",
                file=path,
                field=f"{field}.{key}",
                value=thing.get(key),
            )
        id_ = thing.get("id")
        id_ = None if id_ is None else self.id(id_, f"{field}.id")
        if id_ is not None:
            if id_ in self.seen:
                raise InputError(
                    "two annotations of one id", file=path, field=f"{field}.id", value=id_
                )
            self.seen.add(id_)
        mask = thing.get("segmentation") or None
        if isinstance(mask, list) and type(mask[0]) in _PLAIN:  # one polygon without its list
            self.builder.oddly(mask, path, f"{field}.segmentation")
            mask = [mask]
        given = thing.get("bbox")
        box = self.around(mask, i) if given is None or given == [] else self.box(given, i)
        area = self.area(thing.get("area"), i)
        crowd = self.builder.flag(thing.get("iscrowd"), path, f"{field}.iscrowd")
        try:
            self.builder.add(
                box,
                0,
                i,
                ignore=bool(crowd),
                area=area,
                mask=mask,
                image=0,
                extra=self.extra(thing, _OF_ANNOTATION),
            )
        except (ValueError, TypeError, OverflowError) as error:
            raise InputError(
                f"is no mask: {error}", file=path, field=f"{field}.segmentation"
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
        if type(area) is str:
            area = self.builder.number(area, self.path, f"annotations[{i}].area")
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
            x, y, w, h = (
                self.builder.number(v, self.path, f"{field}[{n}]") for n, v in enumerate(box)
            )
        return (x, y, x + w, y + h)

    def around(self, mask: Any, i: int) -> Box:
        """The box of an object that has a mask alone."""
        field = f"annotations[{i}].bbox"
        try:
            found = extent(mask)
        except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
            raise InputError(
                f"is no mask: {error}", file=self.path, field=f"annotations[{i}].segmentation"
            ) from None
        if found is None:
            raise InputError("an object without a box", file=self.path, field=field)
        x1, y1, x2, y2 = found.tolist()
        self.builder.remark(
            InputError("no box is stated; it is drawn around the mask", file=self.path, field=field)
        )
        return (x1, y1, x2, y2)

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
            if owner is None or label is None:
                image, owner = self.meant(image, self.images, row, "image_id")
                category, label = self.meant(category, index, row, "category_id")
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

    def meant(
        self, id_: int | str, known: dict[Any, int], row: int, key: str
    ) -> tuple[int | str, int | None]:
        """What a reference means: "1" is 1 where there is no "1", and the other way round."""
        if id_ in known or id_ in self.refused:
            return id_, known.get(id_)
        other = other_way(id_)
        if other in known or other in self.refused:
            field = f"annotations[{self.builder.numbers[row]}].{key}"
            self.builder.oddly(id_, self.path, field)
            return other, known.get(other)
        return id_, None


def plain_id(value: Any) -> int | str | None:
    """An id as a whole number or a text; None for what is none."""
    if type(value) is int or type(value) is str:
        return value
    return int(value) if type(value) is float and value.is_integer() else None


def other_way(id_: int | str) -> int | str:
    """A number as text, a text of digits as a number."""
    if isinstance(id_, int):
        return str(id_)
    return int(id_) if id_.isascii() and id_.isdecimal() and len(id_) < 19 else id_
