"""YOLO: data.yaml and a text file for each image: class, centre x, centre y, width, height.

The four numbers are fractions of the image. A file of images/train/a.jpg lies at
labels/train/a.txt; an image without one (or with an empty one) has no object.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boxatlas.data.formats.building import (
    Box,
    Builder,
    by_stem,
    images_below,
    inside,
    leaves,
    number,
    read_text,
    sizes_of,
)
from boxatlas.data.masks import Mask
from boxatlas.data.table import Table
from boxatlas.errors import InputError

FIELD = "line {}"
_MOST_CLASSES = 100_000  # where nothing says how many there are

_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_USUAL = ("train", "val", "valid", "test")
Refuse = Callable[[InputError], None]  # what is done about a flaw


def _stop(error: InputError) -> None:
    raise error


def looks_like(folder: Path) -> bool:
    return description_file(folder) is not None or (folder / "labels").is_dir()


def splits(folder: Path, refuse: Refuse = _stop) -> list[str]:
    return sorted(roots(folder, describe(folder, refuse), refuse))


def description_file(folder: Path) -> Path | None:
    for name in _NAMES:
        if (folder / name).is_file():
            return folder / name
    return None


def describe(folder: Path, refuse: Refuse = _stop) -> dict[str, Any]:
    """data.yaml as a mapping; empty where there is none or it cannot be read."""
    import yaml

    path = description_file(folder)
    if path is None:
        return {}
    found: Any = {}
    try:
        found = yaml.safe_load(read_text(path))
    except InputError as error:
        refuse(error)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        refuse(InputError(f"is not valid YAML: {error}", file=path))
    if not isinstance(found, dict):
        refuse(InputError("is not a mapping of `names` and splits", file=path))
        return {}
    return found


@dataclass(frozen=True)
class Classes:
    """names: each once, None where nothing says them; numbers: which of them a number in a label
    file is, None where it is just that one."""

    names: list[str] | None
    numbers: list[int] | None = None

    @property
    def written(self) -> list[str] | None:
        """The name of each number in a label file."""
        if self.names is None or self.numbers is None:
            return self.names
        return [self.names[n] for n in self.numbers]


def classes_of(folder: Path, description: dict[str, Any], refuse: Refuse = _stop) -> Classes:
    """The classes of data.yaml or classes.txt."""
    path, names = description_file(folder), description.get("names")
    fields: list[str] | None = None
    if names is None:
        path = folder / "classes.txt"
        if not path.is_file():
            return Classes(None)
        lines = {f"line {n}": line.strip() for n, line in enumerate(read_text(path).split("\n"), 1)}
        fields = [field for field, line in lines.items() if line]
        names = [lines[field] for field in fields]
    if isinstance(names, dict):
        names = _numbered(names, path, refuse)
    if not isinstance(names, list) or not all(isinstance(n, str | int | float) for n in names):
        refuse(InputError("must be a list of class names", file=path, field="names"))
        return Classes(None)
    first: dict[str, int] = {}
    numbers = []
    for i, name in enumerate(map(str, names)):
        if name in first:
            refuse(
                InputError(
                    "two classes of one name",
                    file=path,
                    value=name,
                    field=fields[i] if fields else f"names[{i}]",
                )
            )
        numbers.append(first.setdefault(name, len(first)))
    return Classes(list(first), None if len(first) == len(numbers) else numbers)


def _numbered(names: dict[Any, Any], path: Path | None, refuse: Refuse) -> Any:
    """The names in the order of their numbers; a number that has none is named by itself."""
    if not all(type(n) is int and 0 <= n < _MOST_CLASSES for n in names):
        return None
    gaps = [n for n in range(max(names, default=-1)) if n not in names]
    if gaps:
        refuse(
            InputError(
                "class numbers must run from 0",
                file=path,
                field="names",
                value=sorted(names),
                hint=f"there is no {gaps[0]}",
            )
        )
    return [names.get(n, f"class{n}") for n in range(len(names) + len(gaps))]


def roots(
    folder: Path, description: dict[str, Any], refuse: Refuse = _stop
) -> dict[str, list[Path]]:
    """Split -> its image folders (or list files)."""
    found: dict[str, list[Path]] = {}
    for split, entry in entries(description):
        try:
            root = resolve(folder, description, entry, split)
        except InputError as error:
            refuse(error)
        else:
            found.setdefault("val" if split == "valid" else split, []).append(root)
    if not found:
        for split in _USUAL:
            for root in (folder / "images" / split, folder / split / "images"):
                if root.is_dir():
                    found.setdefault("val" if split == "valid" else split, []).append(root)
    return found


def entries(description: dict[str, Any]) -> list[tuple[str, Any]]:
    """(split, where it lies) of data.yaml: the usual names, and each that its folder bears too."""
    others = (split for split in description if isinstance(split, str) and split not in _USUAL)
    own = [s for s in others if description[s] in (f"images/{s}", f"{s}/images")]
    found = []
    for split in (*_USUAL, *own):
        given = description.get(split) or []
        found += [(split, one) for one in (given if isinstance(given, list) else [given])]
    return found


def resolve(folder: Path, description: dict[str, Any], entry: Any, split: str) -> Path:
    """Where a split lies: below the folder, whatever machine's root `path` speaks of."""
    path = description_file(folder) or folder
    if not isinstance(entry, str):
        raise InputError("must be a folder", file=path, field=split, value=type(entry).__name__)
    base, tries = description.get("path"), _meant(entry)
    places = [folder]
    if isinstance(base, str) and not leaves(base):
        places.insert(0, folder / base)
    for place in places:
        for name in tries:
            if not leaves(name) and os.path.exists(place / name):
                return place / name
    inside(folder, tries[-1], path, split)
    raise InputError("the split's images are missing", file=path, field=split, value=entry)


def _meant(entry: str) -> list[str]:
    """What an entry may mean: Roboflow writes ../train/images for train/images."""
    return [entry.removeprefix("./"), *([entry.removeprefix("../")] if entry[:3] == "../" else [])]


def leads_out(entry: str) -> bool:
    """Whether an entry can mean nothing but a place outside the folder."""
    return leaves(_meant(entry)[-1])


def read(folder: Path, split: str | None, builder: Builder) -> Table:
    """The images of a split, or of all of them."""
    description = describe(folder, builder.refuse)
    classes = classes_of(folder, description, builder.refuse)
    found = roots(folder, description, builder.refuse)
    chosen = found.get(split, []) if split is not None else [r for rs in found.values() for r in rs]
    if not found:
        chosen = [folder / "images"] if (folder / "images").is_dir() else [folder]
    pairs = [pair for root in chosen for pair in _pairs(root, folder, builder)]
    highest = -1
    for (image, label), size in zip(pairs, sizes_of([p for p, _ in pairs]), strict=True):
        if isinstance(size, InputError):
            builder.refuse(size)
            continue
        builder.image(image, image.stem, size, label)
        if label.is_file():
            try:
                kind = add_objects(builder, label, size, classes.written, classes.numbers)
            except InputError as error:  # the file cannot be opened
                builder.refuse(error)
            else:
                highest = max(highest, kind)
    names = classes.names
    return builder.table([f"class{i}" for i in range(highest + 1)] if names is None else names)


def annotation_files(folder: Path) -> list[Path]:
    """Every text file that describes the set."""
    head = [p for p in (description_file(folder), folder / "classes.txt") if p and p.is_file()]
    labels = {
        p
        for name in ("labels", "*/labels")
        for root in folder.glob(name)
        for p in root.rglob("*.txt")
    }
    if not labels:  # beside the images, and the lists of images
        labels = {p for p in folder.rglob("*.txt") if p.name != "classes.txt"}
    return [*head, *sorted(labels)]


def images_of(folder: Path) -> dict[str, Path]:
    """The images by name."""
    return by_stem(folder)


def _pairs(root: Path, folder: Path, builder: Builder) -> list[tuple[Path, Path]]:
    """Each image and where its labels would lie."""
    if not root.is_file():
        images = [p for p in images_below(root) if "labels" not in p.relative_to(root).parts]
        return [(image, label_of(image)) for image in images]
    images = []  # a list of images, one a line
    for n, line in enumerate(map(str.strip, read_text(root).split("\n")), 1):
        try:
            image = listed(line, n, root, folder) if line else None
        except InputError as error:
            builder.refuse(error)
        else:
            images += [image] if image else []
    return [(image, label_of(image)) for image in images]


def listed(line: str, n: int, file: Path, folder: Path) -> Path:
    """The image that the n-th line of a list names."""
    image = inside(folder, line.removeprefix("./"), file, f"line {n}")
    if not os.path.isfile(image):
        raise InputError("the image is missing", file=file, field=f"line {n}", value=line)
    return image


def label_of(image: Path) -> Path:
    """Where an image's labels lie: the last folder named images becomes labels."""
    parts = list(image.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            return Path(*parts[:i], "labels", *parts[i + 1 :]).with_suffix(".txt")
    return image.with_suffix(".txt")


def add_objects(
    builder: Builder,
    label: Path,
    size: tuple[int, int],
    classes: list[str] | None,
    numbers: list[int] | None = None,
) -> int:
    """Add an image's objects; returns the highest class number. numbers: what a class becomes."""
    highest = -1
    for n, line in enumerate(read_text(label).split("\n"), 1):
        if not line.strip():
            continue
        try:
            kind, box, mask = _row(line, label, f"line {n}", size, classes)
        except InputError as error:
            builder.refuse(error)
            continue
        builder.add(box, kind if numbers is None else numbers[kind], n, mask=mask)
        highest = max(highest, kind)
    return highest


def _row(
    line: str, label: Path, field: str, size: tuple[int, int], classes: list[str] | None
) -> tuple[int, Box, Mask]:
    """Class, box and, where the line is a polygon, mask."""
    values = line.split()
    if len(values) != 5 and (len(values) < 7 or len(values) % 2 == 0):
        raise InputError(
            "must be: class, centre x, centre y, width, height", file=label, field=field, value=line
        )
    kind = number(values[0], label, field)
    if kind != int(kind) or not 0 <= kind < (_MOST_CLASSES if classes is None else len(classes)):
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


def image_folder(split: str) -> str:
    """Where the images of a split lie in a set of this layout."""
    return f"images/{split}"


def left_out(table: Table) -> list[str]:
    """What a table holds that this layout has no place for."""
    out = []
    if table.ignore.any():
        out.append(
            f"ignored objects (difficult, crowd): {int(table.ignore.sum())} flags; "
            "they become ordinary objects"
        )
    if table.truncated is not None:
        out.append(f"truncated: {int(table.truncated.sum())} flags")
    if table.masks is not None:
        parts = sum(_polygon(mask) is None and mask is not None for mask in table.masks)
        if parts:
            out.append(f"masks: {parts} that are no single polygon; their boxes are kept")
        kept = sum(_polygon(mask) is not None for mask in table.masks)
        if kept:
            out.append(f"boxes of {kept} polygons: the layout holds one or the other")
    if table.category_ids is not None:
        out.append("category ids: classes are numbered from 0")
    return out


def _polygon(mask: Mask) -> list[float] | None:
    return mask[0] if isinstance(mask, list) and len(mask) == 1 and len(mask[0]) >= 6 else None


def write(
    table: Table, folder: Path, image_names: list[str], splits_of: dict[str, list[int]]
) -> None:
    """data.yaml and labels/SPLIT/*.txt of a table (images are not copied)."""
    import yaml

    from boxatlas.files import write_text

    for split in ("names", "path"):
        if split in splits_of:
            raise InputError("no split of data.yaml can have this name", field="split", value=split)
    for split, members in splits_of.items():
        for i in members:
            lines = [f"{line}\n" for line in lines_for(table, i)]
            name = Path(image_names[i]).with_suffix(".txt").name
            write_text(folder / "labels" / split / name, "".join(lines))
    text = yaml.safe_dump(
        {**{s: f"images/{s}" for s in splits_of}, "names": dict(enumerate(table.classes))},
        sort_keys=False,
        allow_unicode=True,
    )
    write_text(folder / "data.yaml", text)


def lines_for(table: Table, i: int) -> list[str]:
    """A line for each object: its polygon where it is one, else its box."""
    height, width = (float(v) for v in table.sizes[i])
    part, lines = table.objects(i), []
    boxes, labels = table.boxes[part].tolist(), table.labels[part].tolist()
    masks: list[Mask] = [None] * len(boxes) if table.masks is None else list(table.masks[part])
    for (x1, y1, x2, y2), label, mask in zip(boxes, labels, masks, strict=True):
        polygon = _polygon(mask)
        if polygon is None:
            row = [
                (x1 + x2) / 2 / width,
                (y1 + y2) / 2 / height,
                (x2 - x1) / width,
                (y2 - y1) / height,
            ]
        else:
            row = [v / (height if k % 2 else width) for k, v in enumerate(polygon)]
        lines.append(f"{label} " + " ".join(f"{v:.8f}" for v in row))
    return lines
