"""A task of Label Studio's: its image, its split, the annotation that counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from boxatlas.data.formats.places import Place, split_name, suffix_of
from boxatlas.errors import InputError
from boxatlas.images import IMAGE_SUFFIXES

_PREFIX = 9  # an uploaded a.jpg is called 0123abcd-a.jpg


def split_of(task: Any) -> str | None:
    data = task.get("data") if isinstance(task, dict) else None
    name = data.get("split") if isinstance(data, dict) else None
    return split_name(name) if isinstance(name, str) else None


def address_of(data: dict[str, Any]) -> tuple[str, str]:
    """(key, value) of the image: called so, or the only text that ends as an image does."""
    texts = {key: value for key, value in data.items() if isinstance(value, str)}
    if texts.get("image"):
        return "image", texts["image"]
    found = [
        (key, value)
        for key, value in texts.items()
        if suffix_of(urlsplit(value).path) in IMAGE_SUFFIXES
    ]
    return found[0] if len(found) == 1 else ("", "")


def image_of(address: str, place: Place, path: Path, field: str) -> Path:
    """By the end of the address; an uploaded file has its number before its name."""
    parts = urlsplit(address)
    local = parse_qs(parts.query).get("d")
    name = unquote(local[0] if local else parts.path).replace("\\", "/")
    folder, _, bare = name.rpartition("/")
    if bare not in place.by_name and bare[8:9] == "-" and bare[_PREFIX:] in place.by_name:
        name = f"{folder}/{bare[_PREFIX:]}"
    try:
        return place.image(name.lstrip("/"), path, field)
    except InputError:
        problem = "the image is missing"
        raise InputError(problem, file=path, field=field, value=address) from None


def results_of(task: dict[str, Any], path: Path, field: str) -> list[Any] | None:
    """The regions of the first annotation that counts; None where there is none."""
    many = task.get("annotations", task.get("completions"))
    for one in many if isinstance(many, list) else []:
        if isinstance(one, dict) and not one.get("was_cancelled"):
            result = one.get("result", [])
            if not isinstance(result, list):
                raise InputError(
                    "must be a list", file=path, field=f"{field}.annotations.result", value=result
                )
            return result
    return None
