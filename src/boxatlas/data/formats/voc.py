"""PASCAL VOC: an XML file for each image, whose root is `annotation`.

The kit has Annotations/*.xml, ImageSets/Main/*.txt and JPEGImages/; labelling programs write the
XML beside the images or into a folder of its own, and name splits by folders. Corners are 1-based
and inclusive: xmin = 1 is the left edge, so x1 = xmin - 1 and x2 = xmax. CVAT, whose exports have a
labelmap.txt, writes edges instead, counted from 0: there x1 = xmin.
"""

from __future__ import annotations

from pathlib import Path

from boxatlas.data.formats.building import (
    Builder,
    leaves,
    lines_of,
    number,
    stated_size,
)
from boxatlas.data.formats.places import Place, Seen, per_place, split_in
from boxatlas.data.formats.voc_files import (
    id_of,
    is_annotation,
    list_files,
    listed_classes,
    member,
    xml_files,
)
from boxatlas.data.formats.voc_xml import OF_OBJECT, OF_ROOT, besides, box_of, flag, parse
from boxatlas.data.table import Table
from boxatlas.errors import InputError, nearest

CACHED = True  # a table depends on nothing but the annotations and the names of files
FIELD = "object[{}]"
_OF_CVAT = "# label:color_rgb:parts:actions"  # how its labelmap.txt begins
_OF_LABEL_STUDIO = "<name>Label Studio</name>"


def evidence(place: Place) -> Seen | None:
    found = xml_files(place)
    if found:
        root = next((f for f in place.few(found, 8) if is_annotation(place, f)), None)
        if root is not None:
            return Seen(f"{root} is an annotation of VOC's")
        return Seen(f"{found[0]} has the place of one of VOC's annotations", sure=False)
    if "Annotations" in place.folders:
        return Seen("there is a folder Annotations", sure=False)
    return None


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
    given = listed_classes(place, builder)
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


def annotation_names(place: Place) -> list[str]:
    """Every text file that describes the set."""
    lists = sorted(n for names in list_files(place).values() for n in names)
    more = [n for one in ("classes.txt", "labelmap.txt") for n in place.called(one)]
    return [*xml_files(place), *lists, *more]


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
    builder.image(image, id_, size, file, extra=besides(root, OF_ROOT, builder, file))
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
                extra=besides(thing, OF_OBJECT, builder, file),
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
