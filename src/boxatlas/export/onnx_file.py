"""ONNX files: written from a graph, and opened with nothing trusted that they hold.

A file carries, as metadata "boxatlas", what is needed to be a detector again without a checkpoint:
model, options, classes, preprocess, inputs, outputs. Only operators of the ONNX standard are
written, and only such are opened: no operators or functions of other domains, and no data outside
the file.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from boxatlas._version import __version__
from boxatlas.errors import InputError, parsing
from boxatlas.export.extras import extra
from boxatlas.export.suppression import kept
from boxatlas.export.tracing import Traced, quiet, trace
from boxatlas.files import check_file
from boxatlas.parts.base import Detector
from boxatlas.parts.yolo import just_above

KEY = "boxatlas"  # of the metadata
FORMAT = 1  # of what stands there
OPSET = 18
_LARGEST = 2**31 - 1  # bytes of a file: protobuf's limit


@dataclass(frozen=True)
class Contents:
    """An opened file: its bytes, the description of the detector, names of inputs and outputs."""

    path: Path
    data: bytes
    description: dict[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def model_of(detector: Detector, with_nms: bool = False) -> Any:
    """The `onnx.ModelProto` of a detector's network; the detector stays as it was.

    with_nms: decoding and suppression are inside. The batch size is free, height and width too
    where inputs vary. Raises InputError for a method without such a graph and where the extra is
    missing.
    """
    onnx = extra("onnx")
    extra("onnxscript")
    traced = trace(detector, with_nms, kept)
    names = list(traced.graph.inputs.names)
    what = detector.name or "this detector"
    with torch.no_grad(), parsing(what, "has parts that ONNX has no operators for"), quiet():
        exported = torch.onnx.export(
            traced.program,
            dynamo=True,
            opset_version=OPSET,
            input_names=names,
            output_names=list(traced.outputs),
            custom_translation_table={torch.ops.torchvision.roi_pool.default: _roi_pool},
            verbose=False,
        )
    assert exported is not None
    model = exported.model_proto
    del model.metadata_props[:]
    for entry in (*model.graph.node, *model.graph.value_info):
        del entry.metadata_props[:]  # paths of the machine it was made on
    model.producer_name, model.producer_version = "boxatlas", __version__
    if traced.graph.inputs.score:  # an input with a value of its own need not be given
        least = np.array([just_above(detector.config.model_dump()["score"])], np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(least, "score"))
    for key, value in metadata(detector, traced).items():
        model.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(model)
    return model


def _roi_pool(maps: Any, rois: Any, spatial_scale: float, rows: int, columns: int) -> Any:
    """RoI pooling by the standard's MaxRoiPool, which rounds as Caffe does; (pooled, no argmax)."""
    op = importlib.import_module("onnxscript").opset18
    pooled = op.MaxRoiPool(maps, rois, pooled_shape=(rows, columns), spatial_scale=spatial_scale)
    return pooled, op.Identity(pooled)


def metadata(detector: Detector, traced: Traced) -> dict[str, str]:
    """What we read back, and beside it what other programs want to know."""
    described = detector.describe()
    parameters = sum(p.numel() for p in detector.parameters())
    own = {
        "format": FORMAT,
        "inputs": list(traced.graph.inputs.names),
        "outputs": list(traced.outputs),
        "with_nms": traced.graph.with_nms,
        "parameters": parameters,
        **described,
    }
    config = detector.config.model_dump(mode="json")
    limits = {name: config.get(name) for name in ("score", "nms_iou", "max_detections")}
    return {
        KEY: json.dumps(own),
        "classes": json.dumps(list(detector.classes)),
        "preprocess": json.dumps(described["preprocess"]),
        "thresholds": json.dumps(limits),
    }


# -- opening --------------------------------------------------------------------------------------


def opened(path: str | Path) -> Contents:
    """Read a file whole and refuse whatever is not a detector that we wrote.

    Raises InputError, one line, for one that is foreign, truncated, newer, or that wants operators
    beyond the standard or data from elsewhere.
    """
    path = Path(path)
    if check_file(path) > _LARGEST:
        raise InputError("is larger than an ONNX file can be", file=path)
    onnx = extra("onnx")
    with parsing(path, "cannot be read"):
        data = path.read_bytes()
    with parsing(path, "truncated or not an ONNX file"):
        model = onnx.load_model_from_string(data)
    if not model.graph.node or not model.opset_import:
        raise InputError("truncated or not an ONNX file", file=path)
    for domain in _domains(model):
        raise InputError(
            "wants operators beyond the ONNX standard", file=path, field="domain", value=domain
        )
    if any(tensor.external_data for tensor in _tensors(model.graph)):
        raise InputError("wants data from outside of the file", file=path, field="external_data")
    description = _description(path, {p.key: p.value for p in model.metadata_props})
    names = [(entry, _strings(path, description, entry)) for entry in ("inputs", "outputs")]
    have = {"inputs": model.graph.input, "outputs": model.graph.output}
    for entry, expected in names:
        if {value.name for value in have[entry]} != set(expected):
            raise InputError(f"the graph has other {entry} than it says", file=path, field=KEY)
    return Contents(path, data, description, names[0][1], names[1][1])


def _description(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    if KEY not in metadata:
        raise InputError(
            "an ONNX file, but none that boxatlas wrote: it does not say which detector it is",
            file=path,
            hint="`boxatlas export` writes one",
        )
    try:
        description = json.loads(metadata[KEY])
    except (ValueError, RecursionError):
        description = None
    if not isinstance(description, dict) or not isinstance(description.get("format"), int):
        raise InputError("the description of the detector is damaged", file=path, field=KEY)
    if description["format"] > FORMAT:
        raise InputError(
            "was written by a newer boxatlas",
            file=path,
            field="format",
            value=description["format"],
            hint=f"this one reads up to {FORMAT}",
        )
    return description


def _strings(path: Path, description: dict[str, Any], entry: str) -> tuple[str, ...]:
    names = description.get(entry)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(
            "the description of the detector is damaged", file=path, field=f"{KEY}.{entry}"
        )
    return tuple(names)


def _domains(model: Any) -> list[str]:
    """Every domain that is not the standard's."""
    used = {node.domain for graph in _graphs(model.graph) for node in graph.node}
    used |= {function.domain or "a function" for function in model.functions}
    return sorted(used - {"", "ai.onnx"})


def _graphs(graph: Any) -> Iterator[Any]:
    """A graph and those inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)
            for inner in attribute.graphs:
                yield from _graphs(inner)


def _tensors(graph: Any) -> Iterator[Any]:
    """Every constant, wherever it stands."""
    for part in _graphs(graph):
        yield from part.initializer
        for sparse in part.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        for node in part.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
                for sparse in attribute.sparse_tensors:
                    yield from (sparse.values, sparse.indices)
                if attribute.HasField("sparse_tensor"):
                    yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
