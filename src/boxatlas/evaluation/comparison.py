"""Published beside measured: method, backbone, input size, FPS, AP, as rows, a file and a page."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from boxatlas._version import __version__
from boxatlas.errors import cell
from boxatlas.evaluation import plots
from boxatlas.evaluation.page import Section, write_page
from boxatlas.evaluation.survey import SURVEY, headline
from boxatlas.files import write_text


@dataclass
class Compared:
    """A method with what was published of it and what was measured here.

    published_ap: COCO test-dev AP; published_voc07: mAP at 0.5; both in percent. fps, latency_ms:
    of network, decoding and suppression at batch 1 on `device`; half of the images lie between the
    two rates of fps_between. ap, ap50, map: measured on `data`,
    0 to 1, map by the metric asked for; None where not measured. source: the checkpoint, or None
    for random weights, which have a speed and no accuracy. size: the model's option of that name,
    None: its usual one.
    """

    method: str
    backbone: str
    input: str
    model: str | None = None
    published_fps: float | None = None
    published_ap: float | None = None
    published_voc07: float | None = None
    fps: float | None = None
    fps_between: tuple[float, float] | None = None
    latency_ms: float | None = None
    ap: float | None = None
    ap50: float | None = None
    map: float | None = None
    parameters: int | None = None
    multiply_adds: int | None = None
    source: str | None = None
    size: Any = None


def survey_rows() -> list[Compared]:
    """The published comparison, nothing measured."""
    return [
        Compared(r.method, r.backbone, r.input, r.model, r.fps, r.ap, size=r.options.get("size"))
        for r in SURVEY
    ]


def published_row(model: str) -> Compared:
    """A model of ours with the best that was published of it at its own size."""
    from boxatlas.zoo import model_info

    info = model_info(model)
    return Compared(info.method, info.backbone, info.input, model, *headline(info))


def table_rows(rows: Sequence[Compared]) -> list[dict[str, Any]]:
    """For people: columns that are empty throughout are left out."""
    titles = {
        "method": "method",
        "model": "model",
        "backbone": "backbone",
        "input": "input",
        "published_fps": "FPS (paper)",
        "fps": "FPS (here)",
        "fps_between": "between",
        "published_ap": "AP (paper)",
        "published_voc07": "VOC07 (paper)",
        "ap": "AP (here)",
        "ap50": "AP50 (here)",
        "map": "mAP (here)",
        "parameters": "Mparam",
        "multiply_adds": "GMAC",
    }
    scale = {"ap": 100.0, "ap50": 100.0, "map": 100.0, "parameters": 1e-6, "multiply_adds": 1e-9}
    kept = [key for key in titles if any(getattr(row, key) is not None for row in rows)]
    return [
        {titles[key]: _scaled(getattr(row, key), scale.get(key)) for key in kept} for row in rows
    ]


def _scaled(value: Any, factor: float | None) -> Any:
    if isinstance(value, tuple):
        return "-".join(f"{part:.3g}" for part in value)
    return value if value is None or factor is None else value * factor


def document_of(rows: Sequence[Compared], conditions: dict[str, Any]) -> dict[str, Any]:
    """For JSON."""
    return {"rows": [asdict(row) for row in rows], "boxatlas": __version__, **conditions}


def write_comparison(
    folder: Path, rows: Sequence[Compared], conditions: dict[str, Any], command: str
) -> None:
    """comparison.json, comparison.csv, speed_accuracy.svg and report.html in the folder."""
    document = document_of(rows, {**conditions, "command": command})
    write_text(folder / "comparison.json", json.dumps(document, indent=1) + "\n")
    text = io.StringIO()
    writer = csv.DictWriter(text, list(asdict(rows[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {k: cell(v) if isinstance(v, str) else _scaled(v, None) for k, v in asdict(row).items()}
        for row in rows
    )
    write_text(folder / "comparison.csv", text.getvalue())
    drawn = {
        "speed_accuracy.svg": ("published", published_plot(rows)),
        "measured.svg": ("measured here", measured_plot(rows, conditions)),
    }
    for name, (_, plot) in drawn.items():
        if plot is not None:
            write_text(folder / name, plot + "\n")
    plots_ = {title: plot for title, plot in drawn.values() if plot is not None}
    _write_page(folder / "report.html", rows, conditions, command, plots_)


def published_plot(rows: Sequence[Compared]) -> str | None:
    """AP on COCO test-dev over FPS as the papers have them, coloured by family, sizes of one
    network joined. What was measured here is another measure and stands in a plot of its own."""
    groups: dict[str, list[tuple[float, float, str]]] = {}
    lines: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in rows:
        if not row.published_fps or not row.published_ap:
            continue
        point = (row.published_fps, row.published_ap)
        groups.setdefault(_family(row), []).append((*point, f"{row.method}, {row.backbone}"))
        kind = re.sub(r"\d+(?=\D*$)", "", row.method)  # SSD300* and SSD512*: one line
        lines.setdefault((kind, row.backbone), []).append(point)
    joined = [line for line in lines.values() if len(line) > 1]
    axes = ("FPS, each on its authors' GPU", "AP on COCO test-dev in percent")
    return plots.scatter(groups, *axes, joined) if groups else None


def measured_plot(rows: Sequence[Compared], conditions: dict[str, Any]) -> str | None:
    """COCO AP over FPS as both were measured here."""
    groups: dict[str, list[tuple[float, float, str]]] = {}
    for row in rows:
        if row.fps and row.ap is not None:
            point = (row.fps, 100 * row.ap, f"{row.model or row.method}, {row.input}")
            groups.setdefault(_family(row), []).append(point)
    where = ", ".join(conditions.get("data") or ())
    x = plots.plain(f"FPS at batch 1 on {conditions.get('device', '')}")
    y = plots.plain(f"AP (COCO) on {where} in percent")
    return plots.scatter(groups, x, y) if groups else None


def _family(row: Compared) -> str:
    from boxatlas.zoo import model_info

    return model_info(row.model).family if row.model else "others"


def _write_page(
    path: Path,
    rows: Sequence[Compared],
    conditions: dict[str, Any],
    command: str,
    drawn: dict[str, str],
) -> None:
    sections = [Section(f"Speed and accuracy, {t}", plots=[plot]) for t, plot in drawn.items()]
    speeds = {row.model or row.method: row.fps for row in rows if row.fps}
    if speeds:
        bars = plots.bars(speeds, f"FPS at batch 1 on {conditions.get('device', '')}")
        sections.append(Section("Speed here", plots=[bars]))
    for pair in conditions.get("paired", ()):
        proven = "does not hold 0" if pair["low"] * pair["high"] > 0 else "holds 0: nothing proven"
        said = (
            f"{pair['second']} has {100 * pair['AP']:+.1f} AP against {pair['first']} on the same "
            f"images; the 95 % interval, {100 * pair['low']:+.1f} to {100 * pair['high']:+.1f}, "
            f"{proven}."
        )
        sections.append(Section("Compared in pairs", said))
    sections += [
        Section(
            "Table",
            "Published: FPS on the authors' GPU, AP on COCO test-dev, mAP on VOC07. "
            "Here: network, decoding and suppression at batch 1; AP on the data named above; "
            "a model without weights has a speed and no accuracy.",
            rows=table_rows(rows),
        ),
        Section("Made again by", command),
    ]
    said = ", ".join(
        f"{k} {v}" for k, v in conditions.items() if v not in (None, [], ()) and k != "paired"
    )
    write_page(path, "Comparison of detectors", said, sections)
