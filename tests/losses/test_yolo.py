"""The losses of YOLO, YOLOv2 and YOLOv3 by hand, and their gradients by finite differences."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from boxatlas.boxes.yolo import Objects, PriorCoder
from boxatlas.losses.yolo import Cells, grid_loss, logistic_loss, region_loss
from boxatlas.verify import Case, handlers, run_case

CODER = PriorCoder("cell")


def truth(*rows: tuple[float, ...]) -> Objects:
    """One image: (centre x, centre y, width, height, label) each."""
    table = torch.tensor(rows).reshape(1, -1, 5)
    return Objects(table[..., :4], table[..., 4].long(), torch.ones(table.shape[:2]).bool())


def summed(parts: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(parts.values())).sum()


def logit(p: float) -> float:
    return math.log(p / (1 - p))


@pytest.mark.parametrize(
    "name",
    [
        "darknet_loss_detection",
        "darknet_loss_region_voc",
        "darknet_loss_yolo",
        "darknet_loss_yolo9000",
        "darknet_train_toy",
        "darknet_train_toy_bn",
    ],
)
def test_agrees_with_darknet(name: str, parity_dir):
    case = Case(parity_dir / f"{name}.json")
    result = run_case(case, handlers()[case.case])
    assert result.status == "pass", result.reason
    assert len(result.outcomes) == len(case.outputs)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("darknet_loss_detection", {"coord_scale": 4.0}),
        ("darknet_loss_region_voc", {"thresh": 0.3}),
        ("darknet_loss_region_voc", {"prior_scale": 0.02}),
        ("darknet_loss_yolo", {"ignore_thresh": 0.3}),
        ("darknet_loss_yolo9000", {"cls_image_background": "off"}),
        ("darknet_train_toy", {"momentum": 0.8}),
        ("darknet_train_toy", {"decay": 0.5}),
    ],
)
def test_parameters_are_read_from_the_case(name: str, change: dict[str, Any], parity_dir):
    case = Case(parity_dir / f"{name}.json")
    case.run["params"].update(change)
    assert run_case(case, handlers()[case.case]).status == "fail"


# -- YOLO -----------------------------------------------------------------------------------------


def test_one_object_in_one_of_four_cells_by_hand():
    """Equation 3, halved: 2 x 2 cells, one box a cell, two classes."""
    cells = Cells.of(truth((0.25, 0.75, 0.36, 0.25, 1)), 2)  # the middle of cell (row 1, column 0)
    assert cells.object.tolist() == [[False, False, True, False]]
    output = torch.zeros(1, 4 * 2 + 4 + 4 * 4)
    output[0, 4:6] = torch.tensor([0.2, 0.7])  # classes of cell 2
    output[0, 8:12] = torch.tensor([0.1, 0.0, 0.9, 0.3])  # confidences
    output[0, 12 + 8 : 12 + 12] = torch.tensor([0.5, 0.5, 0.6, 0.4])  # box of cell 2
    losses = grid_loss(output, cells, 1)
    # Found 0.36 x 0.16 about the same centre: IoU 0.0576 / 0.09 = 0.64.
    assert losses["boxes"].item() == pytest.approx(5 * 0.5 * (0.4 - 0.5) ** 2)
    others = 0.5 * 0.5 * (0.1**2 + 0.3**2)
    assert losses["confidence"].item() == pytest.approx(0.5 * (0.9 - 0.64) ** 2 + others)
    assert losses["classes"].item() == pytest.approx(0.5 * (0.2**2 + 0.3**2))


def test_of_two_objects_in_a_cell_the_first_or_the_preferred_is_learned():
    both = truth((0.2, 0.2, 0.1, 0.1, 0), (0.3, 0.3, 0.2, 0.2, 1))
    assert Cells.of(both, 2).label[0, 0] == 0
    assert Cells.of(both, 2, torch.tensor([[0.1, 0.9]])).label[0, 0] == 1


def test_without_overlap_the_nearest_box_is_responsible():
    cells = Cells.of(truth((0.9, 0.9, 0.1, 0.1, 0)), 1)
    output = torch.zeros(1, 1 + 2 + 8)
    output[0, 3:] = torch.tensor([0.1, 0.1, 0.1, 0.1, 0.5, 0.5, 0.1, 0.1])
    delta = _gradient(output, lambda x: grid_loss(x, cells, 2))
    assert delta[0, 3:7].abs().max() == 0
    assert delta[0, 7:].abs().max() > 0


# -- YOLOv2 ---------------------------------------------------------------------------------------


def test_a_map_of_one_cell_by_hand():
    """Two priors, two classes; the object has exactly the second prior's shape."""
    priors = torch.tensor([[0.2, 0.2], [0.5, 0.5]])
    found = torch.zeros(1, 2, 7, 1, 1)
    found[0, 0, :5, 0, 0] = torch.tensor([0.5, 0.5, 0.0, 0.0, 0.3])
    found[0, 1, :5, 0, 0] = torch.tensor([0.4, 0.5, 0.0, 0.0, 0.8])
    losses = region_loss(found, truth((0.5, 0.5, 0.5, 0.5, 1)), priors, CODER)
    # Centre off by 0.1: overlap 0.4 x 0.5 of 2 * 0.25 - 0.2.
    exact = 0.2 / 0.3
    assert losses["boxes"].item() == pytest.approx(0.5 * 0.1**2)
    other = 0.5 * 0.3**2  # IoU 0.04 / 0.25 with the object: not spared
    assert losses["objectness"].item() == pytest.approx(0.5 * 5 * (0.8 - exact) ** 2 + other)
    assert losses["classes"].item() == pytest.approx(math.log(2))


def test_small_boxes_weigh_up_to_twice():
    priors, one = torch.tensor([[1.0, 1.0]]), truth((0.5, 0.5, 0.5, 0.4, 0))
    found = torch.rand(1, 1, 6, 1, 1)
    plain = region_loss(found, one, priors, CODER)["boxes"]
    weighed = region_loss(found, one, priors, CODER, small_boxes=True)["boxes"]
    assert weighed.item() == pytest.approx(plain.item() * (2 - 0.2), rel=1e-5)


def test_early_boxes_are_pulled_to_their_priors_but_those_of_objects():
    priors, found = torch.tensor([[1.0, 1.0]]), torch.zeros(1, 1, 6, 1, 2)
    found[0, 0, 2] = 0.4  # log of the width
    one = truth((0.25, 0.5, 0.5, 1.0, 0))
    late, early = (region_loss(found, one, priors, CODER, early=e)["boxes"] for e in (0.0, 0.01))
    # The other cell: x and y 0 instead of 0.5, width 0.4 instead of 0.
    pull = 0.5 * 0.01 * (0.25 + 0.25 + 0.16)
    assert (early - late).item() == pytest.approx(pull, rel=1e-4)


def test_a_box_that_overlaps_well_learns_no_objectness():
    priors, found = torch.tensor([[1.0, 1.0]]), torch.full((1, 1, 6, 1, 2), 0.5)
    found[0, 0, 2:4] = 0.0
    one = truth((0.49, 0.5, 1.0, 1.0, 0))  # its own cell is the left one
    # The right cell's box is half as wide as the object and within it: IoU 0.5.
    losses = [region_loss(found, one, priors, CODER, ignore_iou=t) for t in (0.45, 0.55)]
    spared, learned = (loss["objectness"].item() for loss in losses)
    assert learned - spared == pytest.approx(0.5 * 0.5**2)


# -- YOLOv3 ---------------------------------------------------------------------------------------


def test_a_logistic_map_by_hand():
    """Two anchors in two maps of one cell; the object has the first one's shape."""
    anchors, size = torch.tensor([[16.0, 16.0], [32.0, 32.0]]), (32, 32)
    raw = torch.zeros(1, 1, 7, 1, 1)
    raw[0, 0, :, 0, 0] = torch.tensor([0.0, 0.0, 0.1, 0.0, logit(0.7), logit(0.4), logit(0.1)])
    one = truth((0.5, 0.5, 0.5, 0.5, 1))
    fine = logistic_loss(raw, one, anchors, [0], size, CODER)
    scale = 2 - 0.25
    # Cross-entropy at its best, 0.5 against 0.5, is log 2 for x and for y.
    assert fine["boxes"].item() == pytest.approx(scale * (2 * math.log(2) + 0.5 * 0.1**2), rel=1e-5)
    assert fine["objectness"].item() == pytest.approx(-math.log(0.7), rel=1e-5)
    assert fine["classes"].item() == pytest.approx(-math.log(0.6) - math.log(0.1), rel=1e-5)
    coarse = logistic_loss(raw, one, anchors, [1], size, CODER)
    assert coarse["boxes"] == 0
    assert coarse["classes"] == 0
    # Its box, 32 * e^0.1 by 32, overlaps the object by a quarter at most: no object here.
    assert coarse["objectness"].item() == pytest.approx(-math.log(0.3), rel=1e-5)
    spared = logistic_loss(raw, one, anchors, [1], size, CODER, ignore_iou=0.2)
    assert spared["objectness"] == 0


def test_two_objects_at_one_place_give_it_two_labels():
    raw = torch.zeros(1, 1, 8, 1, 1)
    both = truth((0.5, 0.5, 0.5, 0.5, 0), (0.5, 0.5, 0.5, 0.5, 2))
    anchors = torch.tensor([[16.0, 16.0]])

    def loss(x: Tensor) -> dict[str, Tensor]:
        return logistic_loss(x, both, anchors, [0], (32, 32), CODER)

    gradient = _gradient(raw, loss)[0, 0, 5:, 0, 0]
    assert gradient.tolist() == pytest.approx([-0.5, 0.5, -0.5])


# -- all ------------------------------------------------------------------------------------------


def _gradient(x: Tensor, loss: Any) -> Tensor:
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(summed(loss(leaf)), leaf)[0]


_ANCHORS = torch.tensor([[12.0, 20.0], [30.0, 18.0], [40.0, 44.0]], dtype=torch.float64)
_TRUTH = truth((0.31, 0.42, 0.25, 0.35, 1), (0.8, 0.8, 0.3, 0.2, 0), (0.5, 0.1, 0.6, 0.2, 1))


@pytest.mark.parametrize(
    ("rule", "options"),
    [
        ("grid", {}),
        ("grid", {"confidence_target": "one", "square_root": False}),
        ("region", {"objectness_target": "one", "early": 0.01}),
        ("region", {"objectness_target": "one", "small_boxes": True}),
        ("logistic", {}),
        ("logistic", {"box_loss": "squared", "focal": 2.0}),
        ("logistic", {"box_loss": "giou", "class_loss": "softmax"}),
        ("logistic", {"box_loss": "diou", "anchor_match": "best_of_map"}),
    ],
)
def test_gradients_by_finite_differences(rule: str, options: dict[str, Any]):
    """In float64; where the IoU is a target, it is one that carries no gradient."""
    torch.manual_seed(3)
    one = Objects(_TRUTH.boxes.double(), _TRUTH.labels, _TRUTH.valid)
    if rule == "grid":
        raw = torch.rand(1, 4 * 2 + 8 + 32, dtype=torch.float64)
        cells = Cells.of(one, 2)

        def loss(x: Tensor) -> Tensor:
            parts = grid_loss(x, cells, 2, **options)
            return summed(parts) if options else parts["boxes"] + parts["classes"]
    else:
        raw = 0.5 * torch.randn(1, 3, 7, 2, 2, dtype=torch.float64)
        rules = {"region": region_loss, "logistic": logistic_loss}

        def loss(x: Tensor) -> Tensor:
            if rule == "region":
                found = CODER.activate(x, 2)
                parts = rules[rule](found, one, _ANCHORS / 32, CODER, **options)
            else:
                parts = rules[rule](x, one, _ANCHORS, [0, 1, 2], (64, 64), CODER, **options)
            return summed(parts)

    assert torch.autograd.gradcheck(loss, raw.requires_grad_(), eps=1e-6, atol=1e-5)


@pytest.mark.parametrize("rule", ["grid", "region", "logistic"])
def test_an_image_without_objects_teaches_that_nothing_is_there(rule: str):
    none = Objects(
        torch.zeros(2, 0, 4),
        torch.zeros(2, 0, dtype=torch.int64),
        torch.zeros(2, 0, dtype=torch.bool),
    )
    if rule == "grid":
        output = torch.rand(2, 4 * 3 + 4 + 16).requires_grad_()
        losses = grid_loss(output, Cells.of(none, 2), 1)
        losses["objectness"] = losses.pop("confidence")
    elif rule == "region":
        output = torch.rand(2, 1, 8, 2, 2).requires_grad_()
        losses = region_loss(output, none, torch.ones(1, 2), CODER)
    else:
        output = torch.rand(2, 1, 8, 2, 2).requires_grad_()
        losses = logistic_loss(output, none, torch.ones(1, 2), [0], (64, 64), CODER)
    assert losses["boxes"] == 0
    assert losses["classes"] == 0
    assert losses["objectness"] > 0
    summed(losses).backward()
    assert output.grad is not None
    assert output.grad.isfinite().all()


def test_images_of_a_batch_do_not_mix():
    """The loss of a batch is the sum of its images' losses."""
    torch.manual_seed(0)
    raw = torch.randn(2, 3, 7, 4, 4)
    boxes = torch.rand(2, 5, 4) * 0.5 + 0.2
    many = Objects(
        boxes, torch.randint(0, 2, (2, 5)), torch.tensor([[True] * 5, [True] * 2 + [False] * 3])
    )
    anchors = torch.tensor([[30.0, 40.0], [60.0, 50.0], [90.0, 90.0]])

    def total(x: Tensor, objects: Objects) -> tuple[float, float]:
        logistic = logistic_loss(x, objects, anchors, [0, 1, 2], (128, 128), CODER)
        region = region_loss(CODER.activate(x, 2), objects, anchors / 32, CODER, early=0.01)
        return float(summed(logistic)), float(summed(region))

    whole = total(raw, many)
    alone = [total(raw[i : i + 1], many[i : i + 1]) for i in range(2)]
    assert whole == pytest.approx([sum(part) for part in zip(*alone, strict=True)], rel=1e-5)
