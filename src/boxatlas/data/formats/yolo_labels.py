"""YOLO's label files: where an image's lies, and what its lines say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from boxatlas.data.formats.building import Box, Builder, number, read_text
from boxatlas.data.formats.places import Place, composed, per_place
from boxatlas.data.formats.yolo_yaml import MOST_CLASSES
from boxatlas.data.masks import Mask
from boxatlas.errors import InputError


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
        several = elsewhere(place)[0].get(composed(bare), [])
        alone = len(several) == 1 and len(place.by_bare_stem.get(bare, [])) == 1
        found = several[0] if alone else names[0]
    return place.path(found)


def _is_label(place: Place, name: str) -> bool:
    line = next((one for one in place.head(name).split("\n") if one.strip()), "")
    return is_row(line)


@per_place
def elsewhere(place: Place) -> tuple[dict[str, list[str]], frozenset[str]]:
    """(bare name without suffix -> label files of that name, all of these), of the folders in which
    one of the first files has lines of boxes, whatever they are called."""
    names = place.of_folders([n for n in place.own(".txt") if "/" in n], _is_label)
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(composed(name.rpartition("/")[2].rpartition(".")[0]), []).append(name)
    return found, frozenset(names)


def is_row(line: str) -> bool:
    """A class number, and at least four numbers, not all of which are whole."""
    words = line.split()
    try:
        values = [float(word) for word in words]
    except ValueError:
        return False
    return len(values) >= 5 and values[0] >= 0 and values[0].is_integer()


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
