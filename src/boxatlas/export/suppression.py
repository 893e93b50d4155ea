"""Decoding and suppression inside a graph: what `postprocess` does, for any number of images.

Shape letters: B images, S boxes, P proposals, K classes, D box columns, M rows of an answer.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.ops import nms

from boxatlas.boxes.nms import Candidates
from boxatlas.errors import InputError
from boxatlas.parts.base import Detector, Raw
from boxatlas.parts.dense import DenseDetector
from boxatlas.parts.region.detector import RegionDetector
from boxatlas.parts.region.masks import WithMasks
from boxatlas.parts.yolo import PriorDetector, YOLODetector

# (boxes [B, S, 4], scores [B, C, S], the most of a class, IoU, least score) -> [B, C, S] bool
Keep = Callable[[Tensor, Tensor, int, float, float], Tensor]
NEVER = -1e30  # a score that nothing has, below what suppression looks at


def check_suppressible(detector: Detector) -> None:
    """Raises InputError for a detector whose answers cannot be chosen inside a graph."""
    problem = None
    if isinstance(detector, RegionDetector):
        if detector.config.inclusive:
            problem = "suppresses in pixels of the source, which a graph does not see"
    elif isinstance(detector, DenseDetector):
        if type(detector).suppress is not DenseDetector.suppress:
            problem = "suppresses softly, for which ONNX has no operator"
    elif not isinstance(detector, YOLODetector):
        problem = "looks at a few crops of the picture at a time"
    elif isinstance(detector, PriorDetector) and type(detector).scored is not PriorDetector.scored:
        problem = "walks down a tree of words for each box"
    if problem:
        raise InputError(problem, field="with_nms", value=detector.name)


def decided(detector: Detector, raw: Raw, content: Tensor | None, least: Tensor, keep: Keep) -> Raw:
    """boxes [B, M, 4] in pixels of the input, scores [B, M], labels [B, M] (-1: no detection).

    Best first, M the detector's `max_detections` or fewer. content [B, 2]: width and height that
    each picture reaches within the input, of methods that cut boxes to it. least [1]: the score
    that a detection has at least; keep: `kept` or `kept_by_torch`.
    """
    limits = detector.config.model_dump()
    boxes, scores, usable = _scored(detector, raw, content)
    usable = usable & (scores >= least)
    count, classes, rows = scores.shape
    scores = torch.where(usable, scores, NEVER)
    own = boxes.ndim == 4  # a class of an image is then a batch of its own
    if own:
        boxes, apart = boxes.flatten(0, 1), scores.flatten(0, 1)[:, None]
    else:
        apart = scores
    stays = keep(boxes, apart, rows, limits["nms_iou"], NEVER / 2)
    alive = torch.where(stays, apart, NEVER).reshape(count, classes * rows)
    best, place = alive.topk(torch.sym_min(limits["max_detections"], classes * rows), dim=1)
    there = best > NEVER / 2
    row = place if own else torch.arange(rows).repeat(classes)[place]
    label = torch.arange(classes)[:, None].expand(-1, rows).flatten()[place]
    chosen = boxes.reshape(count, -1, 4).gather(1, row[..., None].expand(-1, -1, 4))
    return {
        "boxes": chosen * there[..., None],
        "scores": best * there,
        "labels": torch.where(there, label, -1),
    }


def _scored(detector: Detector, raw: Raw, content: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """(boxes [B, S, 4], or [B, K, S, 4] where classes have their own; scores [B, K, S]; which of
    the scores may become detections)."""
    if isinstance(detector, RegionDetector):
        assert content is not None
        boxes, scores = _boxes_of_classes(detector, raw, content), detector.class_scores(raw)
        large = (boxes[..., 2:] - boxes[..., :2] >= detector.config.min_detection).all(-1)
        return boxes, scores.transpose(1, 2), raw["valid"][:, None] & large
    if isinstance(detector, DenseDetector):
        scores = detector.scores(raw).transpose(1, 2)
        images, _, anchors = scores.shape
        image = torch.arange(images)[:, None].expand(-1, anchors).flatten()
        row = torch.arange(anchors).expand(images, -1).flatten()
        every = Candidates(image, row, row, row)  # of which decoding reads image and row
        boxes = detector.decode(raw, every).reshape(images, anchors, 4)
        if content is not None:
            boxes = _within(boxes, content[:, None])
        return boxes, scores, detector.entering(raw, scores)
    assert isinstance(detector, YOLODetector)
    boxes, scores = detector.every_box(raw)
    scores = scores.transpose(1, 2)
    return boxes, scores, torch.ones_like(scores, dtype=torch.bool)


def drawn(detector: WithMasks, features: list[Tensor], answer: Raw) -> Tensor:
    """[B, M, m, m]: the probability that a cell of each detection's box is the object's."""
    labels = answer["labels"].clamp(min=0)
    logits = detector.masks(features, answer["boxes"])
    return detector.mask_chances(logits.flatten(0, 1), labels.flatten()).unflatten(0, labels.shape)


def _boxes_of_classes(detector: RegionDetector, raw: Raw, content: Tensor) -> Tensor:
    """[B, K, P, 4]: each proposal as each class moves it, cut to the picture."""
    deltas = raw["deltas"]  # [B, P, D, 4]: the last K columns are the classes', or one is all's
    columns = 1 if detector.config.class_agnostic else detector.num_classes
    deltas = deltas[:, :, deltas.shape[2] - columns :]
    boxes = detector.coder.decode(deltas, raw["proposals"][:, :, None])
    boxes = _within(boxes, content[:, None, None]).transpose(1, 2)
    return boxes.expand(-1, detector.num_classes, -1, -1)


def _within(boxes: Tensor, content: Tensor) -> Tensor:
    """Boxes [..., 4], cut to pictures that begin at the input's corner and end at content."""
    return torch.minimum(boxes.clamp(min=0), torch.cat([content, content], -1))


def kept(boxes: Tensor, scores: Tensor, most: int, iou: float, score: float) -> Tensor:
    """[B, C, S] bool: which boxes [B, S, 4] stay in each class of scores [B, C, S].

    The standard operator NonMaxSuppression: at most `most` of a class, those above `score`.
    """
    chosen = torch.onnx.ops.symbolic(
        "NonMaxSuppression",
        (
            boxes,
            scores,
            torch.tensor([most]),
            torch.tensor([iou], dtype=torch.float32),
            torch.tensor([score], dtype=torch.float32),
        ),
        dtype=torch.int64,
        shape=(_any_number(), 3),
    )
    stays = torch.zeros_like(scores, dtype=torch.float32)
    one = torch.ones_like(chosen[:, 0], dtype=torch.float32)
    return stays.index_put((chosen[:, 0], chosen[:, 1], chosen[:, 2]), one) > 0


def kept_by_torch(boxes: Tensor, scores: Tensor, most: int, iou: float, score: float) -> Tensor:
    """As `kept`, by torchvision's operator: one call, whose classes lie apart from each other.

    Nothing is left out after `most`: what is chosen from these takes the best only.
    """
    image, group, row = (scores > score).nonzero(as_tuple=True)
    place = boxes[image, row].double()
    reach = boxes.abs().amax().double() * 2 + 1
    apart = place + ((image * scores.shape[1] + group) * reach)[:, None]
    stays = nms(apart, scores[image, group, row].double(), iou)
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    at = (image[stays], group[stays], row[stays])
    return chosen.index_put(at, torch.ones_like(at[0], dtype=torch.bool))


def _any_number() -> int:
    """A size that only running the graph tells."""
    size: int = torch.zeros(1, dtype=torch.int64).sum().item()  # pyright: ignore
    torch._check(size >= 0)
    return size
