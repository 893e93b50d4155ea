"""Other programs' exports: recognised by what they hold, read to the pixel, refused by the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from layouts import CASES, MARK, SPLITS, H, W
from PIL import Image

from boxatlas.data import Table, augmentation, detect_format, read, read_splits, splits
from boxatlas.data.convert import convert
from boxatlas.data.doctor import check
from boxatlas.data.formats import FORMATS, WRITABLE
from boxatlas.data.formats.places import Place
from boxatlas.data.transforms.sample import Sample
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


@pytest.mark.parametrize("to", [name for name in WRITABLE if name != "folders"])
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
    files = FORMATS[layout].annotation_files(Place(folder))
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
