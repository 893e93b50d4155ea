"""Darknet's .cfg files: reading, writing, and what a section means.

Public: read_cfg, parse_cfg, write_cfg, meaning, number, whole, wholes, anchors_of. Which model of
ours a cfg is: `darknet_models`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from boxatlas.errors import InputError
from boxatlas.weights.darknet_layers import Section

_ALIASES = {
    "network": "net",
    "conv": "convolutional",
    "max": "maxpool",
    "avg": "avgpool",
    "conn": "connected",
    "soft": "softmax",
}
Options = Mapping[str, str]
_MOST = 1_000_000  # no count is larger
# What of a section decides what it computes, with Darknet's value where a cfg does not say: the
# program's of 2018, and of its later forks what changes these sections.
_DECIDES: dict[str, dict[str, int | float | str]] = {
    "net": {"channels": 3},
    "convolutional": {
        "batch_normalize": 0, "filters": 1, "size": 1, "stride": 1, "pad": 0, "padding": 0,
        "groups": 1, "activation": "logistic", "binary": 0, "xnor": 0, "flipped": 0,
        "stride_x": -1, "stride_y": -1, "dilation": 1, "antialiasing": 0,
    },
    "local": {"filters": 1, "size": 1, "stride": 1, "pad": 0, "activation": "logistic"},
    "connected": {"output": 1, "batch_normalize": 0, "activation": "logistic"},
    "maxpool": {"stride": 1, "size": -1, "padding": -1},
    "route": {"layers": "", "groups": 1, "group_id": 0},
    "shortcut": {"from": "", "activation": "linear", "alpha": 1.0, "beta": 1.0},
    "upsample": {"stride": 2, "scale": 1.0},
    "reorg": {"stride": 1, "reverse": 0, "flatten": 0, "extra": 0},
    "crop": {"crop_width": 1, "crop_height": 1, "noadjust": 0},
    "detection": {"classes": 1, "coords": 1, "num": 1, "side": 7, "softmax": 0, "reorg": 0},
    "region": {"classes": 20, "coords": 4, "num": 1, "softmax": 0, "background": 0},
    "yolo": {"classes": 20, "num": 1, "mask": "", "scale_x_y": 1.0, "new_coords": 0},
}  # fmt: skip
# Of any section: parts of it that a file of weights does not hold.
_LOADS: dict[str, int | float | str] = {"dontload": 0, "dontloadscales": 0, "numload": 0}


def read_cfg(path: str | Path) -> list[Section]:
    """The sections of a file, [net] first. Raises InputError naming the line that is wrong."""
    try:
        text = Path(path).read_text(encoding="utf-8", errors="strict")
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from None
    except UnicodeDecodeError:
        raise InputError("is not a text file", file=path, hint="not a Darknet network") from None
    return parse_cfg(text, path)


def parse_cfg(text: str, file: str | Path | None = None) -> list[Section]:
    """As `read_cfg`, of a text."""
    sections: list[Section] = []
    for number, raw in enumerate(text.splitlines(), 1):
        line = "".join(raw.split())
        if not line or line[0] in "#;":
            continue
        where = f"line {number}"
        if line[0] == "[":
            if line[-1] != "]":
                raise InputError("a section is [name]", file=file, field=where, value=raw)
            name = line[1:-1].lower()
            sections.append((_ALIASES.get(name, name), {}))
            continue
        key, equals, value = line.partition("=")
        if not equals or not key:
            raise InputError("must be key=value", file=file, field=where, value=raw)
        if not sections:
            raise InputError("comes before the first [section]", file=file, field=where, value=raw)
        sections[-1][1][key] = value
    if not sections or sections[0][0] != "net":
        raise InputError("does not begin with [net]", file=file, hint="not a Darknet network")
    return sections


def write_cfg(sections: Sequence[Section]) -> str:
    """The text of sections."""
    blocks = [
        f"[{kind}]\n" + "".join(f"{key}={value}\n" for key, value in options.items())
        for kind, options in sections
    ]
    return "\n".join(blocks)


def meaning(section: Section, index: int, file: str | Path | None = None) -> dict[str, Any]:
    """What decides what a section computes, by key, in numbers; index: of its layer ([net]: -1).

    Layers that it names are counted from the first. Raises InputError for what is no number.
    """
    kind, options = section
    where = f"section {index + 1}, [{kind}], "
    out: dict[str, Any] = {}
    for key, default in {**_DECIDES.get(kind, {}), **_LOADS}.items():
        if isinstance(default, str):
            out[key] = options.get(key, default)
        elif isinstance(default, float):
            out[key] = number(options, key, default, file, where)
        else:
            out[key] = _integer(options, key, default, file, where)
    if kind == "convolutional" and out.pop("pad"):
        out["padding"] = out["size"] // 2
    if kind == "maxpool":
        out["size"] = out["size"] if "size" in options else out["stride"]
        out["padding"] = out["padding"] if "padding" in options else out["size"] - 1
    if kind == "region" and "tree" in options:
        del out["softmax"]  # the tree's own come first
    for key in {"layers", "from", "mask"} & set(out):
        given = wholes(options, key, file, where)
        out[key] = given if key == "mask" else tuple(v + index if v < 0 else v for v in given)
    return out


def number(
    options: Options, key: str, default: float, file: str | Path | None, where: str = ""
) -> float:
    """A number of a section. Raises InputError where it is none or not finite."""
    try:
        value = float(options.get(key, default))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError("must be a number", file=file, field=where + key, value=options[key])
    return value


def _integer(options: Options, key: str, default: int, file: str | Path | None, where: str) -> int:
    try:
        return int(options.get(key, default))
    except ValueError:
        raise InputError(
            "must be a whole number", file=file, field=where + key, value=options[key]
        ) from None


def whole(options: Options, key: str, default: int, file: str | Path | None) -> int:
    """A count of a section. Raises InputError where it is no whole number from 1 to a million."""
    value = number(options, key, default, file)
    if value != int(value) or not 1 <= value <= _MOST:
        problem = f"must be a whole number from 1 to {_MOST}"
        raise InputError(problem, file=file, field=key, value=options.get(key))
    return int(value)


def wholes(options: Options, key: str, file: str | Path | None, where: str = "") -> tuple[int, ...]:
    """Whole numbers between commas."""
    text = options.get(key, "")
    try:
        return tuple(int(v) for v in text.split(",") if v)
    except ValueError:
        raise InputError(
            "must be whole numbers", file=file, field=where + key, value=text
        ) from None


def anchors_of(options: Options, file: str | Path | None) -> tuple[tuple[float, float], ...]:
    """The (width, height) of a section's anchors. Raises InputError for what is none."""
    text = options.get("anchors", "")
    try:
        values = [float(v) for v in text.split(",") if v]
    except ValueError:
        values = []
    if not values or len(values) % 2 or not all(0 < v < math.inf for v in values):
        raise InputError(
            "must be pairs of positive numbers", file=file, field="anchors", value=text
        )
    return tuple(zip(values[0::2], values[1::2], strict=True))
