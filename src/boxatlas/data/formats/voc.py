"""PASCAL VOC: Annotations/*.xml, ImageSets/Main/*.txt, JPEGImages/.

Corners are 1-based and inclusive: xmin = 1 is the left edge, so x1 = xmin - 1 and x2 = xmax.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError, tostring
from xml.sax.saxutils import escape

from boxatlas.data.formats.building import (
    Box,
    Builder,
    by_stem,
    inside,
    lines_of,
    number,
    read_text,
    stated_size,
    without_masks,
)
from boxatlas.data.table import Table
from boxatlas.errors import InputError, nearest

CACHED = True  # a table depends on nothing but the annotations and the names of files
FIELD = "object[{}]"
# What a table has a column for, or what says where a file lay.
_OF_ROOT = frozenset(("filename", "folder", "path", "size", "segmented", "object"))
_OF_OBJECT = frozenset(("name", "bndbox", "difficult", "truncated", "object"))
_IMAGES = ("JPEGImages", "images", "Images")


def looks_like(folder: Path) -> bool:
    return (folder / "Annotations").is_dir()


def splits(folder: Path) -> list[str]:
    """The lists of ImageSets/Main, without the per-class ones (cat_train beside train)."""
    names = {p.stem for p in (folder / "ImageSets" / "Main").glob("*.txt")}
    classes = set(_listed_classes(folder, Builder(strict=False)) or ())

    def per_class(name: str) -> bool:
        kind, _, split = name.rpartition("_")
        return kind in classes and split in names

    return sorted(name for name in names if not per_class(name))


def read(folder: Path, split: str | None, builder: Builder) -> Table:
    """The images of a split, or of every annotation."""
    annotations = folder / "Annotations"
    images = images_of(folder)
    if split is not None:
        listed = folder / "ImageSets" / "Main" / f"{split}.txt"
        names = members(folder, split)
    else:
        listed = annotations
        names = sorted(
            p.relative_to(annotations).with_suffix("").as_posix()
            for p in annotations.rglob("*.xml")
        )
    given = _listed_classes(folder, builder)
    classes: dict[str, int] = {name: i for i, name in enumerate(given or ())}
    for name in names:
        try:
            file = inside(annotations, f"{name}.xml", listed, "name")
            if name not in images:
                raise InputError(
                    "the image of this annotation is missing", file=file, field="image", value=name
                )
            _image(builder, parse(file), file, images[name], name, classes, given is not None)
        except InputError as error:
            builder.refuse(error)
    table = builder.table(list(classes), "voc")
    if given is None:  # the order in which classes are met says nothing: sort them
        table = table.relabelled(sorted(classes))
    return table


def images_of(folder: Path) -> dict[str, Path]:
    """The images by name."""
    return next((by_stem(folder / name) for name in _IMAGES if (folder / name).is_dir()), {})


def annotation_files(folder: Path) -> list[Path]:
    """Every text file that describes the set."""
    lists = sorted((folder / "ImageSets" / "Main").glob("*.txt"))
    return [
        *sorted((folder / "Annotations").rglob("*.xml")),
        *lists,
        *(p for p in [folder / "classes.txt"] if p.is_file()),
    ]


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
    builder: Builder,
    root: Element,
    file: Path,
    image: Path,
    name: str,
    classes: dict[str, int],
    closed: bool,
) -> None:
    if root.tag != "annotation":
        raise InputError(
            "is no VOC annotation: its root has another name",
            file=file,
            field="annotation",
            value=root.tag,
        )
    sides = (root.findtext("size/height"), root.findtext("size/width"))
    size = stated_size(*sides, file, "size.", number)
    builder.image(image, name, size, file, extra=_besides(root, _OF_ROOT, builder, file))
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
            box, ignore = _box(thing, file, i), _flag(thing, file, i, "difficult")
            builder.add(
                box,
                classes.setdefault(label, len(classes)),
                i,
                ignore=bool(ignore),
                truncated=_flag(thing, file, i, "truncated"),
                extra=_besides(thing, _OF_OBJECT, builder, file),
            )
        except InputError as error:
            builder.refuse(error)


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


def _box(thing: Element, file: Path, i: int) -> Box:
    box = thing.find("bndbox")
    if box is None:
        raise InputError("an object without a box", file=file, field=f"object[{i}].bndbox")
    values: list[float] = []
    for side in ("xmin", "ymin", "xmax", "ymax"):
        values.append(number(box.findtext(side), file, f"object[{i}].bndbox.{side}"))
    return (values[0] - 1, values[1] - 1, values[2], values[3])


def _flag(thing: Element, file: Path, i: int, name: str) -> bool | None:
    """A flag of an object; None where the file does not state it."""
    text = (thing.findtext(name) or "").strip()
    if not text or text.lower() == "unspecified":
        return None
    return number(text, file, f"object[{i}].{name}") != 0


def members(folder: Path, split: str) -> list[str]:
    """The ids of a list; a second column (1, -1, 0 of the per-class lists) is passed over."""
    lines = lines_of(folder / "ImageSets" / "Main" / f"{split}.txt")
    return [member(line, folder) for line in lines]


def member(line: str, folder: Path) -> str:
    """The id in a line of a list. An id may hold spaces, and end as a second column would."""
    parts = line.rsplit(maxsplit=1)
    if parts[-1] not in ("1", "-1", "0") or os.path.exists(folder / "Annotations" / f"{line}.xml"):
        return line
    return parts[0]


def _listed_classes(folder: Path, builder: Builder) -> list[str] | None:
    """The names in classes.txt, each once; None where there is no such file."""
    path = folder / "classes.txt"
    if not path.is_file():
        return None
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


def image_folder(split: str) -> str:
    """Where the images of a split lie in a set of this layout."""
    return "JPEGImages"


def left_out(table: Table) -> list[str]:
    """What a table holds that this layout has no place for."""
    return without_masks(table, "go by name")


def write(
    table: Table, folder: Path, image_names: list[str], splits_of: dict[str, list[int]]
) -> None:
    """Annotations, ImageSets and classes.txt of a table (images are not copied)."""
    from boxatlas.files import write_text

    for i, file_name in enumerate(image_names):
        write_text(
            folder / "Annotations" / f"{Path(file_name).stem}.xml", _xml(table, i, file_name)
        )
    for split, members in splits_of.items():
        ids = "".join(f"{Path(image_names[i]).stem}\n" for i in members)
        write_text(folder / "ImageSets" / "Main" / f"{split}.txt", ids)
    write_text(folder / "classes.txt", "".join(f"{name}\n" for name in table.classes))


def _xml(table: Table, i: int, file_name: str) -> str:
    height, width = (int(v) for v in table.sizes[i])
    rows: list[Any] = [
        "<annotation>",
        f"\t<filename>{escape(file_name)}</filename>",
        f"\t<size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
        "\t<segmented>0</segmented>",
    ]
    extras = table.extras if table.extras is not None and table.extras.layout == "voc" else None
    if extras is not None and extras.images[i]:
        rows.append(f"\t{extras.images[i]}")
    part = table.objects(i)
    truncated = None if table.truncated is None else table.truncated[part].tolist()
    more = extras.objects[part] if extras is not None else []
    for k, (box, label, ignore) in enumerate(
        zip(
            table.boxes[part].tolist(),
            table.labels[part].tolist(),
            table.ignore[part].tolist(),
            strict=True,
        )
    ):
        x1, y1, x2, y2 = (_short(v) for v in (box[0] + 1, box[1] + 1, box[2], box[3]))
        cut = "" if truncated is None else f"<truncated>{int(truncated[k])}</truncated>"
        cut += more[k] if more else ""
        rows.append(
            f"\t<object><name>{escape(table.classes[label])}</name>{cut}"
            f"<difficult>{int(ignore)}</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
            f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        )
    return "\n".join([*rows, "</annotation>", ""])


def _short(value: float) -> str:
    return re.sub(r"\.?0+$", "", f"{value:.4f}")
