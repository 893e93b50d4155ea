"""What the region family learns, by hand: the cascade's stages, scales, truncated SVD, phases."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from regions import batch, losses, small
from torchvision.ops import roi_pool

from boxatlas.boxes.coders import DeltaCoder
from boxatlas.boxes.formats import pairwise_iou
from boxatlas.create import create_model
from boxatlas.detectors.cascade_rcnn import CascadeRCNN
from boxatlas.detectors.fast_rcnn import FastRCNN, TruncatedFC, truncated
from boxatlas.parts.region.heads import TwoFC
from boxatlas.parts.region.targets import HeadBatch, SampledRoIs
from boxatlas.structures import Targets

OBJECT = torch.tensor([[[10.0, 10, 50, 50]]])


def cascade(**options: Any) -> CascadeRCNN:
    model = small("cascade_rcnn_r50_fpn", **options)
    assert isinstance(model, CascadeRCNN)
    return model


def given_of(model: CascadeRCNN, boxes: torch.Tensor) -> HeadBatch:
    targets = Targets.collate([OBJECT[0]], [torch.tensor([1])])
    valid = torch.ones(boxes.shape[:2], dtype=torch.bool)
    return HeadBatch([], boxes, valid, targets, torch.tensor([[96.0, 64.0]]), None)


# A box moved by 4 of 40 pixels overlaps by 36/44 = 0.82, by 8: 0.67, by 12: 0.54, by 20: 0.33.
MOVED = torch.tensor([[[10.0 + d, 10, 50 + d, 50] for d in (0, 4, 8, 12, 20)]])


@pytest.mark.parametrize(("stage", "positive"), [(0, 4), (1, 3), (2, 2)])
def test_each_stage_labels_at_its_own_threshold(stage, positive) -> None:
    model = cascade()
    given = given_of(model, MOVED)
    labels = model.label(MOVED, given.valid, given.targets, stage).labels
    assert labels.tolist() == [[2] + [2] * positive + [0] * (5 - positive)]  # the object first


def test_the_first_stage_s_threshold_is_its_own_too() -> None:
    model = cascade(iou_thresholds=(0.8, 0.6, 0.7))
    given = given_of(model, MOVED)
    labels = model.label(MOVED, given.valid, given.targets).labels
    assert labels.tolist() == [[2, 2, 2, 0, 0, 0]]
    assert "iou_thresholds" in model.config.idle()["roi_positive_iou"]


def test_what_was_right_already_goes_no_further_and_objects_come_again() -> None:
    """Stage 2 sees the boxes that stage 1 made of its own, but not of one at IoU 0.95 or more."""
    model = cascade()
    given = given_of(model, MOVED)
    rois = SampledRoIs(
        MOVED,
        torch.tensor([[2, 2, 2, 2, 0]]),
        OBJECT.expand(1, 5, 4),
        torch.zeros(1, 5, dtype=torch.int64),
    )
    logits = torch.zeros(1, 5, 4)
    deltas = torch.zeros(1, 5, 1, 4)
    deltas[..., 0] = 10 * 4 / 40  # weight 10, four pixels of forty
    after = model.passed_on(given, rois, logits, deltas, 0)
    assert after.boxes[0, 0].tolist() == OBJECT[0, 0].tolist()
    assert torch.allclose(after.boxes[0, 1:, 0], MOVED[0, :, 0] + 4)
    # The object; the exact one dropped; 8 pixels off at 0.67; then below 0.6.
    assert after.labels.tolist() == [[2, -1, 2, 0, 0, 0]]


def test_losses_of_three_stages_by_hand() -> None:
    """Cross-entropy and smooth L1 of every stage over the RoIs that it saw (equation 6)."""
    model = cascade(stage_gradients=(1, 1, 1, 1))
    features = model.features(torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(3)))
    given = given_of(model, MOVED)._replace(features=features)
    found = model.head_loss(given)
    rois = model.draw(given)
    boxes, labels, wanted = rois.boxes, rois.labels, rois.wanted
    for t, scale in enumerate((1.0, 2.0, 3.0)):
        logits, deltas = model.stage(features, boxes, t)
        seen = labels[0] >= 0
        cls = F.cross_entropy(logits[0][seen], labels[0][seen])
        code = DeltaCoder((10 * scale, 10 * scale, 5 * scale, 5 * scale))
        positive = labels[0] > 0
        goal = code.encode(wanted[0][positive], boxes[0][positive])
        box = F.smooth_l1_loss(deltas[0][positive, 0], goal, reduction="sum") / seen.sum()
        assert found[f"stage{t + 1}_cls"].item() == pytest.approx(cls.item(), rel=1e-5)
        assert found[f"stage{t + 1}_box"].item() == pytest.approx(box.item(), rel=1e-4, abs=1e-7)
        moved = code.decode(deltas[0, :, 0].detach(), boxes[0])
        limit = moved.new_tensor([96.0, 64, 96, 64])
        moved = torch.minimum(moved.clamp(min=0), limit)
        fine = seen & (pairwise_iou(boxes[0], OBJECT[0])[:, 0] < 0.95)
        boxes = torch.cat([OBJECT[0], moved])[None]
        iou = pairwise_iou(boxes[0], OBJECT[0])[:, 0]
        label = torch.where(iou >= (0.5, 0.6, 0.7, 0.75)[t + 1], 2, 0)
        label[1:][~fine] = -1
        labels, wanted = label[None], OBJECT.expand(1, len(boxes[0]), 4)


def test_a_later_stage_moves_the_trunk_by_its_share() -> None:
    """A stage's gradient reaches its head in full and the features at 1, 1/2, 1/4."""
    model = cascade()
    boxes = MOVED[:, :3]
    for t, share in enumerate((1.0, 0.5, 0.25)):
        sizes = []
        for factor in (1.0, share):
            maps = [torch.ones(1, 16, 64 // s, 96 // s).requires_grad_() for s in (4, 8, 16, 32)]
            logits, _ = model.stage(maps, boxes, t, factor)
            logits.square().sum().backward()
            head = model.predictor[t].cls.weight.grad.clone()
            model.zero_grad()
            sizes.append((maps[0].grad.clone(), head))
        assert torch.allclose(sizes[1][0], sizes[0][0] * share, rtol=1e-4, atol=1e-9)
        assert torch.allclose(sizes[1][1], sizes[0][1])


def test_scores_are_the_mean_of_all_stages_on_the_last_ones_boxes() -> None:
    model = cascade().eval()
    with torch.no_grad():
        for one in model.predictor:
            one.cls.weight.normal_()
        maps = model.features(torch.randn(1, 3, 64, 96))
        done = model.run(maps, MOVED)
        each = [model.stage(maps, done[-1].boxes, t)[0].softmax(-1) for t in range(3)]
        raw = model.heads(maps, MOVED)
    assert torch.allclose(raw["scores"], (each[0] + each[1] + each[2]) / 3, atol=1e-6)
    assert torch.equal(raw["proposals"], done[1].refined)


# -- Fast R-CNN -------------------------------------------------------------------------------


def test_each_roi_is_pooled_at_the_scale_that_makes_it_224_pixels() -> None:
    """Section 2.3: at scales 1 and 1/2 of the input, 200 pixels stay and 420 are halved."""
    model = small("fast_rcnn_alexnet", scales=(480, 240))
    assert isinstance(model, FastRCNN)
    images = torch.randn(1, 3, 480, 480, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[[20.0, 20, 220, 220], [30, 30, 450, 450]]])
    with torch.no_grad():
        maps = model.features(images)
        half = F.interpolate(images, (240, 240), mode="bilinear", antialias=True)
        assert torch.allclose(maps[1], model.trunk(half)[0])
        found = model.describe_rois(maps, boxes)
        large = roi_pool(maps[0], F.pad(boxes[0, :1], (1, 0)), 6, 1 / 16)
        small_one = roi_pool(maps[1], F.pad(boxes[0, 1:] / 2, (1, 0)), 6, 1 / 16)
        wanted = model.head(torch.cat([large, small_one]))
    assert torch.allclose(found, wanted, atol=1e-5)


def test_the_truncated_layer_is_the_best_of_its_rank() -> None:
    """Section 3.1: U S V cut at t; what is left out is the other singular values (Eckart-Young)."""
    model = small("fast_rcnn_alexnet")
    assert isinstance(model, FastRCNN)
    cut = truncated(model, (5, 3))
    assert isinstance(cut.head, TruncatedFC)
    assert isinstance(model.head, TwoFC)
    for name, rank in (("fc6", 5), ("fc7", 3)):
        whole = getattr(model.head, name)
        thin, wide = getattr(cut.head, f"{name}_L"), getattr(cut.head, f"{name}_U")
        assert thin.bias is None
        assert thin.weight.shape[0] == rank == wide.weight.shape[1]
        assert torch.equal(wide.bias, whole.bias)
        values = torch.linalg.svdvals(whole.weight)
        lost = (whole.weight - wide.weight @ thin.weight).norm().item()
        assert lost == pytest.approx(math.sqrt(values[rank:].square().sum().item()), rel=1e-4)
    full = truncated(model, (16, 16))
    given = batch(model)
    assert losses(full, given)["roi_cls"].item() == pytest.approx(
        losses(model, given)["roi_cls"].item(), rel=1e-5
    )


# -- what a phase computes --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("faster_rcnn_zf", {}),
        ("faster_rcnn_zf", {"shared_features": False}),
        ("rfcn_r50", {}),
    ],
)
def test_the_rpn_learns_without_the_heads_work(name, more, monkeypatch) -> None:
    """Its losses are those of the whole, though no RoI is drawn, pooled or scored."""
    model = small(name, **more).train()
    given = batch(model)
    whole = losses(model, given)
    monkeypatch.setattr(model, "head_loss", None)  # calling it fails
    monkeypatch.setattr(model.rpn, "select", None)
    if name == "rfcn_r50":
        monkeypatch.setattr(model.score, "forward", None)
    own = model.loss_terms(given, ("rpn_cls", "rpn_box"), torch.Generator().manual_seed(0))
    assert {k: v.item() for k, v in own.items()} == {
        k: pytest.approx(whole[k].item(), rel=1e-6) for k in ("rpn_cls", "rpn_box")
    }


def test_the_heads_learn_without_the_rpns_work(monkeypatch) -> None:
    model = small("faster_rcnn_zf").train()
    given = batch(model, proposals=True)
    monkeypatch.setattr(model.rpn, "forward", None)
    assert set(losses(model, given)) == {"roi_cls", "roi_box"}


def test_lambda_weighs_the_boxes_of_the_rpn() -> None:
    """Equation 1 as section 3.1.2 normalises it: 10 / 2400 positions is about 1 / 256 anchors."""
    ten, one = small("faster_rcnn_zf"), small("faster_rcnn_zf", rpn_lambda=1.0)
    a, b = losses(ten, batch(ten)), losses(one, batch(one))
    assert b["rpn_box"].item() == pytest.approx(a["rpn_box"].item() / 10)
    assert b["rpn_cls"].item() == a["rpn_cls"].item()


def test_difficult_objects_and_far_background_are_settings_of_fast_rcnn() -> None:
    """Section 2.3, table 1: background overlaps by 0.1 at least; difficult objects are trained."""
    boxes = torch.tensor([[[10.0, 10, 50, 50], [20, 10, 90, 60], [60, 0, 90, 9]]])
    targets = Targets.collate([OBJECT[0]], [torch.tensor([1])], [torch.tensor([True])])
    valid = torch.ones(1, 3, dtype=torch.bool)
    wanted = {
        (True, 0.1): [2, 2, 0, -1],
        (True, 0.0): [2, 2, 0, 0],
        (False, 0.0): [-1, -1, 0, 0],  # the box in the difficult object is left out
    }
    for (difficult, low), labels in wanted.items():
        model = small("fast_rcnn_alexnet", learn_difficult=difficult, background_low=low)
        assert isinstance(model, FastRCNN)
        assert model.label(boxes, valid, targets).labels.tolist() == [labels]


IDLE: list[tuple[str, dict[str, Any], set[str]]] = [
    ("faster_rcnn_vgg16", {}, {"resnet_map", "roi_reduce"}),
    ("faster_rcnn_zf", {}, {"resnet_map", "roi_reduce", "train_from"}),
    (
        "fast_rcnn_alexnet",
        {"sampler": "ohem"},
        {"resnet_map", "roi_reduce", "train_from", "background_low", "roi_positive_fraction"},
    ),
    ("fast_rcnn_r50_fpn", {}, {"p6", "roi_reduce"}),
    ("mask_rcnn_r50_fpn", {"roi_op": "pool"}, {"roi_reduce"}),
    ("mask_rcnn_r50_fpn", {"mask_head": "mlp"}, {"mask_convs", "mask_width"}),
    ("cascade_rcnn_r50_fpn", {}, {"roi_positive_iou"}),
    (
        "cascade_rcnn_r50_fpn",
        {"mode": "integral"},
        {"roi_positive_iou", "stage_statistics", "score_stages"},
    ),
    (
        "cascade_rcnn_r50_fpn",
        {"sampler": "ohem", "resample": True},
        {"roi_positive_iou", "background_low"},
    ),
]


@pytest.mark.parametrize(("name", "options", "idle"), IDLE)
def test_what_does_nothing_is_said(name, options, idle) -> None:
    """Each is named with a reason, and changes no loss."""
    model = small(name, **options)
    folds = str(model.config.backbone).startswith("timm/")
    assert set(model.config.idle()) == (idle if folds else idle | {"fold_norms"})
    assert all(model.config.idle().values())
    other: dict[str, Any] = {
        "train_from": "all",
        "background_low": 0.3,
        "p6": "conv",
        "roi_reduce": "max",
        "roi_positive_iou": 0.6,
        "stage_statistics": False,
        "score_stages": "last",
        "resnet_map": "dc5",
        "box_width": 8,
        "dropout": 0.1,
        "roi_positive_fraction": 0.75,
        "mask_convs": 1,
        "mask_width": 8,
    }
    for option in idle:
        turned = small(name, **options, **{option: other[option]})
        turned.load_state_dict(model.state_dict())
        given = batch(model)
        assert {k: v.item() for k, v in losses(model.eval(), given).items()} == {
            k: pytest.approx(v.item()) for k, v in losses(turned.eval(), given).items()
        }


def test_on_conv4_the_head_is_conv5_and_has_no_width() -> None:
    with torch.device("meta"):
        plain, turned = (
            create_model("faster_rcnn_r50_c4", num_classes=3, **options)
            for options in ({}, {"box_width": 8, "dropout": 0.5})
        )
    assert {"box_width", "dropout"} <= set(plain.idle())
    assert [(k, v.shape) for k, v in plain.state_dict().items()] == [
        (k, v.shape) for k, v in turned.state_dict().items()
    ]
    assert not any(isinstance(m, torch.nn.Dropout) and m.p for m in turned.modules())


def test_no_proposals_are_said_to_be_missing() -> None:
    model = small("fast_rcnn_alexnet")
    with pytest.raises(ValueError, match="learns from proposals"):
        model.loss(replace(batch(model), proposals=None, valid=None))
