"""Masks against pycocotools, torchvision and detectron2's rule; and the reference's vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco
from torchvision.ops import roi_align

from boxatlas.data import read
from boxatlas.data.masks import encode
from boxatlas.ops.masks import MaskTargetRule, mask_targets, paste_masks, rasterise
from boxatlas.ops.rle import counts_of
from boxatlas.verify.runner import run

SIZE = (40, 56)
SOFT = MaskTargetRule("bitmap", False, None)


def star(rng: np.random.Generator, corners: int, reach: float = 1.0) -> list[float]:
    """A polygon that may cross itself and the image's border."""
    height, width = SIZE
    points = rng.uniform(-0.2 * reach, 1 + 0.2 * reach, (corners, 2)) * (width, height)
    return points.reshape(-1).tolist()


def referee(polygons: list[list[float]], size: tuple[int, int]) -> np.ndarray:
    return coco.decode(coco.merge(coco.frPyObjects(polygons, *size))).astype(bool)


@pytest.mark.parametrize(
    "name", ["op_mask", "op_roi_pool", "op_roi_align", "op_psroi_pool", "op_ohem"]
)
def test_equals_the_reference_vector(name: str, parity_dir: Path) -> None:
    assert [(r.status, r.reason) for r in run(parity_dir, name)] == [("pass", "")]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 9), st.integers(1, 3))
def test_polygons_are_filled_as_pycocotools_fills_them(seed, corners, parts) -> None:
    rng = np.random.default_rng(seed)
    polygons = [star(rng, corners) for _ in range(parts)]
    assert np.array_equal(rasterise(polygons, SIZE), referee(polygons, SIZE))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_a_target_is_the_polygon_scaled_into_its_roi(seed) -> None:
    """Detectron's rule: shift, scale to m x m, fill there."""
    rng = np.random.default_rng(seed)
    polygon = star(rng, 7)
    x, y, w, h = rng.uniform(2, 18, 4).astype(np.float32)
    box = torch.tensor([[x, y, x + w, y + h]])
    target = mask_targets([[polygon]], torch.tensor([0]), box, 28, SIZE)[0].numpy() > 0.5
    points = np.array(polygon, np.float32).reshape(-1, 2)
    low, side = box[0, :2].numpy(), (box[0, 2:] - box[0, :2]).numpy()
    scaled = (points - low) * np.float32(28) / np.maximum(side, np.float32(1))
    assert np.array_equal(target, referee([scaled.reshape(-1).tolist()], (28, 28)))


def test_run_lengths_are_those_that_cocos_text_holds() -> None:
    rng = np.random.default_rng(1)
    for share in (0.0, 0.01, 0.5, 0.99, 1.0):
        for side in rng.integers(1, 300, (20, 2)):
            bitmap = rng.random(side) < share
            text = coco.encode(np.asfortranarray(bitmap.astype(np.uint8)))
            assert counts_of(text).tolist() == encode(bitmap)["counts"]


@pytest.mark.parametrize("rule", [SOFT, MaskTargetRule("bitmap", True, None)])
def test_sampled_targets_are_the_roi_align_of_the_whole_bitmap(rule) -> None:
    """However little of it was drawn: objects as polygons and as run lengths, RoIs of any place."""
    rng = np.random.default_rng(3)
    polygons = [[star(rng, 6)] for _ in range(4)]
    bitmaps = np.stack([referee(p, SIZE) for p in polygons])
    masks = [*polygons[:2], encode(bitmaps[2]), coco.encode(np.asfortranarray(bitmaps[3]))]
    masks[3] = {"size": list(SIZE), "counts": masks[3]["counts"].decode()}
    index = torch.arange(40) % 4
    corner = torch.tensor(rng.uniform(-5, 50, (40, 2)).astype(np.float32))
    boxes = torch.cat([corner, corner + torch.rand(40, 2) * 30 + 0.3], 1)
    rois = torch.cat([index[:, None].float(), boxes], 1)
    wanted = roi_align(
        torch.from_numpy(bitmaps[:, None].astype(np.float32)), rois, 14, 1.0, -1, rule.aligned
    )[:, 0]
    found = mask_targets(masks, index, boxes, 14, SIZE, rule)
    assert torch.allclose(found, wanted, atol=1e-5)
    hard = mask_targets(masks, index, boxes, 14, SIZE, MaskTargetRule("bitmap", rule.aligned, 0.5))
    sure = (wanted - 0.5).abs() > 1e-5
    assert torch.equal(hard[sure], (wanted >= 0.5).float()[sure])


def test_an_object_without_a_mask_is_filled_and_an_empty_one_is_not() -> None:
    boxes = torch.tensor([[2.0, 2, 12, 12]] * 2)
    target = mask_targets([None, []], torch.tensor([0, 1]), boxes, 7, SIZE)
    assert target[0].eq(1).all()
    assert target[1].eq(0).all()


def test_no_roi_gives_no_target() -> None:
    target = mask_targets([], torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4), 28, SIZE)
    assert target.shape == (0, 28, 28)


def test_a_continuous_paste_samples_each_pixel_where_it_lies() -> None:
    """detectron2's rule: the box's extent is the map's, read at pixel centres, 0 beyond it."""
    torch.manual_seed(0)
    maps, size = torch.rand(5, 14, 14), (30, 37)
    corner = torch.rand(5, 2) * 20 - 4
    boxes = torch.cat([corner, corner + torch.rand(5, 2) * 20 + 1], 1)
    x = (torch.arange(37) + 0.5 - boxes[:, :1]) / (boxes[:, 2:3] - boxes[:, :1]) * 2 - 1
    y = (torch.arange(30) + 0.5 - boxes[:, 1:2]) / (boxes[:, 3:] - boxes[:, 1:2]) * 2 - 1
    grid = torch.stack([x[:, None].expand(-1, 30, -1), y[:, :, None].expand(-1, -1, 37)], 3)
    wanted = F.grid_sample(maps[:, None], grid, align_corners=False)[:, 0]
    assert torch.allclose(paste_masks(maps, boxes, size, grid="continuous"), wanted, atol=1e-5)


def test_a_constant_map_fills_its_box() -> None:
    """Whole pixels: of a box of 10 x 6 pixels, exactly those, but for the ring of zeros' share."""
    boxes = torch.tensor([[4.0, 3, 14, 9]])
    mask = paste_masks(torch.ones(1, 28, 28), boxes, (20, 20), grid="continuous", threshold=0.5)
    inside = torch.zeros(20, 20, dtype=torch.bool)
    inside[3:9, 4:14] = True
    assert torch.equal(mask[0], inside)


def test_thresholds_and_chunks_do_not_change_a_paste(monkeypatch) -> None:
    torch.manual_seed(1)
    maps, boxes = torch.rand(6, 28, 28), torch.tensor([[3.0, 4, 30, 25]]).repeat(6, 1)
    soft = paste_masks(maps, boxes, (32, 40))
    monkeypatch.setattr("boxatlas.ops.masks.budget", lambda device: 100)
    assert torch.equal(paste_masks(maps, boxes, (32, 40)), soft)
    assert torch.equal(paste_masks(maps, boxes, (32, 40), threshold=0.5), soft > 0.5)


@pytest.mark.data
def test_real_outlines_come_back(shared_data: Path) -> None:
    """Outline -> 28 x 28 target -> pasted: COCO's own pixels, shifted by nothing.

    The first release's way, polygons drawn in the RoI and whole-pixel boxes, loses more.
    """
    table = read(shared_data / "coco_mini", "val").select(list(range(12)))
    assert table.masks is not None
    ways = {
        "ours": (MaskTargetRule("bitmap", True, None), "continuous"),
        "release": (MaskTargetRule("polygon"), "whole"),
    }
    overlaps: dict[str, list[float]] = {way: [] for way in ways}
    shifts = []
    for i in range(len(table)):
        size = (int(table.sizes[i][0]), int(table.sizes[i][1]))
        for k in range(*table.objects(i).indices(len(table.boxes))):
            box, mask = table.boxes[k], table.masks[k]
            if table.ignore[k] or (box[2:] - box[:2]).min() < 32:
                continue
            own, given = referee(mask, size), torch.from_numpy(box[None])
            for way, (rule, grid) in ways.items():
                target = mask_targets([mask], torch.tensor([0]), given, 28, size, rule)
                pasted = paste_masks(target, given, size, grid=grid, threshold=0.5)[0].numpy()
                overlaps[way].append((pasted & own).sum() / (pasted | own).sum())
                if way == "ours":
                    shifts.append(np.argwhere(pasted).mean(0) - np.argwhere(own).mean(0))
    assert len(shifts) > 20
    assert np.abs(np.mean(shifts, 0)).max() < 0.05  # pixels
    assert np.median(overlaps["ours"]) > 0.98
    assert np.median(overlaps["ours"]) > np.median(overlaps["release"]) + 0.02
