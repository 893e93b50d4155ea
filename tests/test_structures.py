"""What travels: frames, targets, batches, detections and their exports."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from boxatlas.errors import InputError
from boxatlas.structures import Batch, Detections, Frame, Targets


def found() -> Detections:
    return Detections(
        torch.tensor([[10.0, 20.0, 30.0, 60.0], [0.0, 0.0, 100.0, 50.0], [5.0, 5.0, 6.0, 6.0]]),
        torch.tensor([0.9, 0.5, 0.2]),
        torch.tensor([1, 0, 1]),
        ("cat", "dog"),
        (50, 100),
    )


def test_a_frame_clips_to_its_source() -> None:
    frame = Frame((50, 100), (100, 200), (2.0, 2.0), (8.0, 4.0))
    box = torch.tensor([[0.0, 0.0, 500.0, 24.0]])
    assert frame.undo(box).tolist() == [[0.0, 0.0, 100.0, 10.0]]
    assert frame.undo(box, clip=False).tolist() == [[-4.0, -2.0, 246.0, 10.0]]


def test_targets_pad_to_the_largest_count() -> None:
    targets = Targets.collate(
        [torch.ones(2, 4), torch.zeros(0, 4), torch.full((1, 4), 3.0)],
        [torch.tensor([4, 0]), torch.zeros(0, dtype=torch.int64), torch.tensor([2])],
        [torch.tensor([True, False]), torch.zeros(0, dtype=torch.bool), torch.tensor([False])],
        [-1, 7, -1],
    )
    assert targets.boxes.shape == (3, 2, 4)
    assert targets.labels.tolist() == [[4, 0], [-1, -1], [2, -1]]
    assert targets.valid.tolist() == [[True, True], [False, False], [True, False]]
    assert targets.ignore.tolist() == [[True, False], [False, False], [False, False]]
    assert targets.image_label.tolist() == [-1, 7, -1]
    assert targets.boxes[2].tolist() == [[3.0] * 4, [0.0] * 4]


def test_a_batch_without_any_object() -> None:
    targets = Targets.collate([torch.zeros(0, 4)] * 2, [torch.zeros(0, dtype=torch.int64)] * 2)
    batch = Batch(torch.zeros(2, 3, 8, 8), [Frame((8, 8), (8, 8))] * 2, targets).to("cpu")
    assert len(batch) == 2
    assert batch.targets.boxes.shape == (2, 0, 4)
    assert batch.proposals is None


def test_selection_keeps_rows_together() -> None:
    three = found()
    assert three.names == ["dog", "cat", "dog"]
    assert three.above(0.5).scores.tolist() == pytest.approx([0.9, 0.5])
    assert three[-1].names == ["dog"]
    assert three[1].boxes.tolist() == [[0.0, 0.0, 100.0, 50.0]]
    assert three[[2, 0]].labels.tolist() == [1, 1]
    assert len(three[three.labels == 0]) == 1
    assert len(three[:0]) == 0
    three.masks = torch.zeros(3, 5, 5, dtype=torch.bool)
    picked = three[1:].masks
    assert picked is not None
    assert picked.shape == (2, 5, 5)


def test_exports_follow_each_layout() -> None:
    three = found()
    coco = three.to_coco(7, [11, 22])
    assert coco[0] == {
        "image_id": 7,
        "category_id": 22,
        "bbox": [10.0, 20.0, 20.0, 40.0],
        "score": pytest.approx(0.9),
    }
    assert three.to_coco()[1]["category_id"] == 1
    voc = three.to_voc()[1]  # the whole image: pixels 1 to 100 and 1 to 50
    assert (voc["xmin"], voc["ymin"], voc["xmax"], voc["ymax"]) == (1.0, 1.0, 100.0, 50.0)
    assert three.to_yolo()[0] == "1 0.200000 0.800000 0.200000 0.800000 0.900000"


def test_masks_go_out_as_coco_reads_them() -> None:
    three = found()
    noise = torch.rand(3, 50, 100, generator=torch.Generator().manual_seed(0))
    three.masks = noise > 0.9  # long runs, then
    three.masks[1] = False
    three.masks[1, 10:40, 5:90] = True
    three.masks[2] = True
    for row, pixels in zip(three.to_coco(), three.masks.numpy(), strict=True):
        rle = row["segmentation"]
        assert rle["counts"].encode() == coco_mask.encode(np.asfortranarray(pixels))["counts"]
        assert (coco_mask.decode(rle).astype(bool) == pixels).all()
    assert "segmentation" not in found().to_coco()[0]


def test_drawing_needs_an_image() -> None:
    with pytest.raises(InputError, match="carry no image"):
        found().draw()
    assert found()._repr_png_() is None
    named = found()
    named.image = np.zeros((50, 100, 3), np.uint8)
    shown = named._repr_png_()
    assert shown is not None
    assert shown.startswith(b"\x89PNG")


def test_iteration_and_integers_give_one_each() -> None:
    three = found()
    ones = list(three)
    assert [len(one) for one in ones] == [1, 1, 1]
    assert [one.names[0] for one in three] == three.names
    for index in (1, np.int64(1), torch.tensor(1), -2):
        assert three[index] == ones[1]
    for beyond in (3, -4, 99, np.int64(3), [0, 7], torch.tensor([-4])):
        with pytest.raises(IndexError):
            three[beyond]
    assert list(reversed(ones)) == list(three[::-1])
    for mask in (three.scores > 0.3, (three.scores > 0.3).numpy(), [True, True, False]):
        assert three[mask] == three[:2]
    assert len(three[[]]) == len(three[np.array([], np.int64)]) == 0
    with pytest.raises(IndexError, match="mask"):
        three[[True]]
    for wrong in ("dog", 1.0, None, True, [[0]]):
        with pytest.raises(TypeError):
            three[wrong]


def test_equality_pickling_and_joining() -> None:
    three = found()
    assert three == found()
    assert three != three[:2]
    assert three != 3
    other = found()
    other.boxes[0, 0] += 1
    assert three != other
    assert pickle.loads(pickle.dumps(three)) == three
    assert Detections.join(three) == three
    assert three[2] + three[0] == three[[0, 2]]
    renamed = found()[:1]
    renamed.classes = ("bird", "cat")  # the same label, another name
    assert (three[:1] + renamed).names == ["dog", "cat"]
    assert len(Detections.join([three[:0], three])) == 3
    with pytest.raises(InputError, match="no detections to join"):
        Detections.join([])
    larger = found()
    larger.size = (99, 99)
    with pytest.raises(InputError, match="sizes"):
        three + larger
    masked = found()
    masked.masks = torch.zeros(3, 50, 100, dtype=torch.bool)
    with pytest.raises(InputError, match="masks"):
        three + masked
    joined = (masked + masked).masks
    assert joined is not None
    assert joined.shape == (6, 50, 100)


def test_the_short_form_names_what_is_there() -> None:
    assert repr(found()) == "Detections(3: 2 dog, 1 cat; 100x50)"
    assert repr(found()[:0]) == "Detections(0; 100x50)"
    odd = found()
    odd.classes = ("a\x1b[31m", "b\n")
    assert repr(odd) == "Detections(3: 2 b\\n, 1 a\\x1b[31m; 100x50)"


def test_filter_by_class_and_score() -> None:
    assert found().filter(classes="dog").scores.tolist() == pytest.approx([0.9, 0.2])
    assert found().filter(classes=["dog", "cat"], score=0.5) == found()[:2]
    with pytest.raises(InputError, match=r"dot.*did you mean 'dog'"):
        found().filter(classes="dot")
    with pytest.raises(InputError, match="score"):
        found().filter(score=2)


def test_saving_takes_the_format_from_the_suffix(tmp_path: Path) -> None:
    picture = np.zeros((50, 100, 3), np.uint8)
    found().save(tmp_path / "a.png", picture)
    assert Image.open(tmp_path / "a.png").format == "PNG"
    with pytest.raises(InputError, match="suffix"):
        found().save(tmp_path / "a.doc", picture)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_a_missing_extra_is_one_line(monkeypatch) -> None:
    for name, export in (("pandas", found().to_dataframe), ("supervision", found().to_supervision)):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(InputError, match=rf"pip install 'boxatlas\[{name}\]'"):
            export()


def test_a_table_of_detections() -> None:
    import pandas

    table = found().to_dataframe()
    assert isinstance(table, pandas.DataFrame)
    assert table["class"].tolist() == ["dog", "cat", "dog"]
    assert table["x2"].tolist() == [30.0, 100.0, 6.0]
