"""Where a data set lies: its files, listed once, and what a file means by the name of an image.

Nothing outside the folder is ever opened: a name that leads elsewhere (an absolute path, another
machine's, one with `..`) means the one image below whose path ends as the name does.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, wraps
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from boxatlas.data.formats import json_stream
from boxatlas.data.formats.building import decoded, leaves, read_text
from boxatlas.errors import InputError
from boxatlas.images import IMAGE_SUFFIXES

Found = TypeVar("Found")
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
VIA_IMAGES = "_via_img_metadata"  # what holds the images in a project of VIA 2
_HEAD = 1 << 16  # bytes of a file that are looked at
_PIECES = 64  # members and elements of a JSON document that are looked at
_SMALL = 1 << 26  # bytes of a document that is looked at whole
_LOOKED_AT = 32  # files of a folder and suffix that are looked at


class Seen(NamedTuple):
    """What speaks for a layout. sure: files of it were read; else names alone say so."""

    what: str
    sure: bool = True


class Document(NamedTuple):
    """How a JSON file begins. kind: "object", "list" or "" (neither); value: the members, each list
    with only its first elements; or the first elements of the list. whole: it could be read."""

    kind: str
    value: Any
    whole: bool = True


def split_name(name: str) -> str:
    """The split a name means: `valid`, `validation` and `dev` are val; others are what they say."""
    return SPLIT_NAMES.get(name.lower(), name)


def split_in(path: str) -> str:
    """The split whose name a folder of this path bears, "" where none does; its year is dropped."""
    for part in reversed(path.split("/")[:-1]):
        found = SPLIT_NAMES.get(re.sub(r"20\d\d$", "", part.lower()))
        if found:
            return found
    return ""


def split_of_file(name: str) -> str:
    """The split that a file bears in its own name (train_labels.csv), or else its folders; ""."""
    stem = name.rpartition("/")[2].rpartition(".")[0].lower()
    words = (re.sub(r"20\d\d$", "", word) for word in re.split(r"[^a-z0-9]+", stem))
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), "") or split_in(name)


def by_split(
    names: Iterable[str], split_of: Callable[[str], str] = split_of_file
) -> dict[str, list[str]]:
    """Split -> files; those of no split are "", or go by their own names beside others.

    split_of: `split_in` for files that are called as their images are.
    """
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(split_of(name), []).append(name)
    if len(found) > 1 and split_of is split_of_file:
        for name in found.pop("", []):
            found.setdefault(name.rpartition("/")[2].rpartition(".")[0], []).append(name)
    return found


def per_place(function: Callable[[Place], Found]) -> Callable[[Place], Found]:
    """What a function finds in a place, found once: the place keeps it."""

    @wraps(function)
    def found(place: Place) -> Found:
        if function not in place.kept:
            place.kept[function] = function(place)
        return place.kept[function]

    return found


class Place:
    """A data set's folder, or one file of it that was named instead; listed once.

    root: the folder that images are looked for below. files: every file below it, as
    `folder/name` relative to it, in order; links are followed, but none twice.
    """

    def __init__(self, given: str | Path, root: Path | None = None) -> None:
        """root: where a file that was named says that its images lie."""
        self.given, self.kept = Path(given), dict[Any, Any]()
        try:
            is_file, is_folder = self.given.is_file(), self.given.is_dir()
        except (OSError, ValueError) as error:  # a name too long, or with a NUL
            raise InputError(f"no such folder: {error}", file=repr(str(given))) from None
        if not is_file and not is_folder:
            raise InputError("no such folder", file=given)
        self.named = self.given if is_file else None
        self.root = root or (self.given.parent if is_file else self.given)
        self.files = sorted(_below(str(self.root)))
        if is_file and root is None and not self.images:  # annotations/a.json beside images/
            del self.images, self._by_suffix
            self.root = Path(os.path.abspath(self.root)).parent
            self.files = sorted(_below(str(self.root)))

    @cached_property
    def images(self) -> list[str]:
        """The files that are images by their suffix."""
        return self._with_suffix(sorted(IMAGE_SUFFIXES))

    @cached_property
    def folders(self) -> list[str]:
        """Every folder that holds a file, or a folder; the root is ""."""
        found = {""}
        for name in self.files:
            while "/" in name:
                name = name.rpartition("/")[0]
                if name in found:
                    break
                found.add(name)
        return sorted(found)

    @cached_property
    def known(self) -> frozenset[str]:
        return frozenset(self.files)

    @cached_property
    def by_name(self) -> dict[str, list[str]]:
        """File name without folders -> the files of that name."""
        found: dict[str, list[str]] = defaultdict(list)
        for name in self.files:
            found[name.rpartition("/")[2]].append(name)
        return found

    @cached_property
    def _composed(self) -> dict[str, list[str]]:
        """The same of names with letters beyond ASCII, as `composed` has them."""
        found: dict[str, list[str]] = defaultdict(list)
        for name, files in self.by_name.items():
            if not name.isascii():
                found[composed(name)] += files
        return found

    def called(self, bare: str) -> list[str]:
        """The files of this name, in whatever folder."""
        return [name for name in self.files if name == bare or name.endswith(f"/{bare}")]

    @cached_property
    def by_stem(self) -> dict[str, str]:
        """Path without suffix -> the image (of two that differ in it the last)."""
        return {name.rpartition(".")[0]: name for name in self.images}

    @cached_property
    def by_bare_stem(self) -> dict[str, list[str]]:
        """Image name without folders and suffix -> the images of that name."""
        found: dict[str, list[str]] = defaultdict(list)
        for name in self.images:
            found[name.rpartition("/")[2].rpartition(".")[0]].append(name)
        return found

    def path(self, name: str) -> Path:
        return self.root / name

    def paths(self, names: Iterable[str]) -> list[Path]:
        return [self.root / name for name in names]

    def own(self, *suffixes: str) -> list[str]:
        """The files of these suffixes: only the one that was named, where one was."""
        if self.named is not None:
            name = self.relative(self.named)
            return [name] if suffix_of(name) in suffixes else []
        return self._with_suffix(suffixes)

    @cached_property
    def _by_suffix(self) -> dict[str, list[str]]:
        own: dict[str, list[str]] = defaultdict(list)  # by what follows the last dot, with it
        for name in self.files:
            own[name[name.rfind(".") :]].append(name)
        found: dict[str, list[str]] = defaultdict(list)
        for end, names in own.items():
            if end.startswith(".") and "/" not in end:  # a name that begins with a dot has none
                before = -len(end) - 1
                found[end.lower()] += [n for n in names if len(n) > len(end) and n[before] != "/"]
        return {suffix: sorted(names) for suffix, names in found.items()}

    def _with_suffix(self, suffixes: Sequence[str]) -> list[str]:
        found = [self._by_suffix[suffix] for suffix in suffixes if suffix in self._by_suffix]
        return found[0] if len(found) == 1 else sorted(name for names in found for name in names)

    def relative(self, path: Path) -> str:
        return Path(os.path.relpath(path, self.root)).as_posix()

    def few(self, names: Iterable[str], most: int = _LOOKED_AT) -> Iterator[str]:
        """Of each folder only the first so many: what is looked at to tell a layout."""
        seen: dict[str, int] = defaultdict(int)
        for name in names:
            folder = name.rpartition("/")[0]
            seen[folder] += 1
            if seen[folder] <= most:
                yield name

    def head(self, name: str) -> str:
        """The text that a file begins with; empty where it cannot be read."""
        try:
            with open(self.root / name, "rb") as file:
                return decoded(file.read(_HEAD))[0]
        except (OSError, ValueError):
            return ""

    @cached_property
    def _documents(self) -> dict[str, Document]:
        return {}

    def document(self, name: str) -> Document:
        """How a JSON file begins."""
        if name not in self._documents:
            self._documents[name] = _document(self.root / name)
        return self._documents[name]

    def documents(self, names: Iterable[str], is_mine: Callable[[Place, str], bool]) -> list[str]:
        """The JSON files that are a layout's, with those that cannot be read to their end and have
        the name or the folder of one that is: their reader says what is wrong with them."""
        names = list(names)
        mine = {name for name in names if is_mine(self, name)}
        folders = {name.rpartition("/")[0] for name in mine}
        called = {name.rpartition("/")[2] for name in mine}

        def kin(name: str) -> bool:
            folder, _, bare = name.rpartition("/")
            near = folder in folders or bare in called
            return near and name.endswith(".json") and not self.document(name).whole

        return [name for name in names if name in mine or kin(name)]

    def of_folders(self, names: Sequence[str], is_mine: Callable[[Place, str], bool]) -> list[str]:
        """The files, one an image, of the folders in which one of the first is a layout's, and of
        those that are called as they are (train/labels, val/labels)."""
        mine = {n.rpartition("/")[0] for n in self.few(names, 8) if is_mine(self, n)}
        called = {folder.rpartition("/")[2] for folder in mine if "/" in folder}
        folders = (name.rpartition("/")[0] for name in names)
        return [
            name
            for name, folder in zip(names, folders, strict=True)
            if folder in mine or ("/" in folder and folder.rpartition("/")[2] in called)
        ]

    def image(
        self,
        name: str,
        file: Path,
        field: str,
        near: Sequence[str] = (),
        within: Sequence[str] = ("",),
    ) -> Path:
        """The image that `file` means by `name` in its `field`.

        near: folders (relative) that the name may begin at, the first that has it counts. Else it
        is the only one below the folders `within` whose path ends as the name's does; of several
        ends the longest counts. Raises InputError where there is none, or several.
        """
        name = name.replace("\\", "/")
        out = leaves(name)
        for folder in near:
            path = f"{folder}/{name}" if folder else name
            if out or name.startswith("./"):
                path = posixpath.normpath(path)
            if path in self.known:
                return self.root / path
        found = self.ends(name, within)
        if len(found) == 1:
            return self.root / found[0]
        problem = "a path that leaves the folder" if out else "the image is missing"
        if found:
            problem = f"{problem}: {len(found)} others below have its name"
        raise InputError(problem, file=file, field=field, value=name)

    def ends(self, name: str, within: Sequence[str] = ("",)) -> list[str]:
        """The files whose path ends as the name does, by the longest end that any has."""
        parts = [part for part in name.split("/") if part not in ("", ".", "..")]
        found = self.by_name.get(parts[-1], []) if parts else []
        if parts and not found and not parts[-1].isascii():
            found = self._composed.get(composed(parts[-1]), [])
        if within != ("",):
            found = [one for one in found if any(_is_below(one, folder) for folder in within)]
        for k in range(len(parts) - 1 if len(found) > 1 else 0):
            end = composed("/".join(parts[k:]))
            longer = [one for one in found if f"/{composed(one)}".endswith(f"/{end}")]
            if longer:
                return longer
        return found

    def beside(self, name: str, file: Path, field: str) -> Path:
        """The image of an annotation by its own path without suffix: in its folder, or in one of
        images that lies beside its folder or further up; else the only one of its bare name."""
        found = self.companion(name)
        if found is not None:
            return self.root / found
        bare = name.rpartition("/")[2]
        several = self.by_bare_stem.get(bare, [])
        if not several and not bare.isascii():
            wanted = composed(bare)
            several = [
                n for k, of in self.by_bare_stem.items() if composed(k) == wanted for n in of
            ]
        if len(several) == 1:
            return self.root / several[0]
        problem = "the image of this annotation is missing"
        if several:
            problem += f": {len(several)} images below have its name"
        raise InputError(problem, file=file, field=field, value=bare)

    def companion(self, name: str) -> str | None:
        """The image whose path is an annotation's but for the suffix and a folder's name."""
        if name in self.by_stem:
            return self.by_stem[name]
        parts = name.split("/")
        for at in range(len(parts) - 2, -1, -1):  # a folder is called otherwise
            rest = "/".join(parts[at + 1 :])
            start = "/".join(parts[:at])
            for other in _IMAGE_FOLDERS:
                path = "/".join(part for part in (start, other, rest) if part)
                if path in self.by_stem:
                    return self.by_stem[path]
        return None


_IMAGE_FOLDERS = ("JPEGImages", "images", "Images", "image", "img", "imgs", "image_2", "data", "")


def composed(name: str) -> str:
    """A name with each accented letter as one character: some systems store letter and accent."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def suffix_of(name: str) -> str:
    """The suffix in small letters."""
    dot = name.rfind(".")
    return name[dot:].lower() if dot > name.rfind("/") + 1 else ""


def _is_below(name: str, folder: str) -> bool:
    return not folder or name.startswith(f"{folder}/")


def _below(root: str) -> Iterator[str]:
    """Every file below a folder; a folder that links lead to again is not entered again, and what
    is no file (a named pipe, which would be waited for, a socket, a device) is left out."""
    seen: set[tuple[int, int]] = set()
    left = [(root, "")]
    while left:
        folder, inner = left.pop()
        at = os.stat(folder)
        if (at.st_dev, at.st_ino) in seen:
            continue
        seen.add((at.st_dev, at.st_ino))
        try:
            entries = list(os.scandir(folder))
        except OSError:  # one that may not be read
            continue
        for entry in entries:
            if entry.is_file(follow_symlinks=False) or (not _is_folder(entry) and _is_file(entry)):
                yield f"{inner}{entry.name}"
            elif entry.name not in _PASSED_OVER and _is_folder(entry):
                left.append((entry.path, f"{inner}{entry.name}/"))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether it is a link that leads to a file, or nowhere: whoever opens that says so."""
    if not entry.is_symlink():
        return False
    try:
        return stat.S_ISREG(entry.stat().st_mode)
    except OSError:
        return True


_PASSED_OVER = frozenset((".git", "__MACOSX", ".ipynb_checkpoints"))


def _document(path: Path) -> Document:
    try:
        with open(path, "rb") as file:
            start = file.read(64)
        small = os.stat(path).st_size < _SMALL
        if start.startswith((b"\xff\xfe", b"\xfe\xff")) and small:
            return _other_document(path)
    except OSError:
        return Document("", None, False)
    start = start.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    found: dict[str, Any] = {}
    try:
        if start == b"[":
            first = [value for value, _ in zip(json_stream.elements(path), range(4), strict=False)]
            return Document("list", first)
        if start != b"{":
            return Document("", None)
        if b'"_via_' in path.open("rb").read(_HEAD):  # a project whose images are one member
            return Document("object", _first_of_project(path))
        for (key, i, value), _ in zip(json_stream.members(path), range(_PIECES), strict=False):
            if i is None or i < 0:
                found[key] = value
            elif i < 4:
                found[key].append(value)
    except InputError as error:
        if small and error.problem.startswith("is not UTF-8"):
            return _other_document(path)
        return Document("list" if start == b"[" else "object", found, False)
    return Document("object", found)


def _first_of_project(path: Path) -> dict[str, Any]:
    """The members at the top of a project of the VGG Image Annotator, with its first images."""
    found: dict[str, Any] = {}
    for (key, value), _ in zip(json_stream.entries(path, VIA_IMAGES), range(_PIECES), strict=False):
        (found if key.startswith("_via_") else found.setdefault(VIA_IMAGES, {}))[key] = value
    return found


def _other_document(path: Path) -> Document:
    """One that is not in UTF-8."""
    try:
        value = json.loads(read_text(path))
    except (InputError, ValueError, RecursionError):
        return Document("", None, False)
    kinds = {list: "list", dict: "object"}
    return Document(kinds.get(type(value), ""), value[:4] if isinstance(value, list) else value)
