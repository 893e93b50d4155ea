"""Proposal files: written, read, found by path, refused where wrong, resumed where stopped."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

from boxatlas.data import Table, augmentation, make_loader
from boxatlas.data.proposals import (
    FILE,
    Proposals,
    Store,
    beside,
    for_images,
    mark_of,
    read_proposals,
)
from boxatlas.errors import InputError
from boxatlas.images import Preprocess


def some(names=("a.jpg", "sub/b.png", "c.jpg"), counts=(3, 0, 2), scored=True) -> Proposals:
    total = sum(counts)
    boxes = np.arange(total * 4, dtype=np.float32).reshape(-1, 4)
    return Proposals(
        tuple(names),
        np.array([[10, 20]] * len(names), np.int32),
        np.concatenate([[0], np.cumsum(counts)]),
        boxes,
        np.arange(total, dtype=np.float32) if scored else None,
        {"maker": "test"},
    )


@pytest.mark.parametrize("scored", [True, False])
def test_a_file_reads_back_as_it_was(tmp_path: Path, scored: bool) -> None:
    held = some(scored=scored)
    held.write(tmp_path / FILE)
    again = read_proposals(tmp_path / FILE)
    assert again.names == held.names
    assert again.about == {"maker": "test"}
    for name in held.names:
        assert np.array_equal(again[name], held[name])
    assert (again.scores is not None) == scored


def test_an_image_is_found_by_the_last_parts_of_its_path() -> None:
    held = some(names=("a.jpg", "sub/b.png", "000005"))
    assert held.find("/data/voc/JPEGImages/a.jpg") == 0
    assert held.find("/data/sub/b.png") == 1
    assert held.find("/data/000005.jpg") == 2  # R-CNN's files name images without suffix
    with pytest.raises(InputError, match=r"no proposals for this image.*other/b\.png"):
        held.find("/data/other/b.png")


def test_the_longest_name_is_meant() -> None:
    held = some(names=("b.png", "sub/b.png", "/data/sub/b.png"))
    assert held.find("/data/sub/b.png") == 2
    assert held.find("x/sub/b.png") == 1
    assert held.find("x/b.png") == 0


@given(counts=st.lists(st.integers(0, 6), min_size=1, max_size=5), most=st.integers(1, 7))
@settings(max_examples=30, deadline=None)
def test_first_keeps_the_best_of_each(counts: list[int], most: int) -> None:
    held = some(tuple(f"{i}.jpg" for i in range(len(counts))), tuple(counts))
    fewer = held.first(most)
    for name in held.names:
        assert np.array_equal(fewer[name], held[name][:most])
    assert fewer.scores is not None
    assert len(fewer.scores) == len(fewer.boxes) == sum(min(c, most) for c in counts)


def test_join_takes_every_image_once() -> None:
    first, second = some(), some(names=("a.jpg", "d.jpg", "e.jpg"), counts=(3, 1, 4))
    both = Proposals.join([first, second])
    assert both.names == ("a.jpg", "sub/b.png", "c.jpg", "d.jpg", "e.jpg")
    assert np.array_equal(both["c.jpg"], first["c.jpg"])
    assert np.array_equal(both["e.jpg"], second["e.jpg"])
    with pytest.raises(InputError, match=r"other boxes of this image.*'c\.jpg'"):
        Proposals.join([first, some(names=("c.jpg",), counts=(2,))])


def test_matlab_files_of_rcnn(tmp_path: Path) -> None:
    """y1 x1 y2 x2, the first pixel being 1 and the last one inside."""
    images, boxes = np.empty((2, 1), object), np.empty((1, 2), object)
    images[:, 0] = ["000005", "000007"]
    boxes[0, 0] = np.array([[1.0, 2.0, 30.0, 40.0]])
    boxes[0, 1] = np.zeros((0, 4))
    savemat(tmp_path / "voc.mat", {"images": images, "boxes": boxes})
    held = read_proposals(tmp_path / "voc.mat")
    assert held["JPEGImages/000005.jpg"].tolist() == [[1, 0, 40, 30]]
    assert held["JPEGImages/000007.jpg"].shape == (0, 4)


def test_what_is_no_proposal_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_proposals(tmp_path / "none.npz")
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({}))
    with pytest.raises(InputError, match="can run code"):
        read_proposals(tmp_path / "x.pkl")
    (tmp_path / "x.npz").write_bytes(b"nothing")
    with pytest.raises(InputError, match="not an npz of arrays"):
        read_proposals(tmp_path / "x.npz")
    np.savez(tmp_path / "y.npz", boxes=np.zeros((0, 4)))
    with pytest.raises(InputError, match="names"):
        read_proposals(tmp_path / "y.npz")
    np.savez(tmp_path / "z.npz", names=np.array([{}], object))  # a pickle inside
    with pytest.raises(InputError, match="could run code"):
        read_proposals(tmp_path / "z.npz")
    wrong = some()
    Proposals(wrong.names, wrong.sizes, wrong.offsets + 1, wrong.boxes).write(tmp_path / "w.npz")
    with pytest.raises(InputError, match="do not fit together"):
        read_proposals(tmp_path / "w.npz")
    Proposals(wrong.names, wrong.sizes, wrong.offsets, wrong.boxes * np.nan).write(
        tmp_path / "n.npz"
    )
    with pytest.raises(InputError, match="not finite"):
        read_proposals(tmp_path / "n.npz")


def _mat(path: Path) -> None:
    names, boxes = np.empty((2, 1), object), np.empty((1, 2), object)
    names[:, 0] = ["a", "b"]
    boxes[0, 0], boxes[0, 1] = np.ones((2, 4)), np.ones((1, 4))
    savemat(path, {"images": names, "boxes": boxes})


def test_a_mat_file_that_crashes_its_reader_is_one_line(tmp_path: Path) -> None:
    """A name's length made 41,984 bytes: scipy reads beyond its buffer."""
    path = tmp_path / "boxes.mat"
    _mat(path)
    assert read_proposals(path).names == ("a", "b")
    data = path.read_bytes()
    assert b"\x10\x00\x01\x00a" in data
    path.write_bytes(data.replace(b"\x10\x00\x01\x00a", b"\x10\xa4\x01\x00a"))
    with pytest.raises(InputError, match="not a proposal file of R-CNN"):
        read_proposals(path)
    path.write_bytes(data[:300])
    with pytest.raises(InputError, match="not a proposal file of R-CNN"):
        read_proposals(path)


def _spoil_deflate(data: bytearray) -> None:
    data[60:70] = b"\xff" * 10


def _unknown_method(data: bytearray) -> None:
    data[8:10] = b"\x63\x00"
    at = data.index(b"PK\x01\x02")
    data[at + 10 : at + 12] = b"\x63\x00"


@pytest.mark.parametrize("spoil", [_spoil_deflate, _unknown_method])
def test_a_damaged_archive_is_one_line(tmp_path: Path, spoil: Callable[[bytearray], None]) -> None:
    path = tmp_path / "proposals.npz"
    names = np.array(["a" * 50, "b"])
    np.savez_compressed(path, names=names, sizes=np.ones((2, 2), np.int32))
    data = bytearray(path.read_bytes())
    spoil(data)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"proposals\.npz"):
        read_proposals(path)


def test_arrays_of_other_shapes_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "proposals.npz"
    whole = {
        "names": np.array(["a"]),
        "sizes": np.ones((1, 2), np.int32),
        "offsets": np.array([0, 1]),
        "boxes": np.zeros((1, 4), np.float32),
        "about": np.array("{}"),
    }
    np.savez(path, **whole)
    assert read_proposals(path).names == ("a",)
    wrong = {"names": np.array("a"), "scores": np.array(0.5), "about": np.array("[]")}
    for name, value in wrong.items():
        np.savez(path, **{**whole, name: value})
        with pytest.raises(InputError, match="do not fit together"):
            read_proposals(path)


def test_a_store_goes_on_after_a_stop(tmp_path: Path) -> None:
    about = {"maker": "test", "k": 1}
    boxes = np.ones((2, 4), np.float32)
    store = Store(tmp_path, about)
    with pytest.raises(KeyboardInterrupt), store:  # noqa: PT012
        for i in range(70):  # past one shard
            store.add(f"{i}.jpg", (5, 6), boxes * i)
        raise KeyboardInterrupt
    assert not (tmp_path / FILE).exists()
    again = Store(tmp_path, about)
    assert [i for i in range(72) if f"{i}.jpg" not in again] == [70, 71]
    with again:
        again.add("70.jpg", (5, 6), boxes)
        again.add("71.jpg", (5, 6), boxes[:0])
    whole = again.finish()
    assert len(whole) == 72
    assert whole["69.jpg"].tolist() == [[69.0] * 4] * 2
    assert whole["71.jpg"].shape == (0, 4)
    assert [p.name for p in tmp_path.iterdir()] == [FILE]
    more = Store(tmp_path, about)  # another image later on
    assert "3.jpg" in more
    with more:
        more.add("new.jpg", (5, 6), boxes)
    assert len(more.finish()) == 73


def test_a_store_made_otherwise_is_not_added_to(tmp_path: Path) -> None:
    with Store(tmp_path, {"k": 1}) as store:
        store.add("a.jpg", (1, 1), np.zeros((0, 4)))
    with pytest.raises(InputError, match=r"other options.*--force"):
        Store(tmp_path, {"k": 2})
    store.finish()
    with pytest.raises(InputError, match=r"other options.*--force"):
        Store(tmp_path, {"k": 2})
    assert "a.jpg" not in Store(tmp_path, {"k": 2}, force=True)


def added(store: Store, *names: str) -> Store:
    with store:
        for name in names:
            store.add(name, (1, 1), np.ones((1, 4)))
    return store


def test_force_replaces_what_is_there_when_the_new_is_whole(tmp_path: Path) -> None:
    old, new = {"k": 1}, {"k": 2}
    added(Store(tmp_path, old), "a.jpg", "b.jpg").finish()
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(InputError, match="no image"):
        added(Store(tmp_path, new, force=True)).finish()
    added(Store(tmp_path, new, force=True), "a.jpg")  # stopped
    assert (tmp_path / FILE).read_bytes() == before
    again = Store(tmp_path, new)  # gone on with, without force
    assert set(again.done) == {"a.jpg"}
    assert set(added(again, "c.jpg").finish().names) == {"a.jpg", "c.jpg"}
    assert [p.name for p in tmp_path.iterdir()] == [FILE]


def test_a_second_force_begins_anew(tmp_path: Path) -> None:
    added(Store(tmp_path, {"k": 1}, force=True), "a.jpg")
    second = added(Store(tmp_path, {"k": 1}, force=True), "b.jpg")
    assert second.finish().names == ("b.jpg",)


def test_a_call_that_made_nothing_leaves_nothing(tmp_path: Path) -> None:
    added(Store(tmp_path / "out", {"k": 1}))
    assert not (tmp_path / "out").exists()


def test_an_image_is_known_by_its_content(tmp_path: Path) -> None:
    one, other = tmp_path / "one" / "a.jpg", tmp_path / "other" / "a.jpg"
    for path in (one, other):
        path.parent.mkdir()
        path.write_bytes(str(path).encode())
    with Store(tmp_path, {}) as store:
        store.add("a.jpg", (1, 1), np.zeros((0, 4)), mark=mark_of(one))
        store.add("old.jpg", (1, 1), np.zeros((0, 4)))
    store.finish()
    again = Store(tmp_path, {})
    again.check("a.jpg", one)
    again.check("old.jpg", other)  # of a file that knows no marks
    with pytest.raises(InputError, match=r"another image called a\.jpg.*other"):
        again.check("a.jpg", other)


def table_of(folder: Path, sizes: list[tuple[int, int]]) -> Table:
    paths = []
    for i, (height, width) in enumerate(sizes):
        Image.new("RGB", (width, height), (9 * i, 50, 90)).save(folder / f"{i}.png")
        paths.append(str(folder / f"{i}.png"))
    count = len(sizes)
    return Table(
        ("thing",),
        paths,
        list(range(count)),
        np.array(sizes, np.int32),
        np.arange(count + 1),
        np.array([[4, 6, 20, 30]] * count, np.float32),
        np.zeros(count, np.int32),
        np.zeros(count, bool),
    )


def test_proposals_of_an_image_of_another_size_are_refused(tmp_path: Path) -> None:
    table = table_of(tmp_path, [(40, 60)])
    held = some(names=("0.png",), counts=(1,))
    with pytest.raises(InputError, match=r"20 x 10 image 0\.png.*60 x 40"):
        held.check(table)


def test_each_folder_s_images_are_looked_up_in_its_own_file(tmp_path: Path) -> None:
    """Two data sets that call different images alike, and one inside the other."""
    folders = [tmp_path / "one", tmp_path / "one" / "inner", tmp_path / "two"]
    tables = []
    for i, folder in enumerate(folders):
        folder.mkdir()
        tables.append(table_of(folder, [(10, 20)]))
        some(names=("0.png",), counts=(i + 1,)).write(folder / FILE)
    held = for_images(beside(folders), tables, None, own=True)
    assert [len(held[table.paths[0]]) for table in tables] == [1, 2, 3]
    with pytest.raises(InputError, match="holds other boxes of this image"):
        for_images(beside(folders), tables, None)  # given by name, any may be meant
    some(names=("1.png",), counts=(1,)).write(folders[2] / FILE)
    with pytest.raises(InputError, match=r"two/proposals\.npz: has no proposals for this image"):
        for_images(beside(folders), tables, None, own=True)


@pytest.mark.parametrize("kind", ["none", "flip", "ssd", "yolo"])
def test_proposals_move_as_objects_do(tmp_path: Path, kind: str) -> None:
    """A proposal that equals an object still equals it in the network's input."""
    table = table_of(tmp_path, [(40, 60), (48, 36), (50, 50)])
    proposals = {
        path: np.concatenate([table.boxes[i : i + 1], [[0, 0, 9, 9]]]).astype(np.float32)
        for i, path in enumerate(table.paths)
    }
    loader = make_loader(
        table,
        Preprocess(size=(64, 64)),
        augment=augmentation(kind),
        batch_size=3,
        shuffle=False,
        seed=0,
        proposals=proposals,
    )
    compared = 0
    for epoch in range(8):
        for batch in loader.epoch(epoch):
            assert batch.proposals is not None
            assert batch.valid is not None
            assert batch.proposals.shape == (3, 2, 4)
            held = batch.targets.valid[:, 0]
            if held.any():
                same = (batch.proposals[held, 0] - batch.targets.boxes[held, 0]).abs()
                assert same.max() < 1e-4
                assert batch.valid[held, 0].all()
                compared += int(held.sum())
    assert compared > 10
