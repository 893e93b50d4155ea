"""FiftyOne's detections, in fractions of the image, as objects."""

from __future__ import annotations

import base64
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from boxatlas.archives import read_array
from boxatlas.data.formats.building import (
    Box,
    Builder,
    number,
)
from boxatlas.data.masks import Mask, encode
from boxatlas.errors import InputError, parsing

_MOST_MASK = 1 << 28  # bytes of one mask, unpacked


def add_detections(
    builder: Builder,
    things: Any,
    path: Path,
    field: str,
    classes: dict[str, int],
    names: list[str],
) -> None:
    if things is None:
        return
    if not isinstance(things, list):
        builder.refuse(
            InputError("must be a list of detections", file=path, field=field, value=things)
        )
        return
    size = builder.sizes[-1]
    for i, thing in enumerate(things):
        where = f"{field}.detections[{i}]"
        try:
            if not isinstance(thing, dict):
                raise InputError("is no detection", file=path, field=where, value=thing)
            label = _label(thing.get("label"), names, path, where)
            box = _box(thing.get("bounding_box"), size, path, where)
            flags = thing.get("attributes")
            flags = {**thing, **flags} if isinstance(flags, dict) else thing
            ignore = bool(flags.get("iscrowd") or flags.get("difficult"))
            cut = flags.get("truncated")
            mask = _mask(thing.get("mask"), box, size, path, f"{where}.mask")
            builder.add(
                box,
                classes.setdefault(label, len(classes)),
                i,
                ignore=ignore,
                mask=mask,
                truncated=cut if isinstance(cut, bool) else None,
            )
        except InputError as error:
            builder.refuse(error)


def _label(label: Any, names: list[str], path: Path, field: str) -> str:
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(names):
        return names[label]
    if not isinstance(label, str) or (names and label not in names):
        raise InputError("no such class", file=path, field=f"{field}.label", value=label)
    return label


def _box(box: Any, size: tuple[int, int], path: Path, field: str) -> Box:
    field = f"{field}.bounding_box"
    if not isinstance(box, list) or len(box) != 4:
        raise InputError("a box is [x, y, width, height]", file=path, field=field, value=box)
    x, y, w, h = (number(v, path, f"{field}[{n}]") for n, v in enumerate(box))
    height, width = size
    return (x * width, y * height, (x + w) * width, (y + h) * height)


def _mask(value: Any, box: Box, size: tuple[int, int], path: Path, field: str) -> Mask:
    """A compressed array of the box as run lengths of the whole image."""
    if value is None:
        return None
    if isinstance(value, dict):
        inner = value.get("$binary")
        value = inner.get("base64") if isinstance(inner, dict) else inner
    with parsing(path, f"{field} is no mask"):
        unpacked = zlib.decompressobj().decompress(base64.b64decode(value), _MOST_MASK)
        crop = read_array(unpacked, path, field) > 0
        if crop.ndim != 2 or 0 in crop.shape:
            raise ValueError("it is no picture")
    whole = np.zeros(size, bool)
    left, top = max(round(box[0]), 0), max(round(box[1]), 0)
    part = whole[top : max(round(box[3]), top + 1), left : max(round(box[2]), left + 1)]
    if part.size:  # the array's pixels at the box's size
        rows = (np.arange(part.shape[0]) * crop.shape[0]) // part.shape[0]
        columns = (np.arange(part.shape[1]) * crop.shape[1]) // part.shape[1]
        part[:] = crop[rows][:, columns]
    return encode(whole)
