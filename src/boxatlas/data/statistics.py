"""What is in a data set, in numbers and as a picture.

Shape letters: N images, T objects of one split.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxatlas.data.doctor.sets import apart
from boxatlas.data.table import Table

_SMALL, _LARGE = 32.0**2, 96.0**2  # square pixels: where COCO draws its lines
_QUANTILES = {"least": 0.0, "a quarter": 0.25, "half": 0.5, "three quarters": 0.75, "most": 1.0}


def statistics(splits: Mapping[str, Table]) -> dict[str, Any]:
    """Of each split: images, objects by class, size, shape and number, as plain numbers.

    Ignored objects (difficult, crowd) are counted apart and are in none of the other numbers.
    """
    return {name or "all": _of(table) for name, table in splits.items()}


def _of(table: Table) -> dict[str, Any]:
    used = table.where(~table.ignore)
    sides = used.boxes[:, 2:] - used.boxes[:, :2]
    fine = (sides > 0).all(1)
    ratio = sides[fine, 0] / sides[fine, 1]
    areas, owner = used.object_areas, used.image_of
    classes = len(table.classes)
    seen = np.unique(np.stack([owner, used.labels.astype(np.int64)], 1), axis=0)[:, 1]
    images = np.bincount(seen, minlength=classes)
    objects = np.bincount(used.labels, minlength=classes)
    ignored = np.bincount(table.labels[table.ignore], minlength=classes)
    share = np.sqrt(sides.clip(0).prod(1) / np.maximum(used.sizes.prod(1), 1)[owner])
    return {
        "images": len(table),
        "images without objects": int((table.counts == 0).sum()),
        "objects": len(used.labels),
        "ignored": int(table.ignore.sum()),
        "classes": {
            name: {"objects": int(o), "images": int(n), "ignored": int(g)}
            for name, o, n, g in zip(table.classes, objects, images, ignored, strict=True)
        },
        "size by area": {
            "small (under 32 x 32)": int((areas < _SMALL).sum()),
            "medium": int(((areas >= _SMALL) & (areas < _LARGE)).sum()),
            "large (96 x 96 and up)": int((areas >= _LARGE).sum()),
        },
        "box width": _spread(sides[:, 0]),
        "box height": _spread(sides[:, 1]),
        "box side / image side": _spread(share),
        "box width / height": _spread(ratio),
        "objects an image": _spread(used.counts),
        "image width": _spread(table.sizes[:, 1]),
        "image height": _spread(table.sizes[:, 0]),
    }


def _spread(values: NDArray[Any]) -> dict[str, float] | None:
    """Quantiles and mean; None of nothing."""
    if len(values) == 0:
        return None
    at = np.quantile(values, list(_QUANTILES.values()))
    out = {name: round(float(v), 4) for name, v in zip(_QUANTILES, at, strict=True)}
    return {**out, "mean": round(float(values.mean()), 4)}


def class_rows(stats: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each class: its objects in each split."""
    names = list(dict.fromkeys(name for s in stats.values() for name in s["classes"]))
    total = {
        name: sum(s["classes"].get(name, {}).get("objects", 0) for s in stats.values())
        for name in names
    }
    return [
        {
            "class": name,
            **{split: s["classes"].get(name, {}).get("objects", 0) for split, s in stats.items()},
        }
        for name in sorted(names, key=lambda name: -total[name])
    ]


def summary_rows(stats: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each quantity, a column for each split."""
    rows: list[dict[str, Any]] = []
    first = next(iter(stats.values()))
    for key, value in first.items():
        if key == "classes":
            continue
        if key == "size by area":
            rows += [{"": name, **{s: v[key][name] for s, v in stats.items()}} for name in value]
        elif isinstance(value, int):
            rows.append({"": key, **{s: v[key] for s, v in stats.items()}})
        else:
            rows.append(
                {"": f"{key} (median, most)", **{s: _short(v[key]) for s, v in stats.items()}}
            )
    return rows


def _short(spread: dict[str, float] | None) -> str:
    return "-" if spread is None else f"{spread['half']:.4g}, {spread['most']:.4g}"


def once(splits: Mapping[str, Table]) -> dict[str, Table]:
    """Each image in one split: train, val and test first, and of the others what is in none."""
    names = list(splits)
    first = apart(names)
    seen: set[str] = set()
    found = {}
    for name in [*first, *(name for name in names if name not in first)]:
        rows = [i for i, path in enumerate(splits[name].paths) if path not in seen]
        seen.update(splits[name].paths)
        if rows or len(names) == 1:
            found[name] = splits[name].select(rows)
    return found


def picture(splits: Mapping[str, Table], path: Path) -> None:
    """A page of histograms, one colour a split."""
    from matplotlib.figure import Figure

    from boxatlas.files import write_with

    tables = {name or "all": t.where(~t.ignore) for name, t in once(splits).items()}
    figure = Figure(figsize=(13, 8.5), dpi=100, layout="constrained")
    axes = figure.subplots(2, 3)
    _class_bars(axes[0, 0], tables)
    sides = {n: np.maximum(t.boxes[:, 2:] - t.boxes[:, :2], 1e-3) for n, t in tables.items()}
    bins = 2.0 ** np.arange(1, 11.5, 0.5)
    _histogram(
        axes[0, 1],
        {n: np.sqrt(t.object_areas) for n, t in tables.items()},
        bins,
        "square root of the object's area (pixels)",
        log=True,
    )
    for line, name in ((32, "small | medium"), (96, "medium | large")):
        axes[0, 1].axvline(line, color="0.4", linewidth=0.8, linestyle="--")
        axes[0, 1].text(
            line,
            0.99,
            f" {name}",
            rotation=90,
            va="top",
            fontsize=7,
            color="0.4",
            transform=axes[0, 1].get_xaxis_transform(),
        )
    _histogram(
        axes[0, 2],
        {n: s[:, 0] / s[:, 1] for n, s in sides.items()},
        2.0 ** np.arange(-4, 4.25, 0.25),
        "box width / height",
        log=True,
    )
    most = max((int(t.counts.max()) for t in tables.values() if len(t)), default=0)
    _histogram(
        axes[1, 0],
        {n: t.counts for n, t in tables.items()},
        np.arange(-0.5, min(most, 40) + 1.5),
        "objects an image",
    )
    _centres(axes[1, 1], tables)
    for name, t in tables.items():
        axes[1, 2].scatter(t.sizes[:, 1], t.sizes[:, 0], s=8, alpha=0.4, label=name)
    axes[1, 2].set(
        xlabel="image width (pixels)", ylabel="image height", xlim=(0, None), ylim=(0, None)
    )
    axes[1, 2].legend(fontsize=8)
    write_with(path, lambda temporary: figure.savefig(temporary, format="png"))


def _class_bars(axis: Any, tables: Mapping[str, Table], most: int = 30) -> None:
    total: dict[str, dict[str, int]] = {}
    for split, table in tables.items():
        counts = np.bincount(table.labels, minlength=len(table.classes)).tolist()
        for name, n in zip(table.classes, counts, strict=True):
            total.setdefault(name, {})[split] = n
    names = sorted(total, key=lambda name: -sum(total[name].values()))[:most][::-1]
    left = np.zeros(len(names))
    for split in tables:
        values = np.array([total[name].get(split, 0) for name in names])
        axis.barh(names, values, left=left, label=split)
        left = left + values
    axis.tick_params(axis="y", labelsize=8 if len(names) < 22 else 6)
    more = f" (the {most} most frequent of {len(total)})" if len(total) > most else ""
    axis.set_xlabel(f"objects{more}")
    axis.legend(fontsize=8)


def _histogram(
    axis: Any,
    values: Mapping[str, NDArray[Any]],
    bins: NDArray[Any],
    label: str,
    log: bool = False,
) -> None:
    for name, found in values.items():
        if len(found):
            weights = np.full(len(found), 1 / len(found))
            clipped = np.clip(found, bins[0], bins[-1])
            axis.hist(clipped, bins, weights=weights, histtype="step", linewidth=1.6, label=name)
    if log:
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(lambda v, _: f"{v:g}")
    axis.set(xlabel=label, ylabel="share")


def _centres(axis: Any, tables: Mapping[str, Table]) -> None:
    parts = [np.zeros((0, 2))]
    for table in tables.values():
        centre = (table.boxes[:, :2] + table.boxes[:, 2:]) / 2
        parts.append(centre / table.sizes[table.image_of][:, [1, 0]])
    x, y = np.concatenate(parts).T
    axis.hist2d(x, y, bins=24, range=((0, 1), (0, 1)), cmap="viridis")
    axis.invert_yaxis()
    axis.set(xlabel="where objects' centres lie (fractions of the image)", aspect="equal")
