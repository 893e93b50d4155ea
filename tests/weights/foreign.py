"""Checkpoints as other programs write them: their names, their containers, objects of theirs."""

from __future__ import annotations

import argparse
import sys
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

import boxatlas
from boxatlas.weights import names_of

CLASSES = ("ant", "bee", "cat")
# A network of milliseconds: ResNet-18, a narrow pyramid and heads.
SMALL: dict[str, Any] = {"backbone": "resnet18", "width": 32}

MMDET_3 = """
auto_scale_lr = dict(base_batch_size=16, enable=False)
model = dict(
    backbone=dict(depth=18, style='pytorch', type='ResNet'),
    data_preprocessor=dict(
        bgr_to_rgb=False,
        mean=[103.53, 116.28, 123.675],
        pad_size_divisor=16,
        std=[1.0, 1.0, 1.0],
        type='DetDataPreprocessor'),
    rpn_head=dict(
        anchor_generator=dict(
            ratios=[0.5, 1.0, 2.0], scales=[4], strides=[4, 8, 16, 32, 64],
            type='AnchorGenerator'),
        type='RPNHead'),
    test_cfg=dict(
        rcnn=dict(max_per_img=50, nms=dict(iou_threshold=0.6, type='nms'), score_thr=0.1),
        rpn=dict(max_per_img=300, nms=dict(iou_threshold=0.7, type='nms'), nms_pre=500)),
    type='FasterRCNN')
test_pipeline = [
    dict(backend_args=None, type='LoadImageFromFile'),
    dict(keep_ratio=True, scale=(320, 192), type='Resize'),
    dict(meta_keys=('img_id', 'img_path'), type='PackDetInputs'),
]
work_dir = './work_dirs/ants'
"""
MMDET_2 = """
img_norm_cfg = dict(mean=[100.0, 110.0, 120.0], std=[50.0, 51.0, 52.0], to_rgb=True)
model = dict(
    type='RetinaNet',
    bbox_head=dict(
        anchor_generator=dict(
            type='AnchorGenerator', octave_base_scale=3, scales_per_octave=3,
            ratios=[0.5, 1.0, 2.0], strides=[8, 16, 32, 64, 128])),
    test_cfg=dict(nms_pre=1000, min_bbox_size=0, score_thr=0.07,
                  nms=dict(type='nms', iou_threshold=0.45), max_per_img=70))
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='MultiScaleFlipAug', img_scale=(320, 200), flip=False, transforms=[
        dict(type='Resize', keep_ratio=True),
        dict(type='Pad', size_divisor=32)])
]
"""


def state_of(
    source: str, model: str, **options: Any
) -> tuple[boxatlas.Detector, dict[str, Tensor]]:
    """A seeded detector of ours with that source's habits, and its tensors as the source has them.

    The background of a classifier stands last in Detectron2 and mmdetection.
    """
    torch.manual_seed(0)
    detector = boxatlas.create_model(model, classes=CLASSES, **options).eval()
    own = {k: v.clone() for k, v in detector.state_dict().items() if k != "images_seen"}
    theirs = names_of(_told(detector, source), source, model)
    made = OrderedDict()
    for name, value in own.items():
        last = source in ("detectron2", "mmdet") and name.startswith("predictor.cls")
        if source != "detectron2" or not name.endswith("num_batches_tracked"):
            made[theirs(name)] = torch.cat([value[1:], value[:1]]) if last else value
    return detector, made


def _told(detector: boxatlas.Detector, source: str) -> dict[str, Tensor]:
    """As much of a file as its importer looks at to know what it is."""
    count = len(detector.classes)
    known = {
        "roi_head.bbox_head.fc_cls.weight": (count + 1, 1),
        "roi_head.bbox_head.fc_reg.weight": (4 * count, 1),
        "bbox_head.retina_cls.weight": (9 * count, 1),
        "bbox_head.retina_reg.weight": (36, 1),
        "head.cls_score.weight": (9 * count, 1),
        "head.bbox_pred.weight": (36, 1),
        "roi_heads.box_predictor.cls_score.weight": (count + 1, 1),
        "roi_heads.box_predictor.bbox_pred.weight": (4 * count, 1),
        "backbone.bottom_up.res2.0.conv2.weight": (8, 8),
        "conf.0.weight": (4 * (count + 1), 1),
        "loc.0.weight": (16, 1),
        "roi_heads.box_predictor.cls_score.bias": (count + 1,),
    }
    new = {
        f"rpn.head.conv.{i}.0.0.weight": (1,) for i in range(2)
    }  # torchvision's names since 0.13
    new |= {f"backbone.fpn.{kind}_blocks.{i}.0.{leaf}": (1,) for kind in ("inner", "layer")
            for i in range(4) for leaf in ("weight", "bias")}  # fmt: skip
    new |= {f"rpn.head.conv.0.0.{leaf}": (1,) for leaf in ("weight", "bias")}
    return {
        k: torch.zeros(v) for k, v in (known | (new if source == "torchvision" else {})).items()
    }


def write_mmdet_3(path: Path, state: dict[str, Tensor], classes: Any = CLASSES) -> None:
    """As mmengine's runner: the log's buffers are objects of its own with numpy arrays inside."""
    module = ModuleType("mmengine.logging.history_buffer")
    buffer: Any = type("HistoryBuffer", (), {"__module__": module.__name__})
    module.HistoryBuffer = buffer  # pyright: ignore[reportAttributeAccessIssue]
    log = buffer()
    log.__dict__ |= {"_log_history": np.arange(3.0), "_count_history": np.ones(3, np.int64)}
    log.statistics_methods = OrderedDict(min=getattr)
    meta = {
        "epoch": 12,
        "iter": 1200,
        "cfg": MMDET_3,
        "seed": 1,
        "experiment_name": "ants_20260101",
        "mmengine_version": "0.10.7",
        "dataset_meta": {"classes": classes, "palette": [(220, 20, 60)] * len(classes)},
    }
    hub = {"log_scalars": OrderedDict({"train/loss": log}), "runtime_info": OrderedDict(epoch=12)}
    average = OrderedDict({f"module.{k}": v + 1 for k, v in state.items()}, steps=torch.tensor(9))
    document = {
        "meta": meta,
        "state_dict": state,
        "message_hub": hub,
        "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": []},
        "ema_state_dict": average,
    }
    packages = {name: ModuleType(name) for name in ("mmengine", "mmengine.logging")}
    with patch.dict(sys.modules, {**packages, module.__name__: module}):
        torch.save(document, path)


def write_mmdet_2(path: Path, state: dict[str, Tensor]) -> None:
    """As mmcv's runner."""
    meta = {"epoch": 12, "iter": 9, "mmdet_version": "2.28.2", "config": MMDET_2,
            "CLASSES": CLASSES, "PALETTE": None, "time": "Thu Jan  1 00:00:00 2026"}  # fmt: skip
    torch.save({"meta": meta, "state_dict": state, "optimizer": {"state": {}}}, path)


def write_detectron2(path: Path, state: dict[str, Tensor]) -> None:
    """As its DetectionCheckpointer; buffers of colours and anchors are in older files."""
    more = {
        "pixel_mean": torch.zeros(3, 1, 1),
        "pixel_std": torch.ones(3, 1, 1),
        "proposal_generator.anchor_generator.cell_anchors.0": torch.zeros(3, 4),
    }
    torch.save(
        {"model": {**state, **more}, "optimizer": {"state": {}}, "scheduler": {}, "iteration": 99},
        path,
    )


def write_torchvision(path: Path, state: dict[str, Tensor]) -> None:
    """As the detection reference's train.py, whose arguments are a Namespace."""
    arguments = argparse.Namespace(model="fasterrcnn_resnet50_fpn", data_path=Path("coco"), lr=0.02)
    torch.save(
        {"model": state, "optimizer": {"state": {}}, "lr_scheduler": {"_step_count": 1},
         "args": arguments, "epoch": 25}, path)  # fmt: skip
