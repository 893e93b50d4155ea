"""Reorg and the locally connected layer, against their definitions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from boxatlas.ops.local import LocallyConnected
from boxatlas.ops.reorg import reorg


def darknets(x: torch.Tensor, stride: int) -> torch.Tensor:
    """Darknet's reorg_cpu (forward=0), index by index."""
    b, c, h, w = x.shape
    out_c = c // (stride * stride)
    flat, out = x.reshape(b, -1), torch.empty(b, c * h * w)
    for batch in range(b):
        for k in range(c):
            for j in range(h):
                for i in range(w):
                    place = i + w * (j + h * k)
                    c2, offset = k % out_c, k // out_c
                    w2, h2 = i * stride + offset % stride, j * stride + offset // stride
                    source = w2 + w * stride * (h2 + h * stride * c2)
                    out[batch, place] = flat[batch, source]
    return out.reshape(b, c * stride * stride, h // stride, w // stride)


@pytest.mark.parametrize(("shape", "stride"), [((2, 8, 4, 6), 2), ((1, 9, 3, 6), 3)])
def test_darknets_order(shape: tuple[int, ...], stride: int):
    x = torch.randn(shape)
    assert torch.equal(reorg(x, stride), darknets(x, stride))


def test_space_to_depth_takes_every_second_cell():
    x = torch.arange(2 * 4 * 4.0).reshape(1, 2, 4, 4)
    out = reorg(x, 2, "space_to_depth")
    for row in (0, 1):
        for column in (0, 1):
            for c in (0, 1):
                assert torch.equal(out[0, (2 * row + column) * 2 + c], x[0, c, row::2, column::2])
    assert not torch.equal(out, reorg(x.repeat(1, 2, 1, 1), 2)[:, :8])


def test_a_stride_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="does not divide"):
        reorg(torch.zeros(1, 4, 5, 4), 2)


def test_filters_that_are_alike_make_a_convolution():
    layer = LocallyConnected(3, 5, 3, (4, 6))
    kernel, bias = torch.randn(5, 3, 3, 3), torch.randn(5)
    with torch.no_grad():
        layer.weight.copy_(kernel.flatten(1).expand(24, 5, 27))
        layer.bias.copy_(bias[:, None].expand(5, 24))
    x = torch.randn(2, 3, 4, 6)
    assert torch.allclose(layer(x), F.conv2d(x, kernel, bias, padding=1), atol=1e-5)


def test_each_position_has_filters_of_its_own():
    layer = LocallyConnected(2, 1, 3, (3, 3))
    x = torch.randn(1, 2, 3, 3)
    before = layer(x)
    with torch.no_grad():
        layer.weight[4] += 1.0  # the middle
    changed = (layer(x) != before)[0, 0]
    assert changed.nonzero().tolist() == [[1, 1]]
