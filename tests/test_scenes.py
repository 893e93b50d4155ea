"""Made scenes: repeatable, rightly labelled, the same in every layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from boxatlas import scenes
from boxatlas.data import read
from boxatlas.data.masks import decode
from boxatlas.errors import InputError


def test_a_seed_repeats_and_another_differs() -> None:
    one, same, other = scenes.make(3), scenes.make(3), scenes.make(4)
    assert np.array_equal(one.image, same.image)
    assert np.array_equal(one.boxes, same.boxes)
    assert not np.array_equal(one.image, other.image)


def test_boxes_enclose_the_visible_pixels() -> None:
    for seed in range(12):
        scene = scenes.make(seed, (120, 160))
        assert scene.image.shape == (120, 160, 3)
        assert scene.boxes.shape == (len(scene.labels), 4)
        if len(scene.labels):
            assert scene.masks.sum(0).max() <= 1  # a pixel shows one object
        for (x1, y1, x2, y2), mask in zip(scene.boxes.astype(int), scene.masks, strict=True):
            inside = mask[y1:y2, x1:x2]
            assert inside.sum() == mask.sum() > 0
            assert inside[0].any()
            assert inside[-1].any()
            assert inside[:, 0].any()
            assert inside[:, -1].any()


def test_scenes_hold_every_class_and_sometimes_nothing() -> None:
    labels = [scenes.make([5, i], (96, 128)).labels for i in range(50)]
    assert set(np.concatenate(labels).tolist()) == set(range(len(scenes.CLASSES)))
    assert any(len(found) == 0 for found in labels)


def test_every_layout_holds_the_same_objects(tmp_path: Path) -> None:
    tables = {}
    for layout in ("voc", "coco", "yolo"):
        folder = scenes.write(
            tmp_path / layout, {"train": 3, "val": 2}, seed=1, size=(96, 128), layout=layout
        )
        tables[layout] = read(folder, "train")
    for layout, table in tables.items():
        assert table.classes == scenes.CLASSES, layout
        assert len(table) == 3
        assert np.array_equal(table.labels, tables["voc"].labels)
        assert np.allclose(table.boxes, tables["voc"].boxes, atol=1e-3)
    masks = tables["coco"].masks
    assert masks is not None
    for i in range(len(tables["coco"].labels)):
        bitmap = decode(masks[i])
        x1, y1, x2, y2 = tables["coco"].boxes[i].round().astype(int)
        assert bitmap[y1:y2, x1:x2].sum() == bitmap.sum() == round(tables["coco"].object_areas[i])


def test_a_split_does_not_depend_on_the_others(tmp_path: Path) -> None:
    scenes.write(tmp_path / "a", {"train": 4, "val": 2}, size=(96, 128))
    scenes.write(tmp_path / "b", {"val": 2}, size=(96, 128))
    assert np.array_equal(read(tmp_path / "a", "val").boxes, read(tmp_path / "b", "val").boxes)


def test_a_used_folder_and_an_unknown_layout_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("dear")
    with pytest.raises(InputError, match="holds something already"):
        scenes.write(tmp_path, {"train": 1})
    with pytest.raises(InputError, match="did you mean 'coco'"):
        scenes.write(tmp_path / "new", {"train": 1}, layout="cocoo")  # type: ignore[arg-type]
