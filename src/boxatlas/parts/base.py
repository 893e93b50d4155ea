"""What every detector is: the contract that training, evaluation, detection and export rely on.

Mode (`train()` / `eval()`) never changes what a call returns; it only sets dropout and batch norm.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from boxatlas._version import __version__
from boxatlas.files import write_tensors
from boxatlas.images import Preprocess, Source, read
from boxatlas.options import Options
from boxatlas.parts.fast import fastest
from boxatlas.structures import Batch, Detections, Frame

Raw = dict[str, Tensor]
Track = Callable[[Iterable[Any], str], Iterator[Any]]  # the items, their progress shown
Fit = Callable[[Any, Path, Track], None]  # (loader, a folder to keep work in, track)


@dataclass(frozen=True)
class Phase:
    """One stage of a method's training, as data that the one loop runs.

    learn: name patterns (fnmatch) of the parameters that are trained; losses: the terms of `loss`
    that are summed, None = all; init_from, proposals_from: names of earlier phases; fit: what fits
    without gradient descent instead (R-CNN's SVMs).
    """

    name: str = "train"
    learn: tuple[str, ...] = ("*",)
    losses: tuple[str, ...] | None = None
    init_from: str | None = None
    proposals_from: str | None = None
    fit: Fit | None = None


@dataclass(frozen=True)
class ClassRows:
    """Where a parameter's first axis holds rows per class.

    The axis is `groups` blocks (one per anchor) of `offset` other entries and then one entry per
    class, each of `width` rows; offset counts a background or box coordinates before the classes,
    width is 4 where a class has a box of its own.
    """

    groups: int
    offset: int
    width: int = 1


class Detector(nn.Module):
    """A detector: classes, a preprocess, a config, and the calls below.

    Subclasses define `forward`, `loss`, `postprocess`, `class_rows` and, where training has stages,
    `phases`. `name` and `options` say how `create_model` made it; a checkpoint records them.
    """

    images_seen: Tensor
    takes_proposals = 0  # of an image from outside, at most; 0: the method makes its own
    min_proposal_side = 0.0  # pixels: of a search for them, narrower or lower ones are left out
    anchor_unit = 1  # input pixels that 1 stands for in the option `anchors`

    def __init__(self, classes: Sequence[str], preprocess: Preprocess, config: Options) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self.preprocess = preprocess
        self.config = config
        self.name = ""
        self.options: dict[str, Any] = {}
        self.register_buffer("images_seen", torch.zeros((), dtype=torch.int64))
        self._fast: tuple[object, Detector] | None = None

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def device(self) -> torch.device:
        return self.images_seen.device

    # -- what a method defines ----------------------------------------------------------------

    def forward(
        self,
        images: Tensor,
        frames: Sequence[Frame] | None = None,
        proposals: Tensor | None = None,
    ) -> Raw:
        """The network alone: images [B, 3, H, W] -> named raw tensors in the published order."""
        raise TypeError(f"{type(self).__name__} does not define forward")

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Scalar losses whose sum is the training loss; all randomness comes from `generator`."""
        raise TypeError(f"{type(self).__name__} does not define loss")

    def loss_terms(
        self, batch: Batch, terms: Sequence[str], generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """The losses of those names at least: a method may leave out the work for the others."""
        return self.loss(batch, generator)

    def postprocess(
        self,
        raw: Raw,
        frames: Sequence[Frame],
        *,
        score: float | None = None,
        max_detections: int | None = None,
    ) -> list[Detections]:
        """Decode, suppress, undo the frame. score and max_detections default to the method's."""
        raise TypeError(f"{type(self).__name__} does not define postprocess")

    def probe(self, images: Tensor) -> list[Tensor]:
        """What the fast form must answer as the plain one does: raw tensors before any choice.

        A method whose `forward` ranks or suppresses gives what comes before that instead.
        """
        return list(self(images).values())

    def class_rows(self) -> Mapping[str, ClassRows]:
        """The parameters that hold rows per class, so that fine-tuning can carry them over."""
        return {}

    def phases(self) -> list[Phase]:
        """The stages of training, in order."""
        return [Phase()]

    def training_sizes(self) -> list[tuple[int, int]]:
        """Inputs (height, width) that training changes among; none: it keeps to one."""
        return []

    @property
    def anchor_count(self) -> int:
        """Priors that `anchors: data` clusters; 0: this method has none."""
        return 0

    @property
    def largest_last(self) -> int:
        """Of training at several sizes: how many last steps are at the largest."""
        return 0

    def training_table(self, table: Any) -> Any:
        """The `data.Table` to train on, where a method wants its images in another proportion."""
        return table

    def restricted_to(self, classes: Sequence[str]) -> Detector:
        """This detector for data of these classes: the same one, but for a tree of words."""
        return self

    # -- what every method has ----------------------------------------------------------------

    @overload
    def detect(self, source: Source, *, score: float = 0.3, batch_size: int = 8) -> Detections: ...
    @overload
    def detect(
        self, source: list[Source] | tuple[Source, ...], *, score: float = 0.3, batch_size: int = 8
    ) -> list[Detections]: ...

    @torch.inference_mode()
    def detect(
        self,
        source: Source | list[Source] | tuple[Source, ...],
        *,
        score: float = 0.3,
        batch_size: int = 8,
    ) -> Detections | list[Detections]:
        """Objects that score at least `score` in an image, or in each of a list.

        source: a path, PIL image, array or tensor (see `images.read`), or a list of them.
        batch_size: at most so many are seen at once, where `together` allows it.
        """
        many = isinstance(source, list | tuple)
        sources: Sequence[Source] = source if isinstance(source, list | tuple) else [source]
        found: list[Detections] = []
        together = self.together(batch_size)
        for start in range(0, len(sources), together):
            chunk = sources[start : start + together]
            results = self.detect_pixels([read(one) for one in chunk], score=score)
            for one, result in zip(chunk, results, strict=True):
                path = str(one) if isinstance(one, str | Path) else None
                found.append(replace(result, path=path))
        return found if many else found[0]

    @torch.inference_mode()
    def detect_pixels(
        self, pictures: Sequence[NDArray[np.uint8]], *, score: float = 0.3
    ) -> list[Detections]:
        """As `detect`, of pictures that `images.read` gave: `together()` of them, seen at once."""
        images, frames = self.preprocess.batch_of_pixels(pictures)
        results = self.infer(images, frames, score=score)
        return [replace(one, image=p) for one, p in zip(results, pictures, strict=True)]

    def together(self, batch_size: int = 8) -> int:
        """How many images are seen at once, so that what is found in one depends on it alone.

        One where a batch would be padded to its largest image. One on a CPU too, which rounds a
        batch of two otherwise than one image and gains little or nothing by it. `batch_size` on a
        GPU, where a batch is much faster and the last bit of a score may change with its size.
        """
        return batch_size if self.preprocess.same_size and self.device.type != "cpu" else 1

    @torch.inference_mode()
    def infer(
        self,
        images: Tensor,
        frames: Sequence[Frame],
        *,
        score: float | None = None,
        max_detections: int | None = None,
        proposals: Tensor | None = None,
    ) -> list[Detections]:
        """Preprocessed images -> Detections, by the fast form of the network."""
        fast = self.fast()
        images = images.to(self.device).contiguous(memory_format=torch.channels_last)
        raw = fast(images, frames, proposals)
        return fast.postprocess(raw, frames, score=score, max_detections=max_detections)

    def fast(self) -> Detector:
        """This detector for inference: eval mode, batch norm folded, channels last.

        Made when first asked for and again whenever a weight has changed since.
        """
        state: list[int] = []
        modules: list[nn.Module] = [self]
        for module in modules:  # grows as it goes; a tenth of the time of state_dict()
            for held in (module._parameters, module._buffers):
                for tensor in held.values():
                    if tensor is not None:
                        state += (tensor.data_ptr(), tensor._version)
            modules += [child for child in module._modules.values() if child is not None]
        if self._fast is None or self._fast[0] != state:
            self._fast = (state, fastest(self))
        return self._fast[1]

    def describe(self) -> dict[str, Any]:
        """All that is needed to build this detector again, as JSON values."""
        return {
            "format": 1,
            "model": self.name,
            "options": self.options,
            "classes": list(self.classes),
            "preprocess": self.preprocess.model_dump(mode="json"),
            "versions": {"boxatlas": __version__, "torch": torch.__version__},
        }

    def save(self, path: str | Path, **extra: Any) -> None:
        """Write weights and description as safetensors, atomically.

        extra (recipe, metrics, ...) is kept beside the description; it must be JSON.
        """
        metadata = {"boxatlas": json.dumps({**self.describe(), **extra})}
        write_tensors(path, self.state_dict(), metadata)

    def __deepcopy__(self, memo: dict[int, Any]) -> Detector:
        # The fast copy is a cache, not a part.
        held, self._fast = self._fast, None
        try:
            twin = self.__class__.__new__(self.__class__)
            memo[id(self)] = twin
            twin.__dict__ = {k: copy.deepcopy(v, memo) for k, v in self.__dict__.items()}
            return twin
        finally:
            self._fast = held


def clipped(boxes: Tensor, frames: Sequence[Frame], image: Tensor) -> Tensor:
    """Boxes [N, 4] of the input, cut to the content of each one's own image [N]."""
    edges = torch.tensor(
        [[*f.offset, f.offset[0] + f.content[1], f.offset[1] + f.content[0]] for f in frames],
        dtype=boxes.dtype,
        device=boxes.device,
    )[image]
    low, high = edges[:, [0, 1, 0, 1]], edges[:, [2, 3, 2, 3]]
    return torch.minimum(torch.maximum(boxes, low), high)
