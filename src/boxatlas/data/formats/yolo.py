"""YOLO: a text file for each image: class, centre x, centre y, width, height.

The four numbers are fractions of the image. A file of images/train/a.jpg lies at
labels/train/a.txt, or beside it; an image without one (or with an empty one) has no object. Lines
of a polygon (class, x, y, x, y, ...), of an oriented box (its four corners) and, where the YAML
file says `kpt_shape`, of a pose (a box and its points) are read too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from boxatlas.data.formats import yolo_yaml
from boxatlas.data.formats.building import Box, Builder, number, read_text, sizes_of
from boxatlas.data.formats.places import Place, Seen, composed, per_place
from boxatlas.data.formats.yolo_yaml import MOST_CLASSES, Refuse, stop
from boxatlas.data.masks import Mask
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
        if _is_row(line) and place.companion(stem) is not None:
            return Seen(f"{name} has a line of class and box in fractions")
    named = [name for name in labels if "labels" in name.split("/")[:-1]]
    return Seen(f"{named[0]} lies in a folder labels", sure=False) if named else None


def _is_row(line: str) -> bool:
    """A class number, and at least four numbers, not all of which are whole."""
    words = line.split()
    try:
        values = [float(word) for word in words]
    except ValueError:
        return False
    return len(values) >= 5 and values[0] >= 0 and values[0].is_integer()


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


def annotation_files(place: Place) -> list[Path]:
    """Every text file that describes the set: the YAML file, names, lists, labels."""
    head = [place.path(name) for name in yolo_yaml.description_files(place)[:1]]
    classes = yolo_yaml.names_file(place, lambda error: None)
    head += [classes] if classes is not None else []
    labels = [place.path(n) for n in place.files if n.endswith(".txt") and _may_be_label(place, n)]
    return list(dict.fromkeys([*head, *labels]))


def _may_be_label(place: Place, name: str) -> bool:
    """In a folder of labels, beside an image of its name, or a list at the top."""
    inner = [folder.lower() for folder in name.split("/")[:-1]]
    beside = name.rpartition(".")[0] in place.by_stem
    return not inner or "labels" in inner or beside or name in _elsewhere(place)[1]


def _is_label(place: Place, name: str) -> bool:
    line = next((one for one in place.head(name).split("\n") if one.strip()), "")
    return _is_row(line)


@per_place
def _elsewhere(place: Place) -> tuple[dict[str, list[str]], frozenset[str]]:
    """(bare name without suffix -> label files of that name, all of these), of the folders in which
    one of the first files has lines of boxes, whatever they are called."""
    names = place.of_folders([n for n in place.own(".txt") if "/" in n], _is_label)
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(composed(name.rpartition("/")[2].rpartition(".")[0]), []).append(name)
    return found, frozenset(names)


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


def label_of(place: Place, image: str | Path) -> Path:
    """Where an image's labels lie: below a folder `labels` in place of the last one `images`, or
    beside it, or in a folder `labels` there; the first of them that has the file. Else the only
    file of boxes that is called as the image is, if no other image is."""
    name = place.relative(image) if isinstance(image, Path) else image
    parts = f"{name.rpartition('.')[0]}.txt".split("/")
    tries = []
    for at in range(len(parts) - 2, -1, -1):
        if parts[at] in ("images", "JPEGImages"):
            tries.append([*parts[:at], "labels", *parts[at + 1 :]])
            break
    tries += [parts, [*parts[:-2], "labels", parts[-1]], [*parts[:-1], "labels", parts[-1]]]
    names = ["/".join(one) for one in tries]
    found = next((one for one in names if one in place.known), None)
    if found is None:
        bare = parts[-1].removesuffix(".txt")
        several = _elsewhere(place)[0].get(composed(bare), [])
        alone = len(several) == 1 and len(place.by_bare_stem.get(bare, [])) == 1
        found = several[0] if alone else names[0]
    return place.path(found)


def add_objects(
    builder: Builder,
    label: Path,
    size: tuple[int, int],
    classes: Sequence[str] | None,
    numbers: Sequence[int] | None = None,
    pose: int = 0,
) -> int:
    """Add an image's objects; returns the highest class number.

    numbers: what a class becomes; pose: how many numbers of points follow a box.
    """
    highest = -1
    for n, line in enumerate(read_text(label).split("\n"), 1):
        if not line.strip():
            continue
        try:
            kind, box, mask = _row(builder, line, label, f"line {n}", size, classes, pose)
        except InputError as error:
            builder.refuse(error)
            continue
        builder.add(box, kind if numbers is None else numbers[kind], n, mask=mask)
        highest = max(highest, kind)
    return highest


def _row(
    builder: Builder,
    line: str,
    label: Path,
    field: str,
    size: tuple[int, int],
    classes: Sequence[str] | None,
    pose: int,
) -> tuple[int, Box, Mask]:
    """Class, box and, where the line is a polygon, mask."""
    values = line.split()
    if pose and len(values) == 5 + pose:
        values = values[:5]
    elif len(values) == 6:
        builder.oddly(f"a confidence, {values[5]}", label, field)
        number(values.pop(), label, field)
    if len(values) != 5 and (len(values) < 7 or len(values) % 2 == 0):
        raise InputError(
            "must be: class, centre x, centre y, width, height", file=label, field=field, value=line
        )
    kind = number(values[0], label, field)
    if not values[0].isdecimal() and kind == int(kind) >= 0:
        builder.oddly(values[0], label, field)
    if kind != int(kind) or not 0 <= kind < (MOST_CLASSES if classes is None else len(classes)):
        most = "" if classes is None else f" (there are {len(classes)})"
        raise InputError(f"no such class{most}", file=label, field=field, value=values[0])
    numbers = [number(v, label, field) for v in values[1:]]
    height, width = size
    if len(numbers) == 4:
        x, y, w, h = numbers
        return (
            int(kind),
            ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height),
            None,
        )
    xs, ys = [v * width for v in numbers[0::2]], [v * height for v in numbers[1::2]]
    polygon = [v for pair in zip(xs, ys, strict=True) for v in pair]
    return int(kind), (min(xs), min(ys), max(xs), max(ys)), [polygon]
