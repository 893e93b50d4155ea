"""What was measured of the field, one JSON file for each entry: `field/results/NAME.json`.

    {"name", "model", "options", "start", "family", "rate",
     "judged": [{"images", "seconds", "bytes", "sha256", "packing", "lost_by_packing",
                 "parameters", "multiply_adds", "voc07", "voc07_interval", "voc12", "coco",
                 "lost"}]}

beside `pairs.json` (how sure the differences are), `speed.json` (timed in turns) and `survey.json`
(the survey's networks, timed here).
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from boxatlas.errors import InputError, parsing
from boxatlas.field.plan import ENTRIES, entry
from boxatlas.files import write_text

_NEEDED = {
    *("images", "seconds", "bytes", "sha256", "parameters", "multiply_adds"),
    *("voc07", "voc07_interval", "coco", "lost"),
}
UNFINISHED = 0.10  # of its AP gained in the last half of its training: not ranked


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """Name -> what is known of it, in the order of the plan; those that were judged at all.

    Raises InputError for a file that is not one of results.
    """
    found = {}
    for one in ENTRIES:
        path = folder / f"{one.name}.json"
        if path.is_file():
            found[one.name] = _checked(path, _read(path))
    return found


def _checked(path: Path, document: dict[str, Any]) -> dict[str, Any]:
    """Raise InputError where results lack what the tables read."""
    points = document.get("judged")
    if not {"model", "options"} <= set(document) or not isinstance(points, list) or not points:
        raise InputError("is no file of the field's results", file=path)
    for one in points:
        lacking = _NEEDED - set(one) if isinstance(one, dict) else _NEEDED
        if lacking:
            raise InputError("is missing", file=path, field=f"judged: {min(lacking)}")
    return document


def read_document(folder: Path, name: str) -> dict[str, Any]:
    """`pairs.json` or `speed.json`; empty where it was not measured yet."""
    path = folder / name
    return _read(path) if path.is_file() else {}


def _read(path: Path) -> dict[str, Any]:
    with parsing(path, "not valid JSON"):
        document = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(document, dict):
        raise InputError("is no file of the field's results", file=path)
    return document


def add(folder: Path, name: str, about: dict[str, Any], judged: dict[str, Any]) -> dict[str, Any]:
    """Put what was judged at one number of images into the entry's file, whole or not at all."""
    path = folder / f"{entry(name).name}.json"
    held = _read(path) if path.is_file() else {}
    points = [p for p in held.get("judged", []) if p["images"] != judged["images"]]
    points = sorted([*points, judged], key=lambda p: p["images"])
    document = {"name": name, **about, "judged": points}
    write(path, document)
    return document


def write(path: Path, document: dict[str, Any]) -> None:
    write_text(path, json.dumps(document, indent=1) + "\n")


def has(folder: Path, name: str, images: int) -> bool:
    """Whether an entry was judged after so many images."""
    path = folder / f"{name}.json"
    return path.is_file() and any(p["images"] == images for p in _read(path)["judged"])


def latest(document: dict[str, Any]) -> dict[str, Any]:
    """The longest training that was judged."""
    return document["judged"][-1]


def point(document: dict[str, Any], images: int) -> dict[str, Any] | None:
    """What was judged after so many images; None where nothing was."""
    return next((p for p in document["judged"] if p["images"] == images), None)


def unfinished(document: dict[str, Any], images: int) -> bool | None:
    """Whether COCO AP grew by more than a tenth in the last half of a training of `images`; None
    where it or one of half the length was not judged."""
    whole, half = point(document, images), point(document, images // 2)
    if whole is None or half is None:
        return None
    return whole["coco"]["AP"] > (1 + UNFINISHED) * half["coco"]["AP"]


def home() -> Path:
    """Where the stored results are: in the installed distribution, else in this clone.

    Raises InputError where there are none.
    """
    spec = importlib.util.find_spec("boxatlas_field")
    installed = [Path(spec.origin).parent] if spec is not None and spec.origin else []
    for folder in (*installed, Path(__file__).parents[3] / "field"):
        if (folder / "results").is_dir():
            return folder / "results"
    raise InputError(
        "no results of the field are here", hint="pip install boxatlas-field, or use a clone"
    )
