"""Darknet's .data files, folders of classes, and what its augmentation does to boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from boxatlas.data import augmentation, read, splits
from boxatlas.data.formats import detect_format
from boxatlas.data.formats.darknet_data import read_names
from boxatlas.data.transforms.sample import Sample
from boxatlas.errors import InputError
from boxatlas.images import Preprocess
from boxatlas.verify import Case, handlers, run_case


def picture(path: Path, size: tuple[int, int] = (40, 60)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((*size, 3), np.uint8)).save(path)
    return path


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """As in Darknet's checkout: cfg/voc.data beside data/voc.names, lists with absolute paths."""
    for split, names in (("train", ("a", "b")), ("val", ("c",))):
        for name in names:
            picture(tmp_path / "VOC" / "JPEGImages" / f"{name}.png")
        listed = [f"{tmp_path}/VOC/JPEGImages/{name}.png\n" for name in names]
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"{split}.txt").write_text("".join(listed))
    (tmp_path / "VOC" / "labels").mkdir()
    (tmp_path / "VOC" / "labels" / "a.txt").write_text("1 0.5 0.5 0.5 0.25\n")
    (tmp_path / "data" / "voc.names").write_text("cat\ndog\n")
    (tmp_path / "cfg").mkdir()
    (tmp_path / "cfg" / "voc.data").write_text(
        "classes= 2\n# a comment\ntrain  = data/train.txt\nvalid = data/val.txt\n"
        "names = data/voc.names\nbackup = backup\n"
    )
    return tmp_path / "cfg" / "voc.data"


def test_a_data_file_is_a_data_set(voc: Path):
    assert detect_format(voc) == detect_format(voc.parent) == "darknet"
    assert splits(voc) == ["train", "val"]
    table = read(voc, "train")
    assert table.classes == ("cat", "dog")
    assert table.counts.tolist() == [
        1,
        0,
    ]  # labels lie where Darknet puts them: JPEGImages -> labels
    assert table.labels.tolist() == [1]
    assert table.boxes[0].tolist() == pytest.approx([15, 15, 45, 25])
    assert len(read(voc)) == 3


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("classes= 2", "classes= 3", "voc.names holds 2 names"),
        ("names = data/voc.names", "names = data/nothing", "names: no such file"),
        ("names = data/voc.names", "namse = data/voc.names", "says no names"),
        ("train  = data/train.txt", "train", "line 3: must be: key = value"),
    ],
)
def test_a_wrong_data_file_is_refused_by_its_field(voc: Path, old: str, new: str, problem: str):
    voc.write_text(voc.read_text().replace(old, new))
    with pytest.raises(InputError, match=problem):
        read(voc, "train")


def test_names_must_differ(tmp_path: Path):
    (tmp_path / "a.names").write_text("cat\ndog\ncat\n")
    with pytest.raises(InputError, match="line 3: two classes of one name"):
        read_names(tmp_path / "a.names")


@pytest.fixture
def joint(voc: Path) -> Path:
    """As combine9k.data: boxes of two classes and an image of node 1 to train, boxes to validate,
    and `map`, which is that of the validation alone."""
    root = voc.parent.parent
    (root / "data" / "9k.names").write_text("thing\nanimal\ncat\ndog\n")
    (root / "data" / "train.map").write_text("2\n3\n")
    (root / "data" / "val.map").write_text("1\n0\n")
    (root / "VOC" / "labels" / "b.txt").write_text("1 0 0 0 0\n")
    (root / "VOC" / "labels" / "c.txt").write_text("1 0.5 0.5 0.5 0.25\n")
    voc.write_text(
        voc.read_text().replace("voc.names", "9k.names").replace("= 2", "= 4")
        + "map = data/val.map\n"
    )
    return voc


def test_maps_apply_to_the_boxes_of_their_split_and_not_to_labels_alone(joint: Path):
    """Darknet maps `valid` by the .data file and `train` by the cfg."""
    joint.write_text(joint.read_text() + "train_map = data/train.map\n")
    table = read(joint, "train")
    assert table.labels.tolist() == [3]  # dog, class 1 of the boxes
    assert table.image_label.tolist() == [-1, 1]  # animal, node 1
    assert read(joint, "val").labels.tolist() == [0]  # thing, class 1 of its boxes
    (joint.parent.parent / "data" / "train.map").write_text("2\n9\n")
    with pytest.raises(InputError, match="none of the 4 classes"):
        read(joint, "train")


def test_boxes_to_train_are_not_mapped_by_the_map_of_the_validation(joint: Path):
    assert read(joint, "val").labels.tolist() == [0]
    with pytest.raises(InputError, match=r"voc.data: train: .*a.txt holds boxes, and no train_map"):
        read(joint, "train")
    (joint.parent.parent / "VOC" / "labels" / "a.txt").write_text("")
    assert read(joint, "train").image_label.tolist() == [-1, 1]  # no box: no map is needed


def test_folders_are_classes_of_images(tmp_path: Path):
    for kind, count in (("dog", 2), ("cat", 1)):
        for i in range(count):
            picture(tmp_path / "images" / kind / f"{i}.png")
    assert detect_format(tmp_path) == "folders"
    table = read(tmp_path)
    assert table.classes == ("cat", "dog")
    assert table.image_label.tolist() == [0, 1, 1]
    assert len(table.labels) == 0
    for split in ("train", "val"):
        picture(tmp_path / "other" / split / "dog" / "x.png")
    assert splits(tmp_path / "other") == ["train", "val"]
    assert len(read(tmp_path / "other", "train")) == 1


@pytest.mark.data
def test_imagenets_images_have_a_label_each(shared_data: Path):
    table = read(shared_data / "imagenet_samples")
    assert len(table) == len(table.classes) == 400
    assert sorted(table.image_label.tolist()) == list(range(400))


# -- augmentation ---------------------------------------------------------------------------------


def test_darknets_image_operations(parity_dir: Path):
    case = Case(parity_dir / "darknet_ops.json")
    result = run_case(case, handlers()[case.case])
    assert result.status == "pass", result.reason


def marked(rng: np.random.Generator) -> tuple[Sample, np.ndarray]:
    """A grey picture with one white rectangle, which is its object."""
    pixels = np.full((80, 120, 3), 60, np.uint8)
    x, y = int(rng.integers(10, 60)), int(rng.integers(10, 40))
    pixels[y : y + 30, x : x + 40] = 255
    box = np.array([[x, y, x + 40, y + 30]], np.float32)
    return Sample(pixels, box, np.zeros(1, np.int32), np.zeros(1, bool), None, None), box


@pytest.mark.parametrize("form", ["crop_jitter", "place_scale", "place_noscale"])
def test_boxes_follow_the_pixels(form: str):
    """The white pixels of what is made are the box that comes with it."""
    rule = Preprocess(size=(96, 128), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    augment = augmentation("yolo", form=form, hue=0.0, saturation=1.0, exposure=1.0, jitter=0.3)
    seen = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        sample, _ = marked(rng)
        image, _, made = augment(sample, rule, rng)
        white = (image.numpy() > 0.75).all(0)
        if not len(made.boxes) or not white.any():
            continue
        rows, columns = np.flatnonzero(white.any(1)), np.flatnonzero(white.any(0))
        found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        assert np.abs(made.boxes[0] - found).max() < 3.5
        seen += 1
    assert seen > 20


def test_the_same_seed_makes_the_same_picture():
    rule = Preprocess(size=(64, 64))
    augment = augmentation("yolo")
    first, second = (
        augment(marked(np.random.default_rng(1))[0], rule, np.random.default_rng(2))[0]
        for _ in range(2)
    )
    assert (first == second).all()
