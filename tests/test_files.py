"""Nothing is ever half written: what was there before stays until the new file is whole."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from boxatlas.errors import InputError
from boxatlas.files import (
    check_writable,
    make_folder,
    new_folder,
    replacing,
    write_tensors,
    write_text,
)


def left_over(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    write_text(path, "old")
    write_text(path, "new")
    assert path.read_text() == "new"
    assert left_over(path.parent) == ["a.txt"]
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize("error", [RuntimeError("mine"), KeyboardInterrupt()])
def test_an_error_leaves_the_old_file(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def write() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write()
    assert path.read_text() == "old"
    assert left_over(tmp_path) == ["a.txt"]


def test_a_folder_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    """A file where a folder should be; on Linux also a place that takes no files at all."""
    (tmp_path / "file").write_text("mine")
    places = [tmp_path / "file" / "sub", *([Path("/proc/x")] if sys.platform == "linux" else [])]
    for place in places:
        with pytest.raises(InputError, match=r"a\.txt: could not be written: "):
            write_text(place / "a.txt", "new")
        for ask in (check_writable, make_folder):
            with pytest.raises(InputError, match=f"{place}: cannot be written into: "):
                ask(place)
    assert left_over(tmp_path) == ["file"]


def test_to_ask_whether_a_folder_can_be_written_makes_nothing(tmp_path: Path) -> None:
    check_writable(tmp_path / "deep" / "new")
    assert left_over(tmp_path) == []


def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def write() -> None:
        with replacing(path):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(InputError, match=r"a\.txt: could not be written: No space left on device"):
        write()
    assert path.read_text() == "old"
    assert left_over(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_a_folder_appears_when_it_is_whole(tmp_path: Path, error: BaseException) -> None:
    place = tmp_path / "new"
    place.mkdir()  # empty, which is as good as none

    def stopped() -> None:
        with new_folder(place) as half:
            (half / "file").write_text("a")
            raise error

    with pytest.raises(type(error)):
        stopped()
    assert list(tmp_path.iterdir()) == [place]
    with new_folder(place) as half:
        (half / "file").write_text("a")
    assert [path.name for path in place.iterdir()] == ["file"]
    with pytest.raises(InputError, match="holds something already"), new_folder(place):
        pass


def test_tensors_that_share_memory_are_both_kept(tmp_path: Path) -> None:
    whole = torch.arange(6.0).reshape(2, 3)
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": whole, "b": whole, "row": whole[1], "t": whole.t()}, {"k": "v"})
    held = load_file(path)
    assert held["a"].equal(whole)
    assert held["b"].equal(whole)
    assert held["row"].tolist() == [3.0, 4.0, 5.0]
    assert held["t"].equal(whole.t())


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of a file as Linux does")
def test_a_disk_that_fills_up_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    """A real write that fails midway: the limit on a file's size stands in for the disk's end."""
    path = tmp_path / "last.safetensors"
    write_tensors(path, {"w": torch.ones(10)})
    code = f"""
import resource, signal, sys, torch
from boxatlas.errors import InputError
from boxatlas.files import write_tensors
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_tensors({str(path)!r}, {{"w": torch.zeros(1_000_000)}})
except InputError as error:
    sys.exit(f"told: {{error}}")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("told: ")
    assert "last.safetensors: could not be written" in done.stderr
    assert load_file(path)["w"].tolist() == [1.0] * 10
    assert left_over(tmp_path) == ["last.safetensors"]
