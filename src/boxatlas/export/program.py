"""torch.export programs (.pt2): a detector's network for torch itself, without this package.

    import torch, torchvision                     # the latter for its operators
    program = torch.export.load("FILE.pt2").module()
    outputs = program(images)

A program is read by the torch that wrote it or a later one. The names of inputs and outputs,
classes, preprocess and thresholds lie in the file as "boxatlas.json". `boxatlas.load` does not open
it: torch's reader trusts what it reads.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray

from boxatlas.errors import InputError
from boxatlas.export.check import agreement
from boxatlas.export.deployed import Deployed, without_weights
from boxatlas.export.onnx_file import KEY, Contents, metadata
from boxatlas.export.runtimes import Arrays
from boxatlas.export.suppression import kept_by_torch
from boxatlas.export.tracing import quiet, trace
from boxatlas.export.writing import Exported, check_agreement
from boxatlas.files import replacing
from boxatlas.parts.base import Detector
from boxatlas.weights import described

NOTES = "boxatlas.json"


class Program:
    """A loaded program as a runtime of `Deployed`."""

    def __init__(self, module: torch.nn.Module, inputs: Sequence[str]) -> None:
        self.module, self.inputs = module, tuple(inputs)

    def run(self, outputs: Sequence[str], inputs: Arrays) -> list[NDArray[Any]]:
        given = [torch.from_numpy(np.array(inputs[name])) for name in self.inputs]
        return [value.numpy() for value in self.module(*given)]


def export_program(detector: Detector, path: str | Path, *, with_nms: bool = False) -> Exported:
    """Write a detector's network as a torch.export program that finds what it finds.

    What was at `path` stays until the new file is whole, loaded and verified. Raises InputError as
    `export_onnx` does.
    """
    path = Path(path)
    traced = trace(detector, with_nms, kept_by_torch)
    for node in traced.program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of the machine it was made on
    notes = metadata(detector, traced)
    text = json.dumps(
        {**json.loads(notes.pop(KEY)), **{k: json.loads(v) for k, v in notes.items()}}
    )
    with replacing(path) as temporary, quiet():
        torch.export.save(traced.program, temporary, extra_files={NOTES: text})
        written = {NOTES: ""}
        program = torch.export.load(temporary, extra_files=written)
        description = json.loads(written[NOTES])
        inputs, outputs = tuple(description["inputs"]), tuple(description["outputs"])
        contents = Contents(path, b"", description, inputs, outputs)
        method = described(description, path).eval()
        without_weights(method)
        deployed = Deployed(method, contents, Program(program.module(), inputs), "torch")
        result = agreement(detector, deployed)
        check_agreement(result, path)
        size = temporary.stat().st_size
    return Exported(path, size, inputs, outputs, result, None)


def refuse_program(path: Path) -> NoReturn:
    """Raises InputError: a program is for torch, not for `boxatlas.load`."""
    raise InputError(
        "a torch.export program is run by torch.export.load, which trusts what it reads",
        file=path,
        hint="load the checkpoint, or export it to onnx",
    )
