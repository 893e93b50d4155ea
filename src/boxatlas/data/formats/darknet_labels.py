"""Darknet's label files: where an image's lies, and the class that one says of a whole image."""

from __future__ import annotations

from pathlib import Path

from boxatlas.errors import InputError


def label_of(image: Path) -> Path:
    """Where an image's labels lie: the last folder named images or JPEGImages becomes labels."""
    parts = list(image.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] in ("images", "JPEGImages"):
            label = Path(*parts[:i], "labels", *parts[i + 1 :]).with_suffix(".txt")
            beside = image.with_suffix(".txt")
            return beside if beside.is_file() and not label.is_file() else label
    return image.with_suffix(".txt")


def label_alone(lines: list[str], file: Path, names: list[str]) -> int | None:
    """The class that a file says of an image as a whole, or None."""
    for n, line in enumerate(lines, 1):
        parts = line.split()
        if len(parts) == 5 and all(_zero(part) for part in parts[1:]):
            if not parts[0].isdigit() or int(parts[0]) >= len(names):
                raise InputError(
                    f"no such class (there are {len(names)})",
                    file=file,
                    field=f"line {n}",
                    value=parts[0],
                )
            return int(parts[0])
    return None


def _zero(text: str) -> bool:
    try:
        return float(text) == 0
    except ValueError:
        return False
