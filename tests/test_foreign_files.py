"""Bytes and names from strangers: one line, soon, and no more memory than the file is worth."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from boxatlas import InputError, scenes
from boxatlas.archives import read_npz
from boxatlas.data import read as read_data
from boxatlas.data.formats.building import read_text
from boxatlas.errors import cell, parsing, shown
from boxatlas.files import check_file, check_format
from boxatlas.images import read
from boxatlas.training.recipe import read_recipe
from boxatlas.weights.reading import read_state

INPUTS = Path(__file__).parent / "inputs"


@pytest.mark.parametrize("name", ["claims_memory.pkl", "dtype_claims.pkl", "damaged_zip.npz"])
def test_weights_that_claim_more_than_they_hold(name: str) -> None:
    with pytest.raises(InputError, match=name):
        read_state(INPUTS / name)


def test_references_in_yaml_are_not_unfolded(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="references"):
        read_recipe(INPUTS / "bomb.yaml")
    (tmp_path / "deep.yaml").write_text("a: " + "[" * 5000)
    with pytest.raises(InputError, match=r"deep\.yaml"):
        read_recipe(tmp_path / "deep.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"bytes\.yaml"):
        read_recipe(tmp_path / "bytes.yaml")


@pytest.mark.parametrize("name", ["unknown_pixel_format.dds", "blp_named.jpg"])
def test_pictures_of_formats_that_are_not_opened(name: str) -> None:
    with pytest.raises(InputError, match="not an image that can be read"):
        read(INPUTS / name)


def header(shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
    return stream.getvalue()


@pytest.mark.parametrize("shape", [(10**15,), (10**9, 10**9), (4,)])
def test_an_array_s_header_is_held_against_its_bytes(tmp_path: Path, shape) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", header(shape) + b"\0" * 4)
    with pytest.raises(InputError, match=r"a\.npz"):
        read_npz(path)


def test_an_archive_that_unfolds_too_far(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", header((20 * 2**20,)) + b"\0" * (80 * 2**20))
    with pytest.raises(InputError, match="unfolds"):
        read_npz(path)
    np.savez(path, a=np.arange(3.0), b=np.zeros((0, 4)))
    assert {k: v.shape for k, v in read_npz(path).items()} == {"a": (3,), "b": (0, 4)}
    np.savez(path, a=np.array([{}], object))
    with pytest.raises(InputError, match="objects"):
        read_npz(path)


def test_honest_pickles_of_arrays_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    arrays = {"model": {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.float64(2)}}
    for protocol in (2, 4):
        path.write_bytes(pickle.dumps(arrays, protocol))
        assert read_state(path)["w"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_pickle_that_would_call_something_says_what(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1), "f": os.getcwd}, tmp_path / "a.pth")
    with pytest.raises(InputError, match="getcwd"):
        read_state(tmp_path / "a.pth")
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html>Sign in</html>")
    with pytest.raises(InputError, match="web page"):
        read_state(tmp_path / "page.pth")


def test_prefixes_of_compiled_and_parallel_models_are_taken_off(tmp_path: Path) -> None:
    for prefix in ("module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."):
        torch.save({f"{prefix}w": torch.ones(2), f"{prefix}b": torch.ones(1)}, tmp_path / "a.pth")
        assert set(read_state(tmp_path / "a.pth")) == {"w", "b"}


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    for name in ("a.pth", "a.npz", "a.pkl", "a.safetensors", "a.yaml"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(InputError, match="pipe"):
            (read_recipe if name.endswith("yaml") else read_state)(tmp_path / name)
    with pytest.raises(InputError, match="no such file"):
        check_file(tmp_path / "none")


def test_pipes_and_links_in_a_data_set_are_not_waited_for(tmp_path: Path) -> None:
    folder = scenes.write(tmp_path / "d", {"train": 2})
    before = read_data(folder)
    for name in ("a.jpg", "a.json", "a.yaml", "a.csv", "a.xml", "JPEGImages/a.txt"):
        os.mkfifo(folder / name)
    os.symlink("loop", folder / "loop")
    os.symlink(".", folder / "JPEGImages" / "again")
    os.symlink(folder / "a.json", folder / "b.json")
    after = read_data(folder)
    assert after.paths == before.paths
    assert np.array_equal(after.boxes, before.boxes)
    with pytest.raises(InputError, match="pipe"):
        read_text(folder / "a.json")


def test_a_newer_format_is_refused_by_name() -> None:
    check_format(1, "a.safetensors")
    for number in (2, 99, "1", None):
        with pytest.raises(InputError, match="newer format"):
            check_format(number, "a.safetensors")


def test_whatever_a_foreign_parser_raises_is_one_line() -> None:
    for error in (KeyError("x"), MemoryError(), RecursionError(), ZeroDivisionError("a\nb")):
        with pytest.raises(InputError, match=r"^f: ") as caught, parsing("f", "unreadable"):
            raise error
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="ours"), parsing("f", "unreadable"):
        raise InputError("ours")


def test_names_are_shown_safely() -> None:
    assert shown("plain näme 名") == "plain näme 名"
    assert shown("a\x1b[2J\n\u202eb") == "a\\x1b[2J\\n\\u202eb"
    assert shown(os.fsdecode(b"\xff.jpg")) == "\\xff.jpg"
    assert [cell(n) for n in ("=1+1", "@a", "+a", "-a", "a=b")] == [
        "'=1+1",
        "'@a",
        "'+a",
        "'-a",
        "a=b",
    ]
    deep: object = "x"
    for _ in range(40):
        deep = [deep] * 10
    assert len(str(InputError("is odd", value=deep))) < 200  # 10^40 values, none unfolded
