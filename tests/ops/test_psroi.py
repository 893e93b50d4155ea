"""Position-sensitive pooling by its definition, cell by cell."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torchvision.ops

from boxatlas.ops.psroi import PSRoIRule, psroi_align, psroi_pool


def by_definition(maps, rois, k, scale):
    """R-FCN's kernel written out: loops over RoIs, outputs and bins."""
    outputs = maps.shape[1] // k**2
    height, width = maps.shape[2:]
    out = np.zeros((len(rois), outputs, k, k))

    def half_away(v):
        return math.copysign(math.floor(abs(v) + 0.5), v)

    for r, (image, x1, y1, x2, y2) in enumerate(rois.tolist()):
        left, top = half_away(x1) * scale, half_away(y1) * scale
        w = max((half_away(x2) + 1) * scale - left, 0.1) / k
        h = max((half_away(y2) + 1) * scale - top, 0.1) / k
        for d in range(outputs):
            for i in range(k):
                for j in range(k):
                    rows = range(
                        max(math.floor(i * h + top), 0), min(math.ceil((i + 1) * h + top), height)
                    )
                    columns = range(
                        max(math.floor(j * w + left), 0), min(math.ceil((j + 1) * w + left), width)
                    )
                    own = maps[int(image), (d * k + i) * k + j]
                    cells = [float(own[y, x]) for y in rows for x in columns]
                    out[r, d, i, j] = np.mean(cells) if cells else 0.0
    return out


@pytest.mark.parametrize("k", [1, 3])
def test_every_bin_is_the_mean_of_its_own_map(k) -> None:
    torch.manual_seed(k)
    maps = torch.randn(2, 2 * k * k, 9, 11, dtype=torch.float64)
    corner = torch.rand(12, 2) * 120 - 10
    rois = torch.cat([torch.arange(12)[:, None] % 2, corner, corner + torch.rand(12, 2) * 90], 1)
    found = psroi_pool(maps, rois, k, 1 / 16)
    assert np.allclose(found.numpy(), by_definition(maps, rois, k, 1 / 16), atol=1e-12)


def test_the_gradient_is_exact() -> None:
    torch.manual_seed(0)
    maps = torch.randn(1, 8, 5, 6, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor([[0, 3.0, 2, 60, 50], [0, 20.0, 30, 95, 79], [0, -90.0, -90, -80, -80]])
    assert torch.autograd.gradcheck(lambda m: psroi_pool(m, rois, 2, 1 / 16), (maps,))


def test_torchvisions_rounding_is_one_of_the_rules() -> None:
    torch.manual_seed(0)
    maps, corner = torch.randn(1, 18, 12, 16), torch.rand(30, 2) * 150
    rois = torch.cat([torch.zeros(30, 1), corner, corner + 5 + torch.rand(30, 2) * 90], 1)
    wanted = torchvision.ops.ps_roi_pool(maps, rois, 3, 1 / 16)
    rule = PSRoIRule("map", end_offset=0.0, min_side=1.0, clip_offset=-1)
    assert torch.allclose(psroi_pool(maps, rois, 3, 1 / 16, rule), wanted, atol=1e-5)
    assert not torch.allclose(psroi_pool(maps, rois, 3, 1 / 16), wanted, atol=1e-2)


def test_no_rois_and_maps_that_do_not_divide() -> None:
    maps = torch.randn(1, 18, 4, 4)
    assert psroi_pool(maps, torch.zeros(0, 5), 3, 1 / 16).shape == (0, 2, 3, 3)
    with pytest.raises(ValueError, match="18 maps"):
        psroi_pool(maps, torch.zeros(1, 5), 4, 1 / 16)


def test_aligned_on_a_ramp() -> None:
    """Bilinear samples of a linear map average to its value at the bin's centre."""
    ramp = torch.arange(16.0)[None, None, None].expand(1, 4, 16, 16).contiguous()
    found = psroi_align(ramp, torch.tensor([[0, 16.0, 16, 144, 144]]), 2, 1 / 16, 2)
    centres = torch.tensor([2.5, 6.5])  # cells 1..9 less half a cell, in two bins of four
    assert torch.allclose(found[0, 0], centres.expand(2, 2), atol=1e-5)
