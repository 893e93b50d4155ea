"""Fetching a published file: resumed where it stopped, checked against its checksum.

The checksums are those that the publishers name or that their users compare; they tell a whole file
from a broken one. Nothing is fetched unless asked for.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from boxatlas.errors import InputError

_BLOCK = 1 << 20
_TRIES, _WAIT, _TIMEOUT = 5, 2.0, 60.0  # seconds
_AGAIN = "run it again to go on where it stopped"
_KINDS = ("md5", "sha256")
Advance = Callable[[int, int | None], None]  # bytes so far, bytes in all if known
Size = tuple[float, float]  # the least and the most bytes that a file may have


def fetch(
    url: str,
    path: Path,
    checksum: str | None,
    advance: Advance | None = None,
    size: Size | None = None,
) -> None:
    """Fetch a file to `path`, going on where an earlier try stopped, until its checksum is right.

    checksum: "md5:HEX" or "sha256:HEX", where HEX may be the digest's beginning (some publishers
    put only that into a file's name); None: the length alone is checked. size: how large the file
    may be. Raises InputError where the server refuses or sends a web page or a file of another
    size, the connection fails again and again, or the whole file has another size or checksum (it
    is removed then, so that the next try starts anew).
    """
    check_address(url)
    for attempt in range(_TRIES):
        try:
            if _piece(url, path, size, advance):
                break
        except urllib.error.HTTPError as error:
            if error.code != 416:
                raise InputError(
                    f"the server answers {error.code} {error.reason}", field=url
                ) from None
            if _is_all(path, error.headers.get("Content-Range"), checksum):
                break
            _forget(path)
        except (OSError, HTTPException) as error:
            if isinstance(error, OSError) and error.errno == 28:
                raise InputError(f"could not be written: {error.strerror}", file=path) from None
            if attempt == _TRIES - 1:
                why = getattr(error, "reason", error)
                raise InputError(f"cannot be fetched: {why}", field=url, hint=_AGAIN) from None
            time.sleep(_WAIT * attempt)
    else:
        raise InputError("the connection ends too early every time", field=url, hint=_AGAIN)
    _check_whole(url, path, checksum, size)
    _tag(path).unlink(missing_ok=True)


def _check_whole(url: str, path: Path, checksum: str | None, size: Size | None) -> None:
    """Raises InputError for a file that is not the published one, which is removed."""
    try:
        _check_size(url, path.stat().st_size, size)
        if checksum is not None and not matches(path, checksum):
            raise InputError("the file has another checksum than published", field=url)
    except InputError as error:
        _forget(path)
        raise InputError(
            f"{error.problem}; it is removed", field=url, hint="run it again to fetch it anew"
        ) from None


def _check_size(url: str, have: int, size: Size | None) -> None:
    if size is not None and not size[0] <= have <= size[1]:
        raise InputError(
            f"the file has {have / 2**20:,.2f} MB, not the {size[0] / 2**20:,.2f} to "
            f"{size[1] / 2**20:,.2f} MB of the published one",
            field=url,
        )


def _is_all(path: Path, header: str | None, checksum: str | None) -> bool:
    """Whether a file is whole of which the server has nothing after what is here.

    It may as well be of something else and longer: then `bytes */LENGTH` of the header differs.
    """
    length = (header or "").rpartition("/")[2].strip()
    return int(length) == path.stat().st_size if length.isdecimal() else checksum is not None


def _forget(path: Path) -> None:
    path.unlink(missing_ok=True)
    _tag(path).unlink(missing_ok=True)


def check_address(url: str) -> None:
    """Raises InputError for what is no http address."""
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that do not match, a port that is no number
        fine = False
    if not fine or not url.isascii() or re.search(r"[\0- \x7f]", url):
        raise InputError("is no http address", field="url", value=url)


def _tag(path: Path) -> Path:
    return path.with_name(f"{path.name}.etag")


def _piece(url: str, path: Path, size: Size | None, advance: Advance | None) -> bool:
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
        if answer.headers.get_content_type() == "text/html":  # of an error, or for a person
            raise InputError("the server sends a web page, not the file", field=url)
        if answer.status != 206:
            have = 0  # it sends the whole
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length and length.isdecimal() else None
        if total is not None:
            _check_size(url, total, size)
        tag = answer.headers.get("ETag")
        if tag and not tag.startswith("W/"):
            _tag(path).write_text(tag, encoding="utf-8")
        if total:
            room(path.parent, total - have)
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


def room(folder: Path, needed: int) -> None:
    """Raises InputError where the disk has not so many bytes free."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"needs {needed / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free", file=folder
        )


def matches(path: Path, checksum: str) -> bool:
    """Whether a file's digest begins as "md5:HEX" or "sha256:HEX" says."""
    kind, _, beginning = checksum.partition(":")
    if kind not in _KINDS or not beginning:
        raise ValueError(f"no checksum: {checksum}")
    return digest_of(path, kind).startswith(beginning.lower())


def digest_of(path: Path, kind: str = "sha256") -> str:
    """The digest of a file, in hex."""
    with open(path, "rb") as file:
        made = hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False))
    return made.hexdigest()
