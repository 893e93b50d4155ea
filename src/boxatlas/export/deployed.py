"""A detector from an ONNX file: the network by a runtime, everything else the method's own."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from boxatlas.detectors.rcnn import RCNN
from boxatlas.errors import InputError, nearest, parsing
from boxatlas.export.onnx_file import Contents, opened
from boxatlas.export.runtimes import RUNTIMES, Runtime
from boxatlas.parts.base import ClassRows, Detector, Raw, Request, editable
from boxatlas.parts.region.detector import RegionDetector, content_limits, image_scales
from boxatlas.parts.region.masks import WithMasks
from boxatlas.parts.region.search import selective_search_proposals
from boxatlas.parts.yolo import just_above
from boxatlas.structures import Batch, Detections, Frame, detections_of
from boxatlas.weights import described


class Deployed(Detector):
    """Detects, is evaluated and timed as every detector is; it cannot be trained or saved.

    method: the detector that the file describes, without its weights, for `postprocess`.
    """

    method: Detector

    def __init__(self, method: Detector, contents: Contents, runtime: Runtime, engine: str) -> None:
        super().__init__(method.classes, method.preprocess, method.config)
        self.name, self.options = method.name, method.options
        self.takes_proposals = method.takes_proposals
        self.min_proposal_side = method.min_proposal_side
        self.anchor_unit = method.anchor_unit
        self.contents, self.runtime, self.engine = contents, runtime, engine
        object.__setattr__(self, "method", method)  # no child: it has no weights
        self.eval()

    @property
    def parameter_count(self) -> int:
        """Learnable numbers of the network that was exported."""
        return int(self.contents.description.get("parameters", 0))

    def forward(
        self,
        images: Tensor,
        frames: Sequence[Frame] | None = None,
        proposals: Tensor | None = None,
        *,
        score: float | None = None,
    ) -> Raw:
        """The method's raw outputs, by the runtime; or, of a file with suppression inside, what
        scores at least `score` (None: as the file says)."""
        given = {"images": images}
        method = self.method
        size = (images.shape[-2], images.shape[-1])
        wanted = self.contents.inputs
        if "content" in wanted:
            given["content"] = content_limits(images, frames, size)
        if "scale" in wanted:
            given["scale"] = image_scales(images, frames)
        if "rois" in wanted:
            if proposals is None:
                proposals = selective_search_proposals(
                    images,
                    frames,
                    self.preprocess,
                    most=self.takes_proposals,
                    min_side=self.min_proposal_side,
                )
            rois = proposals[:, : self.takes_proposals].to(images)
            inward = isinstance(method, RegionDetector)
            given["rois"] = method.inward(rois, frames) if inward else rois
        elif proposals is not None:
            raise InputError(
                "makes its own proposals, inside the graph", file=self.contents.path, field="rois"
            )
        if "score" in wanted and score is not None:
            given["score"] = torch.tensor([score])
        if not isinstance(method, RCNN):
            return self._run(given)
        parts = [
            self._run({**given, "rois": rois})
            for rois in given["rois"].split(method.config.crops_at_once, 1)
        ]
        return {name: torch.cat([part[name] for part in parts], 1) for name in parts[0]}

    def _run(self, given: Mapping[str, Tensor]) -> Raw:
        arrays = {name: np.ascontiguousarray(t.numpy(), np.float32) for name, t in given.items()}
        with parsing(self.contents.path, "the graph cannot be run"):
            found = self.runtime.run(self.contents.outputs, arrays)
        return {
            name: torch.from_numpy(array)
            for name, array in zip(self.contents.outputs, found, strict=True)
        }

    def postprocess(
        self,
        raw: Raw,
        frames: Sequence[Frame],
        *,
        score: float | None = None,
        max_detections: int | None = None,
    ) -> list[Detections]:
        """The method's own; what was suppressed inside the graph is only read."""
        if not self.with_nms:
            return self.method.postprocess(raw, frames, score=score, max_detections=max_detections)
        least = just_above(self.config.model_dump()["score"]) if score is None else score
        real = (raw["labels"] >= 0) & (raw["scores"] >= least)
        image, row = real.nonzero(as_tuple=True)
        found = (raw["boxes"][image, row], raw["scores"][image, row], raw["labels"][image, row])
        results = detections_of(*found, image, frames, self.classes, max_detections)
        if not isinstance(self.method, WithMasks):
            return results
        chances = raw["masks"][image, row].split([int(count) for count in real.sum(1)])
        method = self.method
        return [
            replace(result, masks=method.pasted(chance[: len(result)], result))
            for result, chance in zip(results, chances, strict=True)
        ]

    def detect_pixels(
        self, pictures: Sequence[NDArray[np.uint8]], request: Request | None = None
    ) -> list[Detections]:
        most = None if request is None else request.max_detections
        if self.with_nms and most is not None and most > self.config.model_dump()["max_detections"]:
            problem = "the file chooses inside its graph, no more than it was written with"
            raise InputError(problem, file=self.contents.path, field="max_detections", value=most)
        return super().detect_pixels(pictures, request)

    def infer(
        self,
        images: Tensor,
        frames: Sequence[Frame],
        *,
        score: float | None = None,
        max_detections: int | None = None,
        proposals: Tensor | None = None,
    ) -> list[Detections]:
        """As every detector; a threshold is told to suppression inside the graph."""
        with torch.inference_mode():
            raw = self(images.float(), frames, proposals, score=score)
            found = self.postprocess(raw, frames, score=score, max_detections=max_detections)
        with torch.inference_mode(False), torch.no_grad():
            return [editable(one) for one in found]

    @property
    def with_nms(self) -> bool:
        """Whether the file's graph suppresses too."""
        return bool(self.contents.description.get("with_nms", False))

    def fast(self) -> Detector:
        return self

    def suppressing(self, nms_iou: float) -> Detector:
        if self.with_nms and nms_iou != self.config.model_dump()["nms_iou"]:
            problem = "the file suppresses inside its graph, by its own threshold"
            raise InputError(problem, file=self.contents.path, field="nms_iou", value=nms_iou)
        method = copy.copy(self.method)
        method.config = self.config.model_copy(update={"nms_iou": nms_iou})
        return self._with(method)

    def restricted_to(self, classes: Sequence[str]) -> Detector:
        method = self.method.restricted_to(classes)
        return self if method is self.method else self._with(method)

    def _with(self, method: Detector) -> Deployed:
        return Deployed(method, self.contents, self.runtime, self.engine)

    def together(self, batch_size: int = 8) -> int:
        return 1

    def class_rows(self) -> Mapping[str, ClassRows]:
        return self.method.class_rows()

    def describe(self) -> dict[str, Any]:
        return self.method.describe()

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        raise InputError("an exported file cannot be trained", file=self.contents.path)

    def save(self, path: str | Path, **extra: Any) -> None:
        raise InputError("an exported file is no checkpoint to save", file=self.contents.path)

    def _apply(self, fn: Any, recurse: bool = True) -> Deployed:
        """Stays on the CPU, in float32, where it is run."""
        return self

    def __reduce__(self) -> Any:
        return open_onnx, (self.contents.path, self.engine)

    def __deepcopy__(self, memo: dict[int, Any]) -> Deployed:
        return self._with(copy.deepcopy(self.method, memo))


def open_onnx(path: str | Path, engine: str = "onnx") -> Deployed:
    """The detector of an ONNX file that `boxatlas export` wrote, run by `engine` of `RUNTIMES`.

    Raises InputError for another file, one that is damaged or newer, and where the extra is not
    installed.
    """
    if engine not in RUNTIMES:
        raise InputError(
            "an ONNX file is not run by this",
            file=path,
            field="engine",
            value=engine,
            hint=nearest(engine, RUNTIMES),
        )
    contents = opened(path)
    with parsing(contents.path, f"engine {engine} cannot open it"):
        runtime = RUNTIMES[engine](contents.data)
    method = described(contents.description, contents.path).eval()
    without_weights(method)
    return Deployed(method, contents, runtime, engine)


def without_weights(method: nn.Module) -> None:
    """Parameters of their shapes alone: the numbers are in the graph."""
    for module in method.modules():
        for name, value in list(module._parameters.items()):
            if value is not None:
                module._parameters[name] = nn.Parameter(value.to("meta"), requires_grad=False)
