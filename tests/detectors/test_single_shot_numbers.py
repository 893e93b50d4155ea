"""The numbers that prove a structure: default boxes, parameters, multiply-adds of the originals."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import boxatlas
from boxatlas.parts.single_shot import SingleShot
from boxatlas.weights import m2det, rfbnet

DSSD = {"head_kernels": (5, 5, 3, 3, 3, 3)}
RELEASED = {
    "form": "released",
    "sfam": False,
    "shared_leach": True,
    "norm_largest": True,
}
SIX, FOUR = [6] * 6, [4, 6, 6, 6, 4, 4]

# name, classes, options; boxes in a cell and map sides; parameters; multiply-adds in G (0.005 off).
# Each from the fact sheet of the method, which counted the authors' own network.
ROWS: list[tuple[str, int, dict[str, Any], list[int], list[int], int, float]] = [
    ("fssd300_vgg16", 20, {}, FOUR, [38, 19, 10, 5, 3, 1], 33_836_718, 37.82),
    ("fssd512_vgg16", 20, {}, [4, 6, 6, 6, 6, 4, 4], [64, 32, 16, 8, 4, 2, 1], 31_217_476, 95.37),
    ("rfbnet300_vgg16", 20, {}, [6, 6, 6, 6, 4, 4], [38, 19, 10, 5, 3, 1], 36_531_296, 36.06),
    ("rfbnet300e_vgg16", 20, {}, [6, 6, 6, 6, 4, 4], [38, 19, 10, 5, 3, 1], 39_664_544, 36.43),
    ("rfbnet512_vgg16", 20, {}, [6, 6, 6, 6, 6, 4, 4], [64, 32, 16, 8, 4, 2, 1], 37_417_910,
     103.42),
    ("rfbnet512e_vgg16", 20, {}, [6, 6, 6, 6, 6, 4, 4], [64, 32, 16, 8, 4, 2, 1], 40_532_726,
     104.43),
    ("refinedet320_vgg16", 20, {}, [3] * 4, [40, 20, 10, 5], 34_440_884, 37.77),
    ("refinedet512_vgg16", 20, {}, [3] * 4, [64, 32, 16, 8], 34_440_884, 96.70),
    ("refinedet320_r101", 80, {}, [3] * 4, [40, 20, 10, 5], 82_608_132, 32.98),
    ("dsod300", 20, {}, FOUR, [38, 19, 10, 5, 3, 2], 14_795_736, 15.08),
    ("ssd321_r101", 20, DSSD, [8] * 6, [40, 20, 10, 5, 3, 1], 116_682_864, 35.93),
    ("dssd321_r101", 20, DSSD, [8] * 6, [40, 20, 10, 5, 3, 1], 172_552_816, 53.88),
    ("dssd513_r101", 80, {"head_kernels": (5, 5, 3, 3, 3, 3, 3), "tower": 512, "boxes": "coco"},
     [8] * 7, [64, 32, 16, 8, 4, 2, 1], 255_183_448, 207.97),
    ("m2det320_vgg16", 80, RELEASED, SIX, [40, 20, 10, 5, 3, 1], 132_633_140, 74.30),
    ("m2det512_vgg16", 80, RELEASED, SIX, [64, 32, 16, 8, 4, 2], 132_633_140, 190.10),
    ("m2det800_vgg16", 80, RELEASED, SIX, [100, 50, 25, 13, 7, 5], 132_633_140, 464.78),
    ("m2det320_vgg16", 80, {**RELEASED, "sfam": True, "shared_sfam": True}, SIX,
     [40, 20, 10, 5, 3, 1], 133_159_604, math.nan),
]  # fmt: skip


# Counted in Caffe, where the mean and variance of a batch norm are blobs like its other two.
CAFFE = ("fssd300", "fssd512", "refinedet320", "dsod300", "ssd321", "dssd321", "dssd513")


def count(model: torch.nn.Module, statistics: bool) -> int:
    extra = [b for n, b in model.named_buffers() if statistics and "running" in n]
    return sum(p.numel() for p in [*model.parameters(), *extra])


@pytest.mark.parametrize("row", ROWS, ids=[f"{r[0]}-{r[5]}" for r in ROWS])
def test_as_large_as_the_original(row):
    name, classes, options, boxes, sides, parameters, giga = row
    with torch.device("meta"):  # nothing is computed
        model = boxatlas.create_model(name, num_classes=classes, **options)
    assert isinstance(model, SingleShot)
    assert count(model, statistics=name.split("_")[0] in CAFFE) == parameters
    image = torch.empty(1, 3, *model.config.shape, device="meta")
    sides_seen: list[int] = []
    model.head.register_forward_pre_hook(
        lambda module, args: sides_seen.extend(int(m.shape[-1]) for m in args[0])
    )
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        raw = model.eval()(image)
    assert sides_seen == sides
    cells = [side * side for side in sides]
    assert raw["anchors"].shape[0] == sum(n * k for n, k in zip(cells, boxes, strict=True))
    assert raw["logits"].shape == (1, len(raw["anchors"]), classes + 1)
    if not math.isnan(giga):
        assert counter.get_total_flops() / 2e9 == pytest.approx(giga, abs=0.0051)


def test_the_papers_own_m2det_has_the_count_of_its_figures():
    """About 100.9 M by the figures with attention, against 98.9 M in the paper."""
    with torch.device("meta"):
        model = boxatlas.create_model("m2det320_vgg16", num_classes=80)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(100.9e6, rel=1e-3)


def test_m2det_on_resnet():
    """157,222,684 with ResNet's classifier, which the detector has no use for."""
    with torch.device("meta"):
        model = boxatlas.create_model("m2det320_r101", num_classes=80, **RELEASED)
    count = sum(p.numel() for p in model.parameters())
    assert count == 157_222_684 - 2_049_000
    maps = model(torch.empty(1, 3, 320, 320, device="meta"))["anchors"]
    assert maps.shape[0] == 12810


def boxes_of(name: str, **options: Any) -> torch.Tensor:
    """[A, 4] relative centre and size, made without building weights."""
    with torch.device("meta"):
        model = boxatlas.create_model(name, **options)
        assert isinstance(model, SingleShot)
        grids = [
            (int(m.shape[-2]), int(m.shape[-1]))
            for m in model.features(torch.empty(1, 3, *model.config.shape))
        ]
    made = model.make_anchors(grids, model.config.shape)
    low, high = made[:, :2], made[:, 2:]
    return torch.cat([(low + high) / 2, high - low], 1)


def test_default_boxes_by_hand():
    """First and last cells: sizes, ratios and centres of the sheets, in pixels."""
    dssd = boxes_of("dssd321_r101")
    assert dssd[0].tolist() == pytest.approx([321 / 80, 321 / 80, 32.1, 32.1])
    assert dssd[1, 2] == pytest.approx(math.sqrt(32.1 * 64.2))
    wide = 32.1 * math.sqrt(1.6)
    assert dssd[2, 2:].tolist() == pytest.approx([wide, 32.1**2 / wide], rel=1e-5)
    assert dssd[-8].tolist() == pytest.approx([160.5, 160.5, 0.92 * 321, 0.92 * 321])
    refine = boxes_of("refinedet320_vgg16")
    assert refine[0].tolist() == [4, 4, 32, 32]
    assert refine[1, 2:].tolist() == pytest.approx([32 * 2**0.5, 32 / 2**0.5])
    assert refine[-3].tolist() == [288, 288, 256, 256]
    m2det = boxes_of("m2det320_vgg16")
    assert m2det[0].tolist() == pytest.approx([4, 4, 25.6, 25.6])
    assert m2det[-6].tolist() == pytest.approx([160, 160, 278.4, 278.4])
    assert m2det[-5, 2] == pytest.approx(math.sqrt(278.4 * 336))
    fssd = boxes_of("fssd300_vgg16")  # steps are input / map, not SSD's 8
    assert fssd[0].tolist() == pytest.approx([300 / 76, 300 / 76, 30, 30])
    assert boxes_of("rfbnet300_vgg16")[0].tolist() == [4, 4, 30, 30]


def test_rfb_on_mobilenet():
    """Maps of stride 16 and coarser, 19, 10, 5, 3, 2, 1, with 6, 6, 6, 6, 4, 4 boxes."""
    boxes = boxes_of("rfbnet300_mobilenet", num_classes=80)
    assert len(boxes) == 6 * (361 + 100 + 25 + 9) + 4 * (4 + 1)
    assert boxes[0, 2] == 45
    assert boxes[-4, 2] == 270
    with torch.device("meta"):
        model = boxatlas.create_model("rfbnet300_mobilenet", num_classes=80)
    # counted in the authors' code, whose README says 7.4 M
    assert sum(p.numel() for p in model.parameters()) == 7_677_728


def test_profiles_change_no_count():
    """The released rates and clamped boxes are no parameters."""
    for name, profile in (("rfbnet300_vgg16", rfbnet.PROFILE), ("m2det320_vgg16", m2det.PROFILE)):
        with torch.device("meta"):
            model = boxatlas.create_model(name, **profile)
        assert isinstance(model, SingleShot)
        assert model.config.clip_boxes == "each"
