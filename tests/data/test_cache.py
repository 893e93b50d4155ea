"""Tables kept between runs: equal to what is read, never stale, never in the data folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from sets import picture, table_of, two_images, write_set

from boxatlas.data import Table, cache, read
from boxatlas.data.formats.places import Place


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache that takes in sets of any size."""
    monkeypatch.setenv("BOXATLAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_WORTH", 1)
    return tmp_path / "cache"


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.npz"))


def equal(a: Table, b: Table) -> bool:
    arrays = all(
        np.array_equal(getattr(a, n), getattr(b, n))
        for n in ("sizes", "offsets", "boxes", "labels", "ignore", "image_label", "object_areas")
    )
    masks = list(a.masks or ()) == list(b.masks or ())
    names = ("classes", "paths", "ids", "notes", "category_ids", "extras")
    return arrays and masks and all(getattr(a, n) == getattr(b, n) for n in names)


@pytest.mark.parametrize("layout", ["voc", "coco"])
def test_what_comes_out_is_what_was_read(tmp_path: Path, kept: Path, layout: str):
    polygon = [[10.0, 20.0, 60.0, 20.0, 60.0, 90.5]]
    table = table_of([[[10, 20, 60, 90]], []], [[1], []], [(100, 120), (50, 50)], masks=[polygon])
    folder = write_set(tmp_path / "set", table, layout, {"train": [0, 1]})
    before = sorted(folder.rglob("*"))
    first = read(folder, "train")
    assert len(files(kept)) == 1
    assert equal(read(folder, "train"), first)
    assert sorted(folder.rglob("*")) == before


def test_it_is_the_kept_table_that_is_taken(tmp_path: Path, kept: Path, monkeypatch):
    folder = write_set(tmp_path / "set", two_images(), "coco")
    read(folder, "train")
    from boxatlas.data.formats import coco

    def fail(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(coco, "read", fail)
    assert len(read(folder, "train")) == 3


def test_a_moved_set_is_found_again_at_its_new_place(tmp_path: Path, kept: Path):
    folder = write_set(tmp_path / "set", two_images(), "coco")
    first = read(folder, "train")
    moved = tmp_path / "elsewhere"
    shutil.move(folder, moved)
    again = read(moved, "train")
    assert len(files(kept)) == 1
    assert again.paths == [p.replace(str(folder), str(moved)) for p in first.paths]


def test_a_change_of_same_size_and_time_is_seen(tmp_path: Path, kept: Path):
    folder = write_set(tmp_path / "set", two_images(), "coco")
    path = folder / "annotations" / "instances_train.json"
    before = path.stat()
    assert read(folder, "train").boxes[0].tolist() == [10, 20, 60, 90]
    path.write_text(path.read_text().replace("[10.0, 20.0", "[11.0, 20.0", 1))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert read(folder, "train").boxes[0].tolist() == [11, 20, 61, 90]


def test_a_moved_image_and_another_split_are_other_tables(tmp_path: Path, kept: Path):
    folder = write_set(tmp_path / "set", two_images(), "voc", {"train": [0, 1], "val": [2]})
    assert len(read(folder, "train")) == 2
    assert len(read(folder, "val")) == 1
    (folder / "JPEGImages" / "0.png").unlink()
    picture(folder / "JPEGImages" / "0.jpg", (100, 120))
    assert Path(read(folder, "train").paths[0]).name == "0.jpg"


def test_links_that_lead_back_are_not_followed_round_and_round(tmp_path: Path, kept: Path):
    folder = write_set(tmp_path / "set", two_images(), "coco")
    for name in ("l0", "l1", "l2"):
        (folder / "train" / name).symlink_to(folder)
    names = Place(folder).files
    assert len(names) == len(set(names)) == 4  # the JSON and the images
    assert len(read(folder, "train")) == 3
    picture(folder / "train" / "new.png", (9, 9))
    assert len(Place(folder).files) == 5


def test_sizes_from_headers_are_read_anew(tmp_path: Path, kept: Path):
    """A set that states no size: an image that is replaced by a larger one is seen to be larger."""
    folder = write_set(tmp_path / "set", two_images(), "voc")
    for path in (folder / "Annotations").glob("*.xml"):
        text = path.read_text()
        start, end = text.index("<size>"), text.index("</size>")
        path.write_text(text[:start] + text[end + len("</size>") :])
    assert read(folder).sizes.tolist() == [[100, 120], [64, 64], [70, 80]]
    picture(folder / "JPEGImages" / "0.png", (300, 400))
    assert read(folder).sizes[0].tolist() == [300, 400]


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 no zip", None])
def test_a_damaged_file_is_as_none(tmp_path: Path, kept: Path, damage: bytes | None):
    folder = write_set(tmp_path / "set", two_images(), "coco")
    first = read(folder, "train")
    (path,) = files(kept)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data) if damage is None else damage)
    assert equal(read(folder, "train"), first)


def test_nothing_is_kept_inside_the_data_or_where_it_cannot_be(
    tmp_path: Path, kept: Path, monkeypatch
):
    folder = write_set(tmp_path / "set", two_images(), "coco")
    before = sorted(folder.rglob("*"))
    monkeypatch.setenv("BOXATLAS_CACHE", str(folder / "cache"))
    assert len(read(folder, "train")) == 3
    assert sorted(folder.rglob("*")) == before
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BOXATLAS_CACHE", str(tmp_path / "file" / "cache"))
    assert len(read(folder, "train")) == 3


def test_the_longest_unused_goes_first(tmp_path: Path, kept: Path, monkeypatch):
    folders = [write_set(tmp_path / n, two_images()[[i]], "coco") for i, n in enumerate("abc")]
    monkeypatch.setattr(cache, "_MOST", 1)
    for folder in folders:
        read(folder, "train")
    assert len(files(kept)) == 1
