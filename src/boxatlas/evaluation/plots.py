"""Plots as SVG text, to stand inside a page or in a file of their own."""

from __future__ import annotations

import io
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from numpy.typing import NDArray

from boxatlas.errors import shown

_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "svg.fonttype": "none",
    "svg.hashsalt": "boxatlas",
    "figure.autolayout": True,
}
_MARKERS = "os^DvPX*<>ph"
_NAMED = 20  # curves that get a colour and a name; more would be read by nobody

Curve = tuple[Sequence[float] | NDArray[Any], Sequence[float] | NDArray[Any]]


def _figure(width: float, height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height))
    return figure, figure.add_subplot()


def plain(name: object) -> str:
    """A name as matplotlib shows it and nothing else: no formula, no hidden legend entry."""
    text = shown(name).replace("$", "\\$")
    return f" {text}" if text.startswith("_") else text


def _svg(figure: Figure) -> str:
    """The <svg> element alone, without date, so that equal numbers give equal files."""
    out = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that its font lacks: the page's font has them
        _save(figure, out)
    text = out.getvalue()
    return text[text.index("<svg") :]


def _save(figure: Figure, out: io.StringIO) -> None:
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)


def _colours(count: int) -> list[Any]:
    if count <= 10:
        return [colormaps["tab10"](i) for i in range(count)]
    return [colormaps["turbo"](v) for v in np.linspace(0.05, 0.95, count)]


def precision_recall(curves: Mapping[str, Curve]) -> str:
    """Precision over recall; name -> (recall, precision)."""
    with rc_context(_STYLE):
        figure, axes = _figure(6.2, 4.2)
        colours = _colours(min(len(curves), _NAMED))
        for k, (name, (recall, precision)) in enumerate(curves.items()):
            named = k < _NAMED
            axes.plot(
                [0, *recall],
                [precision[0] if len(precision) else 0, *precision],
                color=colours[k] if named else "0.8",
                label=plain(name) if named else None,
                linewidth=1.3 if named else 0.6,
                zorder=2 if named else 1,
            )
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.03))
        if curves:
            axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
        return _svg(figure)


def bars(values: Mapping[str, float | None], unit: str) -> str:
    """One horizontal bar for each name."""
    with rc_context(_STYLE):
        figure, axes = _figure(5.2, 0.5 + 0.28 * max(1, len(values)))
        names = list(values)[::-1]
        numbers = [values[n] or 0.0 for n in names]
        axes.barh(range(len(names)), numbers, color="#4c72b0", height=0.65)
        for y, name in enumerate(names):
            value = values[name]
            axes.text(numbers[y], y, " -" if value is None else f" {value:.3g}", va="center")
        axes.set_yticks(range(len(names)), [plain(name) for name in names])
        axes.set_xlabel(plain(unit))
        axes.margins(x=0.15)
        axes.grid(axis="y", visible=False)
        return _svg(figure)


def matrix(values: NDArray[Any], names: Sequence[str]) -> str:
    """A confusion matrix [K + 1, K + 1]; the last row is background, the last column missed."""
    rows = [*map(plain, names), "background"]
    columns = [*map(plain, names), "missed"]
    side = 1.6 + 0.34 * len(rows)
    with rc_context({**_STYLE, "axes.grid": False}):
        figure, axes = _figure(side + 0.6, side)
        share = values / np.maximum(values.sum(1, keepdims=True), 1)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(range(len(columns)), columns, rotation=60, ha="right", fontsize=7)
        axes.set_yticks(range(len(rows)), rows, fontsize=7)
        axes.set(xlabel="detected as", ylabel="object")
        for i, j in zip(*np.nonzero(values), strict=True):
            axes.text(
                j,
                i,
                str(values[i, j]),
                ha="center",
                va="center",
                fontsize=6,
                color="white" if share[i, j] > 0.5 else "black",
            )
        return _svg(figure)


def lines(curves: Mapping[str, Curve], x: str, y: str, *, log: bool = False) -> str:
    """Several curves; name -> (x, y)."""
    with rc_context(_STYLE):
        figure, axes = _figure(5.6, 3.0)
        for colour, (name, (xs, ys)) in zip(_colours(len(curves)), curves.items(), strict=True):
            axes.plot(
                xs,
                ys,
                color=colour,
                label=plain(name),
                linewidth=1.3,
                marker="." if len(xs) < 40 else None,
            )
        axes.set(xlabel=x, ylabel=y)
        if log:
            axes.set_yscale("log")
        if len(curves) > 1:
            axes.legend(fontsize=7, frameon=False)
        return _svg(figure)


def scatter(
    groups: Mapping[str, Sequence[tuple[float, float, str]]],
    x: str,
    y: str,
    lines: Sequence[Sequence[tuple[float, float]]] = (),
    *,
    hollow: Collection[str] = (),
) -> str:
    """Points (x, y, name or "") in groups, some joined by lines; x runs by powers.

    Each group, an empty one too, has a colour and a marker of its own, those of `hollow` an outline
    alone, so that they are told apart in grey as well.
    """
    with rc_context({**_STYLE, "figure.autolayout": False}):
        figure, axes = _figure(9.4, 6.2)
        figure.subplots_adjust(left=0.07, right=0.81, bottom=0.08, top=0.98)
        for line in lines:
            axes.plot(*zip(*sorted(line), strict=True), color="0.7", linewidth=0.8, zorder=1)
        for k, (colour, (group, points)) in enumerate(
            zip(_colours(len(groups)), groups.items(), strict=True)
        ):
            if not points:
                continue
            axes.scatter(
                [p[0] for p in points],
                [p[1] for p in points],
                label=plain(group),
                s=38,
                facecolors="white" if group in hollow else [colour],
                edgecolors=[colour],
                linewidths=1.6,
                marker=_MARKERS[k % len(_MARKERS)],
                zorder=3,
            )
        axes.set(xlabel=x, ylabel=y, xscale="log")
        axes.margins(0.06)
        low, high = axes.get_xlim()
        if high > 20 * low:  # else every step of a decade has room for its number
            axes.xaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
        for axis in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
            axis(lambda value, _: f"{value:g}")
        if any(groups.values()):
            axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
        _name_points(figure, axes, [p for points in groups.values() for p in points if p[2]])
        return _svg(figure)


def _name_points(figure: Figure, axes: Any, points: Sequence[tuple[float, float, str]]) -> None:
    """Write each name near its point, where it covers least of the points and of other names."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    at = axes.transData.transform([(px, py) for px, py, _ in points]) if points else []
    taken = [(px - 6, py - 6, px + 6, py + 6) for px, py in at]
    frame = axes.get_window_extent(renderer).extents
    points_in = 72 / figure.dpi
    for (px, py), (dx, dy, name) in zip(at, points, strict=True):
        text = axes.annotate(
            plain(name), (dx, dy), xytext=(0, 0), textcoords="offset points", fontsize=7
        )
        extent = text.get_window_extent(renderer)
        w, h = extent.width, extent.height
        places = [
            (px + right, py + up, far)
            for far in (7, 16, 27, 45, 65)
            for right in (far * 0.9, -far * 0.9 - w, -w / 2)
            for up in (far * 0.4, -far * 0.4 - h, -h / 2, far, -far - h)
            if right > 0 or right + w < 0 or abs(up + h / 2) > 8
        ]
        boxes = [(bx, by, bx + w, by + h) for bx, by, _ in places]
        costs = [
            sum(_overlap(box, one) for one in taken) + 50 * (w * h - _overlap(box, frame)) + far
            for box, (_, _, far) in zip(boxes, places, strict=True)
        ]
        bx, by, x1, y1 = boxes[int(np.argmin(costs))]
        taken.append((bx, by, x1, y1))
        text.set_position(((bx - px) * points_in, (by - py) * points_in))
        end = (min(max(px, bx), x1), min(max(py, by), y1))
        if np.hypot(end[0] - px, end[1] - py) > 12:  # too far to be seen as this point's
            line = axes.transData.inverted().transform([(px, py), end])
            axes.plot(*line.T, color="0.5", linewidth=0.5, zorder=2)


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Area that two boxes x0, y0, x1, y1 share."""
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    return max(wide, 0.0) * max(high, 0.0)
