"""Detectors outside of PyTorch: their graphs written as files, and files opened as detectors.

Public: export_onnx, open_onnx, Exported, Deployed.
"""

from boxatlas.export.deployed import Deployed, open_onnx
from boxatlas.export.writing import Exported, export_onnx

__all__ = ["Deployed", "Exported", "export_onnx", "open_onnx"]
