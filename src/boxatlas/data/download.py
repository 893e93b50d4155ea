"""Fetching the public data sets: resumed where it stopped, checked, unpacked with care.

The checksums are those that the publishers' users compare (MD5); they tell a whole file from a
broken one. Nothing is fetched unless asked for.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import IO

from boxatlas.data.formats.building import leaves
from boxatlas.errors import InputError
from boxatlas.files import write_text

_BLOCK = 1 << 20
_TRIES, _WAIT, _TIMEOUT = 5, 2.0, 60.0  # seconds
_MOST_FILES, _MOST_GROWTH = 2_000_000, 200  # of an archive: entries, and bytes out for one in
_DONE = ".boxatlas-download.json"
_AGAIN = "run it again to go on where it stopped"
Advance = Callable[[int, int | None], None]  # bytes so far, bytes in all if known


@dataclass(frozen=True)
class Archive:
    """One file to fetch: what of it is kept (patterns), and the folders around it that are not."""

    url: str
    md5: str
    strip: str = ""
    keep: tuple[str, ...] = ("*",)

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]


_VOC = "http://host.robots.ox.ac.uk/pascal/VOC"
_COCO = "http://images.cocodataset.org"
_VOC_PARTS = ("Annotations/*", "ImageSets/Main/*", "JPEGImages/*")
SETS: dict[str, tuple[Archive, ...]] = {
    "voc2007": (
        Archive(f"{_VOC}/voc2007/VOCtrainval_06-Nov-2007.tar", "c52e279531787c972589f7e41ab4ae64",
                "VOCdevkit/VOC2007/", _VOC_PARTS),
        Archive(f"{_VOC}/voc2007/VOCtest_06-Nov-2007.tar", "b6e924de25625d8de591ea690078ad9f",
                "VOCdevkit/VOC2007/", _VOC_PARTS),
    ),
    "voc2012": (
        Archive(f"{_VOC}/voc2012/VOCtrainval_11-May-2012.tar", "6cd6e144f989b92b3379bac3b3de84fd",
                "VOCdevkit/VOC2012/", _VOC_PARTS),
    ),
    "coco2017": (
        Archive(f"{_COCO}/annotations/annotations_trainval2017.zip",
                "f4bbac642086de4f52a3fdda2de5fa2c", "", ("annotations/instances_*.json",)),
        Archive(f"{_COCO}/zips/val2017.zip", "442b8da7639aecaf257c1dceb8ba8c80"),
        Archive(f"{_COCO}/zips/train2017.zip", "cced6f7f71b7629ddf16f17bbcfab6b2"),
    ),
}  # fmt: skip


def download(
    archives: tuple[Archive, ...], out: str | Path, *, mirror: str | None = None,
    keep_archives: bool = False, advance: Callable[[str], Advance] | None = None,
) -> list[str]:  # fmt: skip
    """Fetch and unpack a set's archives into `out`; what was done before is not done again.

    mirror: where the archives lie under their own names, instead of the publisher's place.
    advance: makes, for an archive's name, what is told how far it is. Returns the names of the
    archives that were unpacked now. Raises InputError for what cannot be fetched, is broken, or
    does not fit.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    done = _done(out)
    if not done and any(p.name != _DONE and not p.name.startswith(".part-") for p in out.iterdir()):
        raise InputError("holds something already, not of this download", file=out,
                         hint="pass another folder")  # fmt: skip
    fresh = []
    for archive in archives:
        if done.get(archive.name) == archive.md5:
            continue
        url = f"{mirror.rstrip('/')}/{archive.name}" if mirror else archive.url
        part = out / f".part-{archive.name}"
        fetch(url, part, archive.md5, advance(archive.name) if advance else None)
        unpack(part, out, archive.strip, archive.keep)
        done[archive.name] = archive.md5
        write_text(out / _DONE, json.dumps(done))
        if keep_archives:
            part.replace(out / archive.name)
        else:
            part.unlink()
        fresh.append(archive.name)
    return fresh


def _done(out: Path) -> dict[str, str]:
    try:
        found = json.loads((out / _DONE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


# -- Fetching --------------------------------------------------------------------------------------


def fetch(url: str, path: Path, md5: str, advance: Advance | None = None) -> None:
    """Fetch a file to `path`, going on where an earlier try stopped, until its checksum is right.

    Raises InputError where the server refuses, the connection fails again and again, or the whole
    file has another checksum (it is removed then, so that the next try starts anew).
    """
    if not url.startswith(("http://", "https://")):
        raise InputError("is no http address", field="url", value=url)
    for attempt in range(_TRIES):
        try:
            if _piece(url, path, advance):
                break
        except urllib.error.HTTPError as error:
            if error.code == 416:  # nothing after what is here: it is whole, or not ours
                break
            raise InputError(f"the server answers {error.code} {error.reason}",
                             field=url) from None  # fmt: skip
        except (OSError, HTTPException) as error:
            if isinstance(error, OSError) and error.errno == 28:
                raise InputError(f"could not be written: {error.strerror}", file=path) from None
            if attempt == _TRIES - 1:
                why = getattr(error, "reason", error)
                raise InputError(f"cannot be fetched: {why}", field=url, hint=_AGAIN) from None
            time.sleep(_WAIT * attempt)
    else:
        raise InputError("the connection ends too early every time", field=url, hint=_AGAIN)
    if digest_of(path) != md5:
        path.unlink(missing_ok=True)
        _tag(path).unlink(missing_ok=True)
        raise InputError("the file has another checksum than published; it is removed", field=url,
                         hint="run it again to fetch it anew")  # fmt: skip
    _tag(path).unlink(missing_ok=True)


def _tag(path: Path) -> Path:
    return path.with_name(f"{path.name}.etag")


def _piece(url: str, path: Path, advance: Advance | None) -> bool:
    """Fetch what is missing; whether the file is whole now."""
    have = path.stat().st_size if path.exists() else 0
    headers = {"User-Agent": "boxatlas", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if _tag(path).exists():  # only if the file there is still the one that was begun
            headers["If-Range"] = _tag(path).read_text(encoding="utf-8")
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
        if answer.status == 206 and not _begins_at(answer.headers.get("Content-Range"), have):
            raise InputError("the server sends another part than asked for", field=url)
        if answer.status != 206:
            have = 0  # it sends the whole
        tag = answer.headers.get("ETag")
        if tag and not tag.startswith("W/"):
            _tag(path).write_text(tag, encoding="utf-8")
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length and length.isdigit() else None
        if total:
            _room(path.parent, total - have)
        with open(path, "ab" if have else "wb") as file:
            for block in _blocks(answer):
                file.write(block)
                have += len(block)
                if advance:
                    advance(have, total)
    return total is None or have >= total


def _begins_at(header: str | None, have: int) -> bool:
    return header is not None and header.replace("bytes ", "").startswith(f"{have}-")


def _blocks(answer: IO[bytes]) -> Iterator[bytes]:
    while block := answer.read(_BLOCK):
        yield block


def _room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(f"needs {needed / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free",
                         file=folder)  # fmt: skip


def digest_of(path: Path) -> str:
    """The MD5 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


# -- Unpacking -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Entry:
    """A member of a zip or tar file; open() gives its bytes."""

    name: str
    size: int
    folder: bool
    plain: bool  # neither a link nor a device
    open: Callable[[], IO[bytes] | None]


def unpack(archive: Path, out: Path, strip: str = "", keep: tuple[str, ...] = ("*",)) -> int:
    """Write an archive's plain files below `out`; returns their number.

    Raises InputError, before anything is written, for names that lead out of the folder, links and
    devices among what is kept, and archives that grow beyond all measure.
    """
    try:
        with _opened(archive) as entries:
            kept = list(_kept(entries, archive, strip, keep))
            total = sum(entry.size for entry, _ in kept)
            if len(kept) > _MOST_FILES or total > _MOST_GROWTH * archive.stat().st_size:
                raise InputError(f"would unpack to {len(kept)} files of {total / 1e9:.1f} GB",
                                 file=archive)  # fmt: skip
            _room(out, total)
            for entry, name in kept:
                _write(entry, out / name)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise InputError(f"is no archive that can be read: {error}", file=archive) from None
    return len(kept)


@contextmanager
def _opened(archive: Path) -> Iterator[list[_Entry]]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            yield [
                _Entry(e.filename, e.file_size, e.is_dir(),
                       (e.external_attr >> 16) & 0o170000 in (0, 0o100000),
                       partial(zipped.open, e))
                for e in zipped.infolist()
            ]  # fmt: skip
        return
    with tarfile.open(archive) as taped:
        yield [_Entry(e.name, e.size, e.isdir(), e.isfile(), partial(taped.extractfile, e))
               for e in taped]  # fmt: skip


def _kept(
    entries: list[_Entry], archive: Path, strip: str, keep: tuple[str, ...]
) -> Iterator[tuple[_Entry, str]]:
    """What is kept, and its name below the folder."""
    for entry in entries:
        inner = entry.name.removeprefix("./").removeprefix(strip)
        if leaves(entry.name) or leaves(inner):
            raise InputError("holds a name that leads out of the folder", file=archive,
                             field="name", value=entry.name)  # fmt: skip
        if entry.folder or not any(fnmatch.fnmatchcase(inner, pattern) for pattern in keep):
            continue
        if not entry.plain:
            raise InputError("holds a link or a device", file=archive, field="name",
                             value=entry.name)  # fmt: skip
        yield entry, inner


def _write(entry: _Entry, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    source = entry.open()
    if source is not None:
        with source, open(to, "wb") as file:
            shutil.copyfileobj(source, file, _BLOCK)
