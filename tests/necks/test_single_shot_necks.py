"""The parts of the single-shot family, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from boxatlas.backbones.dsod import DenseLayer
from boxatlas.necks.blocks import BatchNorm, ConvNorm
from boxatlas.necks.deconvolution import Deconvolution, ExtraBlocks, shrink
from boxatlas.necks.dense_prediction import HalfStep
from boxatlas.necks.fusion import FeatureFusion
from boxatlas.necks.mlfpn import Attention, ThinUShape
from boxatlas.necks.receptive_field import ReceptiveField, rfb, rfb_s
from boxatlas.necks.transfer import TransferConnection


def test_one_cell_of_one_image_is_normalised_by_what_was_seen_before():
    norm = BatchNorm(3)
    norm.running_mean.fill_(2.0)  # pyright: ignore
    norm.running_var.fill_(4.0)  # pyright: ignore
    out = norm.train()(torch.full((1, 3, 1, 1), 6.0))
    torch.testing.assert_close(out, torch.full((1, 3, 1, 1), 2.0), rtol=1e-4, atol=0)
    two = torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1).expand(2, 3, 1, 1)
    assert norm(two)[:, 0, 0, 0].tolist() == pytest.approx([-1, 1], abs=1e-4)


def test_same_padding_at_any_dilation():
    x = torch.zeros(1, 2, 9, 7)
    for kernel, dilation in ((3, 1), (3, 5), ((1, 7), 1), ((3, 1), 1), (1, 1)):
        assert ConvNorm(2, 4, kernel, dilation=dilation)(x).shape == (1, 4, 9, 7)


def test_fusion_aligns_corners_and_pools_finer_maps():
    """A 2x2 map at 4x4: its corners stay corners, between them thirds; 8x8 pools by maxima."""
    coarse = torch.tensor([[0.0, 3.0], [6.0, 9.0]]).reshape(1, 1, 2, 2)
    fine = torch.arange(64.0).reshape(1, 1, 8, 8)
    base = torch.zeros(1, 1, 4, 4)
    fusion = FeatureFusion([1, 1, 1], 1, width=1, norm=False)
    out = fusion([fine, base, coarse])
    assert out.shape == (1, 3, 4, 4)
    assert out[0, 0, 0].tolist() == [9, 11, 13, 15]
    assert out[0, 2, 0].tolist() == pytest.approx([0, 1, 2, 3])
    assert out[0, 2, -1].tolist() == pytest.approx([6, 7, 8, 9])
    total = FeatureFusion([1, 1, 1], 1, width=1, norm=False, fuse="sum")([fine, base, coarse])
    torch.testing.assert_close(total, out.sum(1, keepdim=True))


def test_a_receptive_field_sees_as_far_as_its_rates():
    """The widest branch of rates 1, 3, 5: two 3x3 and one dilated by 5 reach 7 cells away."""
    torch.manual_seed(0)
    block = ReceptiveField(16, 8, rfb(16, (1, 3, 5))).eval()
    x = torch.zeros(1, 16, 21, 21, requires_grad=True)
    for module in block.modules():  # all positive, so that nothing cancels and no ReLU hides it
        if isinstance(module, nn.Conv2d):
            module.weight.data.abs_()
        if isinstance(module, nn.BatchNorm2d):
            module.bias.data.fill_(0.1)
    block(x)[0, :, 10, 10].sum().backward()
    seen = x.grad[0].abs().sum(0).nonzero()  # pyright: ignore
    assert (int(seen.min()), int(seen.max())) == (10 - 7, 10 + 7)
    strided = ReceptiveField(
        16,
        8,
        rfb(
            16,
            (1, 3, 5),
        ),
        stride=2,
    )
    assert strided(x.detach()).shape == (1, 8, 11, 11)
    assert len(ReceptiveField(16, 8, rfb_s(16)).branches) == 4


@pytest.mark.parametrize("sides", [[40, 20, 10, 5], [19, 10, 5, 3]])
def test_transfer_goes_from_coarse_to_fine_at_any_size(sides):
    net = TransferConnection([4] * 4, 6).eval()
    maps = [torch.randn(1, 4, s, s) for s in sides]
    with torch.no_grad():
        made = net(maps)
        maps[-1] = maps[-1] + 1  # the coarsest reaches all
        changed = [bool((a != b).any()) for a, b in zip(made, net(maps), strict=True)]
        assert changed == [True] * 4
        maps[0] = maps[0] + 1  # the finest reaches itself alone
        again = net(maps)
    assert [m.shape[-1] for m in made] == sides
    assert all(m.shape[1] == 6 for m in made)
    assert bool((again[0] != made[0]).any())


def test_deconvolution_is_a_product_or_a_sum():
    torch.manual_seed(0)
    parts = {
        fuse: Deconvolution(3, 3, 4, 2, 2, fuse=fuse, eps=1e-5).eval()
        for fuse in ("product", "sum")
    }
    parts["sum"].load_state_dict(parts["product"].state_dict())
    one = parts["product"]
    x, deeper = torch.randn(1, 3, 7, 7), torch.randn(1, 3, 4, 4)
    own = one.lateral2(one.lateral1(x))
    up = one.after(one.up(deeper)[..., :7, :7])
    torch.testing.assert_close(one(x, deeper), (own * up).relu())
    torch.testing.assert_close(parts["sum"](x, deeper), (own + up).relu())


@pytest.mark.parametrize(
    ("side", "chain"),
    [(20, [10, 5, 3, 1]), (32, [16, 8, 4, 2, 1]), (19, [9, 4, 2, 1]), (7, [3, 1])],
)
def test_extra_blocks_come_down_to_one_cell(side, chain):
    blocks = ExtraBlocks([2], (side, side), width=2, eps=1e-5).eval()
    maps = blocks([torch.zeros(1, 2, side, side)])
    assert [m.shape[-1] for m in maps[1:]] == chain
    for (kernel, stride), low, high in zip(blocks.shapes, chain, [side, *chain], strict=False):
        up = nn.ConvTranspose2d(1, 1, kernel, stride)(torch.zeros(1, 1, low, low))
        assert up.shape[-1] in (high, high - 1)  # the way up finds the size again
        assert shrink(high) == (kernel, stride)


def test_a_dense_layer_keeps_what_it_was_given():
    x = torch.randn(2, 5, 4, 4)
    out = DenseLayer(5, 3, 4, dense=True)(x)
    torch.testing.assert_close(out[:, :5], x)
    assert DenseLayer(5, 3, 4, dense=False)(x).shape == out.shape


def test_half_is_reused_from_before():
    """The reused half comes from the pooled map, first as released; a plain step has none."""
    step = HalfStep(6, 4, dense=True, learned_first=False, exact=False).eval()
    x = torch.randn(1, 6, 5, 5)
    out = step(x)
    assert out.shape == (1, 8, 3, 3)
    assert step.reuse is not None
    pooled = nn.functional.max_pool2d(x, 2, 2, ceil_mode=True)
    torch.testing.assert_close(out[:, :4], step.reuse(pooled))
    plain = HalfStep(6, 4, dense=False, learned_first=False, exact=True)
    assert plain.reuse is None
    assert plain(torch.randn(2, 6, 3, 3)).shape == (2, 8, 1, 1)


@pytest.mark.parametrize(
    ("side", "sides"),
    [
        (40, [40, 20, 10, 5, 3, 1]),
        (64, [64, 32, 16, 8, 4, 2]),
        (100, [100, 50, 25, 13, 7, 5]),
        (12, [12, 6, 3, 2, 1, 1]),
    ],
)
@pytest.mark.parametrize("form", ["paper", "released"])
def test_scales_of_a_u_shape(side, sides, form):
    tum = ThinUShape(8, 8, 6, side, form).eval()
    maps = tum(torch.zeros(1, 8, side, side))
    assert [m.shape[-1] for m in maps] == sides
    assert {m.shape[1] for m in maps} == {4 if form == "paper" else 8}


def test_attention_weighs_whole_channels():
    """Zero weights make every sigmoid a half; one channel's bias alone moves that channel."""
    attention = Attention(4, 2)
    for parameter in attention.parameters():
        nn.init.zeros_(parameter)
    x = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(attention(x), x / 2)
    assert attention.excite.bias is not None
    attention.excite.bias.data[1] = 100.0
    torch.testing.assert_close(attention(x)[:, 1], x[:, 1])
