"""Small detectors of the region family, and made batches with masks and proposals."""

from __future__ import annotations

from typing import Any

import torch
from pyramids import batch as boxes_only

from boxatlas.create import create_model
from boxatlas.parts.base import Detector
from boxatlas.structures import Batch

_RPN: dict[str, Any] = {
    "size": (64, 96),
    "proposals_loss": (100, 60),
    "proposals_detect": (100, 40),
    "roi_count": 32,
    "rpn_count": 64,
}
_ONE_MAP: dict[str, Any] = {**_RPN, "anchor_sizes": (16, 32, 64), "rpn_width": 16, "min_size": 4.0}
_PYRAMID: dict[str, Any] = {
    **_RPN,
    "backbone": "resnet18",
    "norm": "batch",
    "width": 16,
    "box_width": 16,
    "anchor_sizes": (8, 16, 32, 64, 128),
}
_MASKS: dict[str, Any] = {"mask_convs": 1, "mask_width": 8}

SMALL: dict[str, dict[str, Any]] = {
    "faster_rcnn_zf": {**_ONE_MAP, "box_width": 16, "dropout": 0.0},
    "faster_rcnn_vgg16": {**_ONE_MAP, "box_width": 8, "dropout": 0.0},
    "rfcn_r50": {
        **{k: v for k, v in _ONE_MAP.items() if k != "min_size"},
        "backbone": "resnet18",
        "norm": "batch",
        "conv_width": 16,
    },
    "rfcn_r50_fpn": {k: v for k, v in {**_PYRAMID, "conv_width": 16}.items() if k != "box_width"},
    "fast_rcnn_alexnet": {"size": (64, 96), "box_width": 16, "dropout": 0.0, "roi_count": 32},
    "fast_rcnn_r50_fpn": {
        "size": (64, 96),
        "backbone": "resnet18",
        "norm": "batch",
        "width": 16,
        "box_width": 16,
        "roi_count": 32,
    },
    "mask_rcnn_r50_fpn": {**_PYRAMID, **_MASKS},
    "cascade_rcnn_r50_fpn": _PYRAMID,
    "cascade_mask_rcnn_r50_fpn": {**_PYRAMID, **_MASKS},
}


def small(name: str, classes: int = 3, **options: Any) -> Detector:
    """A seeded detector that computes in milliseconds."""
    torch.manual_seed(0)
    return create_model(name, num_classes=classes, **{**SMALL[name], **options})


def batch(model: Detector, images: int = 2, proposals: bool = False) -> Batch:
    """As `pyramids.batch`, with a mask for every object: a polygon, an RLE; and proposals, some
    of them on objects, where the model takes them or they are asked for."""
    made = boxes_only(images)
    x1, y1, x2, y2 = made.targets.boxes[0, 1].tolist()
    box = torch.zeros(64, 96)
    box[4:40, 4:44] = 1
    flat = box.T.reshape(-1)
    edges = torch.cat(
        [torch.tensor([0]), (flat.diff() != 0).nonzero()[:, 0] + 1, torch.tensor([len(flat)])]
    )
    rle = {"size": [64, 96], "counts": edges.diff().tolist()}
    triangle = [[x1, y2, x2, y2, (x1 + x2) / 2, y1]]
    made.targets.masks = [[rle, triangle, None], *[[] for _ in range(images - 1)]]
    if model.takes_proposals or proposals:
        noise = torch.Generator().manual_seed(2)
        corner = torch.rand(images, 40, 2, generator=noise) * torch.tensor([70.0, 40.0])
        side = torch.rand(images, 40, 2, generator=noise) * 30 + 8
        boxes = torch.cat([corner, corner + side], -1)
        boxes[0, :8] = made.targets.boxes[0, torch.arange(8) % 2] + torch.randn(8, 4) * 2
        made.proposals, made.valid = boxes, torch.ones(images, 40, dtype=torch.bool)
    return made


def losses(model: Detector, given: Batch, seed: int = 0) -> dict[str, torch.Tensor]:
    """The training losses, their draws seeded."""
    return model.loss(given, torch.Generator().manual_seed(seed))


def total(model: Detector, given: Batch, seed: int = 0) -> torch.Tensor:
    return torch.stack(list(losses(model, given, seed).values())).sum()
