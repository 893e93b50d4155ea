"""The readers: what each layout says, read by hand-made files, and round trips between them."""

from __future__ import annotations

import base64
import io
import json
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sets import CLASSES, LAYOUTS, picture, table_of, two_images, write_set

from boxatlas.data import detect_format, read, splits
from boxatlas.data.masks import decode
from boxatlas.data.writing import WRITERS
from boxatlas.errors import InputError


def voc_xml(objects: str, size: str = "<width>100</width><height>80</height>") -> str:
    return f"<annotation><size>{size}</size>{objects}</annotation>"


def voc_object(name: str, corners: tuple[float, ...], more: str = "") -> str:
    sides = ("xmin", "ymin", "xmax", "ymax")
    box = "".join(f"<{s}>{v}</{s}>" for s, v in zip(sides, corners, strict=True))
    return f"<object><name>{name}</name>{more}<bndbox>{box}</bndbox></object>"


def test_voc_corners_are_one_based_and_inclusive(tmp_path: Path):
    """The pixel in the top left corner alone is (1, 1, 1, 1): one pixel wide here."""
    picture(tmp_path / "JPEGImages" / "a.jpg", (80, 100))
    annotations = tmp_path / "Annotations"
    annotations.mkdir()
    first, whole = voc_object("dot", (1, 1, 1, 1)), voc_object("all", (1, 1, 100, 80))
    flags = "<truncated>1</truncated><difficult>1</difficult>"
    (annotations / "a.xml").write_text(
        voc_xml(first + whole + voc_object("all", (2, 3, 4, 5), flags))
    )
    table = read(tmp_path)
    assert table.classes == ("all", "dot")
    assert table.boxes.tolist() == [[0, 0, 1, 1], [0, 0, 100, 80], [1, 2, 4, 5]]
    assert table.labels.tolist() == [1, 0, 0]
    assert table.ignore.tolist() == [False, False, True]
    assert table.truncated is not None
    assert table.truncated.tolist() == [False, False, True]
    assert table.sizes.tolist() == [[80, 100]]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "iso-8859-1", "utf-16", "gbk"])
@pytest.mark.parametrize("declared", [True, False])
def test_voc_names_are_read_in_their_encoding(tmp_path: Path, encoding: str, declared: bool):
    """What is declared is kept to; undeclared: a byte order mark, UTF-8 or Latin-1."""
    if encoding == "gbk" and not declared:
        return
    picture(tmp_path / "JPEGImages" / "a.jpg", (80, 100))
    (tmp_path / "Annotations").mkdir()
    name = "猫" if encoding == "gbk" else "café"
    head = f'<?xml version="1.0" encoding="{encoding.removesuffix("-sig")}"?>' * declared
    text = head + voc_xml(voc_object(name, (1, 1, 9, 9)))
    (tmp_path / "Annotations" / "a.xml").write_bytes(text.encode(encoding))
    assert read(tmp_path).classes == (name,)


def test_voc_names_may_hold_spaces_beside_a_second_column(tmp_path: Path):
    (tmp_path / "Annotations").mkdir()
    for name in ("my photo", "photo 1", "photo"):
        picture(tmp_path / "JPEGImages" / f"{name}.jpg", (8, 8))
        (tmp_path / "Annotations" / f"{name}.xml").write_text(voc_xml(""))
    (tmp_path / "classes.txt").write_text("cat\n")
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("my photo\nphoto 1\n")
    (lists / "val.txt").write_text("my photo  1\nphoto 1 -1\nphoto 0\n")
    assert read(tmp_path, "train").ids == ["my photo", "photo 1"]
    assert read(tmp_path, "val").ids == ["my photo", "photo 1", "photo"]


def test_voc_lists_are_splits_and_per_class_lists_are_not(tmp_path: Path):
    for name in "abc":
        picture(tmp_path / "JPEGImages" / f"{name}.jpg", (8, 8))
        (tmp_path / "Annotations").mkdir(exist_ok=True)
        (tmp_path / "Annotations" / f"{name}.xml").write_text(voc_xml(""))
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("b\na\n")
    (lists / "test.txt").write_text("c\r\n")
    (lists / "val.txt").write_text("a\rb\r")
    (lists / "cat_train.txt").write_text("a -1\nb 1\n")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    assert splits(tmp_path) == ["test", "train", "val"]
    assert read(tmp_path, "train").ids == ["b", "a"]
    assert read(tmp_path, "val").ids == ["a", "b"]
    assert read(tmp_path, "test").ids == ["c"]
    assert read(tmp_path).classes == ("cat", "dog")


def coco_document(**lists: object) -> dict[str, object]:
    return {
        "images": [{"id": 7, "file_name": "a.png", "height": 80, "width": 100}],
        "categories": [{"id": 90, "name": "brush"}, {"id": 1, "name": "person"}],
        "annotations": [],
        **lists,
    }


def write_coco(folder: Path, document: object, split: str = "train") -> Path:
    if not (folder / split / "a.png").exists():
        picture(folder / split / "a.png", (80, 100))
    (folder / "annotations").mkdir(exist_ok=True)
    path = folder / "annotations" / f"instances_{split}.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def test_coco_boxes_are_corner_and_size_and_labels_follow_the_ids(tmp_path: Path):
    polygon = [[10, 20, 40, 20, 40, 60]]
    rle = {"size": [80, 100], "counts": [0, 80, 7920]}
    annotations = [
        {"id": 5, "image_id": 7, "category_id": 90, "bbox": [10, 20, 30, 40], "area": 600.0,
         "iscrowd": 0, "segmentation": polygon},
        {"id": 6, "image_id": 7, "category_id": 1, "bbox": [0, 0, 1, 80], "iscrowd": 1,
         "segmentation": rle},
    ]  # fmt: skip
    write_coco(tmp_path, coco_document(annotations=annotations))
    table = read(tmp_path)
    assert table.classes == ("person", "brush")
    assert table.category_ids == (1, 90)
    assert table.boxes.tolist() == [[10, 20, 40, 60], [0, 0, 1, 80]]
    assert table.labels.tolist() == [1, 0]
    assert table.ignore.tolist() == [False, True]
    assert table.object_areas.tolist() == [600, 80]
    assert table.ids == [7]
    assert table.masks is not None
    assert list(table.masks) == [polygon, rle]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"iscrowd": "many"}, "iscrowd: must be 0 or 1"),
        ({"iscrowd": float("nan")}, "iscrowd: must"),
        ({"iscrowd": 2}, "iscrowd: must"),
        ({"area": "big"}, "area: is not a number"),
        ({"area": float("nan")}, "area: is not a number"),
        ({"area": True}, "area: is not a number"),
        ({"area": -5}, "area: must be 0 or more"),
        ({"area": 10**400}, "area: is far too large"),
    ],
)
def test_coco_flags_and_areas_are_numbers(tmp_path: Path, values: dict[str, object], said: str):
    thing = {"id": 5, "image_id": 7, "category_id": 90, "bbox": [10, 20, 30, 40]}
    write_coco(tmp_path, coco_document(annotations=[{**thing, "area": None, "iscrowd": True}]))
    assert read(tmp_path).ignore.tolist() == [True]
    write_coco(tmp_path, coco_document(annotations=[{**thing, **values}]))
    with pytest.raises(InputError) as caught:
        read(tmp_path)
    assert f"annotations[0].{said}" in str(caught.value)


@pytest.mark.parametrize("side", ["wide", True, float("nan")])
def test_coco_sizes_are_numbers(tmp_path: Path, side: object):
    write_coco(
        tmp_path,
        coco_document(images=[{"id": 7, "file_name": "a.png", "height": 80, "width": side}]),
    )
    with pytest.raises(InputError, match=r"images\[0\].width: is not a"):
        read(tmp_path)


@pytest.mark.parametrize("counts", [[5, 7], [-5, 8005], "57", "5", "q7", "777`"])
def test_runs_that_do_not_cover_their_mask_are_named(tmp_path: Path, counts: object):
    row = {
        "id": 1,
        "image_id": 7,
        "category_id": 1,
        "bbox": [1, 2, 3, 4],
        "segmentation": {"size": [80, 100], "counts": counts},
    }
    write_coco(tmp_path, coco_document(annotations=[row]))
    with pytest.raises(InputError, match=r"annotations\[0\]\.segmentation: is no mask: .*run"):
        read(tmp_path)


def test_coco_years_may_be_left_out_where_unique(tmp_path: Path):
    write_coco(tmp_path, coco_document(), "train2017")
    write_coco(tmp_path, coco_document(), "val2017")
    assert splits(tmp_path) == ["train", "val"]
    write_coco(tmp_path, coco_document(), "val2014")
    assert splits(tmp_path) == ["train2017", "val2014", "val2017"]


def test_a_json_at_the_top_is_known_by_what_it_holds(tmp_path: Path):
    """However much stands before COCO's lists, or before a task's data."""
    picture(tmp_path / "a" / "train" / "a.png", (80, 100))
    document = {"info": {"description": "x" * 100_000}, **coco_document()}
    (tmp_path / "a" / "all.json").write_text(json.dumps(document))
    assert detect_format(tmp_path / "a") == "coco"
    assert len(read(tmp_path / "a")) == 1
    task = {"annotations": [{"result": [], "note": "x" * 100_000}], "data": {"image": "a.png"}}
    picture(tmp_path / "b" / "train" / "a.png", (80, 100))
    for encoding in ("utf-8", "utf-16"):
        (tmp_path / "b" / "tasks.json").write_text(json.dumps([task]), encoding=encoding)
        assert detect_format(tmp_path / "b") == "labelstudio"
        assert len(read(tmp_path / "b")) == 1


def test_coco_takes_no_other_image_of_the_same_name(tmp_path: Path):
    """A bare name may lie deeper in its split's folder; another split's image is not meant."""
    image = {"id": 1, "height": 8, "width": 8}
    document = coco_document(images=[{**image, "file_name": "b.png"}])
    path = write_coco(tmp_path, document)
    deep = picture(tmp_path / "train" / "deep" / "b.png", (8, 8))
    assert read(tmp_path, "train").paths == [str(deep)]
    picture(tmp_path / "train" / "other" / "b.png", (8, 8), seed=1)
    with pytest.raises(InputError, match="missing: 2 others"):
        read(tmp_path, "train")
    path.write_text(json.dumps(coco_document(images=[{**image, "file_name": "c.png"}])))
    other = picture(tmp_path / "val" / "c.png", (8, 8))
    with pytest.raises(InputError, match="the image is missing"):
        read(tmp_path, "train")
    path.write_text(json.dumps(coco_document(images=[{**image, "file_name": "x/c.png"}])))
    with pytest.raises(InputError, match="the image is missing"):
        read(tmp_path, "train")
    path.write_text(json.dumps(coco_document(images=[{**image, "file_name": "c.png"}])))
    path.rename(path.with_name("instances_minival.json"))  # which has no folder of its own
    assert read(tmp_path, "minival").paths == [str(other)]


def test_a_json_list_of_many_objects_is_read_whole_and_in_order(tmp_path: Path):
    """Braces and commas within texts, a list after the long one, and no end of line between."""
    annotations = [
        {
            "id": k + 1,
            "image_id": 7,
            "category_id": 1,
            "bbox": [k % 50, 0, 1 + k % 7, 2],
            "note": "}, {" if k % 100 == 7 else "]},{",
        }
        for k in range(3000)
    ]
    for separators in ((",", ":"), (", ", ": ")):
        text = json.dumps(
            {"annotations": annotations, **coco_document(annotations=annotations)},
            separators=separators,
        )
        write_coco(tmp_path, text)
        table = read(tmp_path)
        expected = [[k % 50, 0, k % 50 + 1 + k % 7, 2] for k in range(3000)]
        assert table.boxes.tolist() == expected


def test_yolo_centres_are_fractions(tmp_path: Path):
    picture(tmp_path / "images" / "train" / "a.jpg", (80, 100))
    picture(tmp_path / "images" / "train" / "b.jpg", (40, 60))
    labels = tmp_path / "labels" / "train"
    labels.mkdir(parents=True)
    (labels / "a.txt").write_text("1 0.5 0.5 0.2 0.5\n\n0 0.1 0.1 0.5 0.1 0.5 0.6 0.1 0.6\n")
    (tmp_path / "data.yaml").write_text("train: images/train\nnames: {0: cat, 1: dog}\n")
    table = read(tmp_path, "train")
    assert table.classes == ("cat", "dog")
    assert [Path(p).name for p in table.paths] == ["a.jpg", "b.jpg"]
    np.testing.assert_allclose(table.boxes, [[40, 20, 60, 60], [10, 8, 50, 48]], atol=1e-5)
    assert table.labels.tolist() == [1, 0]
    assert table.counts.tolist() == [2, 0]
    assert table.masks is not None
    np.testing.assert_allclose(table.masks[1], [[10, 8, 50, 8, 50, 48, 10, 48]], rtol=1e-6)


def test_yolo_as_roboflow_writes_it(tmp_path: Path):
    picture(tmp_path / "train" / "images" / "a.jpg", (80, 100))
    (tmp_path / "train" / "labels").mkdir()
    (tmp_path / "train" / "labels" / "a.txt").write_text("0 0.5 0.5 1 1\n")
    (tmp_path / "data.yaml").write_text("train: ../train/images\nnc: 1\nnames: ['cat']\n")
    table = read(tmp_path, "train")
    assert table.boxes.tolist() == [[0, 0, 100, 80]]


def test_any_name_is_a_split_of_yolo_if_its_folder_bears_it(tmp_path: Path):
    write_set(tmp_path, two_images(), "yolo", {"train": [0], "tune": [1, 2]})
    assert splits(tmp_path) == ["train", "tune"]
    assert len(read(tmp_path)) == 3
    for layout, name in (("yolo", "path"), ("darknet", "tune")):
        with pytest.raises(InputError, match=f"split: .*'{name}'"):
            WRITERS[layout].write(two_images(), tmp_path / layout, ["0.png"] * 3, {name: [0]})


def test_both_of_two_images_of_one_name_are_read(tmp_path: Path):
    folder = write_set(tmp_path, two_images(), "yolo")
    picture(folder / "images" / "train" / "0.jpg", (100, 120))
    assert [Path(path).name for path in read(folder).paths][:2] == ["0.jpg", "0.png"]


def test_a_line_of_a_list_that_leads_nowhere_is_named(tmp_path: Path):
    folder = write_set(tmp_path, two_images(), "yolo")
    (folder / "train.txt").write_text(f"images/train/0.png\n\n{'a' * 5000}.png\n")
    (folder / "data.yaml").write_text("train: train.txt\nnames: [cat, dog, tea pot]\n")
    with pytest.raises(InputError, match=r"train\.txt: line 3: the image is missing"):
        read(folder)
    (folder / "data.yaml").write_text(f"train: {'a' * 5000}\nnames: [cat]\n")
    with pytest.raises(InputError, match=r"data\.yaml: train: the split's images are missing"):
        read(folder)


@pytest.mark.parametrize("layout", list(WRITERS))
def test_the_layout_is_found_by_looking(tmp_path: Path, layout: str):
    write_set(tmp_path, two_images(), layout)
    assert detect_format(tmp_path) == layout
    assert read(tmp_path).classes == read(tmp_path, format=layout).classes


def test_an_unknown_layout_or_split_names_the_nearest(tmp_path: Path):
    write_set(tmp_path, two_images(), "voc")
    with pytest.raises(InputError, match="did you mean 'train'"):
        read(tmp_path, "trian")
    with pytest.raises(InputError, match="did you mean 'yolo'"):
        read(tmp_path, format="yollo")


def test_a_split_of_a_set_without_splits_is_refused(tmp_path: Path):
    """Else an evaluation on `test` would count what was learned."""
    write_set(tmp_path, two_images(), "voc")
    shutil.rmtree(tmp_path / "ImageSets")
    assert splits(tmp_path) == []
    assert len(read(tmp_path)) == 3
    with pytest.raises(InputError, match=r"has no splits \(got 'test'\).*data split"):
        read(tmp_path, "test")


box = st.tuples(st.floats(0, 150), st.floats(0, 90), st.floats(1, 50), st.floats(1, 10)).map(
    lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]
)


@settings(deadline=None, max_examples=15)
@given(boxes=st.lists(box, min_size=1, max_size=6), data=st.data())
@pytest.mark.parametrize("layout", list(WRITERS))
def test_a_round_trip_returns_every_box_to_a_thousandth(tmp_path_factory, layout, boxes, data):
    labels = data.draw(st.lists(st.integers(0, 2), min_size=len(boxes), max_size=len(boxes)))
    table = table_of([boxes, []], [labels, []], [(100, 200), (30, 40)])
    again = read(write_set(tmp_path_factory.mktemp("set"), table, layout), "train", layout)
    np.testing.assert_allclose(again.boxes, table.boxes, atol=1e-3)
    names = [again.classes[i] for i in again.labels]
    assert names == [CLASSES[i] for i in labels]
    assert again.counts.tolist() == [len(boxes), 0]
    assert again.sizes.tolist() == table.sizes.tolist()


@pytest.mark.parametrize("layout", ["voc", "coco", "fiftyone", "labelstudio"])
def test_what_is_ignored_stays_ignored(tmp_path: Path, layout: str):
    again = read(write_set(tmp_path, two_images(), layout), "train")
    assert again.ignore.tolist() == two_images().ignore.tolist()


@pytest.mark.parametrize("layout", ["coco", "yolo", "labelstudio"])
def test_polygons_make_the_round_trip(tmp_path: Path, layout: str):
    polygon = [[10.0, 20.0, 60.5, 20.0, 60.5, 90.25]]
    table = table_of([[[10, 20, 60.5, 90.25]]], [[1]], [(100, 120)], masks=[polygon])
    again = read(write_set(tmp_path, table, layout), "train")
    assert again.masks is not None
    np.testing.assert_allclose(again.masks[0], polygon, atol=1e-3)


def test_several_folders_are_joined_and_classes_merged_by_name(tmp_path: Path):
    first = table_of([[[0, 0, 5, 5]]], [[0]], [(10, 10)], classes=("dog", "cat"))
    second = table_of([[[1, 1, 5, 5], [0, 0, 3, 3]]], [[0, 1]], [(20, 10)], classes=("owl", "dog"))
    a = write_set(tmp_path / "a", first, "coco", {"train": [0]})
    b = write_set(tmp_path / "b", second, "voc", {"train": [0]})
    table = read([a, b], "train")
    assert len(table) == 2
    assert [table.classes[i] for i in table.labels] == ["dog", "owl", "dog"]
    assert table.boxes.tolist() == [[0, 0, 5, 5], [1, 1, 5, 5], [0, 0, 3, 3]]


def test_a_full_set_of_splits_is_the_union_of_them(tmp_path: Path):
    for layout in LAYOUTS:
        members = {"train": [0, 2], "val": [1]}
        folder = write_set(tmp_path / layout, two_images(), layout, members)
        assert splits(folder) == ["train", "val"]
        assert sorted(Path(p).name for p in read(folder).paths) == ["0.png", "1.png", "2.png"]
        assert [Path(p).name for p in read(folder, "val").paths] == ["1.png"]


@pytest.mark.data
def test_real_sets_have_the_counts_that_their_makers_state(shared_data: Path):
    bccd = {s: read(shared_data / "bccd", s) for s in ("train", "val", "test")}
    assert [len(t) for t in bccd.values()] == [205, 87, 72]
    assert [len(t.labels) for t in bccd.values()] == [2805, 1138, 945]
    train, dropped = bccd["train"].without_empty_boxes()
    assert dropped == 1
    per_class = dict(zip(train.classes, np.bincount(train.labels).tolist(), strict=True))
    assert per_class == {"RBC": 2381, "WBC": 214, "Platelets": 209}
    voc = read(shared_data / "voc20", "test")
    assert (len(voc), int((~voc.ignore).sum()), int(voc.ignore.sum())) == (2298, 5770, 1310)
    coco = {s: read(shared_data / "coco_mini", s) for s in ("train", "val")}
    assert [len(t) for t in coco.values()] == [57, 66]
    assert [len(t.labels) for t in coco.values()] == [557, 560]
    assert [int(t.ignore.sum()) for t in coco.values()] == [6, 8]
    for table, sizes in zip(coco.values(), ((279, 178, 100), (258, 171, 131)), strict=True):
        small = int((table.object_areas < 32**2).sum())
        large = int((table.object_areas > 96**2).sum())
        assert (small, len(table.labels) - small - large, large) == sizes


def test_fiftyones_samples_with_tags_and_masks(tmp_path: Path):
    """samples.json: boxes are fractions, a mask is a compressed array of the box."""
    picture(tmp_path / "data" / "a.jpg", (80, 100))
    picture(tmp_path / "data" / "b.jpg", (40, 40))
    stream = io.BytesIO()
    np.save(stream, np.array([[True, False], [True, True]]))
    mask = base64.b64encode(zlib.compress(stream.getvalue())).decode()
    detections = [
        {
            "_cls": "Detection",
            "label": "cat",
            "bounding_box": [0.1, 0.5, 0.2, 0.25],
            "mask": {"$binary": {"base64": mask, "subType": "00"}},
            "iscrowd": True,
        },
        {"_cls": "Detection", "label": "ant", "bounding_box": [0, 0, 1, 1]},
    ]
    samples = [
        {
            "filepath": "data/a.jpg",
            "tags": ["validation"],
            "ground_truth": {"_cls": "Detections", "detections": detections},
        },
        {"filepath": "data/b.jpg", "tags": ["train"], "ground_truth": None},
    ]
    (tmp_path / "samples.json").write_text(json.dumps({"samples": samples}))
    assert splits(tmp_path) == ["train", "val"]
    table = read(tmp_path, "val")
    assert table.classes == ("ant", "cat")
    assert table[0].names == ["cat", "ant"]
    np.testing.assert_allclose(table.boxes, [[10, 40, 30, 60], [0, 0, 100, 80]], atol=1e-4)
    assert table.ignore.tolist() == [True, False]
    assert table.masks is not None
    bitmap = decode(table.masks[0])
    assert bitmap.sum() == 20 * 20 * 3 / 4  # three quarters of the box
    assert bitmap[40:60, 10:20].all()
    assert not bitmap[40:50, 20:30].any()
    assert len(read(tmp_path, "train").labels) == 0


def test_label_studios_export(tmp_path: Path):
    """An uploaded image has letters before its name; a turned rectangle becomes its bounds."""
    picture(tmp_path / "photos" / "a.jpg", (80, 100))
    region = {"original_width": 100, "original_height": 80, "from_name": "l", "to_name": "i"}
    results = [
        {
            **region,
            "type": "rectanglelabels",
            "value": {
                "x": 10,
                "y": 25,
                "width": 20,
                "height": 50,
                "rotation": 0,
                "rectanglelabels": ["cat"],
            },
        },
        {
            **region,
            "type": "rectanglelabels",
            "value": {
                "x": 50,
                "y": 50,
                "width": 20,
                "height": 25,
                "rotation": 90,
                "rectanglelabels": ["dog"],
            },
        },
        {**region, "type": "choices", "value": {"choices": ["sunny"]}},
    ]
    tasks = [
        {
            "id": 12,
            "data": {"image": "/data/upload/3/0123abcd-a.jpg"},
            "annotations": [{"was_cancelled": True, "result": []}, {"result": results}],
        }
    ]
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    assert detect_format(tmp_path) == "labelstudio"
    table = read(tmp_path)
    assert table.ids == [12]
    assert table[0].names == ["cat", "dog"]
    # 20 x 20 pixels turned about its corner (50, 40), clockwise: it lies left of it now.
    np.testing.assert_allclose(table.boxes, [[10, 20, 30, 60], [30, 40, 50, 60]], atol=1e-4)
