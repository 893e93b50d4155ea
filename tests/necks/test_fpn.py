"""FPN: the published size, and its levels worked by hand."""

import pytest
import torch
from torch import nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from boxatlas.necks.fpn import FPN


def test_retinanets_pyramid_has_the_published_size():
    fpn = FPN([512, 1024, 2048], extra="p5")
    assert sum(p.numel() for p in fpn.parameters()) == 3_868_672


@pytest.mark.parametrize("extra", ["maxpool", "p5", "c5"])
def test_equals_torchvision_with_its_weights(extra):
    torch.manual_seed(0)
    channels = [8, 16, 32]
    tail = (
        LastLevelMaxPool() if extra == "maxpool" else LastLevelP6P7(32 if extra == "c5" else 12, 12)
    )
    theirs = FeaturePyramidNetwork(channels, 12, tail)
    ours = FPN(channels, 12, extra=extra)
    names = {"inner_blocks": "inner", "layer_blocks": "outer", "extra_blocks.": ""}
    state = {}
    for key, value in theirs.state_dict().items():
        for old, new in names.items():
            key = key.replace(old, new)
        state[key] = value
    ours.load_state_dict(state)
    maps = [torch.randn(2, c, 25 // 2**i, 31 // 2**i) for i, c in enumerate(channels)]
    found = ours(maps)
    expected = list(theirs({str(i): m for i, m in enumerate(maps)}).values())
    assert len(found) == len(expected) == len(ours.channels)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def identity(fpn: FPN) -> FPN:
    for module in fpn.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
            centre = module.kernel_size[0] // 2
            module.weight.data[:, :, centre, centre] = 1.0
    return fpn


@pytest.mark.parametrize(
    ("top_down", "lateral", "fine"), [(True, True, 5.0), (False, True, 2.0), (True, False, 3.0)]
)
def test_connections_of_the_ablation_by_hand(top_down, lateral, fine):
    fpn = identity(FPN([1, 1], 1, top_down=top_down, lateral=lateral))
    levels = fpn([torch.full((1, 1, 4, 4), 2.0), torch.full((1, 1, 2, 2), 3.0)])
    assert levels[0].shape == (1, 1, 4, 4)
    assert (levels[0] == fine).all()
    assert (levels[1] == 3.0).all()
