"""Writing files so that a crash, a kill or a full disk never leaves half of one."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from boxatlas.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


def check_file(path: str | Path) -> int:
    """The size of a file in bytes. Raises InputError for what is not there or no plain file: to
    open a named pipe or a device would wait for ever."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise InputError("no such file", file=path) from None
    except (OSError, ValueError) as error:  # a link to itself, a name too long or with a zero byte
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"cannot be opened: {reason}", file=str(path)) from None
    if stat.S_ISDIR(status.st_mode):
        raise InputError("is a folder, not a file", file=path)
    if not stat.S_ISREG(status.st_mode):
        raise InputError("is no plain file but a pipe, a socket or a device", file=path)
    return status.st_size


def check_format(number: object, path: str | Path, known: int = 1) -> None:
    """Raise InputError for a file of ours in a format that this version does not know."""
    if type(number) is not int or number > known:
        problem = f"is of a newer format; this version reads {known}"
        raise InputError(problem, file=path, field="format", value=number, hint="upgrade boxatlas")


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path in the same folder that takes the place of `path` when the block succeeds.

    The old file stays as it was until then; on any error the temporary one is removed.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    except OSError as error:
        problem = f"could not be written: {error.strerror or error}"
        raise InputError(problem, file=path, hint="what was there before is unchanged") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def make_folder(folder: str | Path) -> Path:
    """Make a folder and those above it, if missing. Raises InputError where that cannot be."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from None
    return folder


def check_writable(folder: str | Path) -> None:
    """Raise InputError where no file could be written into this folder, there or yet to be made.

    To be asked before long work. What is tried leaves nothing behind.
    """
    folder = there = Path(folder)
    try:
        while not there.exists() and there != there.parent:
            there = there.parent
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"0")
    except OSError as error:
        raise _unwritable(folder, error) from None


def _unwritable(folder: Path, error: OSError) -> InputError:
    return InputError(f"cannot be written into: {error.strerror or error}", file=folder)


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder beside `path` that becomes `path` when the block succeeds.

    On any error it is removed. Raises InputError where `path` holds something already, before the
    block, or cannot be written.
    """
    path, whole = Path(path), Path(os.path.abspath(path))  # "." has no name
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError("holds something already", file=path, hint="pass another folder")
    temporary = whole.with_name(f".{whole.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if whole.is_dir():
            whole.rmdir()
        os.replace(temporary, whole)
    except OSError as error:
        raise InputError(f"could not be written: {error.strerror or error}", file=path) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_with(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let `write(temporary_path)` make the file, then put it in place."""
    with replacing(path) as temporary:
        write(temporary)


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file. The tensors may lie on any device and share memory."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    owned: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        flat = tensor.detach().cpu().contiguous()
        memory = flat.untyped_storage().data_ptr()  # a view may begin further on in the same
        owned[name] = flat.clone() if memory in seen else flat
        seen.add(memory)
    with replacing(path) as temporary:
        try:
            save_file(owned, temporary, metadata)
        except SafetensorError as error:  # how it reports a full disk
            raise OSError(str(error)) from None
