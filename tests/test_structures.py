"""What travels: frames, targets, batches, detections and their exports."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

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
    with pytest.raises(ValueError, match="carry no image"):
        found().draw()
