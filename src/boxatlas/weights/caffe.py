"""The authors' Caffe releases, as named arrays: "conv1_1.weight", "conv4_3_norm.weight", ...

A .caffemodel is first written as an npz (or a dict) of its layers' blobs under these names; batch
norms as running_mean and running_var (the blobs divided by the third). Inputs are BGR 0..255 minus
the mean colour. One file for each method, caffe_*.py, knows its layers' names.
"""

from __future__ import annotations

from types import ModuleType

from boxatlas.weights import (
    caffe_dsod,
    caffe_dssd,
    caffe_fssd,
    caffe_rcnn,
    caffe_refinedet,
    caffe_ssd,
)
from boxatlas.weights.source import Imported, State

_METHODS: tuple[ModuleType, ...] = (
    caffe_ssd,
    caffe_fssd,
    caffe_dsod,
    caffe_dssd,
    caffe_refinedet,
    caffe_rcnn,
)

CHECKPOINTS = tuple(one for method in _METHODS for one in method.CHECKPOINTS)
MODELS = tuple(name for method in _METHODS for name in method.MODELS)


def recognise(state: State, model: str) -> Imported:
    """The profile and names of a model by its authors."""
    (method,) = (m for m in _METHODS if model in m.MODELS)
    return method.recognise(state, model)
