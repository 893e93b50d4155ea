"""Darknet's output layers in training: costs, deltas and their parts.

A delta is minus the gradient of our loss, with respect to the raw output or, where the program of
2018 stops before the sigmoid, the activated one; a cost is the sum of its squares.
Shape letters: B images, M objects, A priors of a cell, K classes, H x W cells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from boxatlas.boxes.yolo import Objects, PriorCoder
from boxatlas.losses.tree import image_loss, pick, tree_classes
from boxatlas.losses.yolo import Cells, grid_loss, logistic_loss, region_loss, softmax_classes
from boxatlas.verify.case import Case, UnsupportedError, expect
from boxatlas.wordtree import WordTree

_COORD_WEIGHTS = {"1": False, "2-wh": True}
Part = Callable[[Tensor, dict[str, Any]], Tensor]


def objects_of_rows(rows: Tensor, most: int | None = None) -> Objects:
    """Rows x, y, w, h, class [B, M, 5]; the first whose x is 0 ends an image's list."""
    rows = rows[:, :most]
    valid = (rows[..., 0] != 0).cumprod(1).bool()
    return Objects(rows[..., :4], rows[..., 4].long(), valid)


def delta_of(output: Tensor, loss: Callable[[Tensor], Mapping[str, Tensor]]) -> Tensor:
    """Minus the gradient of the summed losses with respect to `output`."""
    with torch.enable_grad():
        leaf = output.detach().requires_grad_()
        total = torch.stack(list(loss(leaf).values())).sum()
        return -torch.autograd.grad(total, leaf)[0]


def quantities(
    case: Case,
    delta: Callable[[dict[str, Any], Tensor], Tensor],
    parts: Mapping[str, Part],
    more: Callable[[dict[str, Any], Tensor, Tensor], Any] | None = None,
) -> dict[str, Any]:
    """Every output of a loss case.

    delta: parameters and input -> the delta; parts: name -> how a delta is cut to it; more: entry,
    input and delta -> the value of another quantity.
    """
    values: dict[str, Any] = {}
    for entry in case.outputs:
        params, name, quantity = entry["params"], entry["name"], entry["quantity"]
        expect(
            params,
            cost=["sum_of_delta_squared_over_batch"],
            delta_sign=["minus_gradient"],
            cell_arithmetic=["float32"],
            coords=[4],
            absolute=[1],
        )
        output = case.input(entry["input"])
        own_delta = delta(params, output)
        part = entry.get("part", "all")
        if quantity == "delta":
            values[name] = _part_of_delta(own_delta, part)
        elif quantity == "cost":
            values[name] = own_delta.double().square().sum()
        elif quantity == "cost_by_image":
            values[name] = own_delta.double().square().flatten(1).sum(1)
        elif quantity == "sum_of_squares" and part in parts:
            values[name] = parts[part](own_delta, params).double().square().sum()
        elif more is not None:
            values[name] = more(entry, output, own_delta)
        else:
            raise UnsupportedError(f"quantity {quantity} of {part}")
    return values


def _part_of_delta(delta: Tensor, part: str) -> Tensor:
    """All of a map's delta [B, A, 5 + K, H, W], or without objectness, or that alone."""
    expect({"part": part}, part=["all", "objectness", "without_objectness"])
    if part == "objectness":
        return delta[:, :, 4]
    if part == "without_objectness":
        delta = delta.clone()
        delta[:, :, 4] = 0
    return delta


# -- YOLO -----------------------------------------------------------------------------------------


def grid(case: Case) -> dict[str, Any]:
    """[detection]: cells that state their object, class and box."""
    classes, rows = case.switches["classes"], case.stored("truth")
    cells = Cells(rows[..., 0] > 0, rows[..., 1 : 1 + classes].argmax(-1), rows[..., 1 + classes :])

    def delta(params: dict[str, Any], output: Tensor) -> Tensor:
        expect(params, softmax=[0], delta_on=["raw"])
        expect(params, vector_order=[["classes", "confidences", "boxes"]])
        return delta_of(
            output,
            lambda leaf: grid_loss(
                leaf,
                cells,
                params["boxes_per_cell"],
                coord_scale=params["coord_scale"],
                noobject_scale=params["noobject_scale"],
                object_scale=params["object_scale"],
                class_scale=params["class_scale"],
                square_root=bool(params["sqrt"]),
                confidence_target="iou" if params["rescore"] else "one",
            ),
        )

    def part(number: int) -> Part:
        def cut(delta: Tensor, params: dict[str, Any]) -> Tensor:
            count, boxes = params["side"] ** 2, params["boxes_per_cell"]
            return delta.split([count * classes, count * boxes, count * boxes * 4], 1)[number]

        return cut

    names = ("classes", "confidence", "coordinates")
    return quantities(case, delta, {name: part(i) for i, name in enumerate(names)})


# -- maps with priors -----------------------------------------------------------------------------


def _numbers(at: slice) -> Part:
    """These numbers of each prediction of a delta [B, A, 5 + K, H, W]."""
    return lambda delta, params: delta[:, :, at]


_PRIOR_PARTS = {
    "xy": _numbers(slice(0, 2)),
    "wh": _numbers(slice(2, 4)),
    "objectness": _numbers(slice(4, 5)),
    "classes": _numbers(slice(5, None)),
}


def region(case: Case) -> dict[str, Any]:
    """[region], with a softmax or over a tree; images with a label but no box among them."""
    switches = case.switches
    if "anchor_units" in switches:
        expect(switches, anchor_units=["cells"])
    priors = torch.tensor(switches["anchors"])
    tree = WordTree(case.stored(switches["tree"]).tolist()) if "tree" in switches else None
    objects, alone = _labelled(case, tree)
    labels, boxed = objects.labels, objects[~alone]
    coder = PriorCoder("cell")

    def losses(params: dict[str, Any], numbers: Tensor) -> dict[str, Tensor]:
        out = region_loss(
            numbers[~alone],
            boxed,
            priors,
            coder,
            object_scale=params["object_scale"],
            noobject_scale=params["noobject_scale"],
            class_scale=params["class_scale"],
            coord_scale=params["coord_scale"],
            ignore_iou=params["thresh"],
            objectness_target="iou" if params["rescore"] else "one",
            small_boxes=_COORD_WEIGHTS[params["coord_weight"]],
            early=params["prior_scale"] if _early(params) else 0.0,
            match="prior" if params["bias_match"] else "prediction",
            class_loss=softmax_classes if tree is None else tree_classes(tree),
        )
        if alone.any():
            assert tree is not None
            words = image_loss(
                numbers[alone],
                labels[alone, 0],
                tree,
                rule=params["cls_image_pick"],
                objectness=params["cls_image_objectness"],
                suppress_others=params["cls_image_background"] == "suppress_others",
                object_scale=params["object_scale"],
                noobject_scale=params["noobject_scale"],
                class_scale=params["class_scale"],
            )
            out.update({f"image {name}": value for name, value in words.items()})
        return out

    def delta(params: dict[str, Any], output: Tensor) -> Tensor:
        expect(params, softmax=[1], delta_on=["raw", "activated"])
        numbers = output.unflatten(1, (len(priors), -1))
        if params["delta_on"] == "raw":
            return delta_of(numbers, lambda raw: losses(params, coder.activate(raw, 2)))
        return delta_of(coder.activate(numbers, 2), lambda activated: losses(params, activated))

    def more(entry: dict[str, Any], output: Tensor, delta: Tensor) -> Any:
        if tree is None or not alone.any():
            raise UnsupportedError(f"quantity {entry['quantity']}")
        numbers = coder.activate(output.unflatten(1, (len(priors), -1)), 2)
        return _chosen(entry, numbers, delta, int(alone.nonzero()[0, 0]), labels[:, 0], tree)

    return quantities(case, delta, _PRIOR_PARTS, more)


def _labelled(case: Case, tree: WordTree | None) -> tuple[Objects, Tensor]:
    """(each image's objects, labels as words of the tree; [B] bool: it has a label and no box)."""
    rows = case.stored("truth")
    marker = case.params.get("classification_marker")
    alone = torch.zeros(len(rows), dtype=torch.bool)
    if marker is not None:
        alone = (rows[:, 0, :4] == marker).all(1)
    objects = objects_of_rows(rows, case.params["max_boxes"])
    labels = objects.labels
    if tree is not None and "map" in case.switches:
        table = case.stored(case.switches["map"])
        labels = torch.where(alone[:, None], labels, table[labels.clamp(max=len(table) - 1)])
    return Objects(objects.boxes, labels, objects.valid), alone


def _chosen(
    entry: dict[str, Any],
    numbers: Tensor,
    delta: Tensor,
    image: int,
    labels: Tensor,
    tree: WordTree,
) -> Any:
    """Of the place that answers for an image's label: where it is, its objectness, its delta."""
    only = slice(image, image + 1)
    place = int(pick(numbers[only], labels[only], tree, entry["params"]["cls_image_pick"])[0])
    prior, cell = divmod(place, numbers.shape[-1] * numbers.shape[-2])
    if entry["quantity"] == "chosen_anchor_and_cell":
        return torch.tensor([prior, cell])
    values = {"objectness_of_chosen": numbers, "objectness_delta_of_chosen": delta}
    expect(entry, quantity=values)
    return values[entry["quantity"]][image, prior, 4].flatten()[cell]


def _early(params: Mapping[str, Any]) -> bool:
    return "prior_images" in params and params["seen"] < params["prior_images"]


def logistic(case: Case) -> dict[str, Any]:
    """[yolo], each map by itself."""
    switches = case.switches
    expect(switches, anchor_units=["pixels"], class_activation=["sigmoid"])
    anchors = torch.tensor(switches["anchors"])
    size = (switches["height"], switches["width"])
    coder = PriorCoder("cell")

    def delta(params: dict[str, Any], output: Tensor) -> Tensor:
        expect(params, coord_weight=["2-wh"], delta_on=["raw"])
        objects = objects_of_rows(case.stored("truth"), params["max_boxes"])
        numbers = output.unflatten(1, (len(params["mask"]), -1))
        return delta_of(
            numbers,
            lambda raw: logistic_loss(
                raw,
                objects,
                anchors,
                params["mask"],
                size,
                coder,
                ignore_iou=params["ignore_thresh"],
                truth_iou=params["truth_thresh"],
            ),
        )

    def more(entry: dict[str, Any], output: Tensor, delta: Tensor) -> Any:
        expect(entry, quantity=["count"], part=["positives", "ignored"])
        pull = delta[:, :, 4]  # up where an object is, down elsewhere, none where spared
        return ((pull > 0) if entry["part"] == "positives" else (pull == 0)).sum()

    return quantities(case, delta, _PRIOR_PARTS, more)


CASES = {
    "darknet_loss_detection": grid,
    "darknet_loss_region_voc": region,
    "darknet_loss_yolo9000": region,
    "darknet_loss_yolo": logistic,
}
