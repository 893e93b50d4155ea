"""Other programs' exports: recognised by what they hold, read to the pixel, refused by the rest."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest
from layouts import (
    CASES,
    MARK,
    SPLITS,
    H,
    W,
    coco_cvat,
    coco_kit,
    coco_roboflow,
    csv_files,
    csv_retinanet,
    labelme_5,
    voc_kit,
    voc_parent,
    yolo_cvat,
    yolo_ultralytics,
)
from PIL import Image

from boxatlas.cli import main
from boxatlas.data import (
    Table,
    augmentation,
    detect_format,
    read,
    read_splits,
    split_to_judge,
    splits,
)
from boxatlas.data.convert import convert
from boxatlas.data.doctor import check
from boxatlas.data.doctor.repair import repair
from boxatlas.data.formats import FORMATS
from boxatlas.data.formats.places import Place
from boxatlas.data.transforms.sample import Sample
from boxatlas.data.writing import WRITERS
from boxatlas.errors import InputError
from boxatlas.images import Preprocess

NAMES = [build.__name__ for _, build in CASES]


@pytest.fixture(params=CASES, ids=NAMES)
def exported(request, tmp_path: Path) -> tuple[str, str, Path]:
    """(layout, name of the case, folder)."""
    layout, build = request.param
    build(tmp_path / "set")
    return layout, build.__name__, tmp_path / "set"


def marks(table: Table) -> np.ndarray:
    """[T, 4]: the box of the white pixels in each object's image."""
    found = []
    for i in table.image_of:
        ys, xs = np.nonzero(np.asarray(Image.open(table.paths[i]).convert("L")) > 127)
        found.append([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
    return np.array(found, float)


def test_an_export_is_recognised_and_read_to_the_pixel(exported):
    layout, name, folder = exported
    assert detect_format(folder) == layout
    assert splits(folder) == SPLITS.get(name, [])
    table = read(folder)
    wanted = [kind for kind in table.classes if kind in ("cat", "car")]
    assert list(table.classes) == wanted
    assert len(table.labels) >= 1
    assert np.abs(table.boxes - marks(table)).max() < 1e-3
    assert table.sizes.tolist() == [[80, 100]] * len(table)
    each = read_splits(folder)
    assert sum(len(part) for part in each.values()) == len(table)


def test_every_other_layout_refuses_it(exported):
    """What is of one layout is read as no other, even where that one is asked for by name."""
    layout, _, folder = exported
    place = Place(folder)
    for other, module in FORMATS.items():
        if other in (layout, "folders"):
            continue
        seen = module.evidence(place)
        assert seen is None or not seen.sure, (other, seen)
        try:
            objects = len(read(folder, format=other).labels)
        except InputError:
            continue
        assert objects == 0, other  # YOLO's images without a label have none


def test_check_says_what_was_taken_and_finds_no_error(exported):
    layout, name, folder = exported
    report = check(folder)
    assert report.layout == layout
    assert report.seen[layout].what
    assert [flaw for flaw in report.errors if flaw.kind != "split_empty"] == []
    assert ("split_empty" in report.counts) == (name == "yolo_roboflow")  # its test is not there


def test_the_mark_stays_in_its_box_after_augmentation(exported):
    _, _, folder = exported
    table = read(folder)[:1]
    image = np.asarray(Image.open(table.paths[0]).convert("RGB"))
    for name in ("none", "flip"):
        augment, preprocess = augmentation(name), Preprocess(size=(160, 200))
        for seed in range(3):
            sample = Sample(image, table.boxes, table.labels, table.ignore, None, None)
            pixels, _, seen = augment(sample, preprocess, np.random.default_rng(seed))
            bright = pixels.mean(0) > float(pixels.mean(0).min() + pixels.mean(0).max()) / 2
            ys, xs = np.nonzero(bright.numpy())
            around = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            assert np.abs(seen.boxes[0] - around).max() <= 1


@pytest.mark.parametrize("to", WRITERS)
def test_any_export_is_converted_to_any_layout_that_is_written(exported, tmp_path: Path, to: str):
    _, _, folder = exported
    before = {("train" if len(t) and k == "" else k): t for k, t in read_splits(folder).items()}
    names = dict(zip(before, ("train", "val", "test"), strict=False))  # Darknet has no others
    tables = {names[k]: table for k, table in before.items()}
    convert(tables, tmp_path / "out", to)
    after = read_splits(tmp_path / "out", to)
    for split, table in tables.items():
        kept = after.get(split) or after[""]
        assert len(kept.labels) == len(table.labels)
        assert np.abs(kept.boxes - marks(kept)).max() < 1e-3
        assert {kept.classes[k] for k in kept.labels} == {table.classes[k] for k in table.labels}


def damaged(folder: Path, layout: str) -> Path:
    """Cut a file that describes the set in half; of lines, spoil a number."""
    files = Place(folder).paths(FORMATS[layout].annotation_names(Place(folder)))
    numbers = (str(MARK[0]), str(MARK[0] + 1), "0.", "coordinates")
    path = next(p for p in files if any(n in p.read_text() for n in numbers))
    content = path.read_text()
    if path.suffix in (".json", ".jsonl", ".xml"):
        path.write_text(content[: len(content) * 2 // 3])
    else:
        path.write_text(content.rstrip()[: len(content.rstrip()) * 2 // 3] + "x\n")
    return path


def test_a_damaged_file_is_named(exported):
    layout, _, folder = exported
    path = damaged(folder, layout)
    with pytest.raises(InputError) as caught:
        read(folder, format=layout)
    assert path.name in str(caught.value) or str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert W * H  # the mark has an area


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("train/MOT17-02/gt/gt.txt", "1,1,10,10,40,50,1,1,1", "MOT, which Datumaro converts"),
        ("split/wider_face_train_bbx_gt.txt", "0--Parade/a.jpg", "WIDER Face, which Datumaro"),
        ("train/cat.tfrecord", "0", "TFRecord; export it"),
        ("annotations/a.json", '{"categories": {}, "items": []}', "Datumaro, which Datumaro"),
        ("annotation_train.odgt", '{"ID": "a"}', "CrowdHuman; export it"),
        ("ds/ann/a.jpg.json", '{"size": {}, "objects": []}', "Supervisely; export it"),
    ],
)
def test_what_is_not_read_is_named(tmp_path: Path, name: str, content: str, said: str):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=said) as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)


def test_two_layouts_in_one_folder_are_asked_for(tmp_path: Path, capsys):
    voc_kit(tmp_path)
    coco_cvat(tmp_path)
    with pytest.raises(InputError, match=r"several layouts .*voc: .*coco: .*--format voc or coco"):
        read(tmp_path)
    assert len(read(tmp_path, format="voc")) == 2
    assert len(read(tmp_path, format="coco")) == 1
    with pytest.raises(SystemExit):
        main(["data", "check", str(tmp_path), "--format", "voc", "--no-images"])
    out = capsys.readouterr().out
    assert "layout voc: Annotations/000001.xml is an annotation of VOC's" in out
    assert "it looks like coco too: annotations/instances_default.json holds COCO's lists" in out
    assert "files that nothing was read from: .txt 2, .json 1, .png 1" in out


def test_a_file_is_given_instead_of_the_folder(tmp_path: Path):
    yolo_ultralytics(tmp_path / "a")
    assert len(read(tmp_path / "a/coco8.yaml", "train")) == 1
    coco_kit(tmp_path / "b")
    assert len(read(tmp_path / "b/annotations/instances_val2017.json")) == 1
    assert len(read(tmp_path / "b")) == 2
    csv_retinanet(tmp_path / "c")
    assert len(read(tmp_path / "c/annotations.csv")) == 2
    voc_parent(tmp_path / "d")
    assert read(tmp_path / "d", "train").ids == ["VOC2012/000001"]


def test_a_yaml_may_lie_apart_from_its_set(tmp_path: Path):
    """As Ultralytics' do: `path` leads to the folder."""
    yolo_ultralytics(tmp_path / "sets" / "coco8")
    (tmp_path / "cfg").mkdir()
    file = (tmp_path / "sets/coco8/coco8.yaml").rename(tmp_path / "cfg/coco8.yaml")
    file.write_text(file.read_text().replace("../datasets/coco8", "../sets/coco8"))
    table = read(file, "val")
    assert [Path(path).name for path in table.paths] == ["val.png"]
    assert table.classes == ("cat",)
    with pytest.raises(InputError, match="lies apart from its images"):
        repair(check(file), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_valid_and_validation_are_val(tmp_path: Path):
    coco_roboflow(tmp_path)
    for name in ("val", "valid", "validation", "dev"):
        assert len(read(tmp_path, name)) == 1
    with pytest.raises(InputError, match="no such split"):
        read(tmp_path, "test")


def test_the_split_to_judge_by(tmp_path: Path):
    coco_roboflow(tmp_path / "a")
    csv_files(tmp_path / "b")
    yolo_cvat(tmp_path / "c")
    labelme_5(tmp_path / "d")
    assert split_to_judge([tmp_path / "a"]) == ("val", "val")
    assert split_to_judge([tmp_path / "b"]) == ("test", "test")
    split, said = split_to_judge([tmp_path / "c"])
    assert split is None
    assert said.startswith("neither test nor val is there: all images are judged (train)")
    assert split_to_judge([tmp_path / "d"]) == (None, "")


TOKENS = (
    b"",
    b"null",
    b"[]",
    b"{}",
    b'"x"',
    b"-1",
    b"1e999",
    b"NaN",
    b"\xff",
    b"\0",
    b"<",
    b",",
    b"[[[[",
)


def test_a_spoilt_export_is_read_or_said_to_be_wrong(exported):
    """Whatever a value becomes: one line that names the file, and never a traceback."""
    layout, name, folder = exported
    files = Place(folder).paths(FORMATS[layout].annotation_names(Place(folder)))
    rng = random.Random(name)
    for _ in range(12):
        file = rng.choice(files)
        whole = file.read_bytes()
        words = list(re.finditer(rb'"[^"]*"|-?[\d.]+|[A-Za-z_]+|\[[^\[\]]*\]|\{[^{}]*\}', whole))
        word = rng.choice(words)
        file.write_bytes(whole[: word.start()] + rng.choice(TOKENS) + whole[word.end() :])
        said = []
        for reading in (read_splits, lambda place: check(place, layout, images=False)):
            try:
                reading(folder)
            except InputError as error:
                said.append(str(error))
        assert all(str(folder) in line and "\n" not in line for line in said)
        file.write_bytes(whole)
