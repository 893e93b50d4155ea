"""Pen and paper: a drawing of lines, boxes and words, and plots, as SVG text.

Public: Drawing, Plot, the palette. A drawing is 640 units wide, so that on a phone (some 360
pixels) letters of 20 units can be read. Colours differ in lightness too, lines in their dashes.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from html import escape

WIDTH = 640.0
INK, GREY, PALE, PAPER = "#1f2933", "#6b7785", "#e4e8ed", "#ffffff"
LINES = ("#005ab5", "#dc3220", "#00805f", "#823ca0", "#b06a00", "#3c3c3c")
FILLS = ("#d5e5f7", "#fbdcd6", "#d2efe4", "#eadcf2", "#fae6c8", "#dfdfdf")
DASHES = ("", "10 5", "3 4", "14 4 3 4", "6 3 2 3 2 3", "1 5")
Point = tuple[float, float]


class Drawing:
    """An SVG that grows by what is drawn; `title` is what it says to those who cannot see it."""

    def __init__(self, height: float, title: str, width: float = WIDTH) -> None:
        self.width, self.height, self.title = width, height, title
        self.parts: list[str] = []

    def __str__(self) -> str:
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_n(self.width)} '
            f'{_n(self.height)}" role="img" font-family="system-ui, sans-serif">'
        )
        paper = f'<rect width="100%" height="100%" fill="{PAPER}"/>'
        return f"{head}<title>{escape(self.title)}</title>{paper}{''.join(self.parts)}</svg>"

    def add(self, tag: str, inner: str | None = None, /, **values: object) -> None:
        """One element; underscores of names are hyphens."""
        shown = "".join(
            f' {name.rstrip("_").replace("_", "-")}="{escape(_value(value))}"'
            for name, value in values.items()
            if value not in ("", None)
        )
        self.parts.append(f"<{tag}{shown}/>" if inner is None else f"<{tag}{shown}>{inner}</{tag}>")

    def box(
        self,
        x: float,
        y: float,
        w: float,
        h: float,
        *,
        fill: str = "none",
        stroke: str = INK,
        width: float = 2,
        radius: float = 0,
        dash: str = "",
        **data: object,
    ) -> None:
        self.add(
            "rect",
            x=x,
            y=y,
            width=w,
            height=h,
            fill=fill,
            stroke=stroke,
            stroke_width=width,
            rx=radius or "",
            stroke_dasharray=dash,
            **data,
        )

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: float = 20,
        anchor: str = "start",
        bold: bool = False,
        fill: str = INK,
        halo: bool = False,
        **data: object,
    ) -> None:
        """A line of words whose foot is at y. halo: paper around the letters, over lines."""
        if halo:
            data |= {"paint_order": "stroke", "stroke": PAPER, "stroke_width": 6}
        self.add(
            "text",
            escape(words),
            x=x,
            y=y,
            font_size=size,
            text_anchor=anchor,
            fill=fill,
            font_weight="bold" if bold else "",
            **data,
        )

    def line(
        self,
        points: Iterable[Point],
        *,
        stroke: str = INK,
        width: float = 2,
        dash: str = "",
        fill: str = "none",
        closed: bool = False,
        **data: object,
    ) -> None:
        at = " ".join(f"{_n(x)},{_n(y)}" for x, y in points)
        self.add(
            "polygon" if closed else "polyline",
            points=at,
            fill=fill,
            stroke=stroke,
            stroke_width=width,
            stroke_dasharray=dash,
            stroke_linejoin="round",
            **data,
        )

    def arrow(self, start: Point, end: Point, *, stroke: str = GREY, width: float = 2) -> None:
        angle = math.atan2(end[1] - start[1], end[0] - start[0])
        wings = [
            (end[0] - 9 * math.cos(angle + s), end[1] - 9 * math.sin(angle + s))
            for s in (0.45, -0.45)
        ]
        back = (end[0] - 7 * math.cos(angle), end[1] - 7 * math.sin(angle))
        self.line([start, back], stroke=stroke, width=width)
        self.line([wings[0], end, wings[1]], stroke=stroke, width=1, fill=stroke, closed=True)

    def dot(self, x: float, y: float, r: float = 5, *, fill: str = INK, **data: object) -> None:
        self.add("circle", cx=x, cy=y, r=r, fill=fill, **data)

    def picture(self, x: float, y: float, w: float, h: float, png: bytes) -> None:
        """An image, held in the drawing itself."""
        held = base64.b64encode(png).decode()
        self.add("image", x=x, y=y, width=w, height=h, href=f"data:image/png;base64,{held}")


class Plot:
    """Axes in a part of a drawing, from data to units."""

    def __init__(
        self,
        drawing: Drawing,
        place: tuple[float, float, float, float],
        x: tuple[float, float],
        y: tuple[float, float],
        *,
        labels: tuple[str, str] = ("", ""),
        ticks: tuple[Sequence[float], Sequence[float]] = ((), ()),
    ) -> None:
        """place: left, top, width, height of the axes; x, y: least and largest value of each."""
        self.drawing, self.place, self.x, self.y = drawing, place, x, y
        left, top, width, height = place
        for value in ticks[0]:
            at = self.at(value, y[0])[0]
            drawing.line([(at, top), (at, top + height)], stroke=PALE, width=1)
            drawing.text(at, top + height + 24, f"{value:g}", size=18, anchor="middle", fill=GREY)
        for value in ticks[1]:
            at = self.at(x[0], value)[1]
            drawing.line([(left, at), (left + width, at)], stroke=PALE, width=1)
            drawing.text(left - 8, at + 6, f"{value:g}", size=18, anchor="end", fill=GREY)
        drawing.line([(left, top), (left, top + height), (left + width, top + height)], width=2)
        drawing.text(left + width, top + height + 48, labels[0], size=19, anchor="end")
        drawing.text(left - 40, top - 14, labels[1], size=19)

    def at(self, x: float, y: float) -> Point:
        left, top, width, height = self.place
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return left + across * width, top + (1 - up) * height

    def curve(
        self, xs: Sequence[float], ys: Sequence[float], kind: int = 0, label: str = ""
    ) -> None:
        """A line through the points that lie within the axes, as the values are held."""
        inside = [
            self.at(x, y)
            for x, y in zip(xs, ys, strict=True)
            if self.x[0] <= x <= self.x[1] and self.y[0] <= y <= self.y[1]
        ]
        self.drawing.line(
            inside,
            stroke=LINES[kind],
            width=3,
            dash=DASHES[kind],
            data_label=label,
            data_last=f"{ys[-1]:.4g}",
        )

    def key(self, labels: Sequence[str], x: float, y: float, step: float = 28) -> None:
        """What each line is, from (x, y) of the drawing down."""
        for kind, label in enumerate(labels):
            at = y + kind * step
            self.drawing.line(
                [(x, at), (x + 44, at)], stroke=LINES[kind], width=3, dash=DASHES[kind]
            )
            self.drawing.text(x + 54, at + 6, label, size=19)


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _value(value: object) -> str:
    return _n(value) if isinstance(value, float) else str(value)


def wrapped(words: str, most: int) -> list[str]:
    """A text in lines of at most so many letters, cut between words."""
    lines = [""]
    for word in words.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > most:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
