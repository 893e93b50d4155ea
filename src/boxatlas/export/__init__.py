"""Detectors outside of PyTorch: their graphs written as files, and files opened as detectors.

Public: export_onnx, export_program, open_onnx, Exported, Deployed.
"""

from boxatlas.export.deployed import Deployed, open_onnx
from boxatlas.export.program import export_program
from boxatlas.export.writing import Exported, export_onnx

__all__ = ["Deployed", "Exported", "export_onnx", "export_program", "open_onnx"]
