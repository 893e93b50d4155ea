"""Exporting: a file is written beside its place, opened, compared, and moved there if it holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boxatlas.errors import InputError
from boxatlas.export.check import Agreement, agreement
from boxatlas.export.deployed import open_onnx
from boxatlas.export.onnx_file import OPSET, model_of
from boxatlas.files import replacing
from boxatlas.parts.base import Detector


@dataclass(frozen=True)
class Exported:
    """The file that was written, what its graph takes and gives, and how well it agrees."""

    path: Path
    size: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    agreement: Agreement
    opset: int | None = OPSET

    def document(self) -> dict[str, Any]:
        return {
            "file": str(self.path),
            "bytes": self.size,
            "opset": self.opset,
            "inputs": list(self.inputs),
            "outputs": list(self.outputs),
            "agreement": self.agreement.document(),
        }


def export_onnx(detector: Detector, path: str | Path, *, with_nms: bool = False) -> Exported:
    """Write a detector's network as an ONNX file that finds what it finds.

    with_nms: decoding and suppression are in the graph too, as they always are for masks.

    What was at `path` stays until the new file is whole and verified. Raises InputError for a
    method without a graph, and where ONNX Runtime finds other things than PyTorch on real photos:
    then nothing is written.
    """
    model = model_of(detector, with_nms)
    path = Path(path)
    with replacing(path) as temporary:
        temporary.write_bytes(model.SerializeToString())
        deployed = open_onnx(temporary)
        result = agreement(detector, deployed)
        check_agreement(result, path)
        contents = deployed.contents
        size = len(contents.data)
    return Exported(path, size, contents.inputs, contents.outputs, result)


def check_agreement(result: Agreement, path: Path) -> None:
    """Raises InputError where a file finds other things than its detector."""
    if not result.holds:
        raise InputError(
            f"not written: {result.missing} of {result.detections} detections differ and "
            f"{result.ties} are near-ties (scores by {result.score:.2g}, boxes by "
            f"{result.box:.2g} pixels)",
            file=path,
        )
