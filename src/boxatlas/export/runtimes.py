"""The programs that run a graph: each takes a file's bytes, then named arrays to named arrays."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from boxatlas.export.extras import extra

Arrays = Mapping[str, NDArray[np.float32]]


class Runtime(Protocol):
    """A graph, ready to run on the CPU in float32, with torch's number of threads."""

    def run(self, outputs: Sequence[str], inputs: Arrays) -> list[NDArray[Any]]:
        """The outputs of those names."""
        ...


class OnnxRuntime:
    """Raises InputError where the extra `onnx` is missing."""

    def __init__(self, data: bytes) -> None:
        program = extra("onnxruntime")
        options = program.SessionOptions()
        options.log_severity_level = 4  # what fails is raised
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = program.InferenceSession(data, options, ["CPUExecutionProvider"])

    def run(self, outputs: Sequence[str], inputs: Arrays) -> list[NDArray[Any]]:
        return self.session.run(list(outputs), dict(inputs))


class OpenVINO:
    """Raises InputError where the extra `openvino` is missing."""

    def __init__(self, data: bytes) -> None:
        program = extra("openvino")
        core = program.Core()
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",  # not bfloat16 where the CPU has it
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        self.graph = core.compile_model(core.read_model(io.BytesIO(data)), "CPU", settings)

    def run(self, outputs: Sequence[str], inputs: Arrays) -> list[NDArray[Any]]:
        found = self.graph(dict(inputs))
        return [np.array(found[name]) for name in outputs]


RUNTIMES: dict[str, type[OnnxRuntime] | type[OpenVINO]] = {
    "onnx": OnnxRuntime,
    "openvino": OpenVINO,
}
