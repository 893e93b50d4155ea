"""Tables of what is in memory, tables as DataFrames, and the loop of the documentation."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from sets import picture, two_images, write_set

from boxatlas.data import Table, read
from boxatlas.errors import InputError

PAGE = Path(__file__).parents[2] / "docs" / "training_loop.md"


def test_the_code_of_the_page_runs(tmp_path: Path, monkeypatch, capsys):
    table = two_images()
    write_set(tmp_path / "photos", table, "yolo", {"train": [0, 1, 2]})
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), scope)
    batch = scope["batch"]
    height, width = batch.images.shape[2:]
    count = len(batch.images)
    most = batch.targets.boxes.shape[1]
    assert batch.images.dtype == torch.float32
    assert batch.targets.boxes.shape == (count, most, 4)
    assert batch.targets.labels.shape == batch.targets.valid.shape == (count, most)
    assert (height, width) == (64, 64)
    assert len(batch.frames) == len(batch.names) == count
    assert len(scope["large"]) == 1
    assert scope["document"]["images"][0]["file_name"] == "images/train/0.png"
    assert "images/train/0.png (1, 4) ['cat']" in capsys.readouterr().out


def test_iterating_a_loader_goes_on_to_the_next_epoch(tmp_path: Path):
    from boxatlas.data import make_loader
    from boxatlas.images import Preprocess

    folder = write_set(tmp_path / "set", two_images(), "yolo")
    options = {"batch_size": 1, "shuffle": True, "seed": 3}
    loader = make_loader(read(folder, "train"), Preprocess(size=(32, 32)), **options)
    first, second = ([b.names[0] for b in loader] for _ in range(2))
    again = [b.names[0] for b in loader.epoch(0)]
    assert len(first) == len(loader) == 3
    assert first == again
    assert second == [b.names[0] for b in loader.epoch(1)]


def test_a_table_is_short_to_look_at_and_unpacks():
    table = two_images()
    assert repr(table) == "Table(3 images, 5 objects, 3 classes: cat, dog, tea pot)"
    rows = list(table)
    path, boxes, labels = rows[0]
    assert (path, boxes.shape, labels.tolist()) == ("0.png", (3, 4), [0, 1, 2])
    assert [row.path for row in table.filter(lambda row: len(row.boxes) > 0)] == ["0.png", "2.png"]


def test_to_coco_is_what_pycocotools_reads(tmp_path: Path):
    from pycocotools.coco import COCO

    (tmp_path / "x.json").write_text(json.dumps(two_images().to_coco()))
    found = COCO(str(tmp_path / "x.json"))
    assert sorted(found.getImgIds()) == [1, 2, 3]
    boxes = [thing["bbox"] for thing in found.loadAnns(found.getAnnIds(imgIds=[3]))]
    assert boxes == [[5, 5, 35, 55], [50, 5, 20, 15]]


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    return [str(picture(tmp_path / f"{i}.png", (40, 50), seed=i)) for i in range(3)]


def test_a_table_of_dictionaries(paths: list[str]):
    rows = [
        {"path": paths[0], "boxes": [[1, 2, 3, 4], [5, 6, 9, 9]], "labels": ["dog", "cat"]},
        {"image": paths[1], "boxes": np.zeros((0, 4)), "labels": [], "height": 40, "width": 50},
        {"path": paths[2], "boxes": torch.ones(1, 4), "labels": ["cat"], "ignore": [True]},
    ]
    table = Table.of(rows)
    assert table.classes == ("cat", "dog")
    assert table.labels.tolist() == [1, 0, 0]
    assert table.counts.tolist() == [2, 0, 1]
    assert table.sizes.tolist() == [[40, 50]] * 3
    assert table.ignore.tolist() == [False, False, True]


def test_numbers_are_of_the_classes_given(paths: list[str]):
    rows = [{"path": paths[0], "boxes": [[1, 2, 3, 4]] * 2, "labels": torch.tensor([2, 0])}]
    table = Table.of(rows, classes=["a", "b", "c"])
    assert (table.classes, table.labels.tolist()) == (("a", "b", "c"), [2, 0])
    assert Table.of(rows).classes == ("class0", "class2")
    with pytest.raises(InputError, match=r"\[0\]\.labels\[0\]: no such class \(got 2\.?0?\)"):
        Table.of(rows, classes=["a", "b"])


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"boxes": [[1, 2, 3, 4]], "labels": ["a"]}, r"\[0\]\.path: the image's file"),
        ({"path": "x.png", "labels": ["a"]}, r"\[0\]: needs `boxes` and `labels`"),
        ({"path": "x.png", "boxes": [[1, 2, 3, 4]], "labels": []}, "1 boxes and 0 labels"),
        ({"path": "x.png", "boxes": [[1, 2, 3, float("nan")]], "labels": ["a"]}, "finite"),
        ({"path": "no.png", "boxes": [[1, 2, 3, 4]], "labels": ["a"]}, "no.png: no such file"),
    ],
)
def test_what_is_wrong_is_named(row: dict, said: str):
    with pytest.raises(InputError, match=said) as caught:
        Table.of([row])
    assert "\n" not in str(caught.value)


def test_a_torchvision_style_data_set(paths: list[str]):
    class Pairs:
        def __len__(self) -> int:
            return 2

        def __getitem__(self, i: int):
            target = {"boxes": torch.tensor([[1.0, 2, 3, 4]]), "labels": torch.tensor([i])}
            return Image.open(paths[i]), target

    assert Table.of(Pairs(), classes=("x", "y")).labels.tolist() == [0, 1]


def test_torchvisions_own_data_sets(tmp_path: Path):
    from torchvision.datasets import CocoDetection, VOCDetection

    table = two_images()
    coco = write_set(tmp_path / "coco", table, "coco")
    found = Table.of(CocoDetection(coco / "train", coco / "annotations/instances_train.json"))
    expected = read(coco, "train")
    for name in ("boxes", "labels", "ignore", "sizes", "offsets"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name
    root = tmp_path / "kit"
    voc = write_set(root / "VOCdevkit" / "VOC2012", table, "voc")
    (voc / "ImageSets" / "Main" / "train.txt").write_text("0\n2\n")
    for image in (voc / "JPEGImages").glob("*.png"):
        Image.open(image).save(image.with_suffix(".jpg"))
    found = Table.of(VOCDetection(root, "2012", "train"), classes=table.classes)
    assert np.abs(found.boxes - table.select([0, 2]).boxes).max() < 1e-3
    assert found.ignore.tolist() == table.select([0, 2]).ignore.tolist()


def test_a_dataframe_and_back(paths: list[str]):
    import pandas

    rows = [
        {"path": paths[0], "boxes": [[1, 2, 3, 4.5], [5, 6, 9, 9]], "labels": ["dog", "cat"]},
        {"path": paths[1], "boxes": [], "labels": []},
        {"path": paths[2], "boxes": [[0, 0, 8, 8]], "labels": ["cat"], "ignore": [True]},
    ]
    table = Table.of(rows)
    frame = table.to_dataframe()
    assert isinstance(frame, pandas.DataFrame)
    assert len(frame) == 4
    assert frame["class"].isna().tolist() == [False, False, True, False]
    again = Table.of(frame)
    assert again.paths == table.paths
    for name in ("boxes", "labels", "ignore", "offsets", "sizes"):
        assert np.array_equal(getattr(again, name), getattr(table, name)), name


def test_rows_of_a_frame_are_objects(paths: list[str]):
    """What has columns and records is a frame, whoever made it."""
    records = [
        {"filename": paths[0], "class": "cat", "xmin": 1, "ymin": 2, "xmax": 3, "ymax": 4},
        {"filename": paths[1], "class": None} | dict.fromkeys(("xmin", "ymin", "xmax", "ymax")),
    ]
    frame = SimpleNamespace(columns=list(records[0]), to_dict=lambda kind: records)
    table = Table.of(frame)
    assert (table.boxes.tolist(), table.counts.tolist()) == ([[1, 2, 3, 4]], [1, 0])
    frame.columns = ["filename", "xmin"]
    with pytest.raises(InputError, match="there is no class, y1, x2, y2"):
        Table.of(frame)


def test_without_pandas_one_line_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match=r"pip install 'boxatlas\[pandas\]'"):
        two_images().to_dataframe()
