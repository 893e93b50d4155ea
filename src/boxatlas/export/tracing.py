"""From a detector to a program of torch.export, which both kinds of files are written from."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from boxatlas.errors import parsing
from boxatlas.export.graph import Graph, with_constant_padding
from boxatlas.export.suppression import Keep
from boxatlas.parts.base import Detector
from boxatlas.parts.fast import folded

_EXAMPLE = (160, 224)  # of an input of any size: only its symbols are kept


@dataclass(frozen=True)
class Traced:
    """A detector's graph, the program that it is, and the names of what it gives."""

    graph: Graph
    program: torch.export.ExportedProgram
    outputs: tuple[str, ...]


def trace(detector: Detector, with_nms: bool, keep: Keep) -> Traced:
    """The batch size is free, height and width too where inputs vary; the detector stays as it was.

    keep: the suppression of the programs that will run it. Raises InputError for a method without
    such a graph.
    """
    graph = Graph(_ordinary(detector), with_nms, keep).eval()
    if graph.inputs.free:
        with_constant_padding(graph)
    arguments = _example(graph)
    what = detector.name or "this detector"
    with torch.no_grad(), parsing(what, "has parts that cannot be traced"), quiet():
        outputs = tuple(graph.raw(*arguments))  # fills the cache of anchors of a fixed size, too
        program = torch.export.export(graph, arguments, dynamic_shapes=_shapes(graph), strict=False)
    return Traced(graph, program, outputs)


@contextmanager
def quiet() -> Iterator[None]:
    """Without what the exporter says of its own parts."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _ordinary(detector: Detector) -> Detector:
    """The folded copy, on the CPU, of tensors that a trace may hold."""
    twin = folded(detector).to("cpu")
    for module in twin.modules():
        for name, value in list(module._parameters.items()):
            if value is not None:
                plain = value.detach().clone(memory_format=torch.contiguous_format)
                module._parameters[name] = nn.Parameter(plain, requires_grad=False)
        for name, value in list(module._buffers.items()):
            if value is not None:
                module._buffers[name] = value.detach().clone()
    return twin.eval()


def _example(graph: Graph) -> tuple[Tensor, ...]:
    """Arguments of two images to trace with."""
    inputs, preprocess = graph.inputs, graph.detector.preprocess
    size = _EXAMPLE if inputs.free else preprocess.size
    given = [torch.zeros(2, 3, *size)]
    if inputs.content:
        given.append(torch.tensor([[float(size[1]), float(size[0])]]).repeat(2, 1))
    if inputs.scale:
        given.append(torch.ones(2))
    if inputs.rois:
        corner = torch.tensor([[8.0, 8.0], [20.0, 10.0], [0.0, 0.0]])
        boxes = torch.cat([corner, corner + 50], 1)
        given.append(boxes.expand(2, 3, 4).contiguous())
    if inputs.score:
        given.append(torch.zeros(1))
    return tuple(given)


def _shapes(graph: Graph) -> tuple[Any, ...]:
    """Which axes of the arguments are free."""
    free = torch.export.Dim.DYNAMIC
    images = {0: free, 2: free, 3: free} if graph.inputs.free else {0: free}
    axes = {"rois": {0: free, 1: free}, "score": {}}
    rest = tuple(axes.get(name, {0: free}) for name in graph.inputs.names[1:])
    return (images, rest) if rest else (images,)
