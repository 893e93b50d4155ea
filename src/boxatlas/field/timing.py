"""How fast the field's detectors are, and the networks of the survey, on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from boxatlas.create import create_model
from boxatlas.errors import InputError
from boxatlas.evaluation.speed import made_images, measure, measure_together
from boxatlas.evaluation.survey import SURVEY, SurveyRow
from boxatlas.field import results
from boxatlas.field.judging import judged_file
from boxatlas.images import Source
from boxatlas.parts.base import Detector
from boxatlas.weights import load

COCO_CLASSES = 80  # that the survey's networks tell apart
_KEPT = ("fps", "fps_between", "latency_ms", "latency_p95_ms", "parts_ms", "peak_memory_mb")


def time_methods(
    known: Mapping[str, Mapping[str, Any]],
    out: Path,
    sources: Sequence[Source],
    *,
    seconds: float,
    device: torch.device,
) -> dict[str, Any]:
    """Time the packed file of each method's longest training, all of them in turns.

    out: the folder of all runs. sources: images. Returns {"device", "threads", "torch", "methods":
    {name: {"sha256", "fps", ...}}}. Raises InputError where a file is not the one that was judged.
    """
    if not known:
        raise InputError("nothing was judged yet", hint="boxatlas field train")
    points = {name: results.latest(dict(document)) for name, document in known.items()}
    files = {name: judged_file(out, name, point) for name, point in points.items()}

    def opened() -> Iterator[tuple[Detector, bool]]:
        for file in files.values():
            yield load(file).to(device), False

    speeds = measure_together(opened(), sources, seconds=seconds)
    timed = {}
    for name, speed in zip(files, speeds, strict=True):
        whole = speed.document()
        timed[name] = {"sha256": points[name]["sha256"], **{key: whole[key] for key in _KEPT}}
    return {
        "device": speeds[0].device,
        "threads": speeds[0].threads,
        "torch": torch.__version__,
        "methods": timed,
    }


def survey_key(row: SurveyRow) -> str:
    """A line of the survey; method and backbone tell all apart."""
    return f"{row.method}, {row.backbone}"


def time_survey(
    held: Mapping[str, Any], *, seconds: float, device: torch.device, seed: int = 0
) -> Iterator[dict[str, Any]]:
    """Time the survey's networks, of 80 classes and random weights, one after another, on made
    images of 640 x 480; a network that is in `held` is passed over.

    Yields, after each, all that is known: {"device", "threads", "torch", "rows": {line: {"model",
    "input", "fps", ...}}}.
    """
    rows = dict(held.get("rows", {}))
    sources = made_images()
    for one in SURVEY:
        if survey_key(one) in rows:
            continue
        torch.manual_seed(seed)
        detector = create_model(one.model, num_classes=COCO_CLASSES, **one.options).to(device)
        speed = measure(detector, sources, seconds=seconds, untrained=True)
        whole = speed.document()
        rows[survey_key(one)] = {
            "model": one.model,
            "input": list(speed.input),
            "images": speed.images,
            **{key: whole[key] for key in _KEPT},
        }
        yield {
            "device": speed.device,
            "threads": speed.threads,
            "torch": torch.__version__,
            "rows": {survey_key(s): rows[survey_key(s)] for s in SURVEY if survey_key(s) in rows},
        }
