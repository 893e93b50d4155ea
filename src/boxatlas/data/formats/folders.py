"""Images in a folder for each class: CLASS/*.jpg, SPLIT/CLASS/*.jpg or images/CLASS/*.jpg.

What an image shows is known, not where: `image_label`, for training on boxes and labels together.
"""

from __future__ import annotations

from pathlib import Path

from boxatlas.data.formats.building import Builder, sizes_of
from boxatlas.data.table import Table
from boxatlas.errors import InputError
from boxatlas.images import IMAGE_SUFFIXES

FIELD = ""
_SPLITS = ("train", "val", "test")
_NO_CLASS = frozenset({*_SPLITS, "valid", "validation", "images", "jpegimages", "data"})


def looks_like(folder: Path) -> bool:
    """Not where a JSON file lies at the top or a folder has the name of a split or of all images:
    those are sets of boxes whose annotations are missing or cannot be read."""
    roots = _roots(folder)
    inner = {p.name.lower() for root in roots.values() for p in root.iterdir() if p.is_dir()}
    return bool(roots) and inner.isdisjoint(_NO_CLASS) and not any(folder.glob("*.json"))


def splits(folder: Path) -> list[str]:
    return sorted(split for split in _roots(folder) if split)


def _roots(folder: Path) -> dict[str, Path]:
    """Split ("" where there is none) -> the folder whose folders are classes."""
    if not folder.is_dir():
        return {}
    found = {split: folder / split for split in _SPLITS if _holds_classes(folder / split)}
    if found:
        return found
    tries = (folder, folder / "images")
    return next(({"": root} for root in tries if _holds_classes(root)), {})


def _holds_classes(root: Path) -> bool:
    """Whether each folder of `root` holds images, and `root` itself none."""
    inner = [p for p in root.iterdir() if not p.name.startswith(".")] if root.is_dir() else []
    folders = [p for p in inner if p.is_dir()]
    return bool(folders) and not _images(root) and all(_images(p) for p in folders)


def _images(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)


def read(folder: Path, split: str | None, builder: Builder) -> Table:
    """The images of a split, or of all of them."""
    roots = _roots(folder)
    chosen = [root for name, root in roots.items() if split is None or name == split]
    classes = sorted({p.name for root in roots.values() for p in root.iterdir() if p.is_dir()})
    number = {name: i for i, name in enumerate(classes)}
    for root in chosen:
        images = [p for kind in sorted(root.iterdir()) if kind.is_dir() for p in _images(kind)]
        for image, size in zip(images, sizes_of(images), strict=True):
            if isinstance(size, InputError):
                builder.refuse(size)
            else:
                builder.image(image, image.stem, size, image, number[image.parent.name])
    return builder.table(classes)


def annotation_files(folder: Path) -> list[Path]:
    """None: the folders say it all."""
    return []


def images_of(folder: Path) -> dict[str, Path]:
    """The images by name."""
    return {
        p.stem: p
        for root in _roots(folder).values()
        for k in root.iterdir()
        if k.is_dir()
        for p in _images(k)
    }


def image_folder(split: str) -> str:
    """Where the images of a split lie in a set of this layout."""
    return split


def left_out(table: Table) -> list[str]:
    """What a table holds that this layout has no place for."""
    return [f"boxes: {len(table.labels)}"] if len(table.labels) else []


def write(
    table: Table, folder: Path, image_names: list[str], splits_of: dict[str, list[int]]
) -> None:
    """Raises InputError: a folder for each class holds no boxes."""
    raise InputError(
        "this layout holds no boxes",
        field="layout",
        value="folders",
        hint="voc, coco, yolo or darknet",
    )
