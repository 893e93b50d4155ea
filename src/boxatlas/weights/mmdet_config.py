"""What a checkpoint of mmdetection says of itself: classes, colours, sizes, anchors, thresholds.

mmcv (mmdetection 2) writes "CLASSES" and the text of the configuration as "config" into a file's
"meta", mmengine (mmdetection 3) "dataset_meta" and "cfg". The text is Python; it is parsed, never
run: only literals and dict(...) are understood, everything else is None.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from boxatlas.errors import InputError
from boxatlas.weights.source import Imported

_LONGEST = 1_000_000  # characters of a configuration
_THRESHOLDS = {"score_thr": "score", "max_per_img": "max_detections"}


def as_configured(
    found: Imported, notes: Mapping[str, Any], model: str, *, named: bool
) -> Imported:
    """What was recognised, with what the file's "meta" says instead of the usual.

    named: the classes' names were given, those of the file do not count. Raises InputError where
    the names of the data are not as many as the network's classes.
    """
    names = None if named else _classes(notes)
    if names is not None and len(names) != len(found.classes):
        raise InputError(
            f"its data has {len(names)} classes, its network {len(found.classes)}",
            field="meta.classes",
            hint="name the network's own: --names FILE",
        )
    config = _read(notes.get("cfg", notes.get("config")))
    colours = {**found.preprocess, **_colours(config)}
    options = {**found.options, **_size(config), **_thresholds(config), **_anchors(config, model)}
    if _at(config, "model", "backbone", "style") == "caffe":
        options["stride_in_1x1"] = True
    return replace(found, options=options, preprocess=colours, classes=names or found.classes)


def _classes(notes: Mapping[str, Any]) -> tuple[str, ...] | None:
    data = notes.get("dataset_meta")
    lower = {str(k).lower(): v for k, v in (data if isinstance(data, Mapping) else notes).items()}
    names = lower.get("classes")
    if isinstance(names, str):  # ("cat") for ("cat",), which its programs take as one name
        return (names,)
    if isinstance(names, list | tuple) and names and all(isinstance(n, str) for n in names):
        return tuple(names)
    return None


# -- the configuration ----------------------------------------------------------------------------


def _read(text: object) -> dict[str, Any]:
    """The top-level values of a configuration; none where it cannot be parsed."""
    if not isinstance(text, str) or len(text) > _LONGEST:
        return {}
    try:
        body = ast.parse(text).body
        return {
            target.id: _value(line.value)
            for line in body
            if isinstance(line, ast.Assign)
            for target in line.targets
            if isinstance(target, ast.Name)
        }
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        number = _value(node.operand)
        return -number if isinstance(number, int | float) else None
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {str(_value(key)): _value(item) for key, item in pairs if key is not None}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        return {word.arg: _value(word.value) for word in node.keywords if word.arg}
    return None


def _at(value: Any, *path: str) -> Any:
    """The value at a path of names, or None; of several models one in the other, any."""
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _steps(value: Any) -> Iterator[Mapping[str, Any]]:
    """The transforms of a pipeline, those inside others too."""
    if isinstance(value, list):
        for item in value:
            yield from _steps(item)
    elif isinstance(value, Mapping):
        yield value
        yield from _steps(value.get("transforms"))


def _numbers(value: Any, count: int | None = None) -> tuple[float, ...] | None:
    """Finite numbers, `count` of them; None for anything else."""
    if not isinstance(value, list) or not value or (count is not None and len(value) != count):
        return None
    plain = all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)
    return tuple(value) if plain and all(math.isfinite(v) for v in value) else None


def _colours(config: Mapping[str, Any]) -> dict[str, Any]:
    """mean, std and order of the channels, as Preprocess has them."""
    said = _at(config, "model", "data_preprocessor") or config.get("data_preprocessor")
    pipeline = list(_steps(config.get("test_pipeline")))
    if not isinstance(said, Mapping):
        said = config.get("img_norm_cfg")
    if not isinstance(said, Mapping):
        said = next((step for step in pipeline if step.get("type") == "Normalize"), {})
    made: dict[str, Any] = {}
    mean, std = _numbers(said.get("mean"), 3), _numbers(said.get("std"), 3)
    if mean and std and min(std) > 0:
        made |= {"mean": mean, "std": std}
    rgb = said.get("bgr_to_rgb", said.get("to_rgb"))
    if isinstance(rgb, bool):
        made["channels"] = "rgb" if rgb else "bgr"
    pads = [said.get("pad_size_divisor"), *(step.get("size_divisor") for step in pipeline)]
    multiple = next((n for n in pads if isinstance(n, int) and n >= 1), None)
    return made if multiple is None else {**made, "multiple": multiple}


def _size(config: Mapping[str, Any]) -> dict[str, Any]:
    """The shorter side and the longer one's limit at test time."""
    for step in _steps(config.get("test_pipeline")):
        given = step.get("img_scale", step.get("scale"))
        sides = _numbers(given, 2)
        if sides and min(sides) >= 1 and step.get("keep_ratio", True):
            return {"size": (int(min(sides)), int(max(sides)))}
    return {}


def _thresholds(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of detections: the least score, suppression, how many."""
    whole = _at(config, "model", "test_cfg") or config.get("test_cfg")
    said = _at(whole, "rcnn") or whole
    if not isinstance(said, Mapping):
        return {}
    made = {ours: said[name] for name, ours in _THRESHOLDS.items() if said.get(name) is not None}
    iou, rpn = _at(said, "nms", "iou_threshold"), _at(whole, "rpn")
    made |= {} if iou is None else {"nms_iou": iou}
    counts = (_at(rpn, "nms_pre"), _at(rpn, "max_per_img"))
    return made if None in counts else {**made, "proposals_detect": counts}


def _anchors(config: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Shapes of the anchors, where they are other than usual."""
    dense = model.startswith("retinanet")
    said = _at(config, "model", "bbox_head" if dense else "rpn_head", "anchor_generator")
    if not isinstance(said, Mapping):
        return {}
    strides, ratios = _numbers(said.get("strides")), _numbers(said.get("ratios"))
    if not strides or not ratios or len(strides) != 5:
        return {}
    scales = _numbers(said.get("scales"))
    octave, steps = said.get("octave_base_scale"), said.get("scales_per_octave")
    if scales is None and isinstance(octave, int | float) and isinstance(steps, int) and steps > 0:
        scales = tuple(octave * 2 ** (i / steps) for i in range(steps))
    if scales is None:
        return {}
    rows = tuple(tuple(step * scale for scale in scales) for step in strides)
    if dense:
        return {"anchor_ratios": ratios, "anchor_sizes": rows}
    if len(scales) == 1:
        return {"anchor_ratios": ratios, "anchor_sizes": tuple(row[0] for row in rows)}
    return {
        "anchor_ratios": ratios,
        "anchor_sizes": strides,
        "anchor_scales": scales,
    }
