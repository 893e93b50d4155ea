"""PASCAL VOC: an XML file for each image, whose root is `annotation`.

The kit has Annotations/*.xml, ImageSets/Main/*.txt and JPEGImages/; labelling programs write the
XML beside the images or into a folder of its own, and name splits by folders. Corners are 1-based
and inclusive: xmin = 1 is the left edge, so x1 = xmin - 1 and x2 = xmax. CVAT, whose exports have a
labelmap.txt, writes edges instead, counted from 0: there x1 = xmin.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError, tostring
from xml.sax.saxutils import escape

from boxatlas.data.formats.building import (
    ODDLY,
    Box,
    Builder,
    leaves,
    lines_of,
    number,
    read_text,
    stated_size,
)
from boxatlas.data.formats.places import Place, Seen, per_place, split_in, split_name
from boxatlas.data.table import Table
from boxatlas.errors import InputError, nearest

CACHED = True  # a table depends on nothing but the annotations and the names of files
FIELD = "object[{}]"
# What a table has a column for, or what says where a file lay.
_OF_ROOT = frozenset(("filename", "folder", "path", "size", "segmented", "object"))
_OF_OBJECT = frozenset(("name", "bndbox", "difficult", "truncated", "object"))
_FOLDERS = frozenset(("annotations", "annotation", "annots", "labels", "label", "xml", "xmls"))
_OF_CVAT = "# label:color_rgb:parts:actions"  # how its labelmap.txt begins
_OF_LABEL_STUDIO = "<name>Label Studio</name>"
_LISTS = ("/ImageSets/Main", "/ImageSets")


def evidence(place: Place) -> Seen | None:
    found = xml_files(place)
    if found:
        root = next((f for f in place.few(found, 8) if _is_annotation(place, f)), None)
        if root is not None:
            return Seen(f"{root} is an annotation of VOC's")
        return Seen(f"{found[0]} has the place of one of VOC's annotations", sure=False)
    if "Annotations" in place.folders:
        return Seen("there is a folder Annotations", sure=False)
    return None


@per_place
def xml_files(place: Place) -> list[str]:
    """The XML files of the folders in which the first ones are of VOC's, or that are called so.

    Where there are folders Annotations, only the uppermost: what lies deeper is another set.
    """
    names = place.own(".xml")
    kits = {folder for name in names if (folder := _kit(name)) is not None}
    if kits:
        least = min(kit.count("/") + bool(kit) for kit in kits)
        return [n for n in names if (k := _kit(n)) is not None and k.count("/") + bool(k) == least]
    known: dict[str, bool] = {}
    for name in place.few(names, 8):
        folder = name.rpartition("/")[0]
        known[folder] = known.get(folder, False) or _is_annotation(place, name)
    return [name for name in names if known[name.rpartition("/")[0]]]


def _kit(name: str) -> str | None:
    """The folder whose folder Annotations an XML file lies in, or below."""
    head, inner, _ = f"/{name}".partition("/Annotations/")
    return head[1:] if inner else None


def _is_annotation(place: Place, name: str) -> bool:
    root = re.search(r"<\s*([A-Za-z_][\w.:-]*)", place.head(name))
    return root is not None and root[1] == "annotation"


def id_of(name: str) -> str:
    """What an annotation file is called in lists: its path without suffix and without the folder
    of annotations."""
    parts = name.rpartition(".")[0].split("/")
    for at in range(len(parts) - 2, -1, -1):
        if parts[at].lower() in _FOLDERS:
            return "/".join(parts[:at] + parts[at + 1 :])
    return "/".join(parts)


@per_place
def list_files(place: Place) -> dict[str, list[str]]:
    """Split -> its lists, one a kit, without the per-class ones (cat_train beside train)."""
    if place.named is not None:
        return {}
    kits = {_kit(name) for name in xml_files(place)}
    kits |= {""} if kits <= {None} else set()
    folders: dict[str, list[str]] = {}
    for name in place.files:
        folder = name.rpartition("/")[0]
        if name.endswith(".txt") and f"/{folder}".endswith(_LISTS) and _base(name) in kits:
            folders.setdefault(folder, []).append(name)
    classes = set(_listed_classes(place, Builder(strict=False)) or ())
    found: dict[str, list[str]] = {}
    for folder, lists in folders.items():
        if folder.endswith("ImageSets") and f"{folder}/Main" in folders:
            continue
        names = {Path(name).stem for name in lists}
        for name in lists:
            kind, _, split = Path(name).stem.rpartition("_")
            if not (kind in classes and split in names):
                found.setdefault(split_name(Path(name).stem), []).append(name)
    return found


def splits(place: Place) -> list[str]:
    """The lists of ImageSets, or else the folders that have a split's name."""
    return sorted(list_files(place) or {split_in(name) for name in xml_files(place)} - {""})


def members(place: Place, split: str) -> list[str]:
    """The ids of a split's images, as its lists have them, or its folders."""
    lists = list_files(place)
    if not lists:
        return [id_of(name) for name in xml_files(place) if split_in(name) == split]
    return [
        member(line, place, name)
        for name in lists.get(split, ())
        for line in lines_of(place.path(name))
    ]


def member(line: str, place: Place, list_file: str) -> str:
    """The id that a line of a list means. A second column (1, -1, 0 of the per-class lists) is
    passed over; an id may hold spaces, and end as such a column would."""
    base = _base(list_file)
    parts = line.rsplit(maxsplit=1)
    file = "/".join(part for part in (base, "Annotations", f"{line}.xml") if part)
    name = line if parts[-1] not in ("1", "-1", "0") or file in place.known else parts[0]
    return f"{base}/{name}" if base else name


def _base(list_file: str) -> str:
    """The folder that the lists of ImageSets are of."""
    return f"/{list_file}".rpartition("/ImageSets/")[0].removeprefix("/")


@per_place
def first_pixel(place: Place) -> int:
    """What the files call the left edge of an image: 1, or 0 where CVAT or Label Studio wrote them,
    both of which state edges."""
    heads = (place.head(name) for name in place.called("labelmap.txt"))
    if any(head.startswith(_OF_CVAT) for head in heads):
        return 0
    first = (place.head(name) for name in place.few(xml_files(place), 1))
    return 0 if any(_OF_LABEL_STUDIO in head for head in first) else 1


def read(place: Place, split: str | None, builder: Builder) -> Table:
    """The images of a split, or of every annotation."""
    files = {id_of(name): name for name in xml_files(place)}
    names = list(files) if split is None else members(place, split)
    listed = None if split is None else next(iter(list_files(place).get(split, ())), None)
    given = _listed_classes(place, builder)
    classes: dict[str, int] = {name: i for i, name in enumerate(given or ())}
    for name in names:
        try:
            if name not in files:
                whole = place.path(listed or "")
                leads = "a path that leaves the folder" if leaves(name) else "no such file"
                raise InputError(leads, file=whole, field="name", value=name)
            _image(builder, place, files[name], name, classes, given is not None)
        except InputError as error:
            builder.refuse(error)
    table = builder.table(list(classes), "voc")
    if given is None:  # the order in which classes are met says nothing: sort them
        table = table.relabelled(sorted(classes))
    return table


def annotation_files(place: Place) -> list[Path]:
    """Every text file that describes the set."""
    lists = sorted(n for names in list_files(place).values() for n in names)
    more = [n for one in ("classes.txt", "labelmap.txt") for n in place.called(one)]
    return [place.path(name) for name in [*xml_files(place), *lists, *more]]


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


def _image(
    builder: Builder, place: Place, name: str, id_: str, classes: dict[str, int], closed: bool
) -> None:
    file = place.path(name)
    root = parse(file)
    if root.tag != "annotation":
        raise InputError(
            "is no VOC annotation: its root has another name",
            file=file,
            field="annotation",
            value=root.tag,
        )
    sides = (root.findtext("size/height"), root.findtext("size/width"))
    size = stated_size(*sides, file, "size.", number)
    image = _picture(place, name, file, root.findtext("filename"))
    builder.image(image, id_, size, file, extra=_besides(root, _OF_ROOT, builder, file))
    for i, thing in enumerate(root.iter("object")):
        try:
            label = (thing.findtext("name") or "").strip()
            if not label:
                raise InputError("an object without a name", file=file, field=f"object[{i}].name")
            if closed and label not in classes:
                raise InputError(
                    "a class that classes.txt does not list",
                    file=file,
                    field=f"object[{i}].name",
                    value=label,
                    hint=nearest(label, classes),
                )
            box = box_of(thing, file, i, first_pixel(place))
            ignore = flag(builder, thing, file, i, "difficult")
            builder.add(
                box,
                classes.setdefault(label, len(classes)),
                i,
                ignore=bool(ignore),
                truncated=flag(builder, thing, file, i, "truncated"),
                extra=_besides(thing, _OF_OBJECT, builder, file),
            )
        except InputError as error:
            builder.refuse(error)


def _picture(place: Place, name: str, file: Path, stated: str | None) -> Path:
    """The image of an annotation: by its own name, or else by the one that it states."""
    try:
        return place.beside(name.rpartition(".")[0], file, "image")
    except InputError:
        stated = (stated or "").strip()
        if stated and place.ends(stated.replace("\\", "/")):
            return place.image(stated, file, "filename", near=(name.rpartition("/")[0],))
        raise


def _besides(element: Element, known: frozenset[str], builder: Builder, file: Path) -> str:
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


def _listed_classes(place: Place, builder: Builder) -> list[str] | None:
    """The names in classes.txt, each once; None where there is none, or several alike."""
    files = sorted(place.called("classes.txt"), key=lambda name: name.count("/"))
    if not files or (len(files) > 1 and files[0].count("/") == files[1].count("/")):
        return None
    path = place.path(files[0])
    names: dict[str, None] = {}
    for n, line in enumerate(read_text(path).split("\n"), 1):
        name = line.strip()
        if name in names:
            builder.refuse(
                InputError("two classes of one name", file=path, field=f"line {n}", value=name)
            )
        if name:
            names[name] = None
    return list(names)
