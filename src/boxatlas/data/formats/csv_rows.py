"""CSV files of boxes: what their columns are, and their lines."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path

from boxatlas.data.formats.building import (
    encoding_of,
)
from boxatlas.data.formats.places import Place
from boxatlas.data.sources import COLUMNS
from boxatlas.errors import InputError

_MORE = {"width": ("width",), "height": ("height",), "ignore": ("ignore", "difficult")}
_BARE = {"image": 0, "x1": 1, "y1": 2, "x2": 3, "y2": 4, "class": 5}
_DELIMITERS = (",", ";", "\t")


def columns_of(place: Place, name: str) -> tuple[str, dict[str, int], int] | None:
    """(the delimiter, column of each part, lines before the first box); None for another CSV."""
    first = next((line for line in place.head(name).splitlines() if line.strip()), "")
    for delimiter in _DELIMITERS:
        words = [word.strip().strip('"').lower() for word in first.split(delimiter)]
        found = {
            part: words.index(one)
            for part, names in (COLUMNS | _MORE).items()
            for one in reversed(names)
            if one in words
        }
        if found.keys() >= COLUMNS.keys():
            return delimiter, found, 1
        if len(words) == 6 and (_are_numbers(words[1:5]) or not any(words[1:])):
            return delimiter, _BARE, 0
    return None


def _are_numbers(words: list[str]) -> bool:
    try:
        return all(math.isfinite(float(word)) for word in words)
    except ValueError:
        return False


def rows_of(
    path: Path, columns: tuple[str, dict[str, int], int]
) -> Iterator[tuple[int, list[str]]]:
    """(number of the line, its values) of each line that is not empty, but the first."""
    delimiter, _, skipped = columns
    rows = lines_of_csv(path, delimiter)
    for _ in range(skipped):
        next(rows, None)
    yield from rows


def lines_of_csv(path: Path, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """(number of the line, its values) of each line that is not empty."""
    try:
        with open(path, encoding=encoding_of(path), newline="") as file:
            reader = csv.reader(file, delimiter=delimiter)
            for row in reader:
                if row:
                    yield reader.line_num, row
    except UnicodeDecodeError as error:
        raise InputError(f"is not UTF-8 text: {error.reason}", file=path) from None
    except csv.Error as error:
        raise InputError(f"is not valid CSV: {error}", file=path) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from None
