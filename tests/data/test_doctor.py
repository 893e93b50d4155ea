"""The data doctor: a sound set has no flaw; each flaw made on purpose is found, and mended."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sets import picture, table_of, write_set

from boxatlas.data import read
from boxatlas.data.doctor import KINDS, check
from boxatlas.data.doctor.pictures import examined as examined_picture
from boxatlas.data.doctor.pictures import groups_of, same_files, similar
from boxatlas.data.doctor.repair import repair
from boxatlas.errors import InputError

Spoil = Callable[[Path], Any]
XML, JSON, TXT = "Annotations/0.xml", "annotations/instances_train.json", "labels/train/0.txt"


def sound(folder: Path, layout: str) -> Path:
    """Five photo-like images of three classes in three splits, without a flaw."""
    boxes = [[[10, 20, 60, 90], [40, 30, 100, 80]], [[5, 5, 30, 40]], [[1, 1, 20, 20]],
             [[30, 30, 50, 60]], [[2, 3, 50, 60]]]  # fmt: skip
    labels = [[0, 1], [2], [1], [0], [2]]
    table = table_of(boxes, labels, [(100, 120), (64, 80), (70, 80), (90, 90), (80, 70)])
    table = table_of(
        boxes,
        labels,
        [tuple(s) for s in table.sizes.tolist()],
        masks=None
        if layout != "coco"
        else [[[b[0], b[1], b[2], b[1], b[2], b[3], b[0], b[3]]] for image in boxes for b in image],
    )
    return write_set(folder, table, layout, {"train": [0, 1, 2], "val": [3], "test": [4]})


@pytest.mark.parametrize("layout", ["voc", "coco", "yolo", "fiftyone", "labelstudio"])
def test_a_sound_set_has_no_flaw(tmp_path: Path, layout: str):
    report = check(sound(tmp_path, layout))
    assert report.flaws == []
    assert (report.images, report.objects) == (5, 6)
    assert report.splits == {"train": 3, "val": 1, "test": 1}


def replaced(file: str, old: str, new: str) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return spoil


def document(change: Callable[[dict[str, Any]], Any], file: str = JSON) -> Spoil:
    def spoil(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        change(content)
        (folder / file).write_text(json.dumps(content))

    return spoil


def first(**values: Any) -> Spoil:
    """Change the first annotation of a COCO file."""
    return document(lambda d: d["annotations"][0].update(values))


def again(name: str, **values: Any) -> Spoil:
    """Repeat the first entry of a COCO list with other values."""
    return document(lambda d: d[name].append({**d[name][0], **values}))


def corner(side: str, value: str) -> Spoil:
    sides = {"xmin": "11", "ymin": "21", "xmax": "60", "ymax": "90"}
    return replaced(XML, f"<{side}>{sides[side]}</{side}>", f"<{side}>{value}</{side}>")


def cut(file: str) -> Spoil:
    def spoil(folder: Path) -> None:
        data = (folder / file).read_bytes()
        (folder / file).write_bytes(data[: len(data) // 2])

    return spoil


def turned(file: str) -> Spoil:
    """The pixels of 120 x 100 stored upright, with a tag that turns them when shown."""

    def spoil(folder: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        with Image.open(folder / file) as image:
            image.save(folder / file, exif=exif)

    return spoil


def copied(old: str, new: str) -> Spoil:
    return lambda folder: shutil.copyfile(folder / old, folder / new)


def removed(file: str) -> Spoil:
    return lambda folder: (folder / file).unlink()


def written(file: str, text: str | bytes) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / file).write_bytes(text.encode() if isinstance(text, str) else text)

    return spoil


def recompressed(folder: Path) -> None:
    with Image.open(folder / "JPEGImages/0.png") as image:
        small = image.convert("RGB").resize((110, 92))
        small.resize(image.size).save(folder / "JPEGImages/4.png")


def voc_as_xywh(folder: Path) -> None:
    for path in (folder / "Annotations").glob("*.xml"):
        text = path.read_text()
        for box in read(folder, format="voc").boxes.tolist():
            for side, length in (("x", box[2] - box[0]), ("y", box[3] - box[1])):
                last = int(box[2] if side == "x" else box[3])
                text = text.replace(f"<{side}max>{last}<", f"<{side}max>{int(length)} <", 1)
        path.write_text(text)


def coco_as_corners(content: dict[str, Any]) -> None:
    for thing in content["annotations"]:
        x, y, w, h = thing["bbox"]
        thing["bbox"] = [x, y, x + w, y + h]
        del thing["segmentation"]


# name: layout, what is done, the flaw, what its place names
CASES: dict[str, tuple[str, Spoil, str, str]] = {
    "image gone": ("voc", removed("JPEGImages/0.png"), "image_missing", "0.xml"),
    "image gone, coco": ("coco", removed("train/0.png"), "image_missing", "images[0]"),
    "label without image": (
        "yolo",
        written("labels/train/9.txt", "0 .5 .5 .1 .1\n"),
        "image_missing",
        "9.txt",
    ),
    "no image": ("voc", written("JPEGImages/0.png", "text"), "image_unreadable", "0.png"),
    "cut image": ("voc", cut("JPEGImages/0.png"), "image_truncated", "0.png"),
    "cut image, yolo": ("yolo", cut("images/train/0.png"), "image_truncated", "0.png"),
    "other size": ("voc", replaced(XML, "<width>120", "<width>130"), "image_size", "0.xml: size"),
    "no size": ("voc", replaced(XML, "<width>120", "<width>0"), "image_size", "0.xml: size"),
    "negative size": (
        "coco",
        document(lambda d: d["images"][0].update(height=-3)),
        "image_size",
        "instances_train.json: size",
    ),
    "crowd as text": ("coco", first(iscrowd="0"), "value_odd", "annotations[0].iscrowd"),
    "crowd of two": ("coco", first(iscrowd=2), "annotation_invalid", "annotations[0].iscrowd"),
    "fraction as id": ("coco", first(category_id=1.0), "value_odd", "annotations[0].category_id"),
    "truth, voc": (
        "voc",
        replaced(XML, "<difficult>0", "<difficult>false"),
        "value_odd",
        "object[0].difficult",
    ),
    "confidence": ("yolo", written(TXT, "0 0.5 0.5 0.2 0.2 0.87\n"), "value_odd", "line 1"),
    "number of names": (
        "yolo",
        replaced("data.yaml", "names:", "nc: 7\nnames:"),
        "class_count",
        "data.yaml: nc",
    ),
    "area below 0": ("coco", first(area=-5), "annotation_invalid", "annotations[0].area"),
    "html": ("voc", written(XML, "<html><body/></html>"), "annotation_invalid", "0.xml"),
    "rotated": ("voc", turned("JPEGImages/0.png"), "image_rotated", "0.xml: size"),
    "rotated, yolo": ("yolo", turned("images/train/0.png"), "image_turned", "0.png"),
    "unannotated": (
        "voc",
        copied("JPEGImages/0.png", "JPEGImages/9.png"),
        "image_unannotated",
        "9.png",
    ),
    "no object": ("yolo", written(TXT, ""), "image_empty", ""),
    "no label file": ("yolo", removed(TXT), "label_missing", ""),
    "twice": ("voc", copied("JPEGImages/0.png", "JPEGImages/1.png"), "image_same", "train"),
    "leak": ("voc", copied("JPEGImages/0.png", "JPEGImages/4.png"), "leak_same", "train, test"),
    "near leak": ("voc", recompressed, "leak_near", "train, test"),
    "shared": ("voc", written("ImageSets/Main/val.txt", "3\n1\n"), "split_shared", "val"),
    "empty split": ("voc", written("ImageSets/Main/val.txt", "\n"), "split_empty", "val"),
    "lost line": (
        "voc",
        written("ImageSets/Main/val.txt", "3\nnine\n"),
        "split_unknown",
        "val.txt: nine",
    ),
    "line twice": ("voc", written("ImageSets/Main/val.txt", "3\n3\n"), "split_twice", "val.txt: 3"),
    "in no split": ("voc", written("ImageSets/Main/train.txt", "0\n1\n"), "split_none", ""),
    "two suffixes": (
        "voc",
        copied("JPEGImages/0.png", "JPEGImages/0.jpg"),
        "image_ambiguous",
        "0.png",
    ),
    "two suffixes, yolo": (
        "yolo",
        copied("images/test/4.png", "images/train/0.jpg"),
        "image_ambiguous",
        "0.png",
    ),
    "entry twice": ("coco", again("images", id=99), "image_twice", "images: id 99"),
    "size as text": (
        "coco",
        document(lambda d: d["images"][0].update(width="120")),
        "value_odd",
        "images[0].width",
    ),
    "size as truth": (
        "coco",
        document(lambda d: d["images"][0].update(width=True)),
        "not_a_number",
        "images[0].width",
    ),
    "area as text": ("coco", first(area="big"), "not_a_number", "annotations[0].area"),
    "shared ids": (
        "coco",
        document(
            lambda d: [d["images"][0].update(id=1), d["annotations"][0].update(image_id=1)],
            "annotations/instances_val.json",
        ),
        "id_shared",
        "images",
    ),
    "name twice, yolo": (
        "yolo",
        replaced("data.yaml", "names:\n", "names:\n  3: cat\n"),
        "class_twice",
        "data.yaml: names[3]",
    ),
    "number without name": (
        "yolo",
        replaced("data.yaml", "2: tea pot", "4: tea pot"),
        "class_unnamed",
        "data.yaml: names",
    ),
    "leaves, yolo": (
        "yolo",
        replaced("data.yaml", "test: images/test", "test: ../../images/elsewhere"),
        "path_leaves",
        "data.yaml: test",
    ),
    "lost split": (
        "yolo",
        replaced("data.yaml", "test: ", "test: no/"),
        "split_empty",
        "data.yaml: test",
    ),
    "line of a list": (
        "yolo",
        lambda f: [
            written("train.txt", "images/train/0.png\n\nimages/train/nine.png\n")(f),
            replaced("data.yaml", "train: images/train", "train: train.txt")(f),
        ],
        "image_missing",
        "train.txt: line 3",
    ),
    "list twice": (
        "yolo",
        lambda f: [
            written("train.txt", "images/train/0.png\n./images/train/0.png\n")(f),
            replaced("data.yaml", "train: images/train", "train: train.txt")(f),
        ],
        "split_twice",
        "train.txt: line 2",
    ),
    "one folder": (
        "yolo",
        replaced("data.yaml", "train: images/train", "train: [images/train, images/val]"),
        "split_shared",
        "train",
    ),
    "odd category": (
        "coco",
        document(lambda d: d["categories"].append("x")),
        "annotation_invalid",
        "categories[3]",
    ),
    "latin json": (
        "coco",
        lambda f: (f / JSON).write_bytes(
            (f / JSON).read_text().replace("tea pot", "th\xe9").encode("latin-1")
        ),
        "file_encoding",
        "instances_train.json",
    ),
    "wide json": (
        "coco",
        lambda f: (f / JSON).write_bytes((f / JSON).read_text().encode("utf-16")),
        "file_encoding",
        "instances_train.json",
    ),
    "list as id": ("coco", first(id=[1]), "annotation_invalid", "annotations"),
    "underscore": ("yolo", written(TXT, "0 0.5 0.5 0.2 0_1\n"), "not_a_number", "line 1"),
    "xywh for xyxy": ("voc", voc_as_xywh, "box_format", "Annotations"),
    "xyxy for xywh": ("coco", document(coco_as_corners), "box_format", "instances_train.json"),
    "pixels in yolo": (
        "yolo",
        lambda f: [written(f"labels/train/{i}.txt", "0 40 30 20 20\n")(f) for i in range(3)],
        "box_format",
        "0.txt",
    ),
    "inverted": ("voc", corner("xmin", "100"), "box_inverted", "object[0]"),
    "inverted, coco": ("coco", first(bbox=[60, 20, -50, 70]), "box_inverted", "annotations[0]"),
    "no area": ("coco", first(bbox=[10, 20, 0, 70]), "box_no_area", "annotations[0]"),
    "equal corners": (
        "voc",
        lambda f: [corner("xmin", "60")(f), corner("ymin", "90")(f)],
        "box_no_area",
        "object[0]",
    ),
    "outside": (
        "voc",
        lambda f: [corner("xmin", "300")(f), corner("xmax", "340")(f)],
        "box_outside",
        "object[0]",
    ),
    "beyond": ("voc", corner("xmax", "125"), "box_beyond", "object[0]"),
    "beyond, yolo": (
        "yolo",
        written(TXT, "0 0.5 0.5 0.2 0.2\n1 0.9 0.5 0.4 0.2\n"),
        "box_beyond",
        "0.txt: line 2",
    ),
    "edge": ("voc", corner("xmax", "121"), "box_edge", "object[0]"),
    "zero based": ("voc", corner("xmin", "0"), "box_zero_based", "bndbox"),
    "tiny": ("coco", first(bbox=[10, 20, 1, 70], segmentation=None), "box_tiny", "annotations[0]"),
    "whole": (
        "coco",
        first(bbox=[0, 0, 120, 100], segmentation=None),
        "box_whole",
        "annotations[0]",
    ),
    "object twice": ("coco", again("annotations", id=99), "box_twice", "annotations[4]"),
    "two classes": (
        "coco",
        again("annotations", id=99, category_id=3),
        "box_two_classes",
        "annotations[4]",
    ),
    "text": ("voc", corner("xmin", "left"), "not_a_number", "object[0].bndbox.xmin"),
    "nan": (
        "coco",
        replaced(JSON, '"bbox": [10.0', '"bbox": [NaN'),
        "not_a_number",
        "annotations[0].bbox[0]",
    ),
    "string": ("coco", first(bbox=["10", 20, 50, 70]), "value_odd", "annotations[0].bbox[0]"),
    "no number": ("coco", first(bbox=["ten", 20, 5, 7]), "not_a_number", "annotations[0].bbox[0]"),
    "nan, yolo": ("yolo", written(TXT, "0 nan 0.5 0.2 0.2\n"), "not_a_number", "line 1"),
    "three numbers": ("yolo", written(TXT, "0 0.5 0.5\n"), "annotation_invalid", "line 1"),
    "no box": (
        "coco",
        first(bbox=None, segmentation=None),
        "annotation_invalid",
        "annotations[0].bbox",
    ),
    "mask alone": ("coco", first(bbox=None), "value_odd", "annotations[0].bbox"),
    "orphan": ("coco", first(image_id=77), "annotation_orphan", "annotations[0].image_id"),
    "id 0": ("coco", first(id=0), "annotation_id_zero", "annotations[0].id"),
    "id twice": ("coco", first(id=2), "id_twice", "annotations[1].id"),
    "image id twice": ("coco", again("images", file_name="1.png"), "id_twice", "images[3].id"),
    "gaps": (
        "coco",
        document(
            lambda d: (
                [c.update(id=c["id"] * 2) for c in d["categories"]]
                + [a.update(category_id=a["category_id"] * 2) for a in d["annotations"]]
            )
        ),
        "id_gaps",
        "categories",
    ),
    "unknown class": (
        "voc",
        replaced(XML, "<name>cat", "<name>owl"),
        "class_unknown",
        "object[0].name",
    ),
    "unknown, yolo": ("yolo", written(TXT, "7 0.5 0.5 0.2 0.2\n"), "class_unknown", "line 1"),
    "category twice": ("coco", again("categories", id=9), "class_twice", "categories[3]"),
    "name twice": (
        "voc",
        written("classes.txt", "cat\ndog\ncat\ntea pot\n"),
        "class_twice",
        "classes.txt: line 3",
    ),
    "unused class": ("voc", written("classes.txt", "cat\ndog\ntea pot\nowl\n"), "class_unused", ""),
    "imbalance": (
        "yolo",
        written(TXT, "".join(f"0 {0.1 + k / 200:.4f} 0.5 0.1 0.1\n" for k in range(120))),
        "class_imbalance",
        "",
    ),
    "two points": ("coco", first(segmentation=[[1, 2, 3, 4]]), "mask_points", "annotations[0]"),
    "odd polygon": ("coco", first(segmentation=[[1, 2, 3]]), "mask_invalid", "annotations[0]"),
    "mask elsewhere": (
        "coco",
        first(segmentation=[[90, 1, 119, 1, 119, 9]]),
        "mask_box",
        "annotations[0]",
    ),
    "mask of other size": (
        "coco",
        first(segmentation={"size": [9, 9], "counts": [81]}),
        "mask_size",
        "annotations[0]",
    ),
    "runs too short": (
        "coco",
        first(segmentation={"size": [100, 120], "counts": [81]}),
        "mask_invalid",
        "annotations[0]",
    ),
    "leaves": (
        "coco",
        document(lambda d: d["images"][0].update(file_name="../elsewhere.png")),
        "path_leaves",
        "images[0].file_name",
    ),
    "list leaves": (
        "voc",
        written("ImageSets/Main/val.txt", "3\n../../x\n/etc/passwd\n"),
        "path_leaves",
        "val.txt: ../../x",
    ),
    "long line": (
        "voc",
        written("ImageSets/Main/val.txt", "3\n" + "a" * 5000),
        "split_unknown",
        "val.txt",
    ),
    "foreign path": (
        "voc",
        replaced(XML, "<filename>", "<path>/home/pi/0.png</path><filename>"),
        "path_foreign",
        "path",
    ),
    "cut xml": ("voc", cut(XML), "file_invalid", "0.xml"),
    "entities": (
        "voc",
        written(XML, "<!DOCTYPE a [<!ENTITY b 'c'>]><annotation/>"),
        "file_invalid",
        "0.xml",
    ),
    "cut json": ("coco", cut(JSON), "file_invalid", "instances_train.json"),
    "latin": (
        "voc",
        written(
            XML,
            "<annotation><size><width>120</width><height>100</height></size>"
            "<note>é</note></annotation>".encode("latin-1"),
        ),
        "file_encoding",
        "0.xml",
    ),
    "mark": ("yolo", written(TXT, b"\xef\xbb\xbf0 0.5 0.5 0.2 0.2\n"), "file_encoding", "0.txt"),
    "windows": ("yolo", written(TXT, "0 0.5 0.5 0.2 0.2\r\n"), "file_line_ends", ""),
    "old mac": (
        "voc",
        written("ImageSets/Main/train.txt", "0\r1\r2\r"),
        "file_line_ends",
        "train.txt",
    ),
    "other name": (
        "voc",
        replaced(XML, "<filename>0.png", "<filename>7.png"),
        "file_name",
        "filename",
    ),
}


@pytest.mark.parametrize("name", list(CASES))
def test_a_flaw_is_found_named_and_mended(tmp_path: Path, name: str):
    layout, spoil, kind, place = CASES[name]
    folder = sound(tmp_path / "set", layout)
    spoil(folder)
    report = check(folder)
    found = [flaw for flaw in report.flaws if flaw.kind == kind]
    assert found, report.counts
    assert any(place in f"{flaw.file}: {flaw.field}" for flaw in found), found
    assert all(str(folder) in flaw.file and flaw.message for flaw in found)
    out = tmp_path / "mended"
    actions = repair(report, out)
    if KINDS[kind].repair:
        assert any(action.flaw.kind == kind and action.did for action in actions)
    if (kind, name) not in UNMENDED:
        left = check(out)
        assert left.errors == [], left.errors
        if KINDS[kind].repair:
            assert kind not in left.counts


UNMENDED = {
    ("split_empty", "empty split"),  # there is nothing to put into it
    ("file_invalid", "cut json"),  # and nothing left of that split
    ("split_empty", "lost split"),
    ("image_ambiguous", "two suffixes"),  # only its maker knows
    ("image_ambiguous", "two suffixes, yolo"),
}


def test_every_kind_of_flaw_has_a_case_of_its_own():
    assert set(KINDS) - {kind for _, _, kind, _ in CASES.values()} == {"image_near"}


def test_a_repaired_set_keeps_what_was_right(tmp_path: Path):
    folder = sound(tmp_path / "set", "coco")
    document(lambda d: d.update(info={"year": 2031}))(folder)
    first(bbox=[10, 20, 130, 70], note="kept", segmentation=None)(folder)
    before = read(folder, "train")
    repair(check(folder), tmp_path / "mended")
    after = read(tmp_path / "mended", "train")
    assert after.boxes[0].tolist() == [10, 20, 120, 90]  # clipped
    assert after.boxes[1:].tolist() == before.boxes[1:].tolist()
    content = json.loads((tmp_path / "mended" / JSON).read_text())
    assert content["info"] == {"year": 2031}
    assert content["annotations"][0]["note"] == "kept"
    for name in ("train/0.png", "val/3.png"):
        assert (tmp_path / "mended" / name).read_bytes() == (folder / name).read_bytes()


def test_swapped_corners_come_back_to_the_pixel(tmp_path: Path):
    folder = sound(tmp_path / "set", "voc")
    corner("xmin", "60")(folder)
    replaced(XML, "<xmax>60</xmax>", "<xmax>11</xmax>")(folder)
    repair(check(folder), tmp_path / "mended")
    assert read(tmp_path / "mended", "train").boxes[0].tolist() == [10, 20, 60, 90]


def test_boxes_in_another_format_are_read_right_in_the_copy(tmp_path: Path):
    folder = sound(tmp_path / "set", "coco")
    boxes = read(folder, "train").boxes.tolist()
    document(coco_as_corners)(folder)
    repair(check(folder), tmp_path / "mended")
    assert read(tmp_path / "mended", "train").boxes.tolist() == boxes


@pytest.mark.parametrize("first", [1, 0])
def test_left_top_width_and_height_in_voc_come_back_to_the_pixel(tmp_path: Path, first: int):
    """Written as VOC counts, from 1, or from 0, of which a corner of 0 is the sign."""
    folder = sound(tmp_path / "set", "voc")
    replaced("Annotations/1.xml", "<xmin>6</xmin><ymin>6<", "<xmin>1</xmin><ymin>1<")(folder)
    boxes = read(folder).boxes.astype(int).tolist()
    for path in sorted((folder / "Annotations").glob("*.xml")):
        things = []
        for _ in range(path.read_text().count("<object>")):
            x1, y1, x2, y2 = boxes.pop(0)
            box = {"xmin": x1 + first, "ymin": y1 + first, "xmax": x2 - x1, "ymax": y2 - y1}
            sides = "".join(f"<{name}>{value}</{name}>" for name, value in box.items())
            things.append(f"<object><name>cat</name><bndbox>{sides}</bndbox></object>")
        path.write_text(f"<annotation>{''.join(things)}</annotation>")
    wanted = [[10, 20, 60, 90], [40, 30, 100, 80], [0, 0, 30, 40]]
    repair(check(folder), tmp_path / "mended")
    assert read(tmp_path / "mended", "train").boxes[:3].tolist() == wanted


def test_two_wild_numbers_do_not_decide_the_format_of_all(tmp_path: Path):
    """Six boxes in fractions and two far outside are six sound boxes and two flaws."""
    folder = sound(tmp_path / "set", "yolo")
    with open(folder / TXT, "a") as file:
        file.write("0 1.8 0.5 0.2 0.2\n0 1.8 0.3 0.2 0.2\n")
    report = check(folder)
    assert report.counts == {"box_outside": 2}
    repair(report, tmp_path / "mended")
    assert np.allclose(
        read(tmp_path / "mended").boxes, read(sound(tmp_path / "as_was", "yolo")).boxes
    )


def test_what_is_wrong_even_in_the_right_format_is_listed(tmp_path: Path):
    folder = sound(tmp_path / "set", "yolo")
    rows = [f"0 {20 + k} 40 20 20\n" for k in range(60)]
    for name in ("1", "2"):
        written(f"labels/train/{name}.txt", "0 40 30 20 20\n")(folder)
    written(TXT, "".join([*rows, "0 115 40 20 20\n"]))(folder)
    report = check(folder)
    assert report.counts["box_format"] == 63
    (flaw,) = [flaw for flaw in report.flaws if flaw.kind == "box_beyond"]
    assert (flaw.field, flaw.message.split(")")[0]) == ("line 61", "(105, 30, 125, 50")


@pytest.mark.parametrize("end", ["\r", "\r\n"])
def test_line_ends_of_other_systems_are_line_ends(tmp_path: Path, end: str):
    folder = sound(tmp_path / "set", "yolo")
    boxes = read(folder).boxes.tolist()
    path = folder / TXT
    path.write_bytes(path.read_text().replace("\n", end).encode())
    assert read(folder).boxes.tolist() == boxes
    assert set(check(folder).counts) == {"file_line_ends"}


def test_one_flaw_of_data_yaml_hides_no_other_and_no_label_is_lost(tmp_path: Path):
    folder = sound(tmp_path / "set", "yolo")
    replaced("data.yaml", "test: images/test", "test: images/gone")(folder)
    replaced("data.yaml", "names:\n", "names:\n  3: cat\n  4: owl\n")(folder)
    written(TXT, "0 nan 0.5 0.2 0.2\n4 0.5 0.5 0.2 0.2\n3 0.3 0.3 0.2 0.2\n")(folder)
    report = check(folder, images=False)
    assert report.counts == {"class_twice": 1, "not_a_number": 1, "split_empty": 1, "split_none": 1}
    actions = repair(report, tmp_path / "mended")
    assert {action.flaw.kind for action in actions} == {"class_twice", "not_a_number"}
    (tmp_path / "mended/images/gone").mkdir()  # as it was before
    table = read(tmp_path / "mended", "train")
    assert table.classes == ("cat", "dog", "tea pot", "owl")
    assert [table.classes[label] for label in table.labels[:2]] == ["owl", "cat"]
    for path in folder.rglob("*.txt"):
        assert (tmp_path / "mended" / path.relative_to(folder)).is_file()


def test_an_image_of_two_splits_leaves_one_of_them_though_they_share_a_folder(tmp_path: Path):
    folder = sound(tmp_path / "set", "yolo")
    replaced("data.yaml", "train: images/train", "train: images")(folder)
    repair(check(folder), tmp_path / "mended")
    splits = {name: read(tmp_path / "mended", name).ids for name in ("train", "val", "test")}
    assert splits == {"train": ["0", "1", "2"], "val": ["3"], "test": ["4"]}


def test_a_split_is_not_emptied(tmp_path: Path):
    """Where training and validation are one folder, no program can tell what was meant."""
    folder = sound(tmp_path / "set", "yolo")
    replaced("data.yaml", "val: images/val", "val: images/train")(folder)
    report = check(folder)
    assert report.counts["split_shared"] == 3
    assert repair(report, tmp_path / "mended") == []
    assert read(tmp_path / "mended", "train").ids == ["0", "1", "2"]


def test_an_empty_split_is_as_empty_in_the_copy(tmp_path: Path):
    folder = sound(tmp_path / "set", "yolo")
    removed("images/test/4.png")(folder)
    removed("labels/test/4.txt")(folder)
    repair(check(folder), tmp_path / "mended")
    assert read(tmp_path / "mended", "train").ids == ["0", "1", "2"]


def test_a_clipped_polygon_stays_one(tmp_path: Path):
    folder = sound(tmp_path / "set", "yolo")
    written(TXT, "1 0.9 0.9 1.3 0.9 1.3 0.3\n")(folder)
    repair(check(folder), tmp_path / "mended")
    numbers = (tmp_path / "mended" / TXT).read_text().split()
    assert list(map(float, numbers)) == [1, 0.9, 0.9, 1, 0.9, 1, 0.3]


def test_entries_of_one_image_become_one_and_numbers_become_numbers(tmp_path: Path):
    folder = sound(tmp_path / "set", "coco")
    again("images", id=99)(folder)
    document(lambda d: d["annotations"][1].update(image_id=99))(folder)
    document(lambda d: d["images"][1].update(width="80", height="64"))(folder)
    first(iscrowd="1", area="big", id=[7])(folder)
    document(lambda d: d["categories"][0].update(name="\ud800"))(folder)
    repair(check(folder), tmp_path / "mended")
    content = json.loads((tmp_path / "mended" / JSON).read_text())
    assert [image["id"] for image in content["images"]] == [1, 2, 3]
    assert content["images"][1] == {"id": 2, "file_name": "1.png", "height": 64, "width": 80}
    mended = content["annotations"][0]
    assert (mended["iscrowd"], mended["area"], mended["id"]) == (1, 50 * 70, 1)
    assert content["annotations"][1]["image_id"] == 1


def test_what_has_no_flaw_is_copied_byte_by_byte(tmp_path: Path):
    """However deep: an annotation is written anew only where something is mended."""
    folder = sound(tmp_path / "set", "voc")
    deep = "<a>" * 3000 + "</a>" * 3000
    replaced(XML, "<segmented>0", f"<!-- by hand --><segmented>{deep}")(folder)
    repair(check(folder), tmp_path / "mended")
    assert (tmp_path / "mended" / XML).read_bytes() == (folder / XML).read_bytes()
    corner("xmax", "125")(folder)
    with pytest.raises(InputError, match=r"0\.xml: is nested too deep"):
        repair(check(folder), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_repair_that_is_stopped_leaves_nothing(tmp_path: Path):
    report = check(sound(tmp_path / "set", "voc"))

    def stopped(paths: Any) -> Any:
        yield next(iter(paths))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        repair(report, tmp_path / "mended", stopped)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert repair(report, tmp_path / "mended") == []


def test_the_strongest_split_keeps_an_image_that_is_there_three_times(tmp_path: Path):
    folder = sound(tmp_path / "set", "voc")
    for name in (1, 4):
        copied("JPEGImages/0.png", f"JPEGImages/{name}.png")(folder)
    report = check(folder)
    assert report.counts["leak_same"] == 2
    repair(report, tmp_path / "mended")
    assert read(tmp_path / "mended", "train").ids == ["2"]
    assert read(tmp_path / "mended", "test").ids == ["4"]


def test_names_with_spaces_stay_in_their_lists(tmp_path: Path):
    folder = sound(tmp_path / "set", "voc")
    for place, suffix in (("JPEGImages", ".png"), ("Annotations", ".xml")):
        (folder / place / f"0{suffix}").rename(folder / place / f"my photo{suffix}")
    written("ImageSets/Main/train.txt", "my photo\n1 1\n2\n2\n")(folder)
    repair(check(folder), tmp_path / "mended")
    lists = tmp_path / "mended" / "ImageSets" / "Main"
    assert (lists / "train.txt").read_text() == "my photo\n1 1\n2\n"
    assert read(tmp_path / "mended", "train").ids == ["my photo", "1", "2"]


def test_a_leak_is_left_out_of_training(tmp_path: Path):
    folder = sound(tmp_path / "set", "voc")
    copied("JPEGImages/0.png", "JPEGImages/4.png")(folder)
    written("ImageSets/Main/trainval.txt", "0\n1\n2\n3\n")(folder)
    repair(check(folder), tmp_path / "mended")
    assert read(tmp_path / "mended", "train").ids == ["1", "2"]
    assert read(tmp_path / "mended", "trainval").ids == ["1", "2", "3"]
    assert read(tmp_path / "mended", "test").ids == ["4"]


def test_a_jpeg_is_mended_without_touching_its_pixels(tmp_path: Path):
    folder = sound(tmp_path / "set", "voc")
    (folder / "JPEGImages/0.png").unlink()
    picture(folder / "JPEGImages/0.jpg", (100, 120))
    turned("JPEGImages/0.jpg")(folder)
    with Image.open(folder / "JPEGImages/0.jpg") as image:
        pixels = np.asarray(image)
    repair(check(folder), tmp_path / "mended")
    with Image.open(tmp_path / "mended/JPEGImages/0.jpg") as image:
        assert image.getexif().get(0x0112) == 1
        assert np.array_equal(np.asarray(image), pixels)


def test_a_repair_never_overwrites(tmp_path: Path):
    folder = sound(tmp_path / "set", "voc")
    report = check(folder)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("mine")
    with pytest.raises(InputError, match="holds something"):
        repair(report, tmp_path / "there")
    with pytest.raises(InputError, match="within the set"):
        repair(report, folder / "mended")


def test_near_duplicates_are_told_from_look_alikes(tmp_path: Path):
    """The same picture smaller and recompressed is one; two skies of like colour are not."""
    ramp = np.linspace(90, 200, 64)[:, None, None] * np.ones((64, 96, 3))
    rng = np.random.default_rng(0)
    paths = []
    for i, at in enumerate((20, 60)):
        sky = ramp + rng.normal(0, 2, ramp.shape)
        sky[30:36, at : at + 12] = 20
        paths.append(tmp_path / f"sky{i}.png")
        Image.fromarray(sky.clip(0, 255).astype(np.uint8)).save(paths[-1])
    photo = picture(tmp_path / "photo.png", (240, 320), seed=5)
    with Image.open(photo) as image:
        image.resize((200, 150)).save(tmp_path / "small.jpg", quality=50)
    seen = [examined_picture(str(p)) for p in (*paths, photo, tmp_path / "small.jpg")]
    assert list(similar(seen)) == [(2, 3)]
    assert same_files(seen) == []
    assert groups_of(4, [(2, 3), (3, 1)]).tolist() == [0, 1, 1, 1]


def test_frames_of_one_camera_are_one_group(tmp_path: Path):
    """Forty frames are told together, not as 780 pairs; so are those of two splits."""
    rng = np.random.default_rng(0)
    scene = np.kron(rng.integers(0, 256, (12, 16, 3)), np.ones((8, 8, 1)))
    table = table_of([[[10, 10, 40, 40]]] * 40, [[0]] * 40, [(96, 128)] * 40)
    folder = write_set(tmp_path, table, "voc", {"train": list(range(40))})
    for i in range(40):
        scene[i, i] = 255
        Image.fromarray(scene.astype(np.uint8)).save(folder / "JPEGImages" / f"{i}.png")
    (flaw,) = [flaw for flaw in check(folder).flaws if flaw.kind == "image_near"]
    assert flaw.count == 39
    assert flaw.message.startswith("40 images show nearly the same: 0.png, ")


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "errors"),
    [
        ("bccd", {"box_no_area": 2}),
        ("coco_mini", {}),
        ("coco_train_small", {}),
        ("voc20/native_samples", {}),
    ],
)
def test_real_sets_show_the_flaws_that_are_known_of_them(shared_data: Path, name, errors):
    report = check(shared_data / name)
    found = {kind: n for kind, n in report.counts.items() if KINDS[kind].level == "error"}
    assert found == errors
    if name == "bccd":
        places = {Path(f.file).stem for f in report.errors}
        assert places == {"BloodImage_00343", "BloodImage_00338"}
        near = [f.message for f in report.flaws if f.kind == "leak_near"]
        assert len(near) == 1
        assert "BloodImage_00037" in near[0]
        assert "BloodImage_00038" in near[0]
        assert report.counts["path_foreign"] == 364


def test_the_documentation_lists_every_kind_of_flaw():
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    for name, kind in KINDS.items():
        assert f"| `{name}` | {kind.level} | {kind.meaning} | {kind.repair} |" in text


def test_files_that_count_from_0_are_moved_as_a_whole(tmp_path: Path):
    """One cause, one flaw: no box is told to begin before its image, and none is clipped."""
    boxes = [[[0, 0, 40, 30], [10, 5, 100, 80]]]
    table = table_of(boxes, [[0, 1]], [(80, 100)])
    folder = write_set(tmp_path / "set", table, "voc")
    (file,) = (folder / "Annotations").glob("*.xml")
    found = file.read_text()
    for side in ("xmin", "ymin", "xmax", "ymax"):
        found = re.sub(rf"(?<=<{side}>)\d+", lambda m: str(int(m[0]) - 1), found)
    file.write_text(found)  # first and last pixel, counted from 0
    report = check(folder)
    assert report.counts["box_zero_based"] == 1
    assert not report.counts.keys() & {"box_edge", "box_beyond"}
    repair(report, tmp_path / "out")
    assert read(tmp_path / "out").boxes.tolist() == boxes[0]


@pytest.mark.parametrize(
    ("layout", "spoil"),
    [
        (
            "coco",
            document(
                lambda d: [t.update(category_id=str(t["category_id"])) for t in d["annotations"]]
            ),
        ),
        (
            "coco",
            document(lambda d: [t.update(image_id=float(t["image_id"])) for t in d["annotations"]]),
        ),
        (
            "coco",
            document(
                lambda d: [t.update(bbox=[str(v) for v in t["bbox"]]) for t in d["annotations"]]
            ),
        ),
        (
            "coco",
            document(
                lambda d: [t.update(iscrowd="0", area=str(t["area"])) for t in d["annotations"]]
            ),
        ),
        ("coco", document(lambda d: [i.update(id=float(i["id"])) for i in d["images"]])),
        ("voc", replaced(XML, "<difficult>0", "<difficult>False")),
        ("yolo", replaced(TXT, "0 ", "0.0 ")),
    ],
)
def test_a_repair_loses_nothing_that_is_read(tmp_path: Path, layout: str, spoil: Spoil):
    folder = sound(tmp_path / "set", layout)
    before = read(folder)
    spoil(folder)
    odd = read(folder)
    repair(check(folder), tmp_path / "out")
    after = check(tmp_path / "out")
    assert "value_odd" not in after.counts
    for table in (odd, read(tmp_path / "out")):
        assert np.array_equal(table.boxes, before.boxes)
        assert np.array_equal(table.labels, before.labels)
        assert np.array_equal(table.counts, before.counts)
