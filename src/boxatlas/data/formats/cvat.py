"""CVAT's own XML, for images (1.0, 1.1) and for videos; corners in continuous pixels.

A box or an ellipse may be turned about its centre; a mask is run lengths along the rows of its
box. Of a video, image n is frame_00000n, and what is `outside` a frame is not on it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError

import numpy as np

from boxatlas.data.formats.building import Box, Builder, around, number, stated_size, turned
from boxatlas.data.formats.places import Place, Seen, split_name
from boxatlas.data.masks import Mask, encode
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


def files(place: Place) -> list[str]:
    return [name for name in place.few(place.own(".xml")) if _is_mine(place.head(name))]


def _is_mine(head: str) -> bool:
    root = re.search(r"<\s*([A-Za-z_][\w.:-]*)", head)
    inner = re.search(r"<(version|meta|image|track)\b", head)
    return root is not None and root[1] == "annotations" and inner is not None


def splits(place: Place) -> list[str]:
    """The subsets that a project's images state."""
    found = {_subset(image) for name in files(place) for image in _images(place.path(name), {})}
    return sorted(found - {""})


def _subset(image: Element) -> str:
    return split_name((image.get("subset") or "").lower())


def annotation_files(place: Place) -> list[Path]:
    """Every text file that describes the set."""
    return [place.path(name) for name in files(place)]


def read(place: Place, split: str | None, builder: Builder) -> Table:
    """The images of a split, or of all of them; classes in the order of the labels."""
    classes: dict[str, int] = {}
    passed_over = 0
    for name in files(place):
        path = place.path(name)
        for image in _images(path, classes):
            if split is not None and _subset(image) != split:
                continue
            try:
                passed_over += _image(place, path, image, builder, classes)
            except InputError as error:
                builder.refuse(error)
    if passed_over:
        builder.notes.append(f"{passed_over} points, lines, cuboids and tags are no objects")
    return builder.table(list(classes))


def _images(path: Path, classes: dict[str, int]) -> Iterator[Element]:
    """Each image as an element with its shapes; what was used is let go. Labels go to `classes`."""
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import iterparse

    frames: dict[int, Element] = {}
    try:
        for _, element in iterparse(path, events=("end",), forbid_dtd=True):
            if element.tag == "label" and element.find("name") is not None:
                classes.setdefault((element.findtext("name") or "").strip(), len(classes))
            elif element.tag == "image":
                yield element
                element.clear()
            elif element.tag == "track":
                _to_frames(element, frames, path)
                element.clear()
    except DefusedXmlException as error:
        problem = f"XML that defines entities or names other files ({type(error).__name__})"
        raise InputError(problem, file=path) from None
    except (ParseError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"is not valid XML: {error}", file=path) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from None
    yield from (frames[n] for n in sorted(frames))


def _to_frames(track: Element, frames: dict[int, Element], path: Path) -> None:
    for shape in track:
        text = shape.get("frame", "")
        if not text.isdecimal():
            raise InputError("a shape of no frame", file=path, field="track.frame", value=text)
        n = int(text)
        image = frames.setdefault(n, Element("image", name=f"frame_{n:06d}", id=text))
        if shape.get("outside") != "1":
            shape.set("label", track.get("label", ""))
            image.append(shape)


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
            box, mask = _shape(shape, size, path, where)
            builder.add(box, classes.setdefault(label, len(classes)), i, mask=mask)
        except InputError as error:
            builder.refuse(error)
    return passed_over


def _shape(
    shape: Element, size: tuple[int, int] | None, path: Path, field: str
) -> tuple[Box, Mask]:
    def values(*names: str) -> tuple[float, ...]:
        return tuple(number(shape.get(name), path, f"{field}.{name}") for name in names)

    turn = number(shape.get("rotation") or 0, path, f"{field}.rotation")
    if shape.tag == "box":
        x1, y1, x2, y2 = values("xtl", "ytl", "xbr", "ybr")
        outline = turned((x1, y1, x2, y2), turn) if turn else None
        return (x1, y1, x2, y2) if outline is None else around(outline), outline and [outline]
    if shape.tag == "ellipse":
        x, y, rx, ry = values("cx", "cy", "rx", "ry")
        cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        w, h = math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos)
        return (x - w, y - h, x + w, y + h), None
    if shape.tag == "mask":
        return _mask(shape, values("left", "top", "width", "height"), size, path, field)
    pairs = [pair.split(",") for pair in (shape.get("points") or "").split(";") if pair]
    if len(pairs) < 3 or any(len(pair) != 2 for pair in pairs):
        problem = "a polygon of fewer than three points"
        raise InputError(problem, file=path, field=field, value=shape.get("points"))
    points = [number(v, path, f"{field}.points") for pair in pairs for v in pair]
    return around(points), [points]


def _mask(
    shape: Element, place: Any, size: tuple[int, int] | None, path: Path, field: str
) -> tuple[Box, Mask]:
    left, top, width, height = (int(v) for v in place)
    runs = [number(v, path, f"{field}.rle") for v in (shape.get("rle") or "").split(",")]
    fits = width > 0 and height > 0 and left >= 0 and top >= 0
    if size is not None:
        fits = fits and left + width <= size[1] and top + height <= size[0]
    if not fits or min(runs) < 0 or sum(runs) != width * height:
        raise InputError("is no mask of its box", file=path, field=f"{field}.rle")
    counts = np.asarray(runs, np.int64)
    part = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(height, width)
    whole = np.zeros(size or (top + height, left + width), bool)
    whole[top : top + height, left : left + width] = part
    return (left, top, left + width, top + height), encode(whole)
