"""An annotation of VOC's: parsed safely, its boxes and flags."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError, tostring
from xml.sax.saxutils import escape

from boxatlas.data.formats.building import (
    ODDLY,
    Box,
    Builder,
    number,
    read_text,
)
from boxatlas.errors import InputError

# What a table has a column for, or what says where a file lay.
OF_ROOT = frozenset(("filename", "folder", "path", "size", "segmented", "object"))
OF_OBJECT = frozenset(("name", "bndbox", "difficult", "truncated", "object"))


def parse(file: Path) -> Element:
    """The root of an annotation. Entities and outside references are refused, unread."""
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    text = read_text(file)
    try:  # as text, so that a declared encoding, which it is no longer in, is passed over
        return fromstring(text, forbid_dtd=True)
    except DefusedXmlException as error:
        kind = type(error).__name__
        raise InputError(
            f"XML that defines entities or names other files ({kind})", file=file
        ) from None
    except (ParseError, ValueError) as error:
        raise InputError(f"is not valid XML: {error}", file=file) from None


def besides(element: Element, known: frozenset[str], builder: Builder, file: Path) -> str:
    """The parts of an element that a table has no column for, as XML."""
    found = []
    for child in element:
        if child.tag in known:
            continue
        builder.extra_names[child.tag] = None
        if child.attrib or len(child) or "{" in child.tag:
            child.tail = None
            try:
                found.append(tostring(child, encoding="unicode"))
            except RecursionError:
                raise InputError("is nested too deep", file=file, field=child.tag) from None
        else:  # the same, ten times as fast
            found.append(f"<{child.tag}>{escape(child.text or '')}</{child.tag}>")
    return "".join(found)


def box_of(thing: Element, file: Path, i: int, first: int = 1) -> Box:
    """Of the corners; else around the polygon or the turned box (its centre, sides and angle).

    first: what the file calls the left edge.
    """
    box = thing.find("bndbox")
    if box is not None:
        x1, y1, x2, y2 = (
            number(box.findtext(side), file, f"object[{i}].bndbox.{side}")
            for side in ("xmin", "ymin", "xmax", "ymax")
        )
        return (x1 - first, y1 - first, x2, y2)
    polygon, turned = thing.find("polygon"), thing.find("robndbox")
    if polygon is not None and len(polygon):
        values = [
            (point.tag, number(point.text, file, f"object[{i}].polygon.{point.tag}"))
            for point in polygon.iter()
            if not len(point)
        ]
        xs, ys = ([v for tag, v in values if tag.startswith(axis)] for axis in "xy")
        if xs and ys:
            return (min(xs) - first, min(ys) - first, max(xs), max(ys))
    if turned is not None:
        x, y, w, h, angle = (
            number(turned.findtext(part), file, f"object[{i}].robndbox.{part}")
            for part in ("cx", "cy", "w", "h", "angle")
        )
        cos, sin = abs(math.cos(angle)), abs(math.sin(angle))
        w, h = w * cos + h * sin, w * sin + h * cos
        return (x - w / 2 - first, y - h / 2 - first, x + w / 2, y + h / 2)
    raise InputError("an object without a box", file=file, field=f"object[{i}].bndbox")


def flag(builder: Builder, thing: Element, file: Path, i: int, name: str) -> bool | None:
    """A flag of an object; None where the file does not state it. Any number but 0 sets it."""
    text, field = thing.findtext(name), f"object[{i}].{name}"
    try:
        return builder.flag(text, file, field, str)
    except InputError:
        value = number(text, file, field) != 0
        builder.remark(InputError(ODDLY, file=file, field=field, value=text))
        return value
