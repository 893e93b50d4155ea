"""YOLO: data.yaml and a text file for each image: class, centre x, centre y, width, height.

The four numbers are fractions of the image. A file of images/train/a.jpg lies at
labels/train/a.txt; an image without one (or with an empty one) has no object.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from boxatlas.data.formats.building import (
    Box,
    Builder,
    by_stem,
    inside,
    leaves,
    lines_of,
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


def looks_like(folder: Path) -> bool:
    return _description_file(folder) is not None or (folder / "labels").is_dir()


def splits(folder: Path) -> list[str]:
    return sorted(_roots(folder))


def _description_file(folder: Path) -> Path | None:
    for name in _NAMES:
        if (folder / name).is_file():
            return folder / name
    return None


def describe(folder: Path) -> dict[str, Any]:
    """data.yaml as a mapping; empty where there is none."""
    import yaml

    path = _description_file(folder)
    if path is None:
        return {}
    try:
        found = yaml.safe_load(read_text(path))
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"is not valid YAML: {error}", file=path) from None
    if not isinstance(found, dict):
        raise InputError("is not a mapping of `names` and splits", file=path)
    return found


def _classes(folder: Path, description: dict[str, Any]) -> list[str] | None:
    path = _description_file(folder)
    names = description.get("names")
    if names is None:
        text = folder / "classes.txt"
        names = lines_of(text) if text.is_file() else None
        if names is None:
            return None
        path = text
    if isinstance(names, dict):
        if set(names) != set(range(len(names))):
            raise InputError("class numbers must run from 0", file=path, field="names")
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(n, str | int | float) for n in names):
        raise InputError("must be a list of class names", file=path, field="names")
    names = [str(n) for n in names]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise InputError("two classes of one name", file=path, field=f"names[{i}]", value=name)
    return names


def _roots(folder: Path) -> dict[str, list[Path]]:
    """Split -> its image folders (or list files)."""
    description, path = describe(folder), _description_file(folder)
    found: dict[str, list[Path]] = {}
    for split in _USUAL:
        given = description.get(split)
        entries = given if isinstance(given, list) else [given] if given else []
        for entry in entries:
            if not isinstance(entry, str):
                raise InputError("must be a folder", file=path, field=split,
                                 value=type(entry).__name__)  # fmt: skip
            found.setdefault("val" if split == "valid" else split, []).append(
                _resolve(folder, description, entry, path, split)
            )
    if not found:
        for split in _USUAL:
            for root in (folder / "images" / split, folder / split / "images"):
                if root.is_dir():
                    found.setdefault("val" if split == "valid" else split, []).append(root)
    return found


def _resolve(
    folder: Path, description: dict[str, Any], entry: str, path: Path | None, split: str
) -> Path:
    """Where a split lies: below the folder, whatever machine's root `path` speaks of."""
    base = description.get("path")
    tries = [entry.removeprefix("./")]
    if entry.startswith("../"):  # Roboflow writes ../train/images for train/images
        tries.append(entry.removeprefix("../"))
    roots = [folder]
    if isinstance(base, str) and not leaves(base):
        roots.insert(0, folder / base)
    for root in roots:
        for name in tries:
            if not leaves(name) and (root / name).exists():
                return root / name
    file = path or folder
    inside(folder, tries[-1], file, split)
    raise InputError("the split's images are missing", file=file, field=split, value=entry)


def read(folder: Path, split: str | None, builder: Builder) -> Table:
    """The images of a split, or of all of them."""
    classes = _classes(folder, describe(folder))
    roots = _roots(folder)
    chosen = roots.get(split, []) if split is not None else [r for rs in roots.values() for r in rs]
    if not roots:
        chosen = [folder / "images"] if (folder / "images").is_dir() else [folder]
    pairs = [pair for root in chosen for pair in _pairs(root, folder, builder)]
    highest = -1
    for (image, label), size in zip(pairs, sizes_of([p for p, _ in pairs]), strict=True):
        if isinstance(size, InputError):
            builder.refuse(size)
            continue
        builder.image(image, image.stem, size, label)
        if label.is_file():
            highest = max(highest, add_objects(builder, label, size, classes))
    if classes is None:
        classes = [f"class{i}" for i in range(highest + 1)]
    return builder.table(classes)


def annotation_files(folder: Path) -> list[Path]:
    """Every text file that describes the set."""
    head = [p for p in (_description_file(folder), folder / "classes.txt") if p and p.is_file()]
    labels = {p for name in ("labels", "*/labels") for root in folder.glob(name)
              for p in root.rglob("*.txt")}  # fmt: skip
    if not labels:  # beside the images, and the lists of images
        labels = {p for p in folder.rglob("*.txt") if p.name != "classes.txt"}
    return [*head, *sorted(labels)]


def images_of(folder: Path) -> dict[str, Path]:
    """The images by name."""
    return by_stem(folder)


def _pairs(root: Path, folder: Path, builder: Builder) -> list[tuple[Path, Path]]:
    """Each image and where its labels would lie."""
    if not root.is_file():
        images = [p for p in by_stem(root).values() if "labels" not in p.relative_to(root).parts]
        return [(image, label_of(image)) for image in images]
    images = []  # a list of images, one a line
    for n, line in enumerate(lines_of(root), 1):
        try:
            images.append(inside(folder, line.removeprefix("./"), root, f"line {n}"))
        except InputError as error:
            builder.refuse(error)
    return [(image, label_of(image)) for image in images]


def label_of(image: Path) -> Path:
    """Where an image's labels lie: the last folder named images becomes labels."""
    parts = list(image.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            return Path(*parts[:i], "labels", *parts[i + 1 :]).with_suffix(".txt")
    return image.with_suffix(".txt")


def add_objects(
    builder: Builder, label: Path, size: tuple[int, int], classes: list[str] | None,
    numbers: list[int] | None = None,
) -> int:  # fmt: skip
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
        raise InputError("must be: class, centre x, centre y, width, height", file=label,
                         field=field, value=line)  # fmt: skip
    kind = number(values[0], label, field)
    if kind != int(kind) or not 0 <= kind < (_MOST_CLASSES if classes is None else len(classes)):
        most = "" if classes is None else f" (there are {len(classes)})"
        raise InputError(f"no such class{most}", file=label, field=field, value=values[0])
    numbers = [number(v, label, field) for v in values[1:]]
    height, width = size
    if len(numbers) == 4:
        x, y, w, h = numbers
        return (int(kind), ((x - w / 2) * width, (y - h / 2) * height,
                            (x + w / 2) * width, (y + h / 2) * height), None)  # fmt: skip
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
        out.append(f"ignored objects (difficult, crowd): {int(table.ignore.sum())} flags; "
                   "they become ordinary objects")  # fmt: skip
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

    for split, members in splits_of.items():
        for i in members:
            lines = [f"{line}\n" for line in lines_for(table, i)]
            name = Path(image_names[i]).with_suffix(".txt").name
            write_text(folder / "labels" / split / name, "".join(lines))
    text = yaml.safe_dump(
        {**{s: f"images/{s}" for s in splits_of}, "names": dict(enumerate(table.classes))},
        sort_keys=False, allow_unicode=True,
    )  # fmt: skip
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
            row = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height,
                   (x2 - x1) / width, (y2 - y1) / height]  # fmt: skip
        else:
            row = [v / (height if k % 2 else width) for k, v in enumerate(polygon)]
        lines.append(f"{label} " + " ".join(f"{v:.8f}" for v in row))
    return lines
