"""A detector over a table of images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from boxatlas.data import Table, make_loader
from boxatlas.progress import track
from boxatlas.structures import Batch, Detections

if TYPE_CHECKING:
    from boxatlas.parts.base import Detector


def predict(
    detector: Detector,
    table: Table,
    *,
    workers: int = 0,
    progress: bool = True,
    batch_size: int | None = None,
    score: float | None = None,
    max_detections: int | None = None,
    proposals: Mapping[str, Any] | None = None,
    augment: Any = None,
) -> list[Detections]:
    """Detections of every image of the table, in its order; masks are kept as run lengths.

    score, max_detections: the method's own unless given, which are what its paper evaluates with,
    not what one would look at. batch_size: what the detector's `together` says unless given, so
    that what is found in an image depends on it alone. workers: decoding processes. proposals:
    image path -> boxes [P, 4] in source pixels. augment: how images are looked at (`test_time`).
    """
    detector = detector.restricted_to(table.classes)
    if batch_size is None:
        batch_size = detector.together()
    loader = make_loader(
        table,
        detector.preprocess,
        batch_size=batch_size,
        shuffle=False,
        seed=0,
        workers=workers,
        proposals=proposals,
        augment=augment,
    )
    batches: Iterator[Batch] = loader.epoch(0)
    if progress:
        batches = track(batches, "evaluating", len(loader))
    found: list[Detections] = []
    for batch in batches:
        batch = batch.to(detector.device)
        made = detector.infer(
            batch.images,
            batch.frames,
            score=score,
            max_detections=max_detections,
            proposals=batch.proposals,
        )
        found.extend(_light(one) for one in made)
    return found


def _light(one: Detections) -> Detections:
    """Without pixels: masks [N, H, W] become run lengths."""
    return one if one.masks is None else replace(one, masks=None, outlines=one.run_lengths())
