"""Darknet's networks: features, raw and activated outputs, boxes and detections.

A network is read from its cfg and filled through the importer, as a public file is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from boxatlas.backbones.darknet import Classifier, EpsPlace, Norm, norm_layer
from boxatlas.boxes.formats import xyxy_to_cxcywh
from boxatlas.boxes.nms import batched_nms
from boxatlas.detectors.yolo9000 import YOLO9000
from boxatlas.detectors.yolov1 import YOLOv1
from boxatlas.parts.yolo import Map, PriorDetector, just_above
from boxatlas.verify.case import Case, UnsupportedError, expect
from boxatlas.weights.darknet import import_darknet, load_state
from boxatlas.weights.darknet_cfg import write_cfg
from boxatlas.weights.darknet_layers import layers_of

EPS_PLACES: dict[str, EpsPlace] = {"added_to_sqrt": "added_to_root", "inside_sqrt": "inside_root"}


def eps_place(form: str) -> EpsPlace:
    """Where batch norm's epsilon goes, from a case's word for it."""
    if form not in EPS_PLACES:
        raise UnsupportedError(f"batch norm's epsilon {form!r}")
    return EPS_PLACES[form]


def norm_of(values: Mapping[str, Any]) -> Norm:
    """The batch norm that a block of values describes."""
    return norm_layer(values["bn_eps"], eps_place(values["bn_eps_form"]))


def detector(case: Case) -> PriorDetector | YOLOv1:
    """The detector of a case's cfg, filled by the case's rule."""
    switches = case.switches
    options: dict[str, Any] = {
        "norm_eps": switches["bn_eps"],
        "norm_place": eps_place(switches["bn_eps_form"]),
        "resize": "letterbox" if case.params["letterbox"] else "stretch",
    }
    if "nms_iou" in case.params:
        options["nms_iou"] = case.params["nms_iou"]
    expect(switches, tree_softmax_temperature=[1.0], leaky_slope=[0.1])
    expect(switches, max_pool=["minus_infinity_outside_ceil"])
    if "tree" in switches:
        options["parents"] = tuple(case.stored(switches["tree"]).tolist())
        options["tree_threshold"] = case.params["tree_threshold"]
    names = [f"class{i}" for i in range(case.run["foreground_classes"])]
    cfg = write_cfg([(kind, values) for kind, values in switches["cfg_sections"]])
    model = import_darknet(case.weights(), as_=case.run["model"], cfg=cfg, classes=names, **options)
    assert isinstance(model, PriorDetector | YOLOv1)
    return model.eval()


def network(case: Case) -> dict[str, Any]:
    """Everything that a case of a detector compares."""
    params = case.params
    expect(params, box_format=["cxcywh"], score=["objectness*class"], nms=["per_class_greedy"])
    expect(params, box_units=["image_fraction", "image_pixels"])
    model = detector(case)
    images = case.input()
    mean, std = (
        torch.tensor(v)[:, None, None] for v in (model.preprocess.mean, model.preprocess.std)
    )
    watch = Watch(model, case)
    raw = model((images - mean) / std)
    found = watch.outputs()
    if isinstance(model, YOLOv1):
        return {**found, **_grid_boxes(case, model, raw)}
    found.update(_activated(case, model, raw))
    return {**found, **_prior_boxes(case, model, raw)}


class Watch:
    """What passes through Darknet's layers of a network, by hooks, for the outputs of a case."""

    def __init__(self, model: nn.Module, case: Case) -> None:
        self.case, self.seen = case, dict[int, Tensor]()
        layers = layers_of(model)
        for entry in case.outputs:
            index = entry.get("layer")
            if index is None or layers[index].module is None:
                continue
            module = layers[index].module
            assert module is not None
            if layers[index].before:
                module.register_forward_pre_hook(self._input(index))
            else:
                module.register_forward_hook(self._output(index))

    def _input(self, index: int) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self.seen[index] = inputs[0].clone()  # an activation may work in place

        return hook

    def _output(self, index: int) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
            self.seen[index] = output if isinstance(output, Tensor) else output[0]

        return hook

    def outputs(self) -> dict[str, Tensor]:
        """The outputs of the case that layers of ours gave."""
        return {
            entry["name"]: self.seen[entry["layer"]]
            for entry in self.case.outputs
            if entry.get("layer") in self.seen
        }


def _activated(case: Case, model: PriorDetector, raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Outputs of [region] and [yolo] layers: what each number of a map means."""
    heads = list(case.switches["head_layers"])
    maps = model.maps(dict(raw))
    return {
        entry["name"]: activated(model, maps[heads.index(entry["layer"])]).flatten(1, 2)
        for entry in case.outputs
        if entry.get("stage") == "activated"
    }


def activated(model: PriorDetector, layer: Map) -> Tensor:
    """[B, A, 5 + K, H, W] with sigmoids applied, the classes as probabilities."""
    numbers = model.coder.activate(layer.numbers, 2)
    classes = layer.numbers[:, :, 5:].movedim(2, -1)
    if isinstance(model, YOLO9000):
        probability = model.groups.conditional(classes)
    else:
        probability = model.class_scores(classes.reshape(-1, classes.shape[-1])).view_as(classes)
    return torch.cat([numbers[:, :, :5], probability.movedim(-1, 2)], 2)


def _prior_boxes(case: Case, model: PriorDetector, raw: Mapping[str, Tensor]) -> dict[str, Any]:
    """All boxes of the first image in Darknet's order, their scores, and what NMS leaves."""
    orders = {"anchor,row,column": (0, 1, 2), "layer,row,column,anchor": (1, 2, 0)}
    order = next(e["order"] for e in case.outputs if e["name"] == "decoded.boxes")
    if order not in orders:
        raise UnsupportedError(f"order {order}")
    boxes, objectness, logits = [], [], []
    for layer in model.maps(dict(raw)):
        numbers = model.coder.activate(layer.numbers, 2)
        scale = numbers.new_tensor([layer.input[1], layer.input[0]] * 2)
        place = model.coder.decode_map(numbers, layer.priors)[0] * scale
        boxes.append(place.permute(*orders[order], 3).reshape(-1, 4))
        objectness.append(numbers[0, :, 4].permute(orders[order]).reshape(-1))
        classes = layer.numbers[0, :, 5:].movedim(1, -1).permute(*orders[order], 3)
        logits.append(classes.reshape(-1, model.num_classes))
    place, sure, numbers = torch.cat(boxes), torch.cat(objectness), torch.cat(logits)
    half = place[:, 2:] / 2
    xyxy = torch.cat([place[:, :2] - half, place[:, :2] + half], 1)
    found = {"decoded.boxes": torch.cat([_in_image(case, model, xyxy), sure[:, None]], 1)}
    if isinstance(model, YOLO9000):
        return {**found, **_words(case, model, sure, numbers)}
    scores = sure[:, None] * model.class_scores(numbers)
    return {**found, **_scores(case, model, raw, scores)}


def _grid_boxes(case: Case, model: YOLOv1, raw: Mapping[str, Tensor]) -> dict[str, Any]:
    """The same of YOLO's cells."""
    expect(
        {"order": next(e["order"] for e in case.outputs if e["name"] == "decoded.boxes")},
        order=["row,column,box"],
    )
    boxes, confidence, scores = model.decode(dict(raw))
    height, width = model.config.shape
    half = boxes[0, :, 2:] / 2
    xyxy = torch.cat([boxes[0, :, :2] - half, boxes[0, :, :2] + half], 1)
    place = _in_image(case, model, xyxy * xyxy.new_tensor([width, height] * 2))
    found = {"decoded.boxes": torch.cat([place, confidence[0, :, None]], 1)}
    return {**found, **_scores(case, model, raw, scores[0])}


def _scores(
    case: Case, model: PriorDetector | YOLOv1, raw: Mapping[str, Tensor], scores: Tensor
) -> dict[str, Any]:
    """The scores of all boxes, and the detections above the case's threshold."""
    floor = case.params["decode_threshold"]
    found = {"decoded.probs": torch.where(scores > floor, scores, 0.0)}
    candidates, boxes = model.candidates(dict(raw), just_above(case.params["threshold"]))
    group = candidates.image * model.num_classes + candidates.label
    rows = batched_nms(boxes, candidates.score, group, model.config.nms_iou)
    rows = rows[candidates.image[rows] == 0]
    place = _in_image(case, model, boxes[rows])
    lead = torch.stack([candidates.label[rows].float(), candidates.score[rows]], 1)
    found["detections"] = torch.cat([lead, place], 1)
    return found


def _in_image(case: Case, model: PriorDetector | YOLOv1, boxes: Tensor) -> Tensor:
    """xyxy in input pixels -> cxcywh in the case's image, in its units, not cut to it."""
    height, width = case.params["image_height"], case.params["image_width"]
    out = xyxy_to_cxcywh(model.preprocess.frame(height, width).undo(boxes, clip=False))
    pixels = case.params["box_units"] == "image_pixels"
    return out if pixels else out / out.new_tensor([width, height] * 2)


def _words(case: Case, model: YOLO9000, sure: Tensor, logits: Tensor) -> dict[str, Any]:
    """What a tree says of each box: words by three decoders, scores of mapped classes."""
    tree = model.groups
    conditional = tree.conditional(logits)
    absolute = tree.absolute(conditional)
    found: dict[str, Any] = {}
    for entry in case.outputs:
        name, params = entry["name"], entry["params"]
        if entry.get("stage") != "decoded" or name == "decoded.boxes":
            continue
        if "map" in params:
            found[name] = sure[:, None] * absolute[:, case.stored(params["map"])]
            continue
        node = tree.decode(conditional, params["tree_threshold"], params["tree_decode"])
        if name.startswith("absolute"):
            probability = absolute.gather(1, node.clamp(min=0)[:, None])[:, 0]
            found[name] = torch.where(node >= 0, probability, 0.0)
        else:
            found[name] = node
    return found


def classifier(case: Case) -> dict[str, Any]:
    """A network with its ImageNet head: maps, logits and their softmax."""
    switches = case.switches
    expect(switches, output=["softmax"])
    model = Classifier(case.run["model"], switches["classes"], norm=norm_of(switches)).eval()
    load_state(model, case.weights())
    watch = Watch(model, case)
    logits = model(case.input())
    found = watch.outputs()
    for entry in case.outputs:
        if entry["stage"] == "activated":
            found[entry["name"]] = logits.softmax(1)
    return found


_YOLO = ("yolov1", "yolov1_2015", "yolov1_tiny", "yolo9000", "yolov3", "yolov3_spp", "yolov3_tiny")
_YOLOV2 = ("yolov2_voc", "yolov2_voc_2016", "yolov2_coco", "yolov2_tiny_voc")
CASES = {
    **{f"darknet_{name}": network for name in (*_YOLO, *_YOLOV2)},
    **{f"darknet_{name}": classifier for name in ("extraction", "darknet19", "darknet53")},
}
