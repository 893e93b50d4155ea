"""Images in a folder for each class: CLASS/*.jpg, SPLIT/CLASS/*.jpg or images/CLASS/*.jpg.

What an image shows is known, not where: `image_label`, for training on boxes and labels together.
"""

from __future__ import annotations

from boxatlas.data.formats.building import Builder, sizes_of
from boxatlas.data.formats.places import SPLIT_NAMES, Place, Seen, per_place, split_name
from boxatlas.data.table import Table
from boxatlas.errors import InputError

FIELD = ""
_NO_CLASS = frozenset({*SPLIT_NAMES, "images", "jpegimages", "data"})


def evidence(place: Place) -> Seen | None:
    """Never sure, and not where a JSON file lies at the top or a folder has the name of a split or
    of all images: those are sets of boxes whose annotations are missing or cannot be read."""
    roots = _roots(place)
    inner = {kind.lower() for kinds in roots.values() for kind in kinds}
    json = any(name.endswith(".json") and "/" not in name for name in place.files)
    if not roots or json or not inner.isdisjoint(_NO_CLASS):
        return None
    return Seen(f"there is a folder of images for each of {len(inner)} classes", sure=False)


def splits(place: Place) -> list[str]:
    return sorted(split for split in _roots(place) if split)


@per_place
def _roots(place: Place) -> dict[str, dict[str, list[str]]]:
    """Split ("" where there is none) -> class -> its images."""
    if place.named is not None:
        return {}
    of: dict[str, list[str]] = {}
    for name in place.images:
        of.setdefault(name.rpartition("/")[0], []).append(name)
    tops = [
        f for f in place.folders if f and "/" not in f and split_name(f) in ("train", "val", "test")
    ]
    found: dict[str, dict[str, list[str]]] = {}
    for top in tops:
        classes = _classes(place, top, of)
        if classes:
            held = found.setdefault(split_name(top), {})
            for kind, images in classes.items():
                held.setdefault(kind, []).extend(images)
    if found:
        return found
    return next(({"": kinds} for top in ("", "images") if (kinds := _classes(place, top, of))), {})


def _classes(place: Place, root: str, of: dict[str, list[str]]) -> dict[str, list[str]]:
    """Class -> images, where each folder of `root` holds images, and `root` itself none."""
    start = f"{root}/" if root else ""
    inner = [
        f for f in place.folders if f.startswith(start) and f != root and "/" not in f[len(start) :]
    ]
    inner = [f for f in inner if f and not f[len(start) :].startswith(".")]
    if root in of or not inner or not all(f in of for f in inner):
        return {}
    return {folder[len(start) :]: of[folder] for folder in inner}


def read(place: Place, split: str | None, builder: Builder) -> Table:
    """The images of a split, or of all of them."""
    roots = _roots(place)
    classes = sorted({kind for kinds in roots.values() for kind in kinds})
    for name, kinds in roots.items():
        if split is not None and name != split:
            continue
        images = [(place.path(n), classes.index(k)) for k in sorted(kinds) for n in kinds[k]]
        sizes = sizes_of([image for image, _ in images])
        for (image, kind), size in zip(images, sizes, strict=True):
            if isinstance(size, InputError):
                builder.refuse(size)
            else:
                builder.image(image, image.stem, size, image, kind)
    return builder.table(classes)


def annotation_names(place: Place) -> list[str]:
    """None: the folders say it all."""
    return []
