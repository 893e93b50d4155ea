"""The losses of YOLO, YOLOv2 and YOLOv3 as their authors' program computes them.

Public: grid_loss (YOLO), region_loss (YOLOv2), logistic_loss (YOLOv3), the choices that they read;
Cells, Places, assign, best_overlap, region_choice, logistic_choice.
All are sums over the batch, of half squared errors or cross-entropies, so that their gradient is
what Darknet's layers pass back ("delta", with the other sign); a detector divides by the images.
Shape letters: B images, M objects, S cells, A priors (or boxes) of a cell, K classes, H x W cells,
P places that answer for an object, T pairs of such a place and an object.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from boxatlas.boxes.formats import cxcywh_to_xyxy, iou
from boxatlas.boxes.matching import match_thresholds
from boxatlas.boxes.yolo import Objects, PriorCoder, cell_of, shape_iou
from boxatlas.options import Count, Fraction, NotNegative, Options, habit, idea, setting

Losses = dict[str, Tensor]
BoxLoss = Literal["paper", "squared", "iou", "giou", "diou", "ciou"]
EARLY_PULL = 0.01  # of `region_loss`: the weight of `early` in the first images


class SquareScales(Options):
    """Weights of the two losses that outnumber the others, in `grid_loss` and `region_loss`."""

    coord_scale: NotNegative = setting(1.0, "weight of the losses of boxes")
    noobject_scale: NotNegative = setting(1.0, "weight of objectness where there is no object")


class ObjectnessChoices(Options):
    """What objectness is trained to, in `region_loss` and `logistic_loss`."""

    objectness_target: Literal["iou", "one"] = idea(
        "iou", "objectness of an object's box: its IoU with the object, or 1"
    )
    ignore_iou: Fraction = setting(
        0.6, "a box that overlaps an object by more than this is not trained to objectness 0"
    )


class RegionChoices(Options):
    """What `region_loss` alone reads."""

    object_scale: NotNegative = setting(5.0, "weight of objectness where an object is")
    class_scale: NotNegative = setting(1.0, "weight of the losses of classes")
    small_boxes: bool = habit(
        False, "losses of boxes are weighed by 2 - width * height, as released since 2017"
    )
    match: Literal["prior", "prediction"] = habit(
        "prior", "an object takes the prior, or the predicted box, whose shape is most like its own"
    )
    prior_loss_images: Count = habit(
        12800, "images from the start of training in which all boxes are pulled to their priors"
    )


# -- YOLO: one object a cell ----------------------------------------------------------------------


@dataclass(frozen=True)
class Cells:
    """What each cell holds: object [B, S] bool, label [B, S] int64, boxes [B, S, 4].

    A box is its centre within the cell (0..1) and its width and height as fractions of the image.
    """

    object: Tensor
    label: Tensor
    boxes: Tensor

    @classmethod
    def of(cls, objects: Objects, side: int, priority: Tensor | None = None) -> Cells:
        """One object a cell: that of the highest priority [B, M], or the first in the list."""
        images, most = objects.labels.shape
        device = objects.labels.device
        object_ = torch.zeros(images, side * side, dtype=torch.bool, device=device)
        label = torch.zeros(images, side * side, dtype=torch.int64, device=device)
        boxes = objects.boxes.new_zeros(images, side * side, 4)
        if most == 0:
            return cls(object_, label, boxes)
        row, column = cell_of(objects.boxes, (side, side))
        cell = row * side + column
        if priority is None:
            priority = -torch.arange(most, device=device).expand(images, most).float()
        priority = priority.masked_fill(~objects.valid, -torch.inf)
        best = priority.new_full((images, side * side), -torch.inf)
        best = best.scatter_reduce(1, cell, priority, "amax")
        wins = objects.valid & (priority == best.gather(1, cell))
        image, item = wins.nonzero(as_tuple=True)
        at = cell[image, item]
        object_[image, at], label[image, at] = True, objects.labels[image, item]
        box = objects.boxes[image, item]
        inside = box[:, :2] * side - torch.stack([column, row], -1)[image, item]
        boxes[image, at] = torch.cat([inside, box[:, 2:]], 1)
        return cls(object_, label, boxes)


def grid_loss(
    output: Tensor,
    cells: Cells,
    boxes: int,
    *,
    coord_scale: float = 5.0,
    noobject_scale: float = 0.5,
    object_scale: float = 1.0,
    class_scale: float = 1.0,
    square_root: bool = True,
    confidence_target: Literal["iou", "one"] = "iou",
) -> Losses:
    """YOLO's sum of squares (arXiv 1506.02640, section 2.2), halved as in Darknet.

    output [B, S * (K + 5 * boxes)]: classes of all cells, confidences, then boxes (x and y within
    the cell, square roots of width and height). In a cell with an object one box is responsible:
    that of the highest IoU now, or where none overlaps that of the smallest squared distance.
    """
    images, count = cells.label.shape
    classes = output.shape[1] // count - 5 * boxes
    side = round(count**0.5)
    parts = output.split([count * classes, count * boxes, count * boxes * 4], 1)
    probability = parts[0].reshape(images, count, classes)
    confidence = parts[1].reshape(images, count, boxes)
    numbers = parts[2].reshape(images, count, boxes, 4)

    image, cell = cells.object.nonzero(as_tuple=True)
    target = cells.boxes[image, cell]
    predicted = numbers[image, cell]  # [P, boxes, 4]
    overlap, best = _responsible(predicted.detach(), target, side, square_root)
    rows = torch.arange(len(image), device=output.device)
    wanted = overlap[rows, best] if confidence_target == "iou" else torch.ones_like(target[:, 0])
    goal, weight = torch.zeros_like(confidence), torch.full_like(confidence, noobject_scale)
    goal[image, cell, best], weight[image, cell, best] = wanted, object_scale
    size = target[:, 2:].sqrt() if square_root else target[:, 2:]
    place = torch.cat([target[:, :2], size], 1)
    one_hot = F.one_hot(cells.label[image, cell], classes).to(output.dtype)
    return {
        "boxes": coord_scale * _half_squares(predicted[rows, best], place),
        "confidence": (0.5 * weight * (confidence - goal).square()).sum(),
        "classes": class_scale * _half_squares(probability[image, cell], one_hot),
    }


def _responsible(
    predicted: Tensor, target: Tensor, side: int, square_root: bool
) -> tuple[Tensor, Tensor]:
    """(IoU [P, boxes], the responsible box [P]) of predictions [P, boxes, 4] in their cells."""
    size = predicted[..., 2:].square() if square_root else predicted[..., 2:]
    boxes = torch.cat([predicted[..., :2] / side, size], -1)
    goal = torch.cat([target[:, :2] / side, target[:, 2:]], -1)[:, None]
    overlap = iou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(goal))
    nearest = (boxes - goal).square().sum(-1).argmin(1)
    return overlap, torch.where(overlap.amax(1) > 0, overlap.argmax(1), nearest)


def _half_squares(a: Tensor, b: Tensor) -> Tensor:
    return 0.5 * (a - b).square().sum()


# -- which place answers for which object ---------------------------------------------------------


@dataclass(frozen=True)
class Places:
    """Places that answer for an object, sorted; each for the last object that chose it.

    image, prior, row, column [P]: where; item [P]: which of its image's objects. choice [T] and
    label [T]: the place (0..P-1) and class of every object, in list order: several may share one.
    """

    image: Tensor
    prior: Tensor
    row: Tensor
    column: Tensor
    item: Tensor
    choice: Tensor
    label: Tensor

    @property
    def at(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.image, self.prior, self.row, self.column

    @property
    def cell(self) -> Tensor:
        return torch.stack([self.column, self.row], -1)


def assign(objects: Objects, prior: Tensor, shape: tuple[int, int, int, int]) -> Places:
    """prior [B, M]: the prior of its own cell that each object chose, -1 = none of this map.

    shape: B, A, H, W of the map.
    """
    _, priors, rows, columns = shape
    image, item = (objects.valid & (prior >= 0)).nonzero(as_tuple=True)
    row, column = cell_of(objects.boxes[image, item], (rows, columns))
    key = ((image * priors + prior[image, item]) * rows + row) * columns + column
    unique, choice = key.unique(return_inverse=True)
    last = torch.full_like(unique, -1).scatter_reduce(0, choice, item, "amax")
    column, rest = unique % columns, unique // columns
    row, rest = rest % rows, rest // rows
    return Places(
        rest // priors, rest % priors, row, column, last, choice, objects.labels[image, item]
    )


def best_overlap(boxes: Tensor, objects: Objects, floor: float) -> tuple[Tensor, Tensor]:
    """(IoU [B, N], object [B, N], right where the IoU exceeds `floor`, else -1) of boxes."""
    boxes = cxcywh_to_xyxy(boxes).flatten(1, -2)
    goals = cxcywh_to_xyxy(objects.boxes)
    best = match_thresholds(boxes, goals, objects.valid, floor, floor)
    return best.iou, torch.where(best.iou > floor, best.index, -1)


# -- YOLOv2: priors, objectness by squares, classes by a softmax ----------------------------------

ClassLoss = Callable[[Tensor, Places, Tensor], Tensor]


def softmax_classes(logits: Tensor, places: Places, labels: Tensor) -> Tensor:
    """Cross-entropy of the last object's class: logits [P, K], labels [P]."""
    return F.cross_entropy(logits, labels, reduction="sum")


def region_loss(
    numbers: Tensor,
    objects: Objects,
    priors: Tensor,
    coder: PriorCoder,
    *,
    class_loss: ClassLoss = softmax_classes,
    object_scale: float = 5.0,
    noobject_scale: float = 1.0,
    class_scale: float = 1.0,
    coord_scale: float = 1.0,
    ignore_iou: float = 0.6,
    objectness_target: Literal["iou", "one"] = "iou",
    small_boxes: bool = False,
    early: float = 0.0,
    match: Literal["prior", "prediction"] = "prior",
) -> Losses:
    """YOLOv2's region layer. numbers [B, A, 5 + K, H, W]: activated numbers, see PriorCoder.

    priors [A, 2] in cells. Every prediction is trained to objectness 0 unless it overlaps an object
    by more than ignore_iou; the one at an object's own cell and best prior to its box, its class
    and, as objectness, the IoU (or 1). early: weight of the pull of all other boxes towards their
    priors. small_boxes: weigh a box by 2 - width * height.
    """
    images, count, _, rows, columns = numbers.shape
    grid, priors = (rows, columns), priors.to(numbers)
    with torch.no_grad():
        boxes = coder.decode_map(numbers, priors)
        overlap = best_overlap(boxes, objects, ignore_iou)[0].view(images, count, rows, columns)
        choice = region_choice(objects, priors, boxes, match)
        places = assign(objects, choice, (images, count, rows, columns))
        goal = objects.boxes[places.image, places.item]
        target = coder.encode(goal, places.cell, priors[places.prior], grid)
        exact = iou(cxcywh_to_xyxy(boxes[places.at]), cxcywh_to_xyxy(goal))

    predicted = numbers.permute(0, 1, 3, 4, 2)[places.at]  # [P, 5 + K]
    wanted, weight = torch.zeros_like(overlap), noobject_scale * (overlap <= ignore_iou)
    wanted[places.at] = exact if objectness_target == "iou" else torch.ones_like(exact)
    weight[places.at] = object_scale
    scale = coord_scale * (2 - goal[:, 2:].prod(-1) if small_boxes else torch.ones_like(exact))
    losses = {
        "boxes": (0.5 * scale[:, None] * (predicted[:, :4] - target).square()).sum(),
        "objectness": (0.5 * weight * (numbers[:, :, 4] - wanted).square()).sum(),
        "classes": class_scale
        * class_loss(predicted[:, 5:], places, objects.labels[places.image, places.item]),
    }
    if early:
        middle = numbers.new_tensor([0.0 if coder.location == "prior" else 0.5] * 2 + [0.0, 0.0])
        free = torch.ones_like(overlap)
        free[places.at] = 0.0
        pull = (numbers[:, :, :4] - middle[:, None, None]).square().sum(2)
        losses["boxes"] = losses["boxes"] + (0.5 * early * free * pull).sum()
    return losses


def region_choice(objects: Objects, priors: Tensor, boxes: Tensor, match: str) -> Tensor:
    """[B, M]: the prior of its cell that each object takes: the one of the most similar shape, or
    ("prediction") that whose predicted box is; priors [A, 2] in cells, boxes [B, A, H, W, 4]."""
    images, _, rows, columns, _ = boxes.shape
    if match == "prior":
        shape = objects.boxes[..., 2:] * boxes.new_tensor([columns, rows])
        return shape_iou(shape[:, :, None], priors).argmax(-1)
    row, column = cell_of(objects.boxes, (rows, columns))
    image = torch.arange(images, device=boxes.device)[:, None]
    sizes = boxes[image, :, row, column, 2:]
    return shape_iou(objects.boxes[:, :, None, 2:], sizes).argmax(-1)


# -- YOLOv3: every part logistic ------------------------------------------------------------------


def logistic_loss(
    raw: Tensor,
    objects: Objects,
    anchors: Tensor,
    mask: list[int],
    size: tuple[int, int],
    coder: PriorCoder,
    *,
    ignore_iou: float = 0.5,
    truth_iou: float = 1.0,
    anchor_match: Literal["best_of_all", "best_of_map"] = "best_of_all",
    box_loss: BoxLoss = "paper",
    objectness_target: Literal["one", "iou"] = "one",
    class_loss: Literal["logistic", "softmax"] = "logistic",
    focal: float = 0.0,
) -> Losses:
    """YOLOv3's loss of one map (arXiv 1804.02767, section 2). raw [B, A, 5 + K, H, W].

    anchors [all, 2] in pixels of an input of `size` (height, width); mask: which are this map's.
    An object is trained where its best anchor (of all maps, or of each map) is. Objectness is
    trained to 0 elsewhere, but not at all where the predicted box overlaps an object by more than
    ignore_iou, and to 1 where by more than truth_iou. focal: gamma of a focal objectness.
    """
    images, count, _, rows, columns = raw.shape
    grid, limits = (rows, columns), raw.new_tensor([size[1], size[0]])
    anchors = anchors.to(raw)
    priors = anchors[mask] / limits * raw.new_tensor([columns, rows])
    with torch.no_grad():
        boxes = coder.decode_map(coder.activate(raw[:, :, :5], 2), priors)
        floor = min(ignore_iou, truth_iou)
        overlap, nearest = best_overlap(boxes, objects, floor)
        overlap = overlap.view(images, count, rows, columns)
        choice = logistic_choice(objects, anchors / limits, mask, anchor_match)
        places = assign(objects, choice, (images, count, rows, columns))
        if truth_iou < 1:
            extra = (overlap > truth_iou).nonzero(as_tuple=True)
            index = nearest.view(overlap.shape)[extra]
            places = _joined(places, extra, index, objects, overlap.shape)
        goal = objects.boxes[places.image, places.item]

    predicted = raw.permute(0, 1, 3, 4, 2)[places.at]  # [P, 5 + K]
    wanted, weight = torch.zeros_like(overlap), (overlap <= ignore_iou).to(raw.dtype)
    wanted[places.at], weight[places.at] = 1.0, 1.0
    if objectness_target == "iou":
        wanted[places.at] = iou(cxcywh_to_xyxy(boxes[places.at]), cxcywh_to_xyxy(goal))
    surprise = F.binary_cross_entropy_with_logits(raw[:, :, 4], wanted, weight, reduction="none")
    if focal:
        surprise = surprise * (raw[:, :, 4].sigmoid() - wanted).abs() ** focal
    return {
        "boxes": _box_loss(predicted[:, :4], goal, places, priors, grid, coder, box_loss),
        "objectness": surprise.sum(),
        "classes": _class_loss(predicted[:, 5:], places, objects, class_loss),
    }


def logistic_choice(objects: Objects, anchors: Tensor, mask: list[int], rule: str) -> Tensor:
    """[B, M]: which of this map's anchors an object takes, -1 = none. All as fractions."""
    if rule == "best_of_map":
        return shape_iou(objects.boxes[:, :, None, 2:], anchors[mask]).argmax(-1)
    best = shape_iou(objects.boxes[:, :, None, 2:], anchors).argmax(-1)
    place = torch.full((len(anchors),), -1, device=best.device)
    place[mask] = torch.arange(len(mask), device=best.device)
    return place[best]


def _joined(
    places: Places, extra: tuple[Tensor, ...], index: Tensor, objects: Objects, shape: torch.Size
) -> Places:
    """Places and predictions that overlap an object enough; an object's own place goes first."""
    _, count, rows, columns = shape

    def key(at: tuple[Tensor, ...]) -> Tensor:
        return ((at[0] * count + at[1]) * rows + at[2]) * columns + at[3]

    first, second = key(places.at), key(extra)
    unique, inverse = torch.cat([second, first]).unique(return_inverse=True)
    chosen = torch.empty_like(unique)
    chosen[inverse[: len(second)]] = index
    chosen[inverse[len(second) :]] = places.item
    choice = torch.cat([inverse[: len(second)], inverse[len(second) :][places.choice]])
    label = torch.cat([objects.labels[extra[0], index], places.label])
    column, rest = unique % columns, unique // columns
    row, rest = rest % rows, rest // rows
    return Places(rest // count, rest % count, row, column, chosen, choice, label)


def _box_loss(
    predicted: Tensor,
    goal: Tensor,
    places: Places,
    priors: Tensor,
    grid: tuple[int, int],
    coder: PriorCoder,
    rule: BoxLoss,
) -> Tensor:
    """predicted [P, 4] raw against goal [P, 4], weighed by 2 - width * height."""
    prior, scale = priors[places.prior], 2 - goal[:, 2:].prod(-1)
    if rule in ("paper", "squared"):
        target = coder.encode(goal, places.cell, prior, grid)
        sizes = 0.5 * (predicted[:, 2:] - target[:, 2:]).square().sum(1)
        if coder.location == "cell" and rule == "paper":
            # The gradient the paper states, target - prediction, is that of a cross-entropy.
            centres = F.binary_cross_entropy_with_logits(
                predicted[:, :2], target[:, :2], reduction="none"
            ).sum(1)
        else:
            xy = predicted[:, :2].sigmoid() if coder.location == "cell" else predicted[:, :2]
            centres = 0.5 * (xy - target[:, :2]).square().sum(1)
        return (scale * (centres + sizes)).sum()
    xy = predicted[:, :2].sigmoid() if coder.location == "cell" else predicted[:, :2]
    boxes = coder.decode(torch.cat([xy, predicted[:, 2:]], 1), places.cell, prior, grid)
    return (scale * _iou_loss(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(goal), rule)).sum()


def _iou_loss(a: Tensor, b: Tensor, rule: str) -> Tensor:
    from torchvision import ops

    if rule == "iou":
        return 1 - iou(a, b)
    rules = {
        "giou": ops.generalized_box_iou_loss,
        "diou": ops.distance_box_iou_loss,
        "ciou": ops.complete_box_iou_loss,
    }
    return rules[rule](a, b)


def _class_loss(logits: Tensor, places: Places, objects: Objects, rule: str) -> Tensor:
    """Several objects of one place give it several labels, but a softmax only the last."""
    if rule == "softmax":
        labels = objects.labels[places.image, places.item]
        return F.cross_entropy(logits, labels, reduction="sum")
    wanted = torch.zeros_like(logits)
    wanted[places.choice, places.label] = 1.0
    return F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")
