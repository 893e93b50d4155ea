"""Arrays from files of unknown origin: what a header claims is held against the file first."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import IO, Any

from numpy.lib import format as npy
from numpy.typing import NDArray

from boxatlas.errors import InputError, parsing
from boxatlas.files import check_file

_SMALL = 64 * 2**20  # bytes that any file may unfold to
_RATIO = 100  # how often its own size a larger one may unfold to


def read_npz(path: str | Path) -> dict[str, NDArray[Any]]:
    """The arrays of an npz file by name; no objects, which could run code.

    Raises InputError where it is no such file, is damaged, or claims more than it holds.
    """
    size = check_file(path)
    arrays: dict[str, NDArray[Any]] = {}
    with parsing(path, "truncated or not an npz of arrays"), zipfile.ZipFile(path) as archive:
        members = [m for m in archive.infolist() if m.filename.endswith(".npy")]
        if sum(m.file_size for m in members) > max(_SMALL, _RATIO * size):
            raise InputError("unfolds to more than a file of its size should", file=path)
        for member in members:
            name = member.filename.removesuffix(".npy")
            with archive.open(member) as stream:
                check_header(stream, member.file_size, path, name)
            with archive.open(member) as stream:
                arrays[name] = npy.read_array(stream, allow_pickle=False)
    return arrays


def read_array(data: bytes, path: str | Path, name: str) -> NDArray[Any]:
    """The array of an npy file's bytes. Raises InputError where it claims more than they hold."""
    check_header(io.BytesIO(data), len(data), path, name)
    return npy.read_array(io.BytesIO(data), allow_pickle=False)


def check_header(stream: IO[bytes], size: int, path: str | Path, name: str) -> None:
    """Raise InputError where an npy header claims more bytes than the `size` that is there."""
    version = npy.read_magic(stream)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, kind = read(stream)
    if kind.hasobject:
        raise InputError("holds objects, which could run code", file=path, field=name)
    if min(shape, default=0) < 0 or math.prod(shape) * kind.itemsize > size:
        raise InputError("claims more numbers than it holds", file=path, field=name, value=shape)
