"""Proposals for a method that takes them from outside and was given none: selective search.

Shape letters: B images, P proposals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from boxatlas.images import Preprocess
from boxatlas.parts.base import Detector
from boxatlas.structures import Batch, Frame


def with_proposals(batch: Batch, detector: Detector) -> Batch:
    """A batch that a detector which takes proposals can be trained on: searched where it holds
    none; any other detector's as it is."""
    if not detector.takes_proposals or batch.proposals is not None:
        return batch
    boxes = selective_search_proposals(
        batch.images,
        batch.frames,
        detector.preprocess,
        most=detector.takes_proposals,
        min_side=detector.min_proposal_side,
    )
    return replace(batch, proposals=boxes, valid=(boxes[..., 2:] > boxes[..., :2]).all(-1))


def selective_search_proposals(
    images: Tensor,
    frames: Sequence[Frame] | None,
    preprocess: Preprocess,
    *,
    most: int | None = 2000,
    min_side: float = 0.0,
) -> Tensor:
    """Boxes [B, P, 4] in input pixels, best first; rows of zeros fill up where an image has fewer.

    Looks at each network input's content as pixels. most: of each image; min_side: boxes that are
    narrower or lower, in pixels of the source, are left out.
    """
    proposals: list[Tensor] = []
    views = []
    for i, image in enumerate(images.detach()):
        if frames is None:
            views.append(preprocess.pixels(image))
            continue
        (height, width), (x, y) = frames[i].content, (int(v) for v in frames[i].offset)
        views.append(preprocess.pixels(image[:, y : y + height, x : x + width]))
    from boxatlas.ops import selective_search_many  # numba takes a moment to load

    for i, boxes in enumerate(selective_search_many(views, mode="fast")):
        moved = torch.from_numpy(boxes)
        scale = 1.0
        if frames is not None:
            moved = moved + torch.tensor(frames[i].offset).repeat(2)
            scale = min(frames[i].scale)
        sides = moved[:, 2:] - moved[:, :2]
        proposals.append(moved[(sides >= min_side * scale).all(1)][:most])
    return torch.nn.utils.rnn.pad_sequence(proposals, batch_first=True).to(images)
