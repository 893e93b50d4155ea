"""YOLO: a text file for each image: class, centre x, centre y, width, height.

The four numbers are fractions of the image. A file of images/train/a.jpg lies at
labels/train/a.txt, or beside it; an image without one (or with an empty one) has no object. Lines
of a polygon (class, x, y, x, y, ...), of an oriented box (its four corners) and, where the YAML
file says `kpt_shape`, of a pose (a box and its points) are read too.
"""

from __future__ import annotations

from pathlib import Path

from boxatlas.data.formats import yolo_yaml
from boxatlas.data.formats.building import Builder, read_text, sizes_of
from boxatlas.data.formats.places import Place, Seen
from boxatlas.data.formats.yolo_labels import add_objects, elsewhere, is_row, label_of
from boxatlas.data.formats.yolo_yaml import Refuse, stop
from boxatlas.data.table import Table
from boxatlas.errors import InputError

FIELD = "line {}"


def evidence(place: Place) -> Seen | None:
    found = yolo_yaml.description_files(place)
    if found:
        return Seen(f"{found[0]} describes a set of YOLO's")
    if place.own(".data"):
        return None  # Darknet's, whose labels are the same
    labels = place.own(".txt")
    for name in place.few(labels):
        stem = name.rpartition(".")[0]
        line = next((one for one in place.head(name).split("\n") if one.strip()), "")
        if is_row(line) and (place.companion(stem) or _of_one_image(place, stem, line)):
            return Seen(f"{name} has a line of class and box in fractions")
    named = [name for name in labels if "labels" in name.split("/")[:-1]]
    return Seen(f"{named[0]} lies in a folder labels", sure=False) if named else None


def _of_one_image(place: Place, stem: str, line: str) -> bool:
    """Whether a file anywhere is called as one image is, and its first line is of fractions."""
    alone = len(place.by_bare_stem.get(stem.rpartition("/")[2], [])) == 1
    return alone and all(0 <= float(word) <= 1 for word in line.split()[1:5])


def splits(place: Place, refuse: Refuse = stop) -> list[str]:
    found, missing = yolo_yaml.roots(place, yolo_yaml.describe(place, refuse))
    if missing and not found:
        refuse(missing[0])
    return sorted(found)


def read(place: Place, split: str | None, builder: Builder) -> Table:
    """The images of a split, or of all of them. A split that is stated and not there is passed
    over, unless it is the only one."""
    description = yolo_yaml.describe(place, builder.refuse)
    classes = yolo_yaml.classes_of(place, description, builder.refuse)
    found, missing = yolo_yaml.roots(place, description)
    count = yolo_yaml.wrong_count(place, description, classes)
    for error in [*missing, *([count] if count else [])]:
        if missing and not found:
            builder.refuse(error)
        builder.remark(error)
    chosen = found.get(split, []) if split is not None else [r for rs in found.values() for r in rs]
    if not found and not missing:
        named = (folder for folder in ("images", "Images") if folder in place.folders)
        chosen = [place.path(next(named, ""))]
    pairs = [pair for root in chosen for pair in _pairs(place, root, builder)]
    highest, pose = -1, yolo_yaml.keypoint_values(description)
    for (image, label), size in zip(pairs, sizes_of([p for p, _ in pairs]), strict=True):
        if isinstance(size, InputError):
            builder.refuse(size)
            continue
        builder.image(image, image.stem, size, label)
        if label.is_file():
            try:
                kind = add_objects(
                    builder, label, size, classes.written, classes.numbers, pose=pose
                )
            except InputError as error:  # the file cannot be opened
                builder.refuse(error)
            else:
                highest = max(highest, kind)
    names = classes.names
    return builder.table([f"class{i}" for i in range(highest + 1)] if names is None else names)


def annotation_names(place: Place) -> list[str]:
    """Every text file that describes the set: the YAML file, names, lists, labels."""
    head = yolo_yaml.description_files(place)[:1]
    classes = yolo_yaml.names_file(place, lambda error: None)
    head = head if classes is None else [*head, place.relative(classes)]
    labels = [name for name in place.files if name.endswith(".txt") and _may_be_label(place, name)]
    return list(dict.fromkeys([*head, *labels]))


def _may_be_label(place: Place, name: str) -> bool:
    """In a folder of labels, beside an image of its name, or a list at the top."""
    inner = [folder.lower() for folder in name.split("/")[:-1]]
    beside = name.rpartition(".")[0] in place.by_stem
    return not inner or "labels" in inner or beside or name in elsewhere(place)[1]


def _pairs(place: Place, root: Path, builder: Builder) -> list[tuple[Path, Path]]:
    """Each image and where its labels lie, or would lie."""
    name = place.relative(root) if root != place.root else ""
    if name not in place.known:
        start = f"{name}/" if name else ""
        images = [
            one
            for one in place.images
            if one.startswith(start) and "labels" not in one[len(start) :].split("/")[:-1]
        ]
        return [(place.path(one), label_of(place, one)) for one in images]
    pairs = []  # a list of images, one a line
    for n, line in enumerate(map(str.strip, read_text(root).split("\n")), 1):
        try:
            image = place.relative(listed(line, n, root, place)) if line else ""
        except InputError as error:
            builder.refuse(error)
        else:
            pairs += [(place.path(image), label_of(place, image))] if image else []
    return pairs


def listed(line: str, n: int, file: Path, place: Place) -> Path:
    """The image that the n-th line of a list names."""
    near = ("", place.relative(file.parent).removeprefix("."))
    return place.image(line, file, f"line {n}", near)
