"""One self-contained HTML page: numbers, tables, plots and pictures, nothing fetched."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from boxatlas.errors import shown
from boxatlas.files import write_text

_TEMPLATE = Path(__file__).with_name("report.html.j2")
_LONGEST = 560  # px, of a picture's longer side


@dataclass(frozen=True)
class Picture:
    data: str  # a data: URL
    caption: str


@dataclass(frozen=True)
class Section:
    """A heading with any of: a paragraph, plots (SVG text), a table, pictures."""

    title: str
    text: str = ""
    plots: Sequence[str] = ()
    rows: Sequence[Mapping[str, Any]] = ()
    pictures: Sequence[Picture] = field(default_factory=list)


def picture(image: Image.Image, caption: str) -> Picture:
    """The image inside the page, made smaller if it is large."""
    image = image.convert("RGB")
    image.thumbnail((_LONGEST, _LONGEST))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=82)
    return Picture("data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode(), caption)


def write_page(
    path: str | Path,
    title: str,
    subtitle: str,
    sections: Sequence[Section],
    *,
    numbers: Sequence[tuple[str, Any]] = (),
    lead: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> None:
    """Write the page. numbers are shown large; lead: paragraphs above them. Text is escaped."""
    from jinja2 import Environment

    environment = Environment(autoescape=True)
    environment.filters["number"] = number
    environment.filters["shown"] = shown
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    write_text(
        path,
        template.render(
            title=title,
            subtitle=subtitle,
            sections=sections,
            lead=lead,
            notes=notes,
            numbers=[(name, number(value)) for name, value in numbers],
        ),
    )


def number(value: Any) -> str:
    """A number as people read it; "-" where there is none. Names are made printable."""
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return shown(value)
    if isinstance(value, int):
        return f"{value:,}"
    digits = 3 if abs(value) <= 1 else 2 if abs(value) < 10 else 1
    return f"{value:,.{digits}f}"
