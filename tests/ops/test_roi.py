"""RoI pooling and RoIAlign: the compiled kernel against torchvision's, and facts worked by hand."""

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from boxatlas.ops.roi import pyramid_pool, roi_align, roi_pool


def some_rois(count, images, side):
    corner = torch.rand(count, 2) * side * 1.4 - side * 0.2
    size = torch.rand(count, 2) * side * 0.8
    image = torch.randint(images, (count, 1)).float()
    return torch.cat([image, corner, corner + size], 1)


@given(
    seed=st.integers(0, 10_000),
    sampling=st.integers(0, 3),
    aligned=st.booleans(),
    grid=st.sampled_from([(1, 1), (7, 7), (2, 5)]),
)
@settings(max_examples=40, deadline=None)
def test_align_equals_torchvision(seed, sampling, aligned, grid):
    torch.manual_seed(seed)
    features = torch.randn(2, 5, 9, 13)
    rois = some_rois(11, 2, 60.0)
    rois[0, 3:] = rois[0, 1:3]  # a RoI of no area
    rois[1, 1:] = torch.tensor([-900.0, -900.0, -800.0, -800.0])  # far outside
    with torch.no_grad():
        found = roi_align(features, rois, grid, 0.2, sampling, aligned)
    expected = torchvision.ops.roi_align(features, rois, grid, 0.2, sampling, aligned)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)


def test_align_of_a_ramp_is_the_bin_centre():
    """Bilinear samples of f(x, y) = x average to the bin's centre, half a cell back if aligned."""
    ramp = torch.arange(20.0).expand(1, 1, 20, 20)
    roi = torch.tensor([[0.0, 4.0, 4.0, 12.0, 12.0]])
    with torch.no_grad():
        found = roi_align(ramp, roi, 2, 1.0, 2, aligned=True)[0, 0]
    torch.testing.assert_close(found, torch.tensor([[5.5, 9.5], [5.5, 9.5]]))


def test_align_has_gradients_where_they_are_asked_for():
    features = torch.randn(1, 2, 6, 6, requires_grad=True)
    roi_align(features, torch.tensor([[0.0, 0, 0, 5, 5]]), 2, 1.0).sum().backward()
    assert features.grad is not None
    assert features.grad.abs().sum() > 0


def test_pool_takes_the_maximum_of_each_bin():
    features = torch.arange(16.0).reshape(1, 1, 4, 4)
    pooled, argmax = roi_pool(features, torch.tensor([[0.0, 0, 0, 3, 3]]), 2, 1.0)
    assert pooled[0, 0].tolist() == [[5.0, 7.0], [13.0, 15.0]]
    assert argmax[0, 0].tolist() == [[5, 7], [13, 15]]


@pytest.mark.parametrize("op", ["align", "pool"])
@pytest.mark.parametrize("grad", [False, True])
def test_pyramid_pools_each_roi_from_its_own_map(op, grad):
    torch.manual_seed(1)
    maps = [torch.randn(2, 3, 32 // 2**i, 32 // 2**i) for i in range(3)]
    scales = [1 / 4, 1 / 8, 1 / 16]
    rois = some_rois(20, 2, 120.0)
    levels = torch.randint(3, (20,))
    with torch.set_grad_enabled(grad):
        if grad:
            maps = [m.requires_grad_() for m in maps]
        found = pyramid_pool(maps, scales, rois, levels, 4, op=op, sampling_ratio=2)
    for i in range(20):
        level = int(levels[i])
        if op == "align":
            one = torchvision.ops.roi_align(
                maps[level], rois[i : i + 1], (4, 4), scales[level], 2, True
            )
        else:
            one = roi_pool(maps[level], rois[i : i + 1], 4, scales[level])[0]
        torch.testing.assert_close(found[i : i + 1], one, rtol=1e-4, atol=1e-5)


def test_no_rois_pool_to_nothing():
    maps = [torch.randn(1, 3, 8, 8), torch.randn(1, 3, 4, 4)]
    found = pyramid_pool(maps, [0.25, 0.125], torch.zeros(0, 5), torch.zeros(0).long(), 7)
    assert found.shape == (0, 3, 7, 7)
