"""Whether an exported detector finds what the original finds, on real photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from boxatlas.boxes.formats import iou
from boxatlas.errors import InputError
from boxatlas.export.deployed import Deployed
from boxatlas.images import read
from boxatlas.parts.base import Detector, Raw
from boxatlas.parts.region.detector import RegionDetector, content_limits
from boxatlas.photos import photos
from boxatlas.structures import Detections, Frame

SCORE, BOX = 1e-3, 0.1  # what a score and a corner (pixels of the source) may differ by
LEAST = 20  # detections of a photo, for a comparison to mean anything
_TIES = 0.05  # of the detections: more near-ties than that are no accident
_THRESHOLDS = (None, 0.01, 0.001, 0.0)  # the method's own; lower where it finds too little
_MASK = 0.005  # pixels at the edge of a mask, where the probability is the threshold's
_PHOTOS = 2
_OTHER = 1.0  # pixels between two boxes that are not the same


@dataclass(frozen=True)
class Agreement:
    """photos and detections compared; the largest differences of those that match, in score and in
    pixels of the source; ties: detections that rounding decides (at the threshold, the last place
    or the suppression's edge); missing: those that one side lacks for no such reason; mask: the
    share of the masks' pixels that differ."""

    photos: int
    detections: int
    score: float
    box: float
    ties: int
    missing: int
    mask: float = 0.0

    @property
    def holds(self) -> bool:
        few = self.ties <= _TIES * self.detections
        return not self.missing and few and self.mask <= _MASK

    def document(self) -> dict[str, Any]:
        return asdict(self)


@torch.inference_mode()
def agreement(original: Detector, exported: Deployed) -> Agreement:
    """Compare both on photos that installed packages carry.

    Raises InputError where the original finds fewer than `LEAST` things on a photo even without a
    threshold: nothing found on both sides proves nothing.
    """
    paths = [photo.path for photo in photos()][:_PHOTOS]
    if not paths:
        raise InputError("there is no photo here to verify on", hint="pip install scikit-learn")
    parts = [_of_photo(original.fast(), exported, path) for path in paths]
    return Agreement(
        photos=len(parts),
        detections=sum(p.detections for p in parts),
        score=max(p.score for p in parts),
        box=max(p.box for p in parts),
        ties=sum(p.ties for p in parts),
        missing=sum(p.missing for p in parts),
        mask=max(p.mask for p in parts),
    )


def _of_photo(original: Detector, exported: Deployed, path: Path) -> Agreement:
    images, frames = original.preprocess.batch_of_pixels([read(path)])
    count = 400 if isinstance(original, RegionDetector) else 60  # of R-CNN's each is a network run
    given = _made_boxes(images, count) if original.takes_proposals else None
    theirs = exported(images, frames, given, score=0.0)
    if isinstance(original, RegionDetector) and original.rpn is not None:
        # Which of two equal proposals is kept is rounding's; what is made of them is compared.
        lost, ours = _on_their_proposals(original, images, frames, theirs)
    else:
        lost, ours = 0, original(images, frames, given)
    a, threshold = _enough(original, ours, frames, path)
    b = exported.postprocess(theirs, frames, score=threshold)[0]
    cut = original.config.model_dump().get("score") if threshold is None else threshold
    config: Any = original.config
    result = compared(a, b, float(cut or 0.0), config.nms_iou, config.max_detections)
    return replace(result, missing=result.missing + lost)


def _enough(
    original: Detector, raw: Raw, frames: Sequence[Frame], path: Path
) -> tuple[Detections, float | None]:
    """At least `LEAST` detections, and the threshold that they passed (None: the method's own)."""
    count = 0
    for threshold in _THRESHOLDS:
        found = original.postprocess(raw, frames, score=threshold)[0]
        count = len(found)
        if count >= LEAST:
            return found, threshold
    raise InputError(
        f"finds {count} things on a photo even without a threshold: the export cannot be verified",
        file=path,
        hint="train it first",
    )


def _made_boxes(images: Tensor, count: int) -> Tensor:
    """Boxes [1, count, 4] all over an input."""
    height, width = images.shape[-2:]
    noise = torch.Generator().manual_seed(0)
    corner = torch.rand(1, count, 2, generator=noise) * 0.7
    size = 0.05 + 0.25 * torch.rand(1, count, 2, generator=noise)
    return torch.cat([corner, corner + size], -1) * torch.tensor([width, height] * 2)


def _on_their_proposals(
    original: RegionDetector, images: Tensor, frames: Sequence[Frame], theirs: Raw
) -> tuple[int, Raw]:
    """(how many of the original's proposals the graph lacks, where that is more than one in fifty;
    what the original's heads say of the graph's proposals)."""
    size = (images.shape[-2], images.shape[-1])
    features = original.features(images)
    boxes, _, valid = original.propose(features, frames, size)
    given = theirs.get("rpn_proposals", theirs["proposals"])
    own, found = boxes[0][valid[0]], given[0]
    lost = 0
    if len(own):
        near = (torch.cdist(own, found, p=torch.inf) <= BOX).any(1)
        lost = int((~near).sum())
    heads = original.heads(features, given, content_limits(images, frames, size))
    extra = original.extra_raw(features)
    raw = {"proposals": given, "valid": theirs["valid"], **heads, **extra}
    return (lost if lost > len(own) / 50 else 0), raw


def compared(a: Detections, b: Detections, cut: float, nms_iou: float, most: int) -> Agreement:
    """Two lists of detections of one photo; cut: the threshold that both passed."""
    same = _same(a, b)
    rows, columns = linear_sum_assignment(~same.numpy())
    hit = same.numpy()[rows, columns]
    rows, columns = rows[hit], columns[hit]
    score = (a.scores[rows] - b.scores[columns]).abs()
    box = (a.boxes[rows] - b.boxes[columns]).abs()
    ties = missing = 0
    for one, other, matched in ((a, b, rows), (b, a, columns)):
        alone = np.setdiff1d(np.arange(len(one)), matched)
        full = len(one) >= most or len(other) >= most
        last = min(float(x.scores.min()) if len(x) else cut for x in (one, other)) if full else cut
        for i in alone.tolist():
            if _decided_by_rounding(one, i, other, max(last, cut), nms_iou):
                ties += 1
            else:
                missing += 1
    return Agreement(
        1,
        len(a),
        float(score.max()) if len(score) else 0.0,
        float(box.max()) if len(box) else 0.0,
        ties,
        missing,
        _differing(a, b, rows, columns),
    )


def _differing(a: Detections, b: Detections, rows: Any, columns: Any) -> float:
    """The share of the pixels of either's masks that are not both's."""
    if a.masks is None or b.masks is None or len(rows) == 0:
        return 0.0
    ours, theirs = a.masks[rows], b.masks[columns]
    return float((ours ^ theirs).sum() / (ours | theirs).sum().clamp(min=1))


def _same(a: Detections, b: Detections) -> Tensor:
    """[Na, Nb] bool: one class, score and box within what is allowed."""
    label = a.labels[:, None] == b.labels
    score = (a.scores[:, None] - b.scores).abs() <= SCORE
    return label & score & (torch.cdist(a.boxes, b.boxes, p=torch.inf) <= BOX)


def _decided_by_rounding(
    one: Detections, i: int, other: Detections, cut: float, nms_iou: float
) -> bool:
    """Whether detection i, which `other` lacks, stood at the threshold or the last place, or
    beside another box of nearly its score or an overlap of nearly the suppression's."""
    score, box = float(one.scores[i]), one.boxes[i : i + 1]
    if score <= cut + SCORE:
        return True
    rival = other.labels == one.labels[i]
    rival &= torch.cdist(box, other.boxes, p=torch.inf)[0] > _OTHER  # not the same one, moved
    overlap = iou(box, other.boxes[rival])
    level = (other.scores[rival] - score).abs() <= SCORE
    return bool(((overlap > nms_iou) & level).any() | ((overlap - nms_iou).abs() <= 0.01).any())
