"""Heads answer for no RoI at all, which an image without objects or proposals can leave them."""

from __future__ import annotations

import pytest
import torch

from boxatlas import create_model
from boxatlas.detectors.cascade_rcnn import CascadeRCNN
from boxatlas.parts.region.detector import RegionDetector


@pytest.mark.parametrize(
    "name",
    ["faster_rcnn_mobilenet_v3_fpn", "rfcn_r50", "fast_rcnn_r50_fpn"],
)
def test_heads_answer_for_no_roi(name: str) -> None:
    model = create_model(name, num_classes=3).eval()
    assert isinstance(model, RegionDetector)
    with torch.no_grad():
        raw = model.heads(model.features(torch.zeros(2, 3, 64, 64)), torch.zeros(2, 0, 4))
    assert raw["logits"].shape == (2, 0, 4)
    assert raw["deltas"].shape[:2] == (2, 0)
    assert raw["deltas"].shape[-1] == 4


def test_a_stage_of_the_cascade_answers_for_no_roi() -> None:
    model = create_model("cascade_rcnn_r50_fpn", num_classes=3).eval()
    assert isinstance(model, CascadeRCNN)
    with torch.no_grad():
        maps = model.features(torch.zeros(2, 3, 64, 64))
        logits, deltas = model.stage(maps, torch.zeros(2, 0, 4), 0)
    assert logits.shape == (2, 0, 4)
    assert deltas.shape[:2] == (2, 0)
