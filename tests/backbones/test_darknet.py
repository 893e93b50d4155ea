"""Darknet's networks: sizes as the program prints them, pools by definition, other methods."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from boxatlas.backbones.darknet import Classifier, Conv, Darknet, Pool, RootEpsBatchNorm
from boxatlas.create import create_model
from boxatlas.errors import InputError
from boxatlas.weights.darknet_layers import layers_of
from boxatlas.zoo import list_models, model_info


@pytest.mark.parametrize(
    ("name", "floats", "convolutions"),
    [("darknet19", 20_856_776, 19), ("darknet53", 41_645_640, 53)],
)
def test_the_published_number_of_weights(name: str, floats: int, convolutions: int):
    with torch.device("meta"):
        network = Classifier(name)
    layers = layers_of(network)
    assert sum(part.numel() for layer in layers for _, part in layer.parts) == floats
    # Darknet-53 counts the fully connected layer, a 1x1 convolution here.
    assert sum(isinstance(m, Conv) for m in network.modules()) == convolutions


@pytest.mark.parametrize("name", ["extraction", "darknet19", "darknet53", "darknet_tiny"])
def test_maps_have_the_strides_and_channels_that_are_said(name: str):
    backbone = Darknet(name, (8, 16, 32)).eval()
    maps = backbone(torch.zeros(1, 3, 64, 96))
    assert [m.shape[1] for m in maps] == backbone.channels
    assert [tuple(m.shape[2:]) for m in maps] == [(8, 12), (4, 6), (2, 3)]


def test_a_stride_that_is_not_there_is_named():
    with pytest.raises(InputError, match="maps at strides"):
        Darknet("darknet19", (64,))


@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (2, 1), (5, 1), (13, 1), (3, 2)])
def test_pools_look_where_darknets_do(kernel: int, stride: int):
    """Output (size + k - 1 - k) / stride + 1, window from -(k - 1) // 2, outside minus infinity."""
    x = torch.randn(1, 1, 7, 5) - 5  # all negative: zeros outside would win
    out = Pool(kernel, stride)(x)
    rows, columns = ((side - 1) // stride + 1 for side in x.shape[2:])
    assert out.shape[2:] == (rows, columns)
    before = (kernel - 1) // 2
    for i in range(rows):
        for j in range(columns):
            top, left = i * stride - before, j * stride - before
            window = x[0, 0, max(top, 0) : top + kernel, max(left, 0) : left + kernel]
            assert out[0, 0, i, j] == window.max()


def test_the_processors_batch_norm_adds_its_epsilon_to_the_root():
    norm = RootEpsBatchNorm(2, eps=0.5)
    x = torch.randn(4, 2, 3, 3)
    out = norm(x)  # training: the unbiased variance
    mean, std = x.mean((0, 2, 3)), x.transpose(0, 1).flatten(1).std(1, correction=1)
    wanted = (x - mean[:, None, None]) / (std[:, None, None] + 0.5)
    assert torch.allclose(out, wanted, atol=1e-5)
    assert norm.running_var is not None
    assert torch.allclose(norm.running_var, 0.99 + 0.01 * std**2, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("ssd300_vgg16", {"backbone": "darknet19"}),
        ("retinanet_r50_fpn", {"backbone": "extraction", "size": 96}),
        ("faster_rcnn_r50_fpn", {"backbone": "darknet19", "size": 96}),
        ("faster_rcnn_zf", {"backbone": "darknet19", "size": 96, "box_width": 16}),
        ("rfcn_r50", {"backbone": "extraction", "size": 96, "res5": "stride32"}),
        ("rcnn_alexnet", {"backbone": "darknet19", "crop_size": 64}),
    ],
)
def test_other_methods_use_them(model: str, options: dict):
    detector = create_model(model, num_classes=2, **options).eval()
    assert any(isinstance(m, Darknet) for m in detector.modules())
    assert detector.preprocess.mean == (0.0, 0.0, 0.0)  # Darknet's pixels are 0..1
    found = detector.detect(np.zeros((60, 80, 3), np.uint8), score=0.0)
    assert found.labels.tolist() == [] or set(found.labels.tolist()) <= {0, 1}


METHODS = {model_info(name).method: name for name in reversed(list_models())}


@pytest.mark.parametrize("backbone", ["extraction", "darknet19", "darknet53"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_them(method: str, backbone: str):
    own: dict[str, str] = {"R-FCN": {"res5": "stride32"}}.get(method, {})
    with torch.device("meta"):
        detector = create_model(METHODS[method], num_classes=2, backbone=backbone, **own)
    assert any(isinstance(m, Darknet) and m.name == backbone for m in detector.modules())


def test_weights_that_nobody_published_are_refused():
    with pytest.raises(InputError, match="no published weights of darknet_tiny"):
        create_model("yolov2_tiny", num_classes=2, pretrained=True)
