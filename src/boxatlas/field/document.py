"""The field's page in the documents and its report: both of stored results alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from boxatlas.evaluation import plots
from boxatlas.evaluation.comparison import published_plot, survey_rows
from boxatlas.evaluation.survey import SURVEY
from boxatlas.field import report, results
from boxatlas.field.plan import APART, ENTRIES, SIDE
from boxatlas.field.timing import survey_key
from boxatlas.files import make_folder, write_text

PAGE = "field.md"
_PLOTS = "field"  # the folder of the page's plots, beside it
_ABOUT = f"""\
Every method of the atlas with one backbone, on the same images, trained alike: so that a difference
is the method's idea and not its backbone or its year. All of this page is made from `field/results`
by

    boxatlas field document

**Alike for all.** EfficientNet-Lite0 up to stride 32, its norms folded and its layers up to stride
4 as they are. Images stretched to {SIDE} x {SIDE} pixels, also for methods whose papers keep the
aspect. VOC's 20 classes: 4,251 images of VOC2007 and 2012, scaled to a long side of 320, to learn
from, in the same order, mirrored or not; 2,298 others to judge on. AdamW, batches of eight,
averaged weights. The rate is constant and falls to a hundredth over the last fifth, so that a
longer training begins like a shorter one. A family has its own rate, found by the same small
search.

**The same start.** The backbone of the [bundled detector](bundled.md), which an SSD had trained on
**these very images**. What starts elsewhere says so: from ImageNet's weights, or from scratch.

**How to read it.** After so few images this compares how fast methods learn, not their papers,
which trained ten to a hundred times as long, on larger images. A method that gained more than a
tenth of its COCO AP in the last half of its training is *unfinished* and has no rank; `?`: half its
training was not judged, so that nobody knows. Numbers are of the packed files that
`boxatlas.load("field/NAME")` reads. AP in percent, with 95 % intervals of a bootstrap over the test
images where they were taken.
"""

# Why a method stands where it does, where that was looked into.
FINDINGS = (
    "A rate of 3e-3 is too high for both families that were tried with it (SSD, RetinaNet); region "
    "methods learn more with 5e-4 than with 1e-3.",
    "RetinaNet without norms in its heads learns next to nothing in 6,000 images: mAP at 0.5 0.047 "
    "beside 0.302 with group norm, at the same rate. The field gives it group norm.",
)


def write_document(folder: Path, docs: Path) -> list[Path]:
    """Write docs/field.md and its plots. folder: of the results. Returns the files."""
    known, speed, pairs, survey = stored(folder)
    plots_ = drawn(known, speed, pairs, survey)
    make_folder(docs / _PLOTS)
    written = []
    for name, (_, plot) in plots_.items():
        written.append(docs / _PLOTS / f"{name}.svg")
        write_text(written[-1], _alone(plot))
    figures = {name: said for name, (said, _) in plots_.items()}
    text = "\n".join(_parts(known, speed, pairs, survey, figures))
    write_text(docs / PAGE, text.rstrip("\n") + "\n")
    return [docs / PAGE, *written]


def stored(
    folder: Path,
) -> tuple[dict[str, dict[str, Any]], dict[str, Any], dict[str, Any], dict[str, Any]]:
    """(results by name, speed, pairs, survey)."""
    read = results.read_document
    speed, pairs, survey = (read(folder, f"{name}.json") for name in ("speed", "pairs", "survey"))
    return results.read_results(folder), speed, pairs, survey


def drawn(
    known: report.Results, speed: Mapping[str, Any], pairs: Mapping[str, Any], survey: Mapping
) -> dict[str, tuple[str, str]]:
    """Name -> (what it shows, SVG)."""
    latest = latest_rows(known, speed, pairs)
    where = machine(speed)
    made = {
        "learning": (
            "COCO AP over images seen, colour and marker by family, two-stage methods hollow.",
            report.learning_plot(known),
        ),
        "speed": (
            "COCO AP over FPS, each method after its longest training; colour and marker by "
            "family, two-stage methods hollow.",
            report.speed_plot(latest, where),
        ),
        "published": (
            "The survey as published; two-stage methods hollow, sizes of one network joined.",
            published_plot(survey_rows()),
        ),
        "survey": (
            "Published AP over the FPS that was measured here.",
            survey_plot(survey),
        ),
    }
    return {name: (said, plot) for name, (said, plot) in made.items() if plot is not None}


def latest_rows(
    known: report.Results, speed: Mapping[str, Any], pairs: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """A row for each method, of its longest training."""
    rows = []
    for name, held in known.items():
        rows += report.table({name: held}, results.latest(dict(held))["images"], speed, pairs)
    return sorted(rows, key=lambda row: -row["AP"])


def survey_plot(survey: Mapping[str, Any]) -> str | None:
    """Published COCO AP over measured FPS, by method, two-stage methods hollow."""
    from boxatlas.zoo import model_info

    groups: dict[str, list[tuple[float, float, str]]] = {}
    hollow = set()
    for row in SURVEY:
        timed = survey.get("rows", {}).get(survey_key(row))
        if timed is None:
            continue
        info = model_info(row.model)
        groups.setdefault(info.method, []).append((timed["fps"], row.ap, survey_key(row)))
        if info.family == "two-stage":
            hollow.add(info.method)
    axes = (plots.plain(f"FPS at batch 1, {machine(survey)}"), "AP on COCO test-dev, as published")
    return plots.scatter(groups, *axes, hollow=hollow) if groups else None


def machine(timed: Mapping[str, Any]) -> str:
    """What the times were taken on."""
    count = timed.get("threads")
    many = "thread" if count == 1 else "threads"
    return f"{timed['device']}, {count} {many}" if "device" in timed else ""


def survey_table(survey: Mapping[str, Any]) -> list[dict[str, str]]:
    """The survey's 22 lines: published FPS and AP, and the FPS measured here."""
    rows = []
    for row in SURVEY:
        timed = survey.get("rows", {}).get(survey_key(row))
        between = "-" if timed is None else "{:.3g} to {:.3g}".format(*timed["fps_between"])
        rows.append(
            {
                "method": row.method,
                "backbone": row.backbone,
                "input": row.input,
                "AP, published": f"{row.ap:g}",
                "FPS, published": f"{row.fps:g}",
                "FPS, here": "-" if timed is None else f"{timed['fps']:.3g}",
                "between": between,
                "of the published": "-" if timed is None else f"{timed['fps'] / row.fps:.3f}",
            }
        )
    return rows


# -- the page --------------------------------------------------------------------------------------


def _parts(
    known: report.Results,
    speed: Mapping[str, Any],
    pairs: Mapping[str, Any],
    survey: Mapping[str, Any],
    figures: Mapping[str, str],
) -> list[str]:
    parts = ["# The field", "", _ABOUT]
    for images in reversed(report.stages(known)):
        rows = report.table(known, images, speed, pairs)
        parts += [f"## After {images:,} images", "", _markdown(report.shown(rows)), ""]
    if known:
        parts += ["Minutes of training: on one core that had other work, so upper bounds.", ""]
    else:
        parts += ["Nothing was judged yet.", ""]
    parts += _figure("learning", figures) + _figure("speed", figures)
    if speed:
        parts += [
            f"FPS: network, decoding and suppression at batch 1, in turns, {machine(speed)}.",
            "",
        ]
    compared = report.differences(pairs)
    if compared:
        parts += ["## How sure the order is", "", _markdown(compared), ""]
    if known:
        lost = report.mistakes(latest_rows(known, speed, pairs))
        said = "AP at 0.5, in percent, that would be gained if one kind of mistake were put right."
        parts += ["## Kinds of mistakes", "", said, "", _markdown(lost), ""]
    for images in reversed(report.stages(known)):
        rows = report.starts(known, images)
        if rows:
            parts += [f"## Two starts, after {images:,} images", "", _markdown(rows), ""]
    return parts + _settings() + _survey(survey, figures) + _again()


def _settings() -> list[str]:
    said = (
        "Rates by family. The search trained one method of a family on 6,000 images and judged it "
        "on a tenth of the training images that was held out, which the start had partly seen: its "
        "numbers compare rates and nothing else."
    )
    notes = [f"- `{e.name}`: {e.note}." for e in ENTRIES if e.note]
    apart = [f"- {method}: {why}." for method, why in APART.items()]
    return [
        *("## Settings", "", said, "", _markdown(report.rates()), "", *notes, ""),
        *("## What is not in it", "", *apart, ""),
        *("## What was found", "", *(f"- {found}" for found in FINDINGS), ""),
    ]


def _survey(survey: Mapping[str, Any], figures: Mapping[str, str]) -> list[str]:
    said = (
        "The comparison that surveys print: FPS as published, each on its authors' GPU, AP on COCO "
        "test-dev. Beside it the same networks here, of 80 classes and random weights, the "
        f"threshold set to leave a hundred detections{': ' + machine(survey) if survey else ''}. "
        "The machine had other work, and each was timed on its own: only large differences count."
    )
    return [
        *("## Published and measured", "", said, "", _markdown(survey_table(survey)), ""),
        *_figure("published", figures),
        *_figure("survey", figures),
    ]


def _again() -> list[str]:
    return [
        "## Made again",
        "",
        "    boxatlas field train --data VOC20 --out runs/field --images 7500",
        "    boxatlas field pairs --data VOC20 --out runs/field",
        "    boxatlas field speed --data VOC20 --out runs/field",
        "    boxatlas field survey",
        "    boxatlas field document",
        "",
        "A training that was stopped goes on by the same command; with more `--images` it goes on",
        "from where its rate began to fall. On a GPU: `--images 300000`.",
    ]


def _figure(name: str, figures: Mapping[str, str]) -> list[str]:
    if name not in figures:
        return []
    return [f"![{figures[name]}]({_PLOTS}/{name}.svg)", "", f"*{figures[name]}*", ""]


def _markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """A table."""
    if not rows:
        return ""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    lines += ["| " + " | ".join(row.values()) + " |" for row in rows]
    return "\n".join(lines)


def _alone(svg: str) -> str:
    """An <svg> element as a file of its own, on white, since a page may be dark."""
    head, mark, rest = svg.partition(">")
    return f'{head} style="background:white"{mark}{rest}\n'
