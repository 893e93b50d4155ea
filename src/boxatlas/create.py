"""Making a detector by name, with or without weights, or from a file: the library's first calls."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from boxatlas.options import replaced
from boxatlas.parts.base import Detector
from boxatlas.weights import bundled_options, file_of, load_into
from boxatlas.weights import load as load_checkpoint
from boxatlas.zoo import build, class_names, model_info


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    classes: Sequence[str] | None = None,
    weights: str | Path | None = None,
    **options: Any,
) -> Detector:
    """Build a detector by name.

    classes names the objects; num_classes makes up names; with neither, the 20 classes of VOC.
    weights: None, a checkpoint's path, or "bundled" (then its options hold unless others are
    given). options are the fields of the method's config: `boxatlas explain NAME` lists them.
    Raises InputError for an unknown model or option, naming the nearest, and where two classes have
    one name.
    """
    model_info(name)
    names = class_names(num_classes, classes)
    if weights == "bundled":
        options = replaced(bundled_options(name), options)
    model = build(name, names, options)
    if weights is not None:
        load_into(model, weights)
    return model


def load(path: str | Path, *, engine: str | None = None) -> Detector:
    """The whole detector from a file: model, options, classes, preprocess, weights.

    path: a checkpoint, a run's folder (its best, else its last), "bundled", "field/NAME" or the
    name of a model whose weights the package carries, or an ONNX file that `boxatlas export` wrote
    (its network cannot be trained). It is ready to infer: in eval mode.
    engine: what runs the network: "torch" (a checkpoint's own), "onnx" (an ONNX file's),
    "openvino", or "auto", the fastest here that finds the same; of a checkpoint the graph is then
    written once beside it. Raises InputError where the file is none of these, for an unknown engine
    and where its extra is missing.
    """
    if Path(path).suffix == ".onnx":
        from boxatlas.export import open_onnx

        return open_onnx(path, engine or "onnx")
    if Path(path).suffix == ".pt2":
        from boxatlas.export.program import refuse_program

        refuse_program(Path(path))
    detector = load_checkpoint(path)
    if engine in (None, "torch"):
        return detector
    from boxatlas.export.engines import by_engine

    return by_engine(detector, file_of(path), engine)
