"""Small detectors on a pyramid, made batches, and torchvision's models as peers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torchvision.models import detection

from boxatlas.create import create_model
from boxatlas.parts.base import Detector
from boxatlas.structures import Batch, Frame, Targets

SMALL: dict[str, dict[str, Any]] = {
    "retinanet_r50_fpn": {"backbone": "resnet18", "width": 32, "head_convs": 1, "size": (64, 96)},
    "faster_rcnn_r50_fpn": {
        "backbone": "resnet18", "width": 32, "box_width": 32, "size": (64, 96),
        "anchor_sizes": (8, 16, 32, 64, 128), "proposals_loss": (100, 60),
        "proposals_detect": (100, 40), "roi_count": 32, "rpn_count": 64,
    },
}  # fmt: skip


def small(name: str, classes: int = 3, **options: Any) -> Detector:
    """A seeded detector that computes in milliseconds."""
    torch.manual_seed(0)
    return create_model(name, num_classes=classes, **{**SMALL[name], "norm": "batch", **options})


def batch(images: int = 2, height: int = 64, width: int = 96) -> Batch:
    """Seeded noise; the first image holds three objects, one to ignore, the others none."""
    noise = torch.Generator().manual_seed(1)
    boxes = [torch.tensor([[4.0, 4, 44, 40], [30, 20, 90, 60], [60, 4, 76, 20]])]
    labels, ignore = [torch.tensor([0, 2, 1])], [torch.tensor([False, False, True])]
    boxes += [torch.zeros(0, 4)] * (images - 1)
    labels += [torch.zeros(0, dtype=torch.int64)] * (images - 1)
    ignore += [torch.zeros(0, dtype=torch.bool)] * (images - 1)
    frames = [Frame((height, width), (height, width))] * images
    pixels = torch.randn(images, 3, height, width, generator=noise)
    return Batch(pixels, frames, Targets.collate(boxes, labels, ignore))


def total(model: Detector, given: Batch, seed: int = 0) -> torch.Tensor:
    """The training loss, its draws seeded."""
    return torch.stack(list(model.loss(given, torch.Generator().manual_seed(seed)).values())).sum()


def torchvisions(name: str, images: list[torch.Tensor], **options: Any) -> Any:
    """A peer whose random weights suit these images [3, h, w]: some hundred detections on each."""
    torch.manual_seed(0)
    model: Any = getattr(detection, name)(weights=None, weights_backbone=None, **options).eval()
    retinanet = "retinanet" in name
    layers = (
        [model.head.classification_head.cls_logits]
        if retinanet
        else [model.rpn.head.cls_logits, model.roi_heads.box_predictor.cls_score]
    )
    with torch.no_grad():
        for module in model.backbone.modules():  # statistics that fit random layers
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
                module.train()
        model.backbone(model.transform(images)[0].tensors)
        model.eval()
        for layer in layers:  # scores that differ, but not so much that rounding decides
            seen: list[torch.Tensor] = []
            handle = layer.register_forward_hook(lambda m, a, out, seen=seen: seen.append(out))
            model(images)
            handle.remove()
            layer.weight.mul_(1.5 / torch.cat([s.flatten() for s in seen]).std())
        if retinanet:
            layers[0].bias.fill_(-7.5)
    return model
