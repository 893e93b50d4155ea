"""Tables of large data sets kept between runs, under a key made of everything they were read from.

The key is the content of the annotation files, the names of the files in the folder, and the
versions of the readers: a table that was read from anything else has another key, so none is ever
stale. What depends on image files' headers (sizes that no annotation states) is not kept. Nothing
is written into the data folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxatlas._version import __version__
from boxatlas.archives import read_npz
from boxatlas.data.extras import Extras
from boxatlas.data.formats.places import Place
from boxatlas.data.masks import Masks
from boxatlas.data.table import Table
from boxatlas.errors import InputError, parsing
from boxatlas.files import write_with

_FORM = 3  # of the files kept here
_WORTH = 2_000_000  # bytes of annotations from which on keeping the table pays
_SMALL = 1 << 16  # bytes of a file that is taken into the key as it is
_MOST = 4_000_000_000  # bytes kept in all
_ARRAYS = ("sizes", "offsets", "boxes", "labels", "ignore", "image_label")
_MAYBE = ("areas", "truncated")


def folder() -> Path:
    """Where tables are kept: $BOXATLAS_CACHE, or the user's cache folder."""
    named = os.environ.get("BOXATLAS_CACHE")
    if named:
        return Path(named)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "boxatlas" / "cache"
    base = Path.home() / "Library" / "Caches" if sys.platform == "darwin" else None
    return (base or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))) / "boxatlas"


def key_of(place: Place, module: ModuleType, split: str | None) -> str | None:
    """The key of a set's table; None where keeping it does not pay or cannot be done."""
    if not getattr(module, "CACHED", False) or os.environ.get("BOXATLAS_CACHE") == "":
        return None
    if folder().resolve().is_relative_to(place.root.resolve()):
        return None
    root, digest, total = str(place.root), hashlib.blake2b(digest_size=20), 0
    digest.update(repr((_FORM, __version__, module.__name__, split)).encode())
    try:
        for name in module.annotation_names(place):  # making Paths costs more than reading them
            content, size = _content(f"{root}/{name}")
            total += size
            digest.update(f"{name}\0{size}\0".encode("utf-8", "surrogateescape"))
            digest.update(content)
    except OSError:
        return None  # the reader will say what is wrong
    if total < _WORTH:
        return None
    digest.update("\0".join(place.files).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _content(file: str) -> tuple[bytes, int]:
    """(what a file holds, or of a large one its digest; its size)."""
    with open(file, "rb", buffering=0) as stream:
        content = stream.read(_SMALL + 1)
        if len(content) <= _SMALL:
            return content, len(content)
        stream.seek(0)
        found = hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=20))
        return found.digest(), stream.tell()


def load(key: str, data: Path) -> Table | None:
    """The table of a key, its images below `data`; None where it is not there whole."""
    path = folder() / f"{key}.npz"
    try:
        found = read_npz(path)  # zip: every entry has its checksum
        with parsing(path, "not a kept table"):
            table = _table(found, data)
            os.utime(path)  # the last to go
    except InputError:
        return None  # made anew
    return table


def _table(found: dict[str, NDArray[Any]], data: Path) -> Table:
    head = json.loads(found["head"].tobytes())
    paths = found["paths"].tobytes().decode("utf-8", "surrogateescape").split("\0")
    start = os.path.join(str(data), "")
    masks, extras = None, head["extras"]
    if "mask_data" in found:
        masks = Masks(found["mask_data"], found["mask_offsets"], found["mask_kinds"])
    return Table(
        classes=tuple(head["classes"]),
        paths=[start + path for path in paths] if paths != [""] else [],
        ids=head["ids"],
        masks=masks,
        notes=tuple(head["notes"]),
        category_ids=None if head["category_ids"] is None else tuple(head["category_ids"]),
        extras=extras and Extras(**{**extras, "names": tuple(extras["names"])}),
        **{name: found[name] for name in (*_ARRAYS, *_MAYBE) if name in found},
    )


def save(key: str, data: Path, table: Table) -> None:
    """Keep a table; where that cannot be done (no room, no right) nothing happens."""
    root = str(data)
    extras = None if table.extras is None else vars(table.extras)
    head: dict[str, Any] = {
        "classes": table.classes,
        "ids": table.ids,
        "notes": table.notes,
        "category_ids": table.category_ids,
        "extras": extras,
    }
    arrays: dict[str, Any] = {name: getattr(table, name) for name in _ARRAYS}
    arrays |= {name: getattr(table, name) for name in _MAYBE if getattr(table, name) is not None}
    if table.masks is not None:
        masks = Masks.packed(table.masks)
        arrays |= {
            "mask_data": masks.data,
            "mask_offsets": masks.offsets,
            "mask_kinds": masks.kinds,
        }
    paths = "\0".join(os.path.relpath(path, root) for path in table.paths)
    arrays["paths"] = np.frombuffer(paths.encode("utf-8", "surrogateescape"), np.uint8)
    arrays["head"] = np.frombuffer(json.dumps(head).encode(), np.uint8)

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            np.savez(file, **arrays)

    try:
        write_with(folder() / f"{key}.npz", write)
        _make_room()
    except (InputError, OSError):
        return


def _make_room() -> None:
    """The tables that were used longest ago go until the rest fits."""
    files = sorted(folder().glob("*.npz"), key=lambda path: path.stat().st_mtime)
    total = sum(path.stat().st_size for path in files)
    for path in files[:-1]:
        if total <= _MOST:
            return
        total -= path.stat().st_size
        path.unlink(missing_ok=True)
