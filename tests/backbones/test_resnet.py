"""ResNet's trunk: published sizes, strides, and equality with an independent implementation."""

import pytest
import torch
import torchvision

from boxatlas.backbones.resnet import FrozenBatchNorm2d, ResNet, norm_layer


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("name", "published"),  # torchvision's published counts, less the classifier
    [
        ("resnet18", 11_689_512 - 513_000),
        ("resnet50", 25_557_032 - 2_049_000),
        ("resnet101", 44_549_160 - 2_049_000),
        ("resnext50_32x4d", 25_028_904 - 2_049_000),
        ("resnext101_32x8d", 88_791_336 - 2_049_000),
    ],
)
def test_parameters_are_the_published_ones(name, published):
    with torch.device("meta"):
        assert parameters(ResNet(name)) == published


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_equals_torchvision_with_its_weights(name):
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, weights=None).eval()
    ours = ResNet(name).eval()
    missing, unused = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not missing
    assert unused == ["fc.weight", "fc.bias"]
    x = torch.randn(1, 3, 75, 96)
    c5 = theirs.layer4(
        theirs.layer3(
            theirs.layer2(theirs.layer1(theirs.maxpool(theirs.bn1(theirs.conv1(x)).relu())))
        )
    )
    maps = ours(x)
    torch.testing.assert_close(maps[-1], c5, rtol=0, atol=0)
    assert [m.shape[1] for m in maps] == ours.channels


def test_dilated_c5_keeps_the_stride_of_c4():
    plain, dilated = ResNet("resnet50"), ResNet("resnet50", dilate_c5=True)
    assert plain.strides == [4, 8, 16, 32]
    assert dilated.strides == [4, 8, 16, 16]
    maps = dilated(torch.zeros(1, 3, 64, 64))
    assert maps[3].shape[-2:] == maps[2].shape[-2:] == (4, 4)
    assert parameters(plain) == parameters(dilated)


def test_stride_in_the_first_1x1_is_another_function():
    torch.manual_seed(0)
    theirs = ResNet("resnet50").eval()
    original = ResNet("resnet50", stride_in_1x1=True).eval()
    original.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 3, 64, 64)
    assert not torch.allclose(theirs(x)[-1], original(x)[-1])
    assert original.layer2[0].conv1.stride == (2, 2)


def test_stages_and_last_choose_what_is_built():
    c4 = ResNet("resnet50", stages=(4,), last=4)
    assert not hasattr(c4, "layer4")
    assert c4.channels == [1024]
    assert c4(torch.zeros(1, 3, 32, 32))[0].shape == (1, 1024, 2, 2)


def test_frozen_norm_is_batch_norm_in_eval_and_never_learns():
    torch.manual_seed(0)
    live = torch.nn.BatchNorm2d(3, eps=1e-3).eval()
    live.running_mean.normal_()
    live.running_var.uniform_(0.5, 2)
    torch.nn.init.normal_(live.weight)
    frozen = FrozenBatchNorm2d(3, eps=1e-3)
    frozen.load_state_dict({k: v for k, v in live.state_dict().items() if "num" not in k})
    x = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(frozen(x), live(x))
    assert not list(frozen.parameters())
    assert isinstance(norm_layer("frozen")(4), FrozenBatchNorm2d)
