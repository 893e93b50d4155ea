"""Darknet's image operations, suppression, learning rates, batch norm, trainings, WordTree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from boxatlas.boxes.formats import cxcywh_to_xyxy
from boxatlas.boxes.nms import batched_nms
from boxatlas.boxes.yolo import PriorCoder
from boxatlas.data.transforms.yolo import crop, distort, place, resize
from boxatlas.images import Preprocess
from boxatlas.losses.yolo import logistic_loss
from boxatlas.training.optim import make_optimizer, schedule, set_rate
from boxatlas.training.recipe import Recipe
from boxatlas.verify.case import Case, UnsupportedError, expect
from boxatlas.verify.darknet_losses import objects_of_rows
from boxatlas.verify.darknet_models import norm_of
from boxatlas.weights.darknet_cfg import parse_cfg, write_cfg
from boxatlas.weights.darknet_network import CfgNetwork
from boxatlas.wordtree import WordTree

# -- images, suppression, rates -------------------------------------------------------------------


def ops(case: Case) -> dict[str, Any]:
    """Every operator of a case, by the `op` of its entry."""
    known = {
        "resize": _resize,
        "letterbox": _letterbox,
        "place": _place,
        "crop": _crop,
        "distort": _distort,
        "do_nms_sort": _nms,
        "do_nms_obj": _nms,
    }
    found = {}
    for entry in case.outputs:
        if entry["op"] == "learning_rate":
            found[entry["name"]] = rates(entry["params"])
        elif entry["op"] in known:
            found[entry["name"]] = known[entry["op"]](entry, case.input(entry["input"]))
        else:
            raise UnsupportedError(f"op {entry['op']}")
    return found


def _resize(entry: Mapping[str, Any], image: Tensor) -> Tensor:
    return resize(image, (entry["params"]["height"], entry["params"]["width"]))


def _letterbox(entry: Mapping[str, Any], image: Tensor) -> Tensor:
    params = entry["params"]
    rule = Preprocess(
        size=(params["height"], params["width"]),
        resize="letterbox",
        align_corners=True,
        truncate=True,
        pad_value=(params["fill"],) * 3,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )
    frame = rule.frame(*image.shape[-2:])
    return rule.placed(rule.resized(image[None], frame.content)[0], frame)


def _place(entry: Mapping[str, Any], image: Tensor) -> Tensor:
    p = entry["params"]
    canvas = (p["canvas_height"], p["canvas_width"])
    return place(image, (p["height"], p["width"]), p["dx"], p["dy"], canvas, p["fill"])


def _crop(entry: Mapping[str, Any], image: Tensor) -> Tensor:
    params = entry["params"]
    return crop(image, params["dx"], params["dy"], params["width"], params["height"])


def _distort(entry: Mapping[str, Any], image: Tensor) -> Tensor:
    params = entry["params"]
    return distort(image, params["hue"], params["saturation"], params["exposure"])


def _nms(entry: Mapping[str, Any], rows: Tensor) -> Tensor:
    """Rows cx, cy, w, h, objectness, class scores -> objectness and scores, 0 where suppressed.

    do_nms_sort: within each class by its score; do_nms_obj: all boxes by objectness. A box of
    objectness 0 takes no part.
    """
    boxes, objectness, scores = cxcywh_to_xyxy(rows[:, :4]), rows[:, 4].clone(), rows[:, 5:].clone()
    columns = entry["columns"]
    if columns[0] != "objectness" or len(columns) != 1 + scores.shape[1]:
        raise UnsupportedError(f"columns {columns}")
    if entry["op"] == "do_nms_obj":
        alive = (objectness > 0).nonzero()[:, 0]
        groups = torch.zeros_like(alive)
        kept = batched_nms(boxes[alive], objectness[alive], groups, entry["params"]["iou"])
        gone = torch.ones(len(rows), dtype=torch.bool)
        gone[alive[kept]] = False
        gone &= rows[:, 4] > 0
        objectness[gone], scores[gone] = 0.0, 0.0
    else:
        row, label = ((objectness[:, None] > 0) & (scores > 0)).nonzero(as_tuple=True)
        kept = batched_nms(boxes[row], scores[row, label], label, entry["params"]["iou"])
        stays = torch.zeros_like(scores)
        stays[row[kept], label[kept]] = 1.0
        idle = objectness[:, None] == 0
        scores = torch.where(idle, scores, scores * stays)
    return torch.cat([objectness[:, None], scores], 1)


def recipe_of(params: Mapping[str, Any]) -> Recipe:
    """A [net]'s training values as a recipe of ours."""
    expect(params, policy=["steps", "poly", "constant"], step_comparison=["unsigned"])
    steps, scales = list(params.get("steps", ())), list(params.get("scales", ()))
    if any(step < 0 for step in steps):
        # Compared as unsigned, a negative step is later than any batch: none after it is reached.
        first = next(i for i, step in enumerate(steps) if step < 0)
        steps, scales = steps[:first], scales[:first]
    kinds = {"steps": "step", "poly": "poly_whole", "constant": "constant"}
    burn_in = params["burn_in"]
    return Recipe.of(
        model="",
        iterations=params["max_batches"],
        lr=params["learning_rate"],
        schedule=kinds[params["policy"]],
        milestones=[max(step, burn_in) for step in steps],
        gamma=scales,
        power=params["power"],
        warmup=burn_in,
        warmup_from=0.0,
        warmup_power=params["power"],
        momentum=params.get("momentum", 0.9),
        weight_decay=params.get("decay", 0.0),
        batch=params.get("batch", 1),
    )


def rates(params: Mapping[str, Any]) -> list[float]:
    """The learning rate at some batches."""
    rate = schedule(recipe_of(params), 1)
    return [rate(batch) for batch in params["batches"]]


# -- batch norm and short trainings ---------------------------------------------------------------


def batch_norm(case: Case) -> dict[str, Any]:
    """A convolution with batch norm of tiny variances, by both forms of the epsilon."""
    found = {}
    for entry in case.outputs:
        network = CfgNetwork(sections_of(case), norm_of(entry["params"])).eval()
        network.load_state(case.weights(dict(entry["params"]["arrays"])))
        found[entry["name"]] = network(case.input(entry["input"]))[-1][0]
    return found


def sections_of(case: Case) -> list[tuple[str, dict[str, str]]]:
    """The case's cfg, written and read."""
    return parse_cfg(write_cfg([(k, v) for k, v in case.switches["cfg_sections"]]))


def training(case: Case) -> dict[str, Any]:
    """Updates of a small network: the weights after some of them, costs and rates."""
    params, switches = case.params, case.switches
    expect(params, loss_divided_by=["batch"], decay_on=["weight"], coord_weight=["2-wh"])
    expect(params, bn_variance=["unbiased"], bn_momentum=[0.01])
    expect(switches, output=["yolo"], anchor_units=["pixels"])
    network = CfgNetwork(sections_of(case), norm_of(params) if switches["batch_norm"] else None)
    network.load_state(case.weights())
    network.train()
    recipe = recipe_of(params)
    optimizer, rate = make_optimizer(network, recipe), schedule(recipe, 1)
    images, objects = case.input(), objects_of_rows(case.stored("truth"), params["max_boxes"])
    (mask,) = switches["masks"]
    anchors, size = torch.tensor(switches["anchors"]), (switches["height"], switches["width"])
    after: dict[int, dict[str, Tensor]] = {}
    costs, used = [], []
    for update in range(1, params["updates"] + 1):
        for rows in params["mini_batches"]:
            with torch.enable_grad():
                raw = network(images[rows])[-1].unflatten(1, (len(mask), -1))
                raw.retain_grad()
                losses = logistic_loss(
                    raw,
                    objects[rows],
                    anchors,
                    mask,
                    size,
                    PriorCoder("cell"),
                    ignore_iou=params["ignore_thresh"],
                    truth_iou=params["truth_thresh"],
                )
                torch.stack(list(losses.values())).sum().backward()
            assert raw.grad is not None
            costs.append(raw.grad.double().square().sum())
        for parameter in network.parameters():
            assert parameter.grad is not None
            parameter.grad /= params["batch"]
        used.append(rate(update))  # Darknet counts a batch before it is used
        set_rate(optimizer, used[-1])
        optimizer.step()
        optimizer.zero_grad()
        after[update] = {name: part.detach().clone() for name, part in network.parts()}
    values = {
        "cost_of_each_mini_batch": torch.stack(costs),
        "learning_rate_after_each_update": used,
    }
    return {
        entry["name"]: after[entry["params"]["after_updates"]][entry["tensor"]]
        if "tensor" in entry
        else values[entry["quantity"]]
        for entry in case.outputs
    }


# -- WordTree -------------------------------------------------------------------------------------


def word_tree(case: Case) -> dict[str, Any]:
    """Group softmax, absolute probabilities, decoders, and what is known of the tree."""
    expect(case.switches, tree_softmax_temperature=[1.0])
    tree = WordTree(case.stored(case.switches["tree"]).tolist())
    conditional = tree.conditional(case.input())
    absolute = tree.absolute(conditional)
    facts: dict[str, Any] = {
        "nodes": len(tree),
        "groups": len(tree.sizes),
        "largest_group": max(tree.sizes),
        "groups_of_one": tree.sizes.count(1),
        "leaves": len(tree.leaves),
        "first_group": [tree.offsets[0], tree.sizes[0]],
    }
    found: dict[str, Any] = {}
    for entry in case.outputs:
        op, params, name = entry["op"], entry["params"], entry["name"]
        if op == "group_softmax":
            found[name] = conditional
        elif op == "absolute_probability":
            found[name] = absolute
        elif op == "leaf_sum":
            found[name] = absolute[:, tree.leaves].sum(1)
        elif op == "node_probability":
            found[name] = absolute[:, params["nodes"]]
        elif op == "decode":
            threshold = params["tree_threshold"]
            found[name] = tree.decode(conditional, threshold, params["tree_decode"])
        elif op == "tree_fact" and name.removeprefix("tree.") in facts:
            found[name] = facts[name.removeprefix("tree.")]
        else:
            raise UnsupportedError(f"{op} of {name}")
    return found


CASES = {
    "darknet_ops": ops,
    "darknet_batchnorm_eps": batch_norm,
    "darknet_train_toy": training,
    "darknet_train_toy_bn": training,
    "darknet_tree_9k": word_tree,
}
