"""The field's report: its tables and plots, and photos through all methods, in one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from boxatlas.data import Table
from boxatlas.drawing import draw
from boxatlas.evaluation.page import Section, picture, write_page
from boxatlas.field import document, report, results
from boxatlas.images import read
from boxatlas.parts.base import Detector
from boxatlas.progress import track
from boxatlas.structures import Detections
from boxatlas.weights import load

_SCORE = 0.3  # from which a detection is drawn
_SMALLEST = 420  # px, to which smaller photos are enlarged


def write_report(
    path: Path,
    folder: Path,
    files: Mapping[str, Path],
    table: Table | None,
    photos: int,
    device: torch.device,
) -> None:
    """Write the page. folder: of the results; files: name -> weights, for the photos, which are
    spread over the table's images; none without a table."""
    known, speed, pairs, survey = document.stored(folder)
    latest = document.latest_rows(known, speed, pairs)
    plots = {
        name: Section(said, plots=[plot])
        for name, (said, plot) in document.drawn(known, speed, pairs, survey).items()
    }
    sections = []
    for images in reversed(report.stages(known)):
        rows = report.shown(report.table(known, images, speed, pairs))
        sections.append(Section(f"After {images:,} images", rows=rows))
    sections += [plots[name] for name in ("learning", "speed") if name in plots]
    sections += [
        section
        for section in (
            Section("How sure the order is", rows=report.differences(pairs)),
            Section("Kinds of mistakes: AP at 0.5 lost", rows=report.mistakes(latest)),
            Section("Settings by family", rows=report.rates()),
            Section("Published and measured", rows=document.survey_table(survey)),
        )
        if section.rows
    ]
    sections += [plots[name] for name in ("published", "survey") if name in plots]
    if table is not None:
        sections += photo_sections(table, [r["name"] for r in latest], files, photos, device)
    write_page(
        path,
        "The field",
        "every method with one backbone, trained alike on the same images",
        sections,
        notes=[
            f"{name}: {results.latest(held)['images']:,} images" for name, held in known.items()
        ],
    )


def photo_sections(
    table: Table,
    names: Sequence[str],
    files: Mapping[str, Path],
    photos: int,
    device: torch.device,
) -> list[Section]:
    """A section for each photo: what is labelled, then what each method finds."""
    chosen = np.unique(np.linspace(0, len(table) - 1, photos).round().astype(int)).tolist()
    found: dict[str, list[Detections]] = {}
    for name in track([n for n in names if n in files], "photos"):
        detector: Detector = load(files[name]).to(device)
        found[name] = [detector.detect(table.paths[i], score=_SCORE) for i in chosen]
    sections = []
    for k, i in enumerate(chosen):
        pixels = read(table.paths[i])
        factor = max(1.0, _SMALLEST / max(pixels.shape[:2]))
        row = table[i]
        pictures = [
            picture(
                _drawn(pixels, row.boxes, row.names, row.labels.tolist(), None, factor), "labelled"
            )
        ]
        for name, detections in found.items():
            one = detections[k]
            words = [one.classes[label] for label in one.labels.tolist()]
            boxes, labels, scores = one.boxes.numpy(), one.labels.tolist(), one.scores.tolist()
            pictures.append(picture(_drawn(pixels, boxes, words, labels, scores, factor), name))
        sections.append(Section(f"Photo {table.name(i)}", pictures=pictures))
    return sections


def _drawn(
    pixels: np.ndarray,
    boxes: Any,
    names: Sequence[str],
    labels: Sequence[int],
    scores: Sequence[float] | None,
    factor: float,
) -> Any:
    """The photo enlarged, with boxes: of a small one the letters would hide the objects."""
    from PIL import Image

    size = (round(pixels.shape[1] * factor), round(pixels.shape[0] * factor))
    large = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
    return draw(large, np.asarray(boxes) * factor, names, labels, scores)
