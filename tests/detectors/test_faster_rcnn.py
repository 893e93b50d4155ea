"""Faster R-CNN with FPN: published sizes, targets and losses worked by hand, every switch."""

from __future__ import annotations

import math

import pytest
import torch
from pyramids import batch, small, total
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import detection

from boxatlas.boxes.anchors import AnchorChoices
from boxatlas.boxes.coders import DeltaCoder
from boxatlas.create import create_model
from boxatlas.detectors.fpn import Config, FasterRCNNFPN
from boxatlas.errors import InputError
from boxatlas.parts.region.detector import content_limits
from boxatlas.parts.region.roi import RoIChoices
from boxatlas.parts.region.rpn import RPN, AnchorOutputs, RPNChoices
from boxatlas.parts.region.targets import HeadBatch, SampledRoIs, draw_rois, label_rois, roi_losses
from boxatlas.structures import Frame, Targets

PROFILE = {"background_box": True}  # torchvision's box layer has a row for the background


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "published"),  # torchvision's counts
    [
        ("faster_rcnn_r50_fpn", 41_755_286),
        ("faster_rcnn_r50_fpn_v2", 43_712_278),
        ("faster_rcnn_mobilenet_v3_fpn", 19_386_354),
        ("faster_rcnn320_mobilenet_v3_fpn", 19_386_354),
    ],
)
def test_parameters_are_the_published_ones(name, published):
    with torch.device("meta"):
        assert parameters(create_model(name, num_classes=90, **PROFILE)) == published


@pytest.mark.parametrize(
    ("name", "peer"),
    [
        ("faster_rcnn_r50_fpn", "fasterrcnn_resnet50_fpn"),
        ("faster_rcnn_r50_fpn_v2", "fasterrcnn_resnet50_fpn_v2"),
        ("faster_rcnn_mobilenet_v3_fpn", "fasterrcnn_mobilenet_v3_large_fpn"),
    ],
)
def test_multiply_adds_equal_the_reference(name, peer):
    with torch.device("meta"):
        theirs = getattr(detection, peer)(weights=None, weights_backbone=None)
        ours = create_model(name, num_classes=90, **PROFILE)
        assert isinstance(ours, FasterRCNNFPN)
        assert ours.rpn is not None
        image, rois = torch.empty(1, 3, 800, 1216), torch.empty(1000, 256, 7, 7)
        with FlopCounterMode(display=False) as counted:
            theirs.rpn.head(list(theirs.backbone(image).values()))
            theirs.roi_heads.box_predictor(theirs.roi_heads.box_head(rois))
        with FlopCounterMode(display=False) as mine:
            ours.rpn.head(ours.features(image))
            ours.predictor(ours.head(rois))
    assert mine.get_total_flops() == counted.get_total_flops()


# -- the RPN --------------------------------------------------------------------------------------

FOUR = torch.tensor(
    [[0.0, 0, 10, 10], [0.0, 0, 10, 5], [40.0, 40, 50, 50], [-4.0, -4, 4, 4]]
)  # IoU with the object [0, 0, 10, 10]: 1, 0.5 (ignored), 0, 0.11 (crosses the border)


class Choices(AnchorChoices, RPNChoices):
    """What an RPN reads."""


def rpn(**choices) -> RPN:
    return RPN(Choices.of(choices, anchor_sizes=(8,)), DeltaCoder(), 8, (16,))


def objects(*boxes: list[float]) -> Targets:
    return Targets.collate([torch.tensor(boxes)], [torch.zeros(len(boxes), dtype=torch.int64)])


def test_rpn_loss_by_hand():
    """Section 3.1.2: one object anchor, two background; sums over the three that are drawn."""
    logits = [torch.tensor([[2.0, 5.0, -1.0, 0.5]])]
    deltas = [torch.zeros(1, 4, 4)]
    deltas[0][0, 0] = torch.tensor([0.05, 0.0, 0.5, 0.0])
    rows, limits = AnchorOutputs(logits, deltas, FOUR), torch.tensor([[60.0, 60.0]])
    found = rpn().loss(rows, objects([0.0, 0, 10, 10]), limits)
    cls = math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-1)) + math.log(1 + math.exp(0.5))
    assert found["rpn_cls"].item() == pytest.approx(cls / 3, rel=1e-5)
    box = 0.05**2 * 9 / 2 + (0.5 - 1 / 18)  # beta 1/9
    assert found["rpn_box"].item() == pytest.approx(box / 3, rel=1e-5)


def test_anchors_across_the_border_learn_nothing_where_asked():
    logits, limits = [torch.zeros(1, 4)], torch.tensor([[60.0, 60.0]])
    moved = [torch.full((1, 4, 4), 0.5)]
    target = objects([-4.0, -4, 4, 4])  # what the crossing anchor fits exactly
    kept = rpn().loss(AnchorOutputs(logits, moved, FOUR), target, limits)["rpn_box"]
    assert kept.item() == pytest.approx(4 * (0.5 - 1 / 18) / 4, rel=1e-5)
    # Without it the object goes to the next best, [0, 0, 10, 5], which is far from it.
    dropped = rpn(rpn_border=True).loss(AnchorOutputs(logits, moved, FOUR), target, limits)[
        "rpn_box"
    ]
    wanted = torch.tensor([-0.5, -0.5, math.log(0.8), math.log(1.6)])
    away = (0.5 - wanted).abs() - 1 / 18
    near = (0.5 - wanted[3]) ** 2 * 9 / 2  # within beta
    want = (away[:3].sum() + near) / 3
    assert dropped.item() == pytest.approx(want.item(), rel=1e-5)


def test_rpn_loss_has_the_gradient_of_finite_differences():
    torch.manual_seed(0)
    anchors = torch.tensor([[4.0 * i, 0, 4 * i + 12, 12] for i in range(6)]).double()
    target = objects([4.0, 0, 15, 12], [20.0, 0, 30, 11])
    target.boxes = target.boxes.double()
    limits = torch.tensor([[60.0, 60.0]]).double()

    def loss(logits, deltas):
        generator = torch.Generator().manual_seed(3)
        rows = AnchorOutputs([logits], [deltas], anchors)
        parts = rpn(rpn_count=4).loss(rows, target, limits, generator)
        return parts["rpn_cls"] + parts["rpn_box"]

    logits = torch.randn(1, 6, dtype=torch.float64, requires_grad=True)
    deltas = torch.randn(1, 6, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (logits, deltas))


def test_selection_by_hand():
    """Clipped to the content, suppressed above 0.7 within a level only, the best ones first."""
    anchors = torch.tensor(
        [[0.0, 0, 10, 10], [0.0, 0, 10, 9], [30.0, 30, 90, 90], [0.0, 0, 10, 10]]
    )
    logits = [torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[1.5]])]
    deltas = [torch.zeros(1, 3, 4), torch.zeros(1, 1, 4)]
    rows, limits = AnchorOutputs(logits, deltas, anchors), torch.tensor([[50.0, 40.0]])
    boxes, scores, valid = rpn().select(rows, (10, 5), limits)
    assert boxes.shape == (1, 5, 4)
    assert scores[0, :3].tolist() == [2.0, 1.5, 0.0]
    assert valid[0].tolist() == [True, True, True, False, False]
    assert boxes[0, :3].tolist() == [[0, 0, 10, 9], [0, 0, 10, 10], [30, 30, 50, 40]]
    assert rpn(rpn_score=0.6).select(rows, (10, 5), limits).valid.sum() == 2


# -- the head -------------------------------------------------------------------------------------


def test_roi_losses_by_hand():
    """Fast R-CNN, equation 1: -log p of the label; smooth L1 of the label's own four columns."""
    rois = SampledRoIs(
        torch.tensor([[[0.0, 0, 10, 10], [20.0, 20, 30, 30], [0.0, 0, 1, 1]]]),
        torch.tensor([[2, 0, -1]]),
        torch.tensor([[[1.0, 0, 11, 10], [0.0, 0, 1, 1], [0.0, 0, 1, 1]]]),
        torch.zeros(1, 3, dtype=torch.int64),
    )
    logits = torch.tensor([[[0.0, 1.0, 2.0], [3.0, 0.0, 0.0], [9.0, 9, 9]]])
    deltas = torch.zeros(1, 3, 2, 4)
    deltas[0, 0, 0] = 99.0  # of the other class: nobody reads it
    cls, box = roi_losses(logits, deltas, rois, DeltaCoder((10, 10, 5, 5)), 1.0)
    want = [math.log(1 + math.e**-1 + math.e**-2), math.log(1 + 2 * math.e**-3), 0.0]
    assert cls[0].tolist() == pytest.approx(want, rel=1e-5)
    assert box[0].tolist() == pytest.approx([1.0 - 0.5, 0, 0])  # |10 * 0.1 - 0| = 1


def test_roi_losses_have_the_gradient_of_finite_differences():
    torch.manual_seed(0)
    corner = torch.rand(2, 5, 2).double() * 30
    boxes = torch.cat([corner, corner + 5 + torch.rand(2, 5, 2) * 20], -1)
    rois = SampledRoIs(
        boxes,
        torch.tensor([[0, 1, 3, -1, 2], [2, 0, 0, 1, -1]]),
        boxes + 2.0,
        torch.zeros(2, 5, dtype=torch.int64),
    )

    def loss(logits, deltas):
        cls, box = roi_losses(logits, deltas, rois, DeltaCoder(), 0.3)
        return cls.sum() + box.sum()

    logits = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True)
    deltas = torch.randn(2, 5, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (logits, deltas))


def test_sampled_rois_keep_the_proportion_and_the_thresholds():
    """Section 2.3 of Fast R-CNN: a quarter from IoU 0.5 on, the rest in [low, 0.5)."""
    target = objects([0.0, 0, 20, 20])
    good = torch.tensor([[0.0, 0, 20, 20 - i / 8] for i in range(40)])
    bad = torch.tensor([[0.0, 0, 20, 4 + i / 16] for i in range(40)])
    far = torch.tensor([[40.0, 40, 50, 50]]).expand(20, 4)
    boxes = torch.cat([good, bad, far])[None]
    valid = torch.ones(1, 100, dtype=torch.bool)
    choices = RoIChoices.of(background_low=0.1)

    def drawn() -> SampledRoIs:
        rois = label_rois(
            boxes,
            valid,
            target,
            positive_iou=choices.roi_positive_iou,
            background_low=choices.background_low,
        )
        generator = torch.Generator().manual_seed(0)
        return draw_rois(rois, 16, choices.roi_positive_fraction, generator)

    rois = drawn()
    assert (rois.labels == 1).sum() == 4
    assert (rois.labels == 0).sum() == 12
    assert (rois.boxes[rois.labels == 0][:, 0] == 0).all()  # none of those without any overlap
    valid[:, :40] = False  # what is not valid is never drawn; the object itself is appended
    assert (drawn().labels == 1).sum() == 1


def test_a_ragged_batch_proposes_within_each_content():
    model = small("faster_rcnn_r50_fpn").eval()
    assert isinstance(model, FasterRCNNFPN)
    images = batch().images
    frames = [Frame((64, 96), (64, 96)), Frame((40, 50), (40, 50))]
    limits = content_limits(images, frames, (64, 96))
    assert limits.tolist() == [[96, 64], [50, 40]]
    found = model.propose(model.features(images), frames, (64, 96))
    inside = found.boxes[1][found.valid[1]]
    assert len(inside)
    assert (inside[:, 2] <= 50).all()
    assert (inside[:, 3] <= 40).all()


def test_proposals_carry_no_gradient_and_the_mode_changes_no_count():
    model = small("faster_rcnn_r50_fpn")
    assert isinstance(model, FasterRCNNFPN)
    images = batch().images
    counts = []
    for mode in (True, False):
        raw = model.train(mode)(images)
        assert not raw["proposals"].requires_grad
        counts.append(raw["proposals"].shape)
    assert counts[0] == counts[1] == (2, 40, 4)


SWITCHES = {
    "top_down": [False],
    "lateral": [False],
    "one_level": [True],
    "roi_op": ["align"],
    "sampler": ["ohem"],
    "rpn_cls": ["softmax"],
    "rpn_border": [True],
    "anchor_ratios": [(1.0,)],
    "p6": ["conv"],
}


def test_no_switch_is_forgotten():
    assert set(SWITCHES) == set(Config.kinds("idea"))


@pytest.mark.parametrize(
    ("switch", "value"), [(name, value) for name, values in SWITCHES.items() for value in values]
)
def test_each_switch_changes_network_targets_or_loss(switch, value):
    plain, other = small("faster_rcnn_r50_fpn"), small("faster_rcnn_r50_fpn", **{switch: value})
    given = batch()
    changed = parameters(plain) != parameters(other)
    losses = [total(model.eval(), given).item() for model in (plain, other)]
    assert changed or abs(losses[0] - losses[1]) > 1e-5 * losses[0]


# -- settings -------------------------------------------------------------------------------------


def rpn_labels(**choices) -> list[int]:
    """[positive, trained] anchors of FOUR with the object [0, 0, 10, 10].

    At logit 0 the gradient of the mean is -1/2 / trained for a positive, +1/2 / trained else.
    """
    logits = torch.zeros(1, 4).requires_grad_()
    rows = AnchorOutputs([logits], [torch.zeros(1, 4, 4)], FOUR)
    target, limits = objects([0.0, 0, 10, 10]), torch.tensor([[60.0, 60.0]])
    loss = rpn(**choices).loss(rows, target, limits, torch.Generator().manual_seed(0))
    (slope,) = torch.autograd.grad(loss["rpn_cls"], logits)
    trained = int((slope != 0).sum())
    assert torch.allclose(slope[slope != 0].abs(), torch.tensor(0.5 / trained))
    return [int((slope < 0).sum()), trained]


@pytest.mark.parametrize(
    ("choices", "wanted"),  # IoUs with the object: 1, 0.5, 0, 0.087
    [
        ({}, [1, 3]),
        ({"rpn_positive_iou": 0.5}, [2, 4]),
        ({"rpn_background_iou": 0.05}, [1, 2]),
        ({"rpn_background_iou": 0.6}, [1, 4]),
        ({"rpn_positive_iou": 0.5, "rpn_positive_fraction": 0.25, "rpn_count": 4}, [1, 3]),
        ({"rpn_positive_iou": 0.5, "rpn_count": 2}, [1, 2]),
    ],
)
def test_the_rpns_thresholds_say_what_is_trained(choices, wanted):
    assert rpn_labels(**choices) == wanted


# Of the object [10, 10, 50, 50], moved by 0, 4, 8, 12 and 20 of 40 pixels: IoU 1, 0.82, 0.67, 0.54
# and 0.33; and one of nothing.
MOVED = torch.tensor([[[10.0 + d, 10, 50 + d, 50] for d in (0, 4, 8, 12, 20, 60)]])


@pytest.mark.parametrize(
    ("choices", "labels"),
    [
        ({}, [1, 1, 1, 1, 0, 0]),
        ({"roi_positive_iou": 0.6}, [1, 1, 1, 0, 0, 0]),
        ({"roi_positive_iou": 0.9}, [1, 0, 0, 0, 0, 0]),
        ({"background_low": 0.1}, [1, 1, 1, 1, 0, -1]),
        ({"background_low": 0.1, "sampler": "ohem"}, [1, 1, 1, 1, 0, 0]),
    ],
)
def test_a_rois_thresholds_say_how_it_is_labelled(choices, labels):
    model = small("faster_rcnn_r50_fpn", **choices)
    assert isinstance(model, FasterRCNNFPN)
    valid = torch.ones(1, 6, dtype=torch.bool)
    rois = model.label(MOVED, valid, objects([10.0, 10, 50, 50]))
    assert rois.labels.tolist() == [[1, *labels]]  # the object itself first


@pytest.mark.parametrize(("fraction", "positives"), [(0.25, 1), (0.5, 2), (1.0, 4), (0.0, 0)])
def test_a_draw_has_at_most_its_fraction_of_positives(fraction, positives):
    model = small("faster_rcnn_r50_fpn", roi_count=4, roi_positive_fraction=fraction)
    assert isinstance(model, FasterRCNNFPN)
    given = HeadBatch(
        [],
        MOVED,
        torch.ones(1, 6, dtype=torch.bool),
        objects([10.0, 10, 50, 50]),
        torch.tensor([[96.0, 64.0]]),
        torch.Generator().manual_seed(0),
    )
    rois = model.draw(given)
    assert (rois.labels > 0).sum() == positives
    assert (rois.labels == 0).sum() == min(4 - positives, 2)


@pytest.mark.parametrize("name", ["faster_rcnn320_efficientnet_lite0_fpn", "faster_rcnn_zf"])
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_detections", -3),
        ("max_detections", 0),
        ("nms_iou", -1.0),
        ("roi_count", -5),
        ("score", 7.0),
        ("score", math.nan),
        ("rpn_nms", 1.5),
        ("rpn_positive_iou", 0.0),
        ("roi_positive_iou", 2.0),
        ("roi_positive_fraction", -0.1),
        ("min_size", math.inf),
        ("anchor_sizes", (16, -32, 64)),
        ("anchor_ratios", ()),
        ("proposals_detect", (100, 0)),
        ("roi_weights", (10, 10, 0, 5)),
    ],
)
def test_a_number_out_of_bounds_is_one_line_that_names_it(name, option, value):
    with pytest.raises(InputError, match=option) as raised:
        create_model(name, num_classes=3, **{option: value})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rpn_background_iou": 0.8}, "rpn_background_iou 0.8 is above rpn_positive_iou 0.7"),
        ({"background_low": 0.6}, "background_low 0.6 is above roi_positive_iou 0.5"),
        ({"proposals_loss": (100, 200)}, r"proposals_loss \(100, 200\)"),
        ({"anchor_sizes": (16, 32)}, "each of 5 levels"),
        ({"anchor_sizes": (16, 32, 64, 128, (256, 512))}, "each of 5 levels"),
        ({"box_end": 1.0}, "box_end: this option is gone"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(options, said):
    with pytest.raises(InputError, match=said) as raised:
        create_model("faster_rcnn_r50_fpn", num_classes=3, **options)
    assert "\n" not in str(raised.value)


def test_p6_does_nothing_on_one_level():
    with torch.device("meta"):
        plain, one = (
            create_model("faster_rcnn_r50_fpn", num_classes=3, one_level=level)
            for level in (False, True)
        )
    assert "p6" not in plain.config.idle()
    assert "p6" in one.config.idle()
