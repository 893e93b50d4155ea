"""The detectors that a run leaves as checkpoints, and its numbers as JSON has them."""

from __future__ import annotations

import math
from typing import Any

from boxatlas.parts.base import Detector
from boxatlas.training.checkpoint import Position
from boxatlas.training.phases import Job


def save_detector(job: Job, model: Detector, name: str, position: Position) -> None:
    """The detector as a checkpoint of the run folder, with the recipe and the metrics."""
    model.save(
        job.folder / name,
        recipe=job.recipe.model_dump(mode="json"),
        metrics=plain(position.metrics),
        trained={
            "phase": position.phase,
            "iteration": position.step,
            "seconds": round(position.seconds, 1),
        },
        **job.about,
    )


def scalars(metrics: dict[str, Any]) -> dict[str, float]:
    """The single numbers of an evaluation, COCO's twelve among them."""
    found = {k: float(v) for k, v in metrics.items() if _is_number(v)}
    for key, value in (metrics.get("coco") or {}).items():
        if _is_number(value):
            found[f"coco/{key}"] = float(value)
    return {k: v for k, v in found.items() if math.isfinite(v)}


def plain(value: Any) -> Any:
    """JSON values: numbers that are not finite become None."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if _is_number(value):
        value = value.item() if hasattr(value, "item") else value
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | bool) else str(value)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, int | float) or getattr(value, "ndim", None) == 0


def save_latest(job: Job, model: Detector, position: Position, count: int) -> None:
    """The detector of an evaluation, of which the latest `count` of a phase are kept."""
    start = f"phase-{position.phase}-" if position.phase else ""
    save_detector(job, model, f"{start}iteration-{position.step}.safetensors", position)
    kept = sorted(
        job.folder.glob(f"{start}iteration-*.safetensors"),
        key=lambda path: int(path.stem.rpartition("-")[2]),
    )
    for old in kept[:-count]:
        old.unlink()
