"""Parameters and multiply-adds of the region methods, against the references and by formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from boxatlas.create import create_model


def weightless(name: str, classes: int, **options: Any) -> Any:
    """The model without values: nothing is computed and nothing is held."""
    with torch.device("meta"):
        return create_model(name, num_classes=classes, **options).eval()


def gmacs(work) -> float:
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        work()
    return counter.get_total_flops() / 2 / 1e9


def image(height: int, width: int) -> torch.Tensor:
    return torch.zeros(1, 3, height, width, device="meta")


# What each reference counts, and the options that give its outputs (a row for the background's
# box, one mask branch for all stages).
REFERENCES = [
    ("faster_rcnn_vgg16", 20, {"background_box": True}, 137_078_239),
    ("faster_rcnn_r50_dc5", 80, {}, 165_581_468),
    ("mask_rcnn_r50_c4", 80, {}, 35_909_612),
    ("mask_rcnn_r50_fpn", 90, {"background_box": True, "mask_background": True}, 44_401_393),
    ("mask_rcnn_r50_fpn_v2", 90, {"background_box": True, "mask_background": True}, 46_359_409),
    ("cascade_mask_rcnn_r50_fpn", 80, {"mask_stages": "first"}, 71_984_926),
    ("cascade_rcnn_r50_fpn", 80, {"norm": "batch"}, 69_394_766),
    ("rfcn_r101", 20, {"norm": "batch"}, 50_801_667),
]


@pytest.mark.parametrize(("name", "classes", "options", "wanted"), REFERENCES)
def test_as_many_parameters_as_the_reference(name, classes, options, wanted) -> None:
    model = weightless(name, classes, **options)
    assert sum(p.numel() for p in model.parameters()) == wanted


def test_fast_rcnn_counts() -> None:
    """134.69 M: the convolutions' 14.71 and the head's 119.98 (fact sheet, section 5)."""
    model = weightless("fast_rcnn_vgg16", 20, background_box=True)
    conv = sum(p.numel() for p in model.trunk.parameters())
    whole = sum(p.numel() for p in model.parameters())
    assert (round(conv / 1e6, 2), round((whole - conv) / 1e6, 2)) == (14.71, 119.98)


def test_multiply_adds_of_vgg16_at_1000_by_600() -> None:
    model = weightless("faster_rcnn_vgg16", 20, background_box=True)
    maps = model.features(image(600, 1000))
    assert list(maps[0].shape) == [1, 512, 38, 63]  # pools round up
    roi = torch.zeros(1, 512, 7, 7, device="meta")
    assert gmacs(lambda: model.features(image(600, 1000))) == pytest.approx(183.9, abs=0.05)
    rpn = 38 * 63 * 512 * (9 * 512 + 2 * 9 + 4 * 9) / 1e9  # 3x3, then two outputs by 1x1
    assert gmacs(lambda: model.rpn.head(maps)) == pytest.approx(rpn)
    assert gmacs(lambda: model.predictor(model.head(roi))) * 1000 == pytest.approx(119.9, rel=0.01)


def test_truncated_svd_takes_t_times_u_plus_v() -> None:
    """Section 3.1: fc6 and fc7 hold t (u + v) weights; 32.4 M multiply-adds a RoI."""
    model = weightless("fast_rcnn_vgg16", 20, background_box=True, truncated_svd=(1024, 256))
    fc = sum(p.numel() for n, p in model.head.named_parameters() if n.endswith("weight"))
    assert fc == 1024 * (25088 + 4096) + 256 * (4096 + 4096)
    roi = torch.zeros(1, 512, 7, 7, device="meta")
    assert gmacs(lambda: model.predictor(model.head(roi))) * 1000 == pytest.approx(32.4, abs=0.1)


def test_multiply_adds_of_rfcn_at_1000_by_600() -> None:
    """The trunk's 120.7 (fact sheet), RPN and score maps by formula; a RoI costs little."""
    model = weightless("rfcn_r101", 20, pool_padding=0)
    maps = model.trunk(image(600, 1000))
    assert maps[-1].shape[-2:] == maps[0].shape[-2:]  # conv5 keeps conv4's stride
    assert gmacs(lambda: model.trunk(image(600, 1000))) == pytest.approx(120.7, rel=0.02)
    cells = maps[0].shape[-2] * maps[0].shape[-1]
    rpn = cells * 512 * (9 * 1024 + 2 * 9 + 4 * 9) / 1e9
    assert gmacs(lambda: model.rpn.head(maps[:1])) == pytest.approx(rpn)
    score = cells * 1024 * (2048 + 49 * 21 + 49 * 8) / 1e9
    assert gmacs(lambda: model.score(maps[-1])) == pytest.approx(score)


def test_multiply_adds_of_masks_and_cascades_at_1280_by_800() -> None:
    """Pyramid 141.4, RPN 50.6, box head 14.3 for 1000 RoIs, 0.53 a mask; three heads 3 x 13.97."""
    model = weightless("mask_rcnn_r50_fpn", 80)
    maps = model.features(image(800, 1280))
    assert gmacs(lambda: model.features(image(800, 1280))) == pytest.approx(141.4, rel=0.01)
    assert gmacs(lambda: model.rpn.head(maps)) == pytest.approx(50.6, rel=0.01)
    roi = torch.zeros(10, 256, 14, 14, device="meta")
    assert gmacs(lambda: model.mask(roi)) / 10 == pytest.approx(0.53, abs=0.005)
    box = torch.zeros(1000, 256, 7, 7, device="meta")
    assert gmacs(lambda: model.predictor(model.head(box))) == pytest.approx(14.3, abs=0.1)
    cascade = weightless("cascade_rcnn_r50_fpn", 80)
    for head, predictor in zip(cascade.head, cascade.predictor, strict=True):
        assert gmacs(lambda h=head, p=predictor: p(h(box))) == pytest.approx(13.97, abs=0.02)


def test_conv5_on_each_roi() -> None:
    """C4: 0.809 GMAC and 14.96 M parameters a head."""
    model = weightless("faster_rcnn_r50_c4", 80)
    roi = torch.zeros(1, 1024, 14, 14, device="meta")
    assert gmacs(lambda: model.head(roi)) == pytest.approx(0.809, abs=0.002)
    assert sum(p.numel() for p in model.head.parameters()) / 1e6 == pytest.approx(14.96, abs=0.03)
