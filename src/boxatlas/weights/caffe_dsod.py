"""DSOD by its authors (Caffe): layers are numbered in the order they were written."""

from __future__ import annotations

from collections.abc import Iterator

from boxatlas.weights.caffe_layers import convolution, norm
from boxatlas.weights.caffe_ssd import PREPROCESS
from boxatlas.weights.source import Checkpoint, Imported, State, class_names, ssd_sizes, tensor_of

_WHERE = "szq0214/DSOD (as named arrays, npz)"
CHECKPOINTS = tuple(
    Checkpoint(f"DSOD300 {data}", "dsod300", data, _WHERE, None, megabytes, licence="BSD-2-Clause")
    for data, megabytes in (
        ("VOC 07+12", 59.2),
        ("VOC 07++12", 59.2),
        ("COCO+VOC 07+12", 59.2),
        ("COCO+VOC 07++12", 59.2),
        ("COCO", 87.2),
    )
)

PROFILE = {"truncate_sizes": True, "last_map": 2}
MODELS = ("dsod300",)
_MAPS = ("First", "Second", "Third", "Fourth", "Fifth", "Sixth")
_LAYERS = (6, 8, 8, 8)


def recognise(state: State, model: str) -> Imported:
    """DS/stem-bottleneck-growth from the first layers' shapes."""
    count, boxes = ssd_sizes(state, "First_norm_mbox_conf.weight", "First_norm_mbox_loc.weight")
    options = {
        **PROFILE,
        "boxes": "voc" if count <= 20 else "coco",
        "boxes_on_first_map": boxes,
        "stem": tensor_of(state, "Convolution1.weight").shape[0],
        "bottleneck": tensor_of(state, "Convolution4.weight").shape[0],
        "growth": tensor_of(state, "Convolution5.weight").shape[0],
    }
    numbers = dict(_numbered())

    def name(own: str) -> str:
        part, rest = own.split(".", 1)
        if part == "head":
            kind, level, place, leaf = rest.split(".")
            layer = f"{_MAPS[int(level)]}_norm_mbox_{'conf' if kind == 'cls' else 'loc'}"
            return convolution(f"{'conv' if place == '0' else 'bn'}.{leaf}", layer)
        if own.startswith("neck.norms."):
            level, leaf = rest.removeprefix("norms.").split(".")
            return f"{_MAPS[int(level)]}_norm.{leaf}"
        unit, kind, leaf = own.rsplit(".", 2)
        conv, normal = numbers[unit]
        return f"{conv}.{leaf}" if kind == "conv" else norm(leaf, *normal)

    return Imported(options, class_names(count), name, PREPROCESS)


def _numbered() -> Iterator[tuple[str, tuple[str, tuple[str, str]]]]:
    """(our unit, its convolution and its norm's two layers); one convolution is called First."""
    convs = 0
    for norms, unit in enumerate(_units(), start=1):
        first = unit == "backbone.transitions.1"
        convs += not first
        conv = "First" if first else f"Convolution{convs}"
        yield unit, (conv, (f"BatchNorm{norms}", f"Scale{norms}"))


def _units() -> Iterator[str]:
    """Every convolution with its norm, in the order of the script."""
    yield from (f"backbone.stem.{i}" for i in range(3))
    for block, count in enumerate(_LAYERS):
        for layer in range(count):
            yield f"backbone.blocks.{block}.{layer}.squeeze"
            yield f"backbone.blocks.{block}.{layer}.grow"
        if block < len(_LAYERS) - 1:
            yield f"backbone.transitions.{block}"
    yield from ("neck.last", "neck.skip")
    for step in range(len(_MAPS) - 2):
        yield from (f"neck.steps.{step}.{part}" for part in ("reuse", "squeeze", "learn"))
