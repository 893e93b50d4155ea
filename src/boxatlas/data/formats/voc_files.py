"""Which files of a folder are VOC's, and which images each split lists."""

from __future__ import annotations

import re
from pathlib import Path

from boxatlas.data.formats.building import (
    Builder,
    read_text,
)
from boxatlas.data.formats.places import Place, per_place, split_name
from boxatlas.errors import InputError

_FOLDERS = frozenset(("annotations", "annotation", "annots", "labels", "label", "xml", "xmls"))
_LISTS = ("/ImageSets/Main", "/ImageSets")


@per_place
def xml_files(place: Place) -> list[str]:
    """The XML files of the folders in which the first ones are of VOC's, or that are called so.

    Where there are folders Annotations, only the uppermost: what lies deeper is another set.
    """
    names = place.own(".xml")
    kits = {folder for name in names if (folder := _kit(name)) is not None}
    if kits:
        least = min(kit.count("/") + bool(kit) for kit in kits)
        return [n for n in names if (k := _kit(n)) is not None and k.count("/") + bool(k) == least]
    known: dict[str, bool] = {}
    for name in place.few(names, 8):
        folder = name.rpartition("/")[0]
        known[folder] = known.get(folder, False) or is_annotation(place, name)
    return [name for name in names if known[name.rpartition("/")[0]]]


def _kit(name: str) -> str | None:
    """The folder whose folder Annotations an XML file lies in, or below."""
    head, inner, _ = f"/{name}".partition("/Annotations/")
    return head[1:] if inner else None


def is_annotation(place: Place, name: str) -> bool:
    root = re.search(r"<\s*([A-Za-z_][\w.:-]*)", place.head(name))
    return root is not None and root[1] == "annotation"


def id_of(name: str) -> str:
    """What an annotation file is called in lists: its path without suffix and without the folder
    of annotations."""
    parts = name.rpartition(".")[0].split("/")
    for at in range(len(parts) - 2, -1, -1):
        if parts[at].lower() in _FOLDERS:
            return "/".join(parts[:at] + parts[at + 1 :])
    return "/".join(parts)


@per_place
def list_files(place: Place) -> dict[str, list[str]]:
    """Split -> its lists, one a kit, without the per-class ones (cat_train beside train)."""
    if place.named is not None:
        return {}
    kits = {_kit(name) for name in xml_files(place)}
    kits |= {""} if kits <= {None} else set()
    folders: dict[str, list[str]] = {}
    for name in place.files:
        folder = name.rpartition("/")[0]
        if name.endswith(".txt") and f"/{folder}".endswith(_LISTS) and _base(name) in kits:
            folders.setdefault(folder, []).append(name)
    classes = set(listed_classes(place, Builder(strict=False)) or ())
    found: dict[str, list[str]] = {}
    for folder, lists in folders.items():
        if folder.endswith("ImageSets") and f"{folder}/Main" in folders:
            continue
        names = {Path(name).stem for name in lists}
        for name in lists:
            kind, _, split = Path(name).stem.rpartition("_")
            if not (kind in classes and split in names):
                found.setdefault(split_name(Path(name).stem), []).append(name)
    return found


def member(line: str, place: Place, list_file: str) -> str:
    """The id that a line of a list means. A second column (1, -1, 0 of the per-class lists) is
    passed over; an id may hold spaces, and end as such a column would."""
    base = _base(list_file)
    parts = line.rsplit(maxsplit=1)
    file = "/".join(part for part in (base, "Annotations", f"{line}.xml") if part)
    name = line if parts[-1] not in ("1", "-1", "0") or file in place.known else parts[0]
    return f"{base}/{name}" if base else name


def _base(list_file: str) -> str:
    """The folder that the lists of ImageSets are of."""
    return f"/{list_file}".rpartition("/ImageSets/")[0].removeprefix("/")


def listed_classes(place: Place, builder: Builder) -> list[str] | None:
    """The names in classes.txt, each once; None where there is none, or several alike."""
    files = sorted(place.called("classes.txt"), key=lambda name: name.count("/"))
    if not files or (len(files) > 1 and files[0].count("/") == files[1].count("/")):
        return None
    path = place.path(files[0])
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
