"""What every detector is: the contract that training, evaluation, detection and export rely on.

Mode (`train()` / `eval()`) never changes what a call returns; it only sets dropout and batch norm.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from boxatlas._version import __version__
from boxatlas.boxes.matching import Assigned
from boxatlas.errors import InputError
from boxatlas.files import write_tensors
from boxatlas.images import Preprocess, Source, read
from boxatlas.options import Options
from boxatlas.parts.fast import fastest
from boxatlas.parts.snapshot import Snapshot
from boxatlas.selection import checked_count, checked_fraction, labels_of
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
    engine = "torch"  # the program that runs the network
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
        self._fast: tuple[Snapshot, Detector] | None = None

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def device(self) -> torch.device:
        return self.images_seen.device

    # -- what a method defines ----------------------------------------------------------------

    def forward(
        self, images: Tensor, frames: Sequence[Frame] | None = None, proposals: Tensor | None = None
    ) -> Raw:
        """The network alone: images [B, 3, H, W] -> named raw tensors in the published order."""
        raise TypeError(f"{type(self).__name__} does not define forward")

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Scalar losses whose sum is the training loss; all randomness comes from `generator`."""
        raise TypeError(f"{type(self).__name__} does not define loss")

    def assigned(self, batch: Batch) -> list[Assigned]:
        """Which of a batch's objects each box learns for, step by step, as `loss` has it.

        Nothing is drawn at random and nothing mined: these are the boxes that may be trained. A
        method that takes proposals searches for them where the batch holds none.
        """
        raise TypeError(f"{type(self).__name__} does not define assigned")

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

    def idle(self) -> dict[str, str]:
        """Choices that do nothing in this detector: name -> why."""
        return self.config.idle()

    # -- what every method has ----------------------------------------------------------------

    @overload
    def detect(
        self,
        source: Source,
        *,
        score: float = ...,
        classes: str | Iterable[str] | None = ...,
        nms_iou: float | None = ...,
        max_detections: int | None = ...,
        batch_size: int = ...,
        bgr: bool = ...,
        keep_images: bool = ...,
    ) -> Detections: ...
    @overload
    def detect(
        self,
        source: list[Any] | tuple[Any, ...],
        *,
        score: float = ...,
        classes: str | Iterable[str] | None = ...,
        nms_iou: float | None = ...,
        max_detections: int | None = ...,
        batch_size: int = ...,
        bgr: bool = ...,
        keep_images: bool = ...,
    ) -> list[Detections]: ...
    @overload
    def detect(
        self,
        source: Iterator[Any],
        *,
        score: float = ...,
        classes: str | Iterable[str] | None = ...,
        nms_iou: float | None = ...,
        max_detections: int | None = ...,
        batch_size: int = ...,
        bgr: bool = ...,
        keep_images: bool = ...,
    ) -> Iterator[Detections]: ...

    def detect(
        self,
        source: Any,
        *,
        score: float = 0.3,
        classes: str | Iterable[str] | None = None,
        nms_iou: float | None = None,
        max_detections: int | None = None,
        batch_size: int = 8,
        bgr: bool = False,
        keep_images: bool = False,
    ) -> Detections | list[Detections] | Iterator[Detections]:
        """Objects that score at least `score` in an image, or in each of several.

        source: a path, PIL image, array or tensor (see `images.read` for their ranges); a list or
        tuple of them, or a batch [B, H, W, C] or [B, C, H, W], for a list of `Detections`; an
        iterator (a generator, `Path.glob(...)`), for an iterator that reads as it goes.
        classes: only these, by name. nms_iou, max_detections: instead of the detector's own.
        batch_size: at most so many are seen at once, where `together` allows it. bgr: arrays and
        tensors have their channels in OpenCV's order. keep_images: each result holds its pixels;
        otherwise `draw()` reads a file again and needs what was no file given.

        By the weights, classes, options and modules as they stand at the call. Half, bfloat16 and
        double weights are computed with in float32 on a CPU; half ones on a GPU in their own type.
        Raises InputError for a picture that cannot be read and for values out of bounds.
        """
        request = Request.checked(self, score, classes, nms_iou, max_detections)
        checked_count(batch_size, "batch_size")
        if isinstance(source, Iterator):
            return self._stream(source, request, batch_size, bgr, keep_images)
        if isinstance(source, np.ndarray | Tensor) and source.ndim == 4:
            source = list(source)
        if isinstance(source, list | tuple):
            return list(self._stream(iter(source), request, batch_size, bgr, keep_images))
        return next(self._stream(iter([source]), request, batch_size, bgr, keep_images))

    def _stream(
        self,
        sources: Iterator[Any],
        request: Request,
        batch_size: int,
        bgr: bool,
        keep_images: bool,
    ) -> Iterator[Detections]:
        together = self.together(batch_size)
        while chunk := list(islice(sources, together)):
            pictures = [read(one, bgr=bgr) for one in chunk]
            for one, pixels, result in zip(
                chunk, pictures, self.detect_pixels(pictures, request), strict=True
            ):
                if isinstance(one, str | Path):
                    result.path = str(one)
                if keep_images:
                    result.image = pixels
                yield result

    def detect_pixels(
        self, pictures: Sequence[NDArray[np.uint8]], request: Request | None = None
    ) -> list[Detections]:
        """As `detect`, of pictures that `images.read` gave: `together()` of them, seen at once."""
        request = request or Request()
        images, frames = self.preprocess.batch_of_pixels(pictures)
        detector = self if request.nms_iou is None else self.suppressing(request.nms_iou)
        most = request.max_detections
        if request.labels is None:
            return detector.infer(images, frames, score=request.score, max_detections=most)
        most = most or self.config.max_detections  # pyright: ignore[reportAttributeAccessIssue]
        enough = most * self.num_classes  # so that other classes take no place from those wanted
        results = detector.infer(images, frames, score=request.score, max_detections=enough)
        wanted = torch.tensor(request.labels, dtype=torch.int64)
        return [one[torch.isin(one.labels, wanted)][:most] for one in results]

    def together(self, batch_size: int = 8) -> int:
        """How many images are seen at once, so that what is found in one depends on it alone.

        One where a batch would be padded to its largest image. One on a CPU too, which rounds a
        batch of two otherwise than one image and gains little or nothing by it. `batch_size` on a
        GPU, where a batch is much faster and the last bit of a score may change with its size.
        """
        return batch_size if self.preprocess.same_size and self.device.type != "cpu" else 1

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
        images = images.to(self.device, torch.float32).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            with _precision(self):
                raw = fast(images, frames, proposals)
            with _in_float32(self.device):
                raw = {k: v.float() if v.is_floating_point() else v for k, v in raw.items()}
                found = fast.postprocess(raw, frames, score=score, max_detections=max_detections)
        with torch.inference_mode(False), torch.no_grad():
            return [editable(one) for one in found]

    def fast(self) -> Detector:
        """This detector for inference: eval mode, batch norm folded, channels last, in float32.

        Made when first asked for, and again whenever anything of this detector has changed since.
        """
        if self._fast is None or not self._fast[0].still(self):
            self._fast = (Snapshot(self), fastest(self))
        return self._fast[1]

    def suppressing(self, nms_iou: float) -> Detector:
        """This detector, its weights and parts, with another threshold of suppression."""
        fast, twin = copy.copy(self.fast()), copy.copy(self)
        for one in (fast, twin):
            one.config = self.config.model_copy(update={"nms_iou": nms_iou})
        twin._fast = (Snapshot(twin), fast)
        return twin

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

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if args and isinstance(args[0], str | Path | bytes | np.ndarray | list | tuple):
            problem = "a detector called directly takes preprocessed images [B, 3, H, W]"
            hint = "model.detect(...) takes pictures"
            raise InputError(problem, value=type(args[0]).__name__, hint=hint)
        return super().__call__(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """All but the fast form, which is made anew: for copies, pickles and other processes."""
        return {**super().__getstate__(), "_fast": None}


@dataclass(frozen=True)
class Request:
    """What `detect` is asked for, checked. labels: of the classes wanted; None: all, or the
    detector's own number or threshold."""

    score: float = 0.3
    labels: tuple[int, ...] | None = None
    nms_iou: float | None = None
    max_detections: int | None = None

    @classmethod
    def checked(
        cls,
        detector: Detector,
        score: float,
        classes: str | Iterable[str] | None,
        nms_iou: float | None,
        max_detections: int | None,
    ) -> Request:
        """Raises InputError, naming the one that is out of bounds or unknown."""
        return cls(
            checked_fraction(score, "score"),
            None if classes is None else tuple(labels_of(classes, detector.classes)),
            None if nms_iou is None else checked_nms(detector, nms_iou),
            None if max_detections is None else checked_count(max_detections, "max_detections"),
        )


def checked_nms(detector: Detector, nms_iou: float) -> float:
    """A threshold of suppression. Raises InputError where this detector suppresses otherwise."""
    if "nms_iou" in (idle := detector.idle()):
        raise InputError(
            f"does nothing in this detector: {idle['nms_iou']}", field="nms_iou", value=nms_iou
        )
    return checked_fraction(nms_iou, "nms_iou")


def _precision(model: Detector) -> AbstractContextManager[Any]:
    """How the fast form computes: in float32 on a CPU, whose packed layers know nothing else; on a
    GPU in the type of the weights, or as the caller's autocast says."""
    if model.device.type != "cuda":
        return _in_float32(model.device)
    kind = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    if kind in (torch.float16, torch.bfloat16):
        return torch.autocast("cuda", kind)
    return nullcontext()


def _in_float32(device: torch.device) -> AbstractContextManager[Any]:
    if device.type not in ("cpu", "cuda"):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def editable(one: Detections) -> Detections:
    """Ordinary tensors, to be edited and learned from, where inference left its own."""

    def plain(tensor: Tensor) -> Tensor:
        return tensor.clone() if tensor.is_inference() else tensor

    masks = None if one.masks is None else plain(one.masks)
    return replace(
        one, boxes=plain(one.boxes), scores=plain(one.scores), labels=plain(one.labels), masks=masks
    )


def clipped(boxes: Tensor, frames: Sequence[Frame], image: Tensor) -> Tensor:
    """Boxes [N, 4] of the input, cut to the content of each one's own image [N]."""
    edges = torch.tensor(
        [[*f.offset, f.offset[0] + f.content[1], f.offset[1] + f.content[0]] for f in frames],
        dtype=boxes.dtype,
        device=boxes.device,
    )[image]
    low, high = edges[:, [0, 1, 0, 1]], edges[:, [2, 3, 2, 3]]
    return torch.minimum(torch.maximum(boxes, low), high)
