"""Fetching the public data sets: resumed where it stopped, checked, unpacked with care.

The checksums are those that the publishers' users compare (MD5); they tell a whole file from a
broken one. Nothing is fetched unless asked for.
"""

from __future__ import annotations

import fnmatch
import json
import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from boxatlas.data.formats.building import leaves
from boxatlas.errors import InputError
from boxatlas.fetching import Advance, check_address, fetch, room
from boxatlas.files import make_folder, write_text

_BLOCK = 1 << 20
_MOST_FILES, _MOST_GROWTH = 2_000_000, 200  # of an archive: entries, and bytes out for one in
_DONE = ".boxatlas-download.json"
# What the readers of archives raise; RuntimeError: an unknown compression, among others.
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, RuntimeError)


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
        Archive(
            f"{_VOC}/voc2007/VOCtrainval_06-Nov-2007.tar",
            "c52e279531787c972589f7e41ab4ae64",
            "VOCdevkit/VOC2007/",
            _VOC_PARTS,
        ),
        Archive(
            f"{_VOC}/voc2007/VOCtest_06-Nov-2007.tar",
            "b6e924de25625d8de591ea690078ad9f",
            "VOCdevkit/VOC2007/",
            _VOC_PARTS,
        ),
    ),
    "voc2012": (
        Archive(
            f"{_VOC}/voc2012/VOCtrainval_11-May-2012.tar",
            "6cd6e144f989b92b3379bac3b3de84fd",
            "VOCdevkit/VOC2012/",
            _VOC_PARTS,
        ),
    ),
    "coco2017": (
        Archive(
            f"{_COCO}/annotations/annotations_trainval2017.zip",
            "f4bbac642086de4f52a3fdda2de5fa2c",
            "",
            ("annotations/instances_*.json",),
        ),
        Archive(f"{_COCO}/zips/val2017.zip", "442b8da7639aecaf257c1dceb8ba8c80"),
        Archive(f"{_COCO}/zips/train2017.zip", "cced6f7f71b7629ddf16f17bbcfab6b2"),
    ),
}


def download(
    archives: tuple[Archive, ...],
    out: str | Path,
    *,
    mirror: str | None = None,
    keep_archives: bool = False,
    advance: Callable[[str], Advance] | None = None,
) -> list[str]:
    """Fetch and unpack a set's archives into `out`; what was done before is not done again.

    mirror: where the archives lie under their own names, instead of the publisher's place.
    advance: makes, for an archive's name, what is told how far it is. Returns the names of the
    archives that were unpacked now. Raises InputError for what cannot be fetched, is broken, or
    does not fit.
    """
    out = Path(out)
    urls = [f"{mirror.rstrip('/')}/{a.name}" if mirror else a.url for a in archives]
    for url in urls:
        check_address(url)
    done = _begun(out)
    fresh = []
    for archive, url in zip(archives, urls, strict=True):
        if done.get(archive.name) == archive.md5:
            continue
        part = out / f".part-{archive.name}"
        fetch(url, part, f"md5:{archive.md5}", advance(archive.name) if advance else None)
        write_text(out / _DONE, json.dumps(done))  # what lies here from now on is ours
        unpack(part, out, archive.strip, archive.keep)
        done[archive.name] = archive.md5
        write_text(out / _DONE, json.dumps(done))
        if keep_archives:
            part.replace(out / archive.name)
        else:
            part.unlink()
        fresh.append(archive.name)
    return fresh


def _begun(out: Path) -> dict[str, str]:
    """The archives that `out`, made where it is not there, holds already, and their checksums."""
    inside = {p.name for p in make_folder(out).iterdir()}
    if _DONE not in inside and any(not name.startswith(".part-") for name in inside):
        raise InputError(
            "holds something already, not of this download", file=out, hint="pass another folder"
        )
    return _done(out)


def _done(out: Path) -> dict[str, str]:
    try:
        found = json.loads((out / _DONE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


# -- Unpacking -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Entry:
    """A member of a zip or tar file; open() gives its bytes."""

    name: str
    size: int
    folder: bool
    plain: bool  # neither a link nor a device
    locked: bool  # with a password
    open: Callable[[], IO[bytes] | None]


def unpack(archive: Path, out: Path, strip: str = "", keep: tuple[str, ...] = ("*",)) -> int:
    """Write an archive's plain files below `out`; returns their number.

    Raises InputError, before anything is written, for names that lead out of the folder, links and
    devices among what is kept, a name that is a file's and a folder's, what is encrypted, and
    archives that grow beyond all measure.
    """
    try:
        with _opened(archive) as entries:
            kept = list(_kept(entries, archive, strip, keep))
            total = sum(entry.size for entry, _ in kept)
            if len(kept) > _MOST_FILES or total > _MOST_GROWTH * archive.stat().st_size:
                raise InputError(
                    f"would unpack to {len(kept)} files of {total / 1e9:.1f} GB", file=archive
                )
            room(out, total)
            for entry, name in kept:
                _write(entry, out / name)
    except _BROKEN as error:
        raise InputError(f"is no archive that can be read: {error}", file=archive) from None
    except OSError as error:
        raise InputError(f"could not be unpacked: {error}", file=archive) from None
    return len(kept)


@contextmanager
def _opened(archive: Path) -> Iterator[list[_Entry]]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            yield [
                _Entry(
                    e.filename,
                    e.file_size,
                    e.is_dir(),
                    (e.external_attr >> 16) & 0o170000 in (0, 0o100000),
                    bool(e.flag_bits & 1),
                    partial(zipped.open, e),
                )
                for e in zipped.infolist()
            ]
        return
    with tarfile.open(archive) as taped:
        yield [
            _Entry(e.name, e.size, e.isdir(), e.isfile(), False, partial(taped.extractfile, e))
            for e in taped
        ]


def _kept(
    entries: list[_Entry], archive: Path, strip: str, keep: tuple[str, ...]
) -> Iterator[tuple[_Entry, str]]:
    """What is kept, and its name below the folder."""
    files, above = set[str](), set[str]()
    for entry in entries:
        inner = entry.name.removeprefix("./").removeprefix(strip)
        if leaves(entry.name) or leaves(inner):
            raise InputError(
                "holds a name that leads out of the folder",
                file=archive,
                field="name",
                value=entry.name,
            )
        if entry.folder or not any(fnmatch.fnmatchcase(inner, pattern) for pattern in keep):
            continue
        if not entry.plain:
            raise InputError(
                "holds a link or a device", file=archive, field="name", value=entry.name
            )
        if entry.locked:
            raise InputError("is encrypted", file=archive, field="name", value=entry.name)
        files.add(PurePosixPath(inner).as_posix())
        above |= {parent.as_posix() for parent in PurePosixPath(inner).parents}
        yield entry, inner
    for name in sorted(files & above)[:1]:
        raise InputError(
            "holds a file and a folder of one name", file=archive, field="name", value=name
        )


def _write(entry: _Entry, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    source = entry.open()
    if source is not None:
        with source, open(to, "wb") as file:
            shutil.copyfileobj(source, file, _BLOCK)
