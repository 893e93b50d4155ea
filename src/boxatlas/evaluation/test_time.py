"""Looking at each image at several sizes and mirrored, and merging what was found.

RefineDet's "+" rows and M2Det's multi-scale rows are measured so. Merging by vote is from Gidaris &
Komodakis 2015, arXiv 1505.01749, section 5, equation 4. Shape letters: N detections of one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from boxatlas.boxes.formats import pairwise_iou
from boxatlas.boxes.nms import batched_nms, soft_nms
from boxatlas.data.transforms import augmentation
from boxatlas.errors import InputError
from boxatlas.structures import Detections

if TYPE_CHECKING:
    from boxatlas.data import Table
    from boxatlas.parts.base import Detector

Merge = Literal["vote", "nms", "soft"]


@dataclass(frozen=True)
class Views:
    """scales: multiples of the detector's input size; flip: each mirrored too.

    merge: how the boxes of a class are merged: "nms", the best of those that overlap by more than
    `iou` stays; "vote", as that, and each box that stays becomes the mean of all that overlap it so
    much, weighed by their scores; "soft", their scores fall (linear soft-NMS).
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    merge: Merge = "vote"
    iou: float = 0.45

    @property
    def single(self) -> bool:
        """One plain look."""
        return self.scales == (1.0,) and not self.flip


def parse(scales: str | None, flip: bool, merge: str) -> Views:
    """Views from the command line's words. Raises InputError, naming the option."""
    found: tuple[float, ...] = (1.0,)
    if scales is not None:
        try:
            found = tuple(float(part) for part in scales.split(","))
        except ValueError:
            found = ()
        if not found or min(found) <= 0 or max(found) > 16:
            raise InputError("needs numbers such as 0.75,1,1.5", field="--scales", value=scales)
    if merge not in ("vote", "nms", "soft"):
        raise InputError("is vote, nms or soft", field="--merge", value=merge)
    return Views(found, flip, merge)


def predict_views(
    detector: Detector, table: Table, views: Views, **options: Any
) -> list[Detections]:
    """Detections of every image, merged over the views. options: as `predict`'s. Masks are dropped.

    Raises InputError where the network does not run at a scale.
    """
    from boxatlas.evaluation.predict import predict

    detector = detector.restricted_to(table.classes)
    whole = detector.preprocess
    seen: list[list[Detections]] = []
    try:
        for scale in views.scales:
            detector.preprocess = whole.model_copy(update={"size": _scaled(whole.size, scale)})
            for mirrored in (False, True) if views.flip else (False,):
                augment = augmentation("flip", p=1.0) if mirrored else None
                try:
                    found = predict(detector, table, augment=augment, **options)
                except (RuntimeError, ValueError) as error:
                    if isinstance(error, torch.cuda.OutOfMemoryError) or scale == 1.0:
                        raise
                    raise InputError(
                        f"the network does not run at {scale} of its size: {error}",
                        field="--scales",
                        value=scale,
                    ) from None
                seen.append([_mirrored(one) for one in found] if mirrored else found)
    finally:
        detector.preprocess = whole
    # As many stay as one view may give.
    most = max((len(one) for view in seen for one in view), default=0)
    limit = max(most, getattr(detector.config, "max_detections", 100))
    return [merged(parts, views, limit) for parts in zip(*seen, strict=True)]


def merged(parts: Sequence[Detections], views: Views, limit: int) -> Detections:
    """What several looks at one image found, as one; boxes are in the source's pixels."""
    first = parts[0]
    boxes = torch.cat([p.boxes for p in parts])
    scores = torch.cat([p.scores for p in parts])
    labels = torch.cat([p.labels for p in parts])
    if views.merge == "soft":
        rows, scores = soft_nms(boxes, scores, labels, method="linear", threshold=views.iou)
        stays = rows[:limit]
        return Detections(boxes[stays], scores[:limit], labels[stays], first.classes, first.size)
    rows = batched_nms(boxes, scores, labels, views.iou, limit=limit)[:limit]
    chosen = (
        _voted(boxes, scores, labels, rows, views.iou) if views.merge == "vote" else boxes[rows]
    )
    return Detections(chosen, scores[rows], labels[rows], first.classes, first.size)


def _voted(boxes: Tensor, scores: Tensor, labels: Tensor, rows: Tensor, iou: float) -> Tensor:
    """Each box of `rows` as the weighted mean of those of its class that overlap it."""
    if len(rows) == 0:
        return boxes[rows]
    weights = (pairwise_iou(boxes[rows], boxes) >= iou) & (labels[rows][:, None] == labels)
    weights[torch.arange(len(rows)), rows] = True  # an empty box overlaps nothing, not even itself
    shares = weights * scores
    return (shares @ boxes) / shares.sum(dim=1, keepdim=True).clamp(min=1e-12)


def _mirrored(one: Detections) -> Detections:
    """Boxes found in the mirrored image, in the image itself."""
    boxes = one.boxes.clone()
    boxes[:, [0, 2]] = one.size[1] - one.boxes[:, [2, 0]]
    return Detections(boxes, one.scores, one.labels, one.classes, one.size)


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Sides that were multiples of 32 stay so: some networks double maps on their way."""
    unit = 32 if all(side % 32 == 0 for side in size) else 1
    height, width = (max(unit, round(side * scale / unit) * unit) for side in size)
    return height, width
