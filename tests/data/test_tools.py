"""Statistics, contact sheets, conversion and splitting."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sets import LAYOUTS, picture, table_of, two_images, write_set

from boxatlas.data import Table, read, read_splits, splits
from boxatlas.data.convert import convert
from boxatlas.data.masks import encode
from boxatlas.data.split import parts_of, shares, stratified
from boxatlas.data.statistics import class_rows, once, statistics, summary_rows
from boxatlas.data.statistics import picture as histograms
from boxatlas.data.view import bitmap, chosen, sheet
from boxatlas.drawing import colour
from boxatlas.errors import InputError


def on_disk(folder: Path, table: Table) -> Table:
    for i, path in enumerate(table.paths):
        picture(folder / path, tuple(table.sizes[i].tolist()), seed=i)
    return replace(table, paths=[str(folder / path) for path in table.paths])


def test_statistics_by_hand():
    boxes = [[[0, 0, 20, 10], [0, 0, 50, 100], [0, 0, 200, 100]], [], [[0, 0, 10, 10]]]
    table = table_of(
        boxes, [[0, 0, 1], [], [1]], [(200, 400)] * 3, ignore=[False, False, False, True]
    )
    stats = statistics({"train": table})["train"]
    assert (stats["images"], stats["images without objects"]) == (3, 1)
    assert (stats["objects"], stats["ignored"]) == (3, 1)
    assert stats["classes"]["cat"] == {"objects": 2, "images": 1, "ignored": 0}
    assert stats["classes"]["dog"] == {"objects": 1, "images": 1, "ignored": 1}
    assert list(stats["size by area"].values()) == [1, 1, 1]  # 200, 5000 and 20000 pixels
    ratio = stats["box width / height"]
    assert (ratio["least"], ratio["half"], ratio["most"]) == (0.5, 2.0, 2.0)
    assert stats["objects an image"]["mean"] == 1.0
    assert stats["image width"]["half"] == 400
    json.dumps(stats)
    assert class_rows({"train": stats})[0] == {"class": "cat", "train": 2}
    assert {"": "objects", "train": 3} in summary_rows({"train": stats})


def test_an_image_in_several_splits_is_drawn_once():
    """VOC's trainval is train and val: what the page adds up is each image once."""
    table = two_images()
    splits = {"train": table[:2], "trainval": table, "val": table[2:]}
    seen = once(splits)
    assert {name: part.paths for name, part in seen.items()} == {
        "train": table.paths[:2],
        "val": table.paths[2:],
    }
    assert sum(len(part.labels) for part in seen.values()) == len(table.labels)
    extra = once({"train": table[:1], "odd": table})
    assert {name: len(part) for name, part in extra.items()} == {"train": 1, "odd": 2}


def test_an_empty_table_has_statistics_and_a_picture(tmp_path: Path):
    table = table_of([[]], [[]], [(10, 10)])
    stats = statistics({"": table})
    assert stats["all"]["box width"] is None
    histograms({"": table}, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert min(image.size) > 500


def test_a_sheet_shows_every_image_with_its_boxes(tmp_path: Path):
    table = on_disk(tmp_path, two_images())
    made = np.asarray(sheet(table, [0, 1, 2], columns=2))
    # Two rows of cells of 320 pixels; the boxes' colours are in it.
    assert made.shape[1] == 2 * 328 + 8
    for label in (0, 1, 2):
        assert (np.abs(made.astype(int) - colour(label)).sum(-1) < 12).sum() > 50
    again = np.asarray(sheet(table, [0], augmented="ssd", seed=4))
    assert np.array_equal(again, np.asarray(sheet(table, [0], augmented="ssd", seed=4)))
    assert not np.array_equal(again, np.asarray(sheet(table, [0], augmented="ssd", seed=5)))


def test_masks_are_drawn_where_they_are():
    whole = np.zeros((40, 60), bool)
    whole[10:30, 20:50] = True
    outline = [[20.0, 10.0, 50.0, 10.0, 50.0, 30.0, 20.0, 30.0]]
    for mask in (encode(whole), outline):
        assert np.array_equal(bitmap(mask, (40, 60), (40, 60)), whole)
        half = bitmap(mask, (40, 60), (20, 30))
        assert np.array_equal(half, whole[::2, ::2])
    assert not bitmap(None, (4, 4), (2, 2)).any()


def test_images_are_chosen_by_seed_and_class():
    table = two_images()
    assert chosen(table, 2, 0) == chosen(table, 2, 0)
    assert chosen(table, 9, 0, ["tea pot"]) == [0]


# -- Conversion ------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", LAYOUTS)
@pytest.mark.parametrize("source", LAYOUTS)
def test_every_layout_becomes_every_other(tmp_path: Path, source: str, to: str):
    members = {"train": [0, 2], "val": [1]}
    before = write_set(tmp_path / "before", two_images(), source, members)
    table, notes = convert(read_splits(before), tmp_path / "after", to)
    assert len(table) == 3
    assert sorted(splits(tmp_path / "after")) == ["train", "val"]
    for split, rows in members.items():
        again, first = read(tmp_path / "after", split), two_images().select(rows)
        assert [Path(p).name for p in again.paths] == first.paths
        np.testing.assert_allclose(again.boxes, first.boxes, atol=2e-3)
        assert [n for row in again for n in row.names] == [n for row in first for n in row.names]
        for path in again.paths:
            assert Path(path).read_bytes() == next(before.rglob(Path(path).name)).read_bytes()
        if to != "yolo" and source != "yolo":
            assert again.ignore.tolist() == first.ignore.tolist()
    if to == "yolo" and source != "yolo":
        assert any("ignored" in note for note in notes)


def test_coco_to_coco_keeps_ids_areas_and_masks(tmp_path: Path):
    polygons = [
        [[10.0, 20, 60, 20, 60, 90]],
        [[1.0, 1, 9, 1, 9, 9], [20.0, 20, 30, 20, 30, 30]],
        encode(np.eye(100, 120, dtype=bool)),
        None,
        None,
    ]
    table = replace(
        two_images(),
        category_ids=(5, 17, 90),
        ids=[300, 4, 77],
        areas=np.array([1.5, 2, 3, 4, 5], np.float32),
    )
    table = replace(table, masks=polygons)
    before = write_set(tmp_path / "before", table, "coco")
    _, notes = convert(read_splits(before), tmp_path / "after", "coco")
    assert notes == []
    again = read(tmp_path / "after")
    assert (again.ids, again.category_ids) == ([300, 4, 77], (5, 17, 90))
    assert again.object_areas.tolist() == [1.5, 2, 3, 4, 5]
    assert list(again.masks or ()) == polygons


def test_voc_to_voc_keeps_what_no_column_holds(tmp_path: Path):
    before = write_set(tmp_path / "before", two_images(), "voc", {"train": [0, 1], "val": [2]})
    path = before / "Annotations" / "0.xml"
    pose = "<pose>Left &amp; up</pose><occluded>1</occluded>"
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    text = path.read_text().replace("</filename>", "</filename><source><a>b</a></source>")
    path.write_text(text.replace("<name>dog</name>", f"<name>dog</name>{pose}{part}"))
    for out, tables in (("a", read_splits(before)), ("b", {"x": read(before)[[2, 0]]})):
        _, notes = convert(tables, tmp_path / out, "voc")
        assert notes == []
        again = (tmp_path / out / "Annotations" / "0.xml").read_text()
        assert again.count("<source><a>b</a></source>") == 1
        assert f"<name>dog</name>{pose}{part}<difficult>" in again
        assert again.count("<pose>") == 1
        assert "pose" not in (tmp_path / out / "Annotations" / "2.xml").read_text()
    _, notes = convert(read_splits(before), tmp_path / "coco", "coco")
    assert notes == ["what only voc files say: source, pose, occluded, part"]


def test_coco_to_coco_keeps_what_no_column_holds(tmp_path: Path):
    before = write_set(tmp_path / "before", two_images(), "coco", {"train": [0, 1], "val": [2]})
    for split in ("train", "val"):
        path = before / "annotations" / f"instances_{split}.json"
        document = json.loads(path.read_text())
        document |= {"info": {"description": split}, "licenses": [{"id": 4, "url": "u"}]}
        document["images"][0] |= {"license": 4, "coco_url": f"at/{split}"}
        document["categories"][1]["supercategory"] = "animal"
        document["annotations"][1]["attributes"] = {"wet": True}
        path.write_text(json.dumps(document))
    _, notes = convert(read_splits(before), tmp_path / "after", "coco")
    assert notes == []
    for split in ("train", "val"):
        one, two = (
            json.loads((folder / "annotations" / f"instances_{split}.json").read_text())
            for folder in (before, tmp_path / "after")
        )
        assert {**one, "annotations": 0, "images": 0} == {**two, "annotations": 0, "images": 0}
        assert [{**i, "id": 0} for i in one["images"]] == [{**i, "id": 0} for i in two["images"]]
        assert [a.get("attributes") for a in two["annotations"]][:2] == [None, {"wet": True}]
    _, notes = convert({"x": read(before)}, tmp_path / "joined", "coco")
    assert notes == ["info: not the same in the files that are joined; the first is kept"]
    _, notes = convert(read_splits(before), tmp_path / "yolo", "yolo")
    assert any(note.startswith("what only coco files say: ") for note in notes)
    both = Table.join([read(before), read(write_set(tmp_path / "voc", two_images(), "voc"))])
    assert both.extras is not None
    assert len(both.extras.head_of) == len(both.extras.images) == len(both)


def test_what_a_layout_cannot_hold_is_said(tmp_path: Path):
    masks = [[[10.0, 20, 60, 20, 60, 90]], encode(np.ones((100, 120), bool)), None, None, None]
    table = replace(two_images(), masks=masks, truncated=np.array([True, False, False, True, True]))
    before = write_set(tmp_path / "coco", table, "coco")
    _, notes = convert(read_splits(before), tmp_path / "voc", "voc")
    assert any("masks: 2" in note for note in notes)
    tables = {"train": replace(read(before), truncated=table.truncated)}
    for to, said in (("yolo", "truncated: 3"), ("coco", "truncated: 3"), ("yolo", "masks: 1")):
        _, notes = convert(tables, tmp_path / f"{to}-{said[0]}", to)
        assert any(note.startswith(said) for note in notes), notes
    none = {"train": replace(read(before), truncated=np.zeros(5, bool))}
    for to in ("yolo", "coco", "csv", "labelme", "labelstudio"):
        _, notes = convert(none, tmp_path / f"{to}-none", to)
        assert not any("truncated" in note for note in notes), notes


def test_overlapping_splits_are_written_once_where_each_has_its_folder(tmp_path: Path):
    members = {"train": [0], "val": [1], "trainval": [0, 1], "test": [2]}
    before = write_set(tmp_path / "voc", two_images(), "voc", members)
    _, notes = convert(read_splits(before), tmp_path / "coco", "coco")
    assert splits(tmp_path / "coco") == ["test", "train", "val"]
    assert any("trainval" in note for note in notes)
    convert(read_splits(before), tmp_path / "again", "voc")
    assert splits(tmp_path / "again") == ["test", "train", "trainval", "val"]


def test_images_of_one_name_keep_apart(tmp_path: Path):
    table = on_disk(tmp_path / "a", two_images()[[0]]) + on_disk(tmp_path / "b", two_images()[[2]])
    table.paths[1] = table.paths[1].replace("2.png", "0.png")
    picture(Path(table.paths[1]), (70, 80), seed=9)
    _, notes = convert({"train": table}, tmp_path / "out", "voc")
    assert any("0.png -> 0_2.png" in note for note in notes)
    again = read(tmp_path / "out", "train")
    assert [Path(p).name for p in again.paths] == ["0.png", "0_2.png"]
    assert Path(again.paths[1]).read_bytes() == Path(table.paths[1]).read_bytes()


def test_a_conversion_that_fails_leaves_nothing(tmp_path: Path):
    before = write_set(tmp_path / "voc", two_images(), "voc")
    tables = read_splits(before)
    (before / "JPEGImages" / "2.png").unlink()
    with pytest.raises(InputError, match=r"2\.png"):
        convert(tables, tmp_path / "out", "coco")
    assert [p.name for p in tmp_path.iterdir()] == ["voc"]
    with pytest.raises(InputError, match="holds something"):
        convert(tables, before, "coco")
    with pytest.raises(InputError, match="did you mean 'coco'"):
        convert(tables, tmp_path / "out", "cocoo")


# -- Splitting -------------------------------------------------------------------------------------


def many(images: int, seed: int) -> Table:
    """Images of three classes, of which the last is rare; some images are empty."""
    rng = np.random.default_rng(seed)
    labels = [
        [c for c, p in enumerate((0.7, 0.3, 0.04)) if rng.random() < p] for _ in range(images)
    ]
    return table_of([[[0, 0, 9, 9]] * len(x) for x in labels], labels, [(20, 20)] * images)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), images=st.integers(1, 120))
def test_a_split_holds_every_image_once_and_keeps_groups_whole(seed: int, images: int):
    table = many(images, seed)
    groups = np.random.default_rng(seed).integers(0, max(1, images * 2 // 3), images)
    members = stratified(table, {"train": 0.7, "test": 0.3}, seed=seed, groups=groups)
    assert sorted(i for rows in members.values() for i in rows) == list(range(images))
    held = [set(groups[rows].tolist()) for rows in members.values()]
    assert not held[0] & held[1]


def test_every_class_is_shared_out_in_proportion():
    table = many(1000, 1)
    members = stratified(table, parts_of("train=8,val=1,test=1"), seed=2)
    counts = {name: len(rows) for name, rows in members.items()}
    assert abs(counts["train"] - 800) <= 3
    assert abs(counts["val"] - counts["test"]) <= 5
    for row in shares(table, members):
        # To one image of the class: nobody can do better than half of one.
        step = 1 / row["objects"]  # pyright: ignore[reportOperatorIssue]
        assert abs(row["train"] - 0.8) <= step + 1e-3  # pyright: ignore[reportOperatorIssue]
        assert abs(row["val"] - 0.1) <= step + 1e-3  # pyright: ignore[reportOperatorIssue]


def test_a_split_repeats_by_its_seed():
    table = many(200, 3)
    parts = {"train": 0.5, "test": 0.5}
    assert stratified(table, parts, seed=1) == stratified(table, parts, seed=1)
    assert stratified(table, parts, seed=1) != stratified(table, parts, seed=2)


def test_shares_are_read_and_bad_ones_refused():
    assert parts_of("train=3, test=1") == {"train": 0.75, "test": 0.25}
    for text in ("train", "train=0", "train=1,train=1", "../a=1", "train=x"):
        with pytest.raises(InputError, match="--parts"):
            parts_of(text)


def test_a_layout_that_is_only_read_is_said_to_be_so(tmp_path: Path):
    with pytest.raises(InputError, match=r"read, not written .*choose from: voc, coco"):
        convert({"train": on_disk(tmp_path, two_images())}, tmp_path / "out", "kitti")
    with pytest.raises(InputError, match="no such layout"):
        convert({"train": two_images()}, tmp_path / "out", "kiti")
