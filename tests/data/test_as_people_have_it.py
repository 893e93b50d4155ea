"""Folders as they come out of people's hands: odd names, odd encodings, odd places of files."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from layouts import CASES, MARK, ROW, H, W, coco_document, document, marked, text, voc_xml
from sets import table_of, write_set

from boxatlas.cli import main
from boxatlas.data import detect_format, read, read_splits, splits
from boxatlas.data.doctor import check
from boxatlas.data.doctor.renew import layout_of_copy
from boxatlas.data.doctor.repair import repair
from boxatlas.data.masks import decode, encode
from boxatlas.errors import InputError

LABELME = {"label": "cat", "shape_type": "rectangle", "points": [list(MARK[:2]), list(MARK[2:])]}


def run(*arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["data", *arguments])
    assert not ended.value.code


def is_the_mark(folder: Path, count: int = 1) -> None:
    table = read(folder)
    assert len(table.labels) == count
    np.testing.assert_allclose(table.boxes, [MARK] * count, atol=1e-3)


# -- YOLO's labels, wherever they lie --------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("images", "labels"),
        ("Images", "Labels"),
        ("images", "labels_my-project_2024-05-06"),  # makesense.ai's archive of labels, unpacked
        ("photos", "annotations/yolo"),
        ("", "labels"),
    ],
)
def test_labels_are_found_in_a_folder_of_any_name(tmp_path: Path, images: str, labels: str):
    for stem in "ab":
        marked(tmp_path / images / f"{stem}.png")
        text(tmp_path / labels / f"{stem}.txt", f"0 {ROW}\n")
    text(tmp_path / "classes.txt", "cat\n")
    assert detect_format(tmp_path) == "yolo"
    is_the_mark(tmp_path, 2)
    assert check(tmp_path).unused == {}


def test_a_caption_of_an_image_is_no_label_of_it(tmp_path: Path):
    for stem in "ab":
        marked(tmp_path / f"images/{stem}.png")
        text(tmp_path / f"captions/{stem}.txt", "a cat\n")
    text(tmp_path / "labels/a.txt", f"0 {ROW}\n")
    assert read(tmp_path).counts.tolist() == [1, 0]


def test_lists_of_images_are_splits_without_a_yaml_too(tmp_path: Path):
    for stem, split in (("a", "train"), ("b", "valid")):
        marked(tmp_path / f"images/{stem}.png")
        text(tmp_path / f"labels/{stem}.txt", f"0 {ROW}\n")
        text(tmp_path / f"{split}.txt", f"./images/{stem}.png\n")
    assert splits(tmp_path) == ["train", "val"]
    assert [Path(path).name for path in read(tmp_path, "val").paths] == ["b.png"]


# -- Names and texts ------------------------------------------------------------------------------


def test_an_accent_is_the_same_letter_whichever_way_it_is_stored(tmp_path: Path):
    apart, whole = (unicodedata.normalize(form, "Müller é") for form in ("NFD", "NFC"))
    assert apart != whole
    marked(tmp_path / f"voc/{apart}.png")
    text(tmp_path / f"voc/{whole}.xml", voc_xml(f"{whole}.png"))
    marked(tmp_path / f"coco/images/{apart}.png")
    document(tmp_path / "coco/instances.json", coco_document(f"{whole}.png"))
    is_the_mark(tmp_path / "voc")
    is_the_mark(tmp_path / "coco")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_a_class_in_any_encoding(tmp_path: Path, encoding: str):
    corners = ",".join(map(str, MARK))
    contents = {
        "voc/a.xml": voc_xml("a.png").replace("<name>cat", "<name>Brücke"),
        "csv/a.csv": f"filename,class,xmin,ymin,xmax,ymax\na.png,Brücke,{corners}\n",
        "labelme/a.json": json.dumps(
            {"shapes": [{**LABELME, "label": "Brücke"}], "imagePath": "a.png"}, ensure_ascii=False
        ),
        "coco/a.json": json.dumps(coco_document("a.png"), ensure_ascii=False).replace(
            '"cat"', '"Brücke"'
        ),
    }
    for name, content in contents.items():
        path = tmp_path / name
        marked(path.parent / "a.png")
        path.write_bytes(content.encode(encoding))
        assert read(path.parent).classes == ("Brücke",), name
        is_the_mark(path.parent)


def test_capital_suffixes_and_links_are_read(tmp_path: Path):
    marked(tmp_path / "elsewhere/a.png")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/A b.PNG").symlink_to(tmp_path / "elsewhere/a.png")
    text(tmp_path / "set/A b.XML", voc_xml("A b.PNG"))
    is_the_mark(tmp_path / "set")


# -- Boxes ----------------------------------------------------------------------------------------


def test_label_studio_writes_edges_into_its_voc_files(tmp_path: Path):
    """Its converter writes x and x + width of continuous pixels:
    https://github.com/HumanSignal/label-studio-converter"""
    marked(tmp_path / "images/a.png")
    owner = "<owner><flickrid>NULL</flickrid><name>Label Studio</name></owner><size>"
    content = voc_xml("a", corner=0).replace("<size>", owner)
    text(tmp_path / "Annotations/a.xml", content)
    is_the_mark(tmp_path)


FRACTIONS = "0.12,0.125,0.52,0.75"


def test_fractions_where_pixels_belong_are_refused_and_mended(tmp_path: Path):
    rows = "".join(f"{stem}.png,cat,{FRACTIONS}\n" for stem in "abc")
    text(tmp_path / "set/a.csv", f"filename,class,xmin,ymin,xmax,ymax\n{rows}")
    for stem in "abc":
        marked(tmp_path / f"set/{stem}.png")
    with pytest.raises(InputError, match=r"all 3 boxes lie within the first pixel.*data check"):
        read(tmp_path / "set")
    report = check(tmp_path / "set")
    assert report.counts["box_format"] == 3
    repair(report, tmp_path / "out")
    is_the_mark(tmp_path / "out", 3)


def test_boxes_that_lie_outside_or_reach_beyond_are_refused(tmp_path: Path):
    marked(tmp_path / "a.png")
    things = coco_document("a.png")
    one = things["annotations"][0]
    boxes = ([40.0 + i, 40, 90, 70] for i in range(20))  # corners, where width and height belong
    things["annotations"] = [{**one, "id": i, "bbox": box} for i, box in enumerate(boxes)]
    document(tmp_path / "a.json", things)
    with pytest.raises(InputError, match="20 of 20 boxes reach beyond their images"):
        read(tmp_path)
    for thing in things["annotations"]:
        thing["bbox"] = [1000, 1000, 50, 50]
    document(tmp_path / "a.json", things)
    with pytest.raises(InputError, match="20 of 20 boxes lie outside their images"):
        read(tmp_path)


# -- What lies beside ------------------------------------------------------------------------------


def test_another_json_file_beside_labelmes_is_passed_over_and_said(tmp_path: Path):
    for stem in "bc":
        marked(tmp_path / f"{stem}.png")
        document(tmp_path / f"{stem}.json", {"shapes": [LABELME], "imagePath": f"{stem}.png"})
    document(tmp_path / "a_settings.json", {"theme": "dark"})
    is_the_mark(tmp_path, 2)
    assert read(tmp_path).notes == ("1 JSON files beside LabelMe's are none of its own",)


def test_datumaros_coco_is_read_by_its_instances(tmp_path: Path):
    """It writes labels_, stuff_ and image_info_ beside instances_ of the same split."""
    marked(tmp_path / "images/train/a.png")
    document(tmp_path / "annotations/instances_train.json", coco_document("a.png"))
    bare = coco_document("a.png")
    del bare["annotations"][0]["bbox"]
    document(tmp_path / "annotations/labels_train.json", bare)
    document(tmp_path / "annotations/stuff_train.json", {**bare, "annotations": []})
    document(tmp_path / "annotations/image_info_train.json", {"images": bare["images"]})
    assert splits(tmp_path) == ["train"]
    is_the_mark(tmp_path)


def test_objects_of_hugging_face_one_by_one(tmp_path: Path):
    marked(tmp_path / "train/a.png")
    objects = [{"bbox": [*MARK[:2], W, H], "category": "cat"}]
    text(tmp_path / "train/metadata.jsonl", json.dumps({"file_name": "a.png", "objects": objects}))
    is_the_mark(tmp_path)


# -- Repairs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layout", "build"), CASES, ids=[build.__name__ for _, build in CASES])
def test_a_repaired_copy_holds_all_that_was_read(tmp_path: Path, layout: str, build):
    build(tmp_path / "set")
    before = read_splits(tmp_path / "set")
    report = check(tmp_path / "set")
    repair(report, tmp_path / "out")
    assert detect_format(tmp_path / "out") == layout_of_copy(report)
    after = read_splits(tmp_path / "out")
    if set(before) == {""} and set(after) != {""}:
        before = {"train": before[""]}
    before = {split: table for split, table in before.items() if len(table)}
    assert set(after) == set(before)
    for split, table in before.items():
        kept = after[split]
        np.testing.assert_allclose(kept.boxes, table.boxes, atol=1e-3)
        assert [kept.classes[k] for k in kept.labels] == [table.classes[k] for k in table.labels]
        assert kept.ignore.tolist() == table.ignore.tolist()
        assert (kept.masks is None) == (table.masks is None)


def test_flaws_of_a_layout_that_is_not_written_are_mended_in_cocos(tmp_path: Path, capsys):
    """Of four KITTI lines one is inverted, one has no area, and one cannot be read."""
    marked(tmp_path / "set/image_2/0.png")
    end = "1.5 1.6 3.7 1.0 1.5 8.4 0.01"
    lines = [
        f"Car 0.0 0 -1.5 {' '.join(map(str, MARK))} {end}",
        f"Van 0.0 0 -1.5 {MARK[2]} {MARK[3]} {MARK[0]} {MARK[1]} {end}",
        f"Car 0.0 0 -1.5 5 5 5 9 {end}",
        "Car what",
    ]
    text(tmp_path / "set/label_2/0.txt", "\n".join(lines))
    with pytest.raises(SystemExit) as ended:
        main(["data", "check", str(tmp_path / "set"), "--fix", str(tmp_path / "out")])
    assert ended.value.code == 1
    said = capsys.readouterr().out
    assert "a copy in layout coco, since kitti is not written with 3 repairs, 0 errors left" in said
    table = read(tmp_path / "out")
    assert [table.classes[k] for k in table.labels] == ["Car", "Van"]
    np.testing.assert_allclose(table.boxes, [MARK, MARK], atol=1e-3)


def test_one_bad_region_of_via_costs_no_other(tmp_path: Path):
    """What a reader could read is in the copy, whatever stands beside it."""
    shape = {"name": "rect", "x": MARK[0], "y": MARK[1], "width": W, "height": H}
    good = {"shape_attributes": shape, "region_attributes": {"class": "cat"}}
    images = {}
    for stem, regions in (("a", [good, {"shape_attributes": 3}]), ("b", 7), ("c", [good])):
        marked(tmp_path / f"set/{stem}.png")
        images[stem] = {"filename": f"{stem}.png", "size": 1, "regions": regions}
    document(tmp_path / "set/via.json", {**images, "d": {"size": 3}})
    report = check(tmp_path / "set")
    assert report.counts["annotation_invalid"] == 3
    repair(report, tmp_path / "out")
    is_the_mark(tmp_path / "out", 2)


# -- Masks ----------------------------------------------------------------------------------------


def test_labelme_returns_masks_pixel_by_pixel(tmp_path: Path):
    """A run-length mask, one polygon, and a polygon of two parts."""
    bitmap = np.zeros((80, 100), bool)
    bitmap[10:30, 20:60] = True
    bitmap[15:20, 30:40] = False
    parts = [[1.0, 1.0, 9.0, 1.0, 9.0, 9.5], [20.0, 20.0, 30.0, 20.0, 30.0, 30.25]]
    masks = [encode(bitmap), [[10.0, 20.0, 60.5, 20.0, 60.5, 70.25]], parts]
    boxes = [[20, 10, 60, 30], [10, 20, 60.5, 70.25], [1, 1, 30, 30.25]]
    table = table_of([boxes], [[0, 1, 2]], [(80, 100)], masks=masks)
    again = read(write_set(tmp_path, table, "labelme"), "train")
    assert again.masks is not None
    order = [list(again.labels).index(label) for label in (0, 1, 2)]
    np.testing.assert_allclose(again.boxes[order], boxes, atol=1e-3)
    assert np.array_equal(decode(again.masks[order[0]]), bitmap)
    np.testing.assert_allclose(again.masks[order[1]], masks[1], atol=1e-3)
    for one, other in zip(again.masks[order[2]], parts, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)


# -- Nothing is passed over without a word ---------------------------------------------------------


def test_what_is_no_object_is_counted_by_check_and_by_convert(tmp_path: Path, capsys):
    point = {"label": "eye", "shape_type": "point", "points": [[3, 3]]}
    marked(tmp_path / "set/a.png")
    document(tmp_path / "set/a.json", {"shapes": [LABELME, point], "imagePath": "a.png"})
    run("check", str(tmp_path / "set"))
    assert "1 points and lines are no objects" in capsys.readouterr().out
    run("convert", str(tmp_path / "set"), str(tmp_path / "out"), "--to", "coco")
    said = "not carried over: 1 points and lines are no objects"
    assert said in capsys.readouterr().out


def test_tasks_that_nobody_annotated_are_no_background(tmp_path: Path):
    """Label Studio exports them too; an annotation without a region is background."""
    tasks = []
    for n, given in enumerate(([{"result": []}], [], [{"was_cancelled": True, "result": []}])):
        marked(tmp_path / f"{n}.png")
        tasks.append({"id": n, "data": {"photo": f"/{n}.png"}, "annotations": given})
    document(tmp_path / "tasks.json", tasks)
    table = read(tmp_path)
    assert [Path(path).name for path in table.paths] == ["0.png"]
    assert table.notes == ("2 tasks that nobody has annotated are left out",)


def test_an_ellipse_of_label_studio_is_the_box_around_it(tmp_path: Path):
    """Radii of 10 and 20 % of 100 x 80 pixels are 10 and 16, turned by a right angle 16 and 10."""
    marked(tmp_path / "a.png")
    sides = {"original_width": 100, "original_height": 80, "type": "ellipselabels"}
    value = {"x": 50, "y": 50, "radiusX": 10, "radiusY": 20, "ellipselabels": ["cat"]}
    result = [{**sides, "value": {**value, "rotation": turn}} for turn in (0, 90)]
    task = {"id": 1, "data": {"image": "a.png"}, "annotations": [{"result": result}]}
    document(tmp_path / "tasks.json", [task])
    np.testing.assert_allclose(read(tmp_path).boxes, [[40, 24, 60, 56], [34, 30, 66, 50]], 1e-5)


def test_a_layout_that_is_not_written_is_split_into_cocos(tmp_path: Path, capsys):
    things = []
    for n in range(4):
        marked(tmp_path / f"set/{n}.png")
        x, y = (MARK[0] + MARK[2]) / 2, (MARK[1] + MARK[3]) / 2
        thing = {"label": "cat", "coordinates": {"x": x, "y": y, "width": W, "height": H}}
        things.append({"image": f"{n}.png", "annotations": [thing]})
    document(tmp_path / "set/annotations.json", things)
    parts = ["--parts", "train=0.5,val=0.5", "--no-together"]
    run("split", str(tmp_path / "set"), str(tmp_path / "out"), *parts)
    assert "train 2, val 2 images in coco layout" in capsys.readouterr().out
    is_the_mark(tmp_path / "out", 4)
