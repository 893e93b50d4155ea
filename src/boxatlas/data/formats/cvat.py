"""CVAT's own XML, for images (1.0, 1.1) and for videos; corners in continuous pixels.

A box or an ellipse may be turned about its centre; a mask is run lengths along the rows of its
box. Of a video, image n is frame_00000n, and what is `outside` a frame is not on it.
"""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree.ElementTree import Element

from boxatlas.data.formats.building import Builder, number, stated_size
from boxatlas.data.formats.cvat_shapes import shape_of
from boxatlas.data.formats.cvat_xml import images
from boxatlas.data.formats.places import Place, Seen, per_place, split_name
from boxatlas.data.table import Table
from boxatlas.errors import InputError

CACHED = True
FIELD = "{}"
OF_IMAGE = True
_SHAPES = ("box", "polygon", "mask", "ellipse")
_NO_OBJECTS = ("points", "polyline", "cuboid", "skeleton", "tag")


def evidence(place: Place) -> Seen | None:
    name = next(iter(files(place)), None)
    return None if name is None else Seen(f"{name} is an XML file of CVAT's")


@per_place
def files(place: Place) -> list[str]:
    return [name for name in place.few(place.own(".xml")) if _is_mine(place.head(name))]


def _is_mine(head: str) -> bool:
    root = re.search(r"<\s*([A-Za-z_][\w.:-]*)", head)
    inner = re.search(r"<(version|meta|image|track)\b", head)
    return root is not None and root[1] == "annotations" and inner is not None


def splits(place: Place) -> list[str]:
    """The subsets that a project's images state."""
    found = {
        _subset(image) for name in files(place) for image in images(place.path(name), {}, _nothing)
    }
    return sorted(found - {""})


def _nothing(error: InputError) -> None:
    """What is wrong is said where the shapes are read."""


def _subset(image: Element) -> str:
    return split_name((image.get("subset") or "").lower())


def annotation_names(place: Place) -> list[str]:
    """Every text file that describes the set."""
    return files(place)


def read(place: Place, split: str | None, builder: Builder) -> Table:
    """The images of a split, or of all of them; classes in the order of the labels."""
    classes: dict[str, int] = {}
    passed_over = 0
    for name in files(place):
        path = place.path(name)
        for image in images(path, classes, builder.refuse):
            if split is not None and _subset(image) != split:
                continue
            try:
                passed_over += _image(place, path, image, builder, classes)
            except InputError as error:
                builder.refuse(error)
    if passed_over:
        builder.notes.append(f"{passed_over} points, lines, cuboids and tags are no objects")
    return builder.table(list(classes))


def _image(
    place: Place, path: Path, image: Element, builder: Builder, classes: dict[str, int]
) -> int:
    """Add an image and its objects; returns how many shapes are none."""
    name = image.get("name") or ""
    field = f"image {name or image.get('id')}"
    if not name:
        raise InputError("names no image", file=path, field=field)
    suffix = (
        ""
        if "." in name
        else next((Path(n).suffix for n in place.by_bare_stem.get(name.rpartition("/")[2], ())), "")
    )
    found = place.image(name + suffix, path, field, ("images", ""))
    sides = image.get("height"), image.get("width")
    size = stated_size(*sides, path, f"{field}.", number)
    builder.image(found, name, size, path)
    passed_over = 0
    for i, shape in enumerate(image):
        where = f"{field}: {shape.tag}[{i}]"
        if shape.tag in _NO_OBJECTS:
            passed_over += 1
            continue
        try:
            if shape.tag not in _SHAPES:
                raise InputError("is no shape that is read", file=path, field=where)
            label = (shape.get("label") or "").strip()
            if not label:
                raise InputError("a shape needs a label", file=path, field=where)
            box, mask = shape_of(shape, size, path, where)
            builder.add(box, classes.setdefault(label, len(classes)), i, mask=mask)
        except InputError as error:
            builder.refuse(error)
    return passed_over
