"""Tables and plots of the field, of stored results alone.

Methods are compared after equal numbers of images. A method that gained more than a tenth of its AP
in the last half of its training is marked and has no rank: it was not done. Where half the training
was not judged that is not known, and there is no rank either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from boxatlas.evaluation import plots
from boxatlas.evaluation.comparison import Compared, published_row
from boxatlas.field import results
from boxatlas.field.plan import ENTRIES, FAMILIES, Entry, entry
from boxatlas.zoo import model_info

Results = Mapping[str, Mapping[str, Any]]
_STARTS = {"bundled": "the field's", "imagenet": "ImageNet", "none": "from scratch"}
_UNSURE = {True: "unfinished", False: "", None: "?"}
MISTAKES = ("classification", "localisation", "both", "duplicate", "background", "missed")


def stages(known: Results) -> list[int]:
    """The numbers of images after which anything was judged, rising."""
    return sorted({p["images"] for document in known.values() for p in document["judged"]})


def family_of(one: Entry) -> str:
    """A family, with its stages where those are two."""
    two = model_info(one.model).family == "two-stage"
    return f"{one.family}, two stages" if two else one.family


def table(
    known: Results, images: int, speed: Mapping[str, Any], pairs: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """What is known of each method after so many images, best COCO AP first; for JSON.

    speed, pairs: those documents of the results; what they say of other files than the ones judged
    is left out. rank: among the finished methods that have the common start.
    """
    rows = []
    for name, document in known.items():
        judged = results.point(dict(document), images)
        if judged is not None:
            rows.append(_row(entry(name), dict(document), judged, speed, pairs))
    rows.sort(key=lambda row: -row["AP"])
    ranked = [r for r in rows if r["start"] == "bundled" and r["unfinished"] is False]
    for place, row in enumerate(ranked, 1):
        row["rank"] = place
    return rows


def _row(
    one: Entry,
    document: dict[str, Any],
    judged: dict[str, Any],
    speed: Mapping[str, Any],
    pairs: Mapping[str, Any],
) -> dict[str, Any]:
    coco = judged["coco"]
    timed = _same(speed.get("methods", {}).get(one.name), judged)
    sure = pairs.get("intervals", {}).get(judged["sha256"], {})
    return {
        "rank": None,
        "name": one.name,
        "method": model_info(one.model).method,
        "model": one.model,
        "family": family_of(one),
        "start": one.start,
        "images": judged["images"],
        "AP": coco["AP"],
        "AP_interval": sure.get("AP"),
        "AP50": judged["voc07"],
        "AP50_interval": judged["voc07_interval"],
        "AP75": coco["AP75"],
        "AP_small": coco["AP_small"],
        "AP_medium": coco["AP_medium"],
        "AP_large": coco["AP_large"],
        "unfinished": results.unfinished(document, judged["images"]),
        "fps": timed.get("fps"),
        "fps_between": timed.get("fps_between"),
        "memory_mb": timed.get("peak_memory_mb"),
        "parameters": judged["parameters"],
        "multiply_adds": judged["multiply_adds"],
        "seconds": judged["seconds"],
        "bytes": judged["bytes"],
        "sha256": judged["sha256"],
        "lost": judged["lost"],
    }


def _same(held: Mapping[str, Any] | None, judged: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is held of the very file that was judged."""
    return held if held is not None and held["sha256"] == judged["sha256"] else {}


# -- for people ------------------------------------------------------------------------------------


def shown(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The table as text: AP in percent, what nothing was measured of left out."""
    made = [
        {
            "": _UNSURE[row["unfinished"]] if row["rank"] is None else str(row["rank"]),
            "method": row["name"],
            "family": row["family"],
            "start": _STARTS[row["start"]],
            "AP": _percent(row["AP"], row["AP_interval"]),
            "AP at 0.5 (VOC07)": _percent(row["AP50"], row["AP50_interval"]),
            "0.75": _percent(row["AP75"]),
            "small": _percent(row["AP_small"]),
            "medium": _percent(row["AP_medium"]),
            "large": _percent(row["AP_large"]),
            "FPS": _between(row["fps"], row["fps_between"]),
            "memory, MB": _digits(row["memory_mb"], 0),
            "Mparam": _digits(row["parameters"] / 1e6, 2),
            "GMAC": _digits(row["multiply_adds"] / 1e9, 2),
            "minutes of training": _digits(row["seconds"] and row["seconds"] / 60, 0),
            "file, MB": _digits(row["bytes"] / 1e6, 1),
        }
        for row in rows
    ]
    kept = [key for key in (made[0] if made else {}) if any(row[key] != "-" for row in made)]
    return [{key: row[key] for key in kept} for row in made]


def mistakes(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """AP at 0.5, in percent, that each kind of mistake costs (TIDE)."""
    return [
        {"method": row["name"], **{k: _percent(row["lost"].get(k)) for k in MISTAKES}}
        for row in rows
    ]


def differences(pairs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each method beside the one that follows it in COCO AP, on the same images."""
    return [
        {
            "images": f"{one['images']:,}",
            "better": one["better"],
            "than": one["worse"],
            "by AP": f"{100 * one['AP']:+.1f}",
            "95 % interval": f"{100 * one['low']:+.1f} to {100 * one['high']:+.1f}",
            "proven": "yes" if one["low"] * one["high"] > 0 else "no",
        }
        for one in pairs.get("pairs", ())
    ]


def rates() -> list[dict[str, Any]]:
    """A family's settings, and what its search found: COCO AP by rate."""
    return [
        {
            "family": name,
            "rate": f"{family.lr:g}",
            "warm-up, steps": str(family.warmup),
            "searched with": ", ".join(family.searched) or "-",
            "AP by rate": "; ".join(
                f"{rate:g}: {100 * ap:.1f}"
                for found in family.searched.values()
                for rate, ap in sorted(found.items())
            )
            or "-",
            "methods": ", ".join(e.name for e in ENTRIES if e.family == name),
        }
        for name, family in FAMILIES.items()
    ]


def starts(known: Results, images: int) -> list[dict[str, Any]]:
    """Methods that were trained from two starts: COCO AP from each, in percent."""
    rows = []
    for one in ENTRIES:
        plain = one.name.removesuffix("_imagenet")
        if plain == one.name or plain not in known or one.name not in known:
            continue
        pair = [results.point(dict(known[n]), images) for n in (plain, one.name)]
        if None not in pair:
            first, second = (p["coco"]["AP"] for p in pair if p is not None)
            rows.append(
                {"method": plain, "the field's": _percent(first), "ImageNet": _percent(second)}
            )
    return rows


def _percent(value: float | None, between: Sequence[float] | None = None) -> str:
    if value is None or value < 0:  # COCO says -1 where the data has no such object
        return "-"
    if between is None:
        return f"{100 * value:.1f}"
    return f"{100 * value:.1f} ({100 * between[0]:.1f} to {100 * between[1]:.1f})"


def _between(value: float | None, between: Sequence[float] | None) -> str:
    if value is None or between is None:
        return "-"
    return f"{value:.3g} ({between[0]:.3g} to {between[1]:.3g})"


def _digits(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


# -- plots -----------------------------------------------------------------------------------------

_HOLLOW = {family_of(e) for e in ENTRIES if model_info(e.model).family == "two-stage"}


def _no_points() -> dict[str, list[tuple[float, float, str]]]:
    """Every family, so that each has the same colour and marker in all plots."""
    return {family_of(one): [] for one in ENTRIES}


def learning_plot(known: Results) -> str | None:
    """COCO AP over images seen, a line for each method, named at its end; None where all were
    judged after equally many, which is no line."""
    if len(stages(known)) < 2:
        return None
    groups = _no_points()
    lines = []
    for name, document in known.items():
        points = [(p["images"], 100 * p["coco"]["AP"]) for p in document["judged"]]
        named = [(*at, name if at == points[-1] else "") for at in points]
        groups[family_of(entry(name))].extend(named)
        lines.append(points)
    axes = ("images seen in training", "AP (COCO) on the test images, percent")
    return plots.scatter(groups, *axes, lines, hollow=_HOLLOW)


def speed_plot(rows: Sequence[Mapping[str, Any]], where: str) -> str | None:
    """COCO AP over FPS: colour and marker by family, two-stage methods hollow."""
    groups = _no_points()
    for row in rows:
        if row["fps"]:
            groups[row["family"]].append((row["fps"], 100 * row["AP"], row["name"]))
    axes = (plots.plain(f"FPS at batch 1, {where}"), "AP (COCO) on the test images, percent")
    return plots.scatter(groups, *axes, hollow=_HOLLOW) if any(groups.values()) else None


# -- beside published methods ----------------------------------------------------------------------


def compared(known: Results, speed: Mapping[str, Any]) -> list[Compared]:
    """The longest training of each method as rows of `boxatlas compare`."""
    rows = []
    for name, document in known.items():
        judged = results.latest(dict(document))
        row = published_row(document["model"])
        timed = _same(speed.get("methods", {}).get(name), judged)
        row.backbone, row.source = "EfficientNet-Lite0", f"field/{name}"
        if document["options"].get("backbone") is None:
            row.backbone = model_info(document["model"]).backbone
        row.size = document["options"]["size"]
        row.input = f"{row.size}x{row.size}"
        row.ap, row.ap50, row.map = judged["coco"]["AP"], judged["coco"]["AP50"], judged["voc07"]
        row.fps, row.latency_ms = timed.get("fps"), timed.get("latency_ms")
        between = timed.get("fps_between")
        row.fps_between = None if between is None else (between[0], between[1])
        row.parameters, row.multiply_adds = judged["parameters"], judged["multiply_adds"]
        rows.append(row)
    return rows
