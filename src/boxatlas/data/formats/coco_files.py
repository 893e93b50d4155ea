"""Which files of a folder are COCO's, of which split each is, and where its images lie."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from boxatlas.data.formats.places import SPLIT_NAMES, Place, Seen, per_place, split_name

_OTHERS = frozenset(("samples", "shapes", "dataset", "items", "_via_img_metadata"))  # others' files
_ORDER = (
    "",
    "person_keypoints",
    "labels",
    "stuff",
    "image_info",
)  # of two files of one split the first
_PREFIX = re.compile(
    r"^(instances|annotations|_annotations\.coco|image_info|person_keypoints|labels|stuff)[_.-]?"
)
_NO_SPLITS = frozenset(
    ("annotations", "annotation", "labels", "coco", "result", "results", "data", "")
)


def evidence(place: Place) -> Seen | None:
    names = [name for found in files(place).values() for name in found]
    for name in names:
        value = place.document(name).value
        if _holds_lists(value):
            return Seen(f"{name} holds COCO's lists ({', '.join(value)})")
    return Seen(f"{names[0]} is called as COCO's files are", sure=False) if names else None


def splits(place: Place) -> list[str]:
    """instances_train2017.json is the split train2017; its year may be left out where unique."""
    return sorted(files(place))


@per_place
def files(place: Place) -> dict[str, list[str]]:
    """Split -> annotation files, wherever they lie: named by the file, or by the split's folder."""
    found: dict[str, list[str]] = {}
    for name in place.documents(place.few(place.own(".json")), _is_coco):
        found.setdefault(_split(name), []).append(name)
    for split, names in found.items():  # keypoints beside instances are of the same images
        first = min(map(_kind, names), key=_ORDER.index)
        kept = [name for name in names if _kind(name) == first]
        least = min(name.count("/") for name in kept)  # what lies deeper is another set
        found[split] = [name for name in kept if name.count("/") == least]
    short = {re.sub(r"20\d\d$", "", split): names for split, names in found.items()}
    out: dict[str, list[str]] = {}
    for split, names in (short if len(short) == len(found) else found).items():
        out.setdefault(split_name(split), []).extend(names)
    return out


def _kind(name: str) -> str:
    stem = Path(name).stem
    return next((word for word in _ORDER[1:] if stem.startswith(word)), "")


def _split(name: str) -> str:
    """What a file's name says of its split; its folder's where it says none."""
    folder, _, bare = name.rpartition("/")
    stem = bare.rpartition(".")[0]
    rest = _PREFIX.sub("", stem)
    if rest and rest.lower() not in _NO_SPLITS:
        return rest
    own = folder.rpartition("/")[2]
    return own if own and own.lower() not in _NO_SPLITS else rest or stem


def _is_coco(place: Place, name: str) -> bool:
    """By the lists that it holds; one that cannot be read so far goes by its name."""
    kind, value, whole = place.document(name)
    if kind == "object" and _holds_lists(value):
        things = value.get("annotations")
        first = things[0] if isinstance(things, list) and things else {}
        return not isinstance(first, dict) or not first.keys() & {"caption", "segments_info"}
    if kind == "list" or _PREFIX.match(Path(name).stem) is None:
        return False
    return not whole or not value or "categories" in value


def _holds_lists(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() & _OTHERS:
        return False
    images, things = value.get("images"), value.get("annotations")
    if isinstance(images, list) and images:
        return isinstance(images[0], dict)
    if isinstance(things, list) and things and isinstance(things[0], dict):
        return bool(things[0].keys() & {"image_id", "category_id"})
    return isinstance(things, list) and (isinstance(images, list) or "categories" in value)


def lists_images_alone(name: str) -> bool:
    return Path(name).stem.startswith("image_info")


class Finder:
    """Where an image lies: in the split's folder, in a folder of all images, or elsewhere below.

    A bare name is looked for below the split's own folder, or below the whole set where the split
    has none (minival2014 is of val2014), and must be there once: an image of another split that
    happens to have the same name is not the one that is meant.
    """

    def __init__(self, annotations: Path, place: Place) -> None:
        name = place.relative(annotations)
        parent = name.rpartition("/")[0]
        base = parent
        if parent.rpartition("/")[2].lower() in _NO_SPLITS:
            base = parent.rpartition("/")[0]
        stem, folders = _split(name), set(place.folders)
        called = {stem, re.sub(r"20\d\d$", "", stem)}
        called |= {other for other in SPLIT_NAMES if split_name(other) == split_name(stem)}
        inner = [*sorted(called, key=lambda one: one != stem), *(f"images/{c}" for c in called)]
        own = [_joined(base, one) for one in inner]
        if parent != base:
            own = [one for one in own if one != parent]
        elif parent and split_name(parent.rpartition("/")[2]) == split_name(stem):
            own = [f"{parent}/images", parent, *own]
        self.own = [one for one in own if one in folders]
        shared = [_joined(base, "images"), base, "images", "", parent]
        self.near = list(dict.fromkeys([*self.own, *(one for one in shared if one in folders)]))
        self.place, self.annotations = place, annotations

    def __call__(self, name: str, field: str) -> Path:
        return self.place.image(
            name, self.annotations, f"{field}.file_name", self.near, self.own or ("",)
        )


def _joined(*parts: str) -> str:
    return "/".join(part for part in parts if part)
