"""The fast form of a network: what it is made of, and that it answers as the plain one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import boxatlas
from boxatlas.ops import winograd
from boxatlas.parts.fast import PackedConv2d, WinogradConv2d


def retinanet(**options: object) -> boxatlas.Detector:
    own = {"size": 256, "width": 64, "head_convs": 1, "pretrained": False}
    return boxatlas.create_model(
        "retinanet320_efficientnet_lite0_fpn", num_classes=2, **{**own, **options}
    ).eval()


def test_large_3x3_convolutions_go_by_winograd_and_answer_alike(monkeypatch):
    sizes: list[int] = []
    plain = winograd.convolve

    def watched(x: Tensor, *rest: object) -> Tensor:
        sizes.append(winograd.tiles(x.shape))
        return plain(x, *rest)

    model, images = retinanet(), torch.randn(2, 3, 256, 320)
    fast = model.fast()
    assert any(isinstance(m, WinogradConv2d) for m in fast.modules())
    monkeypatch.setattr(winograd, "convolve", watched)
    with torch.inference_mode():
        wanted, found = model.probe(images), fast.probe(images)
    for a, b in zip(wanted, found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    # The output convolution and two heads at strides 8, 16, 32; smaller maps go directly.
    assert max(sizes) == 2 * 8 * 10
    assert min(sizes) >= 12


def test_where_winograd_is_too_rough_the_convolutions_stay_direct(monkeypatch):
    monkeypatch.setattr(
        winograd, "convolve", lambda x, w, b, *r: torch.zeros(len(x), len(b), *x.shape[2:])
    )
    model, images = retinanet(), torch.randn(1, 3, 256, 256)
    fast = model.fast()
    kinds = {type(m) for m in fast.modules()}
    assert WinogradConv2d not in kinds
    assert PackedConv2d in kinds
    with torch.inference_mode():
        for a, b in zip(model.probe(images), fast.probe(images), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("side", [4, 24])
def test_a_residual_sum_is_made_with_the_convolution(side):
    conv = nn.Conv2d(64, 64, 3, padding=1)
    x, other = torch.randn(1, 64, side, side), torch.randn(1, 64, side, side)
    x, other = (t.contiguous(memory_format=torch.channels_last) for t in (x, other))
    with torch.inference_mode():
        packed = WinogradConv2d(conv, tuple(x.shape))
        wanted = (conv(x) + other).relu()
        torch.testing.assert_close(packed.added(x, other.clone()), wanted, rtol=1e-3, atol=1e-4)
