"""The things that travel: Targets, Batch, Detections; and Frame, from `frame`.

Shape letters: B images, M objects (the largest count in the batch), P proposals, N detections.
Boxes are float32 xyxy in continuous pixels: a box of a whole W x H image is [0, 0, W, H].
Labels are 0..K-1; background is never a label, -1 is padding.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from boxatlas.errors import InputError, optional, shown
from boxatlas.frame import Frame
from boxatlas.ops.rle import encode, packed
from boxatlas.selection import checked_fraction, labels_of, rows_of

if TYPE_CHECKING:
    from PIL.Image import Image

Polygons = list[list[float]]  # COCO polygons of one object, x, y alternating
RLE = dict[str, Any]  # COCO run-length encoding, {"size": [h, w], "counts": ...}
_SHOWN_SIDE = 1024  # pixels, at most, of the picture that a notebook shows


@dataclass
class Targets:
    """The objects of a batch, padded to the largest count.

    boxes [B, M, 4] in input pixels; labels [B, M] int64, -1 = padding; ignore [B, M] bool, VOC
    difficult or COCO crowd; image_label [B] int64, a class known of the image without a box, else
    -1; masks, per image and object, as polygons or RLE in input pixels, or None.
    """

    boxes: Tensor
    labels: Tensor
    ignore: Tensor
    image_label: Tensor
    masks: list[list[Polygons | RLE | None]] | None = None

    @property
    def valid(self) -> Tensor:
        """[B, M] bool: real objects, not padding."""
        return self.labels >= 0

    @classmethod
    def collate(
        cls,
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        ignore: Sequence[Tensor] | None = None,
        image_label: Sequence[int] | None = None,
        masks: Sequence[Sequence[Polygons | RLE | None]] | None = None,
    ) -> Targets:
        """Pad per-image boxes [m, 4], labels [m] and ignore [m] into one batch."""
        most = max((len(b) for b in boxes), default=0)
        size = len(boxes)
        out = cls(
            torch.zeros(size, most, 4),
            torch.full((size, most), -1, dtype=torch.int64),
            torch.zeros(size, most, dtype=torch.bool),
            torch.full((size,), -1, dtype=torch.int64),
            None if masks is None else [list(m) for m in masks],
        )
        for i, (b, label) in enumerate(zip(boxes, labels, strict=True)):
            out.boxes[i, : len(b)] = b
            out.labels[i, : len(b)] = label
            if ignore is not None:
                out.ignore[i, : len(b)] = ignore[i]
        if image_label is not None:
            out.image_label[:] = torch.as_tensor(list(image_label))
        return out

    def to(self, device: torch.device | str) -> Targets:
        return replace(
            self,
            boxes=self.boxes.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            ignore=self.ignore.to(device, non_blocking=True),
            image_label=self.image_label.to(device, non_blocking=True),
        )


@dataclass
class Batch:
    """What a detector's `loss` and `forward` take: images [B, 3, H, W], preprocessed.

    proposals [B, P, 4] in input pixels with valid [B, P], where a method takes them from outside.
    names holds each image's path or id, for messages.
    """

    images: Tensor
    frames: list[Frame]
    targets: Targets
    proposals: Tensor | None = None
    valid: Tensor | None = None
    names: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str) -> Batch:
        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        return replace(
            self,
            images=self.images.to(device, non_blocking=True),
            targets=self.targets.to(device),
            proposals=move(self.proposals),
            valid=move(self.valid),
        )

    def pin_memory(self) -> Batch:
        return replace(self, images=self.images.pin_memory())


@dataclass(eq=False)
class Detections:
    """What was found in one image, best first. Behaves as a sequence of its detections.

    boxes [N, 4] in the source image's pixels, scores [N], labels [N] int64, all on the CPU and to
    be edited as one likes; masks [N, H, W] bool or None; classes, the names that labels index; size
    (height, width) of the source image; path, the file it came from; image, the source as uint8
    [H, W, 3], only where it was asked for; outlines, the masks as run lengths, where an evaluation
    keeps no others.

    An integer, and iteration, give `Detections` of one; a slice, list, array or mask gives those.
    Two are equal where boxes, scores, labels, masks, classes and size are.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    classes: tuple[str, ...] = ()
    size: tuple[int, int] = (0, 0)
    masks: Tensor | None = None
    image: Any = None
    path: str | None = None
    outlines: list[RLE] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detections]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: Any) -> Detections:
        """One by an integer; several by a slice, indices or a boolean mask of length N.

        Raises IndexError for what is not there, TypeError for what is no index.
        """
        return self._of(rows_of(index, len(self)))

    def _of(self, rows: Tensor) -> Detections:
        return replace(
            self,
            boxes=self.boxes[rows],
            scores=self.scores[rows],
            labels=self.labels[rows],
            masks=None if self.masks is None else self.masks[rows],
            outlines=None if self.outlines is None else [self.outlines[i] for i in rows.tolist()],
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Detections):
            return NotImplemented
        return (
            (tuple(self.classes), tuple(self.size)) == (tuple(other.classes), tuple(other.size))
            and torch.equal(self.boxes, other.boxes)
            and torch.equal(self.scores, other.scores)
            and torch.equal(self.labels, other.labels)
            and self._same_masks(other)
        )

    def _same_masks(self, other: Detections) -> bool:
        if self.masks is not None and other.masks is not None:
            return torch.equal(self.masks, other.masks)
        return self.run_lengths() == other.run_lengths()

    __hash__ = None  # pyright: ignore[reportAssignmentType]  # can be edited

    def __add__(self, other: Detections) -> Detections:
        """Both, best first; see `join`."""
        return Detections.join([self, other]) if isinstance(other, Detections) else NotImplemented

    @classmethod
    def join(cls, parts: Iterable[Detections]) -> Detections:
        """All that is in `parts`, which are of one image, best first; nothing is suppressed.

        Classes are joined by name. Raises InputError where there are no parts, where they are of
        images of different sizes, or where some have masks and others none.
        """
        parts = list(parts)
        if not parts:
            raise InputError("there are no detections to join")
        sizes = {tuple(one.size) for one in parts}
        if len(sizes) > 1:
            raise InputError("detections of images of different sizes cannot be joined")
        filled = [one for one in parts if len(one)] or parts[:1]
        if len({(one.masks is None, one.outlines is None) for one in filled}) > 1:
            raise InputError("some of the detections to join have masks and others none")
        masks = [one.masks for one in filled if one.masks is not None]
        outlines = [one.outlines for one in filled if one.outlines is not None]
        classes = tuple(dict.fromkeys(name for one in parts for name in one.classes))
        labels = [_relabelled(one, classes) for one in filled]
        scores = torch.cat([one.scores for one in filled])
        whole = replace(
            filled[0],
            boxes=torch.cat([one.boxes for one in filled]),
            scores=scores,
            labels=torch.cat(labels),
            classes=classes,
            masks=torch.cat(masks) if masks else None,
            outlines=[outline for part in outlines for outline in part] if outlines else None,
            path=next((one.path for one in parts if one.path is not None), None),
            image=next((one.image for one in parts if one.image is not None), None),
        )
        return whole._of(torch.argsort(scores, descending=True, stable=True))

    def __repr__(self) -> str:
        counts: dict[str, int] = {}
        for name in self.names:
            counts[name] = counts.get(name, 0) + 1
        most_first = sorted(counts.items(), key=lambda item: -item[1])
        listed = ", ".join(f"{count} {shown(name)}" for name, count in most_first)
        height, width = self.size
        return f"Detections({len(self)}{': ' if listed else ''}{listed}; {width}x{height})"

    def _repr_png_(self) -> bytes | None:
        """The picture with its boxes, for a notebook; None where no picture is at hand."""
        try:
            picture = self.draw()
        except InputError:
            return None
        picture.thumbnail((_SHOWN_SIDE, _SHOWN_SIDE))
        stream = io.BytesIO()
        picture.save(stream, "PNG")
        return stream.getvalue()

    @property
    def names(self) -> list[str]:
        """The class name of each detection; its number where it has no name."""
        known = len(self.classes)
        return [self.classes[i] if 0 <= i < known else str(i) for i in self.labels.tolist()]

    def above(self, score: float) -> Detections:
        """Those that score at least `score`."""
        return self[self.scores >= score]

    def filter(
        self, *, classes: str | Iterable[str] | None = None, score: float | None = None
    ) -> Detections:
        """Those of these classes that score at least `score`; None: any.

        Raises InputError for a class that the detector does not have.
        """
        keep = torch.ones(len(self), dtype=torch.bool)
        if classes is not None:
            wanted = torch.tensor(labels_of(classes, self.classes), dtype=torch.int64)
            keep &= torch.isin(self.labels, wanted)
        if score is not None:
            keep &= self.scores >= checked_fraction(score, "score")
        return self[keep]

    def draw(self, image: Any = None) -> Image:
        """The image with boxes, masks and names drawn on it.

        image: anything `images.read` takes; None: the one that was kept, else the file it came
        from. Raises InputError where there is none or it has another size.
        """
        from boxatlas.drawing import draw
        from boxatlas.images import read

        if image is None:
            image = self.path if self.image is None else self.image
        if image is None:
            problem = "these detections carry no image"
            raise InputError(problem, hint="pass it, draw(image), or detect with keep_images=True")
        pixels = read(image)
        if pixels.shape[:2] != tuple(self.size):
            raise InputError(
                "the image has not the size that the detections are of",
                field="height, width",
                value=(pixels.shape[:2], tuple(self.size)),
            )
        return draw(
            pixels,
            self.boxes.detach().numpy(),
            self.names,
            self.labels.tolist(),
            self.scores.tolist(),
            None if self.masks is None else self.masks.numpy(),
        )

    def show(self, image: Any = None) -> None:
        """Open the drawn picture in the system's viewer; see `draw`."""
        self.draw(image).show()

    def save(self, path: str | Path, image: Any = None) -> None:
        """Write the drawn picture, in the format that the suffix of `path` says; see `draw`.

        Raises InputError for a suffix of no format and where the file cannot be written.
        """
        from boxatlas.drawing import save_picture

        save_picture(self.draw(image), path)

    def to_coco(self, image_id: int = 0, category_ids: Sequence[int] | None = None) -> list[dict]:
        """COCO result rows: bbox is x, y, width, height; category_id is label + 1 unless given;
        segmentation, where there are masks, is an RLE whose counts are text."""
        ids = category_ids if category_ids is not None else range(1, len(self.classes) + 1)
        rows = []
        for box, score, label in zip(
            self.boxes.tolist(), self.scores.tolist(), self.labels.tolist(), strict=True
        ):
            x1, y1, x2, y2 = box
            rows.append(
                {
                    "image_id": image_id,
                    "category_id": ids[label],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "score": score,
                }
            )
        for row, rle in zip(rows, self.run_lengths() or (), strict=False):
            row["segmentation"] = packed(rle)
        return rows

    def run_lengths(self) -> list[RLE] | None:
        """Each detection's mask as RLE with a list of counts, or None where there are no masks."""
        if self.masks is None:
            return self.outlines
        return [encode(mask) for mask in self.masks.cpu().numpy().astype(bool)]

    def to_voc(self) -> list[dict]:
        """VOC rows: 1-based inclusive corners, as the devkit writes them."""
        return [
            {"name": name, "score": score, "xmin": x1 + 1, "ymin": y1 + 1, "xmax": x2, "ymax": y2}
            for name, score, (x1, y1, x2, y2) in zip(
                self.names, self.scores.tolist(), self.boxes.tolist(), strict=True
            )
        ]

    def to_yolo(self) -> list[str]:
        """YOLO lines: class, centre x, centre y, width, height (fractions of the image), score."""
        height, width = self.size
        lines = []
        for (x1, y1, x2, y2), score, label in zip(
            self.boxes.tolist(), self.scores.tolist(), self.labels.tolist(), strict=True
        ):
            cx, cy = (x1 + x2) / 2 / width, (y1 + y2) / 2 / height
            w, h = (x2 - x1) / width, (y2 - y1) / height
            lines.append(f"{label} {cx:.6f} {cy:.6f} {w:.6f} {h:.6f} {score:.6f}")
        return lines

    def to_dataframe(self) -> Any:
        """A pandas.DataFrame, a row per detection: file, class, score, x1, y1, x2, y2 (extra
        `pandas`)."""
        pandas = optional("pandas")
        rows = self.boxes.detach().double().numpy()
        return pandas.DataFrame(
            {
                "file": [self.path] * len(self),
                "class": self.names,
                "score": self.scores.detach().double().numpy(),
                **{name: rows[:, k] for k, name in enumerate(("x1", "y1", "x2", "y2"))},
            }
        )

    def to_supervision(self) -> Any:
        """supervision.Detections (extra `supervision`)."""
        supervision = optional("supervision")
        return supervision.Detections(
            xyxy=self.boxes.numpy(),
            confidence=self.scores.numpy(),
            class_id=self.labels.numpy(),
            mask=None if self.masks is None else self.masks.numpy(),
            data={"class_name": np.array(self.names)},
        )


def _relabelled(one: Detections, classes: tuple[str, ...]) -> Tensor:
    """The labels of these detections, as numbers of `classes`."""
    if not one.classes or one.classes == classes[: len(one.classes)]:
        return one.labels
    number = {name: i for i, name in enumerate(classes)}
    return torch.tensor([number[name] for name in one.classes])[one.labels]


def detections_of(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    image: Tensor,
    frames: Sequence[Frame],
    classes: tuple[str, ...],
    most: int | None = None,
) -> list[Detections]:
    """What was found in a batch, split by image and in each source's pixels, on the CPU.

    boxes [N, 4] in input pixels, scores [N], labels [N], image [N]: which image each is of; an
    image's rows stand in the order in which they are to be given. most: of an image.
    """
    order = torch.argsort(image, stable=True)
    counts = torch.bincount(image, minlength=len(frames)).tolist()
    found = []
    for frame, rows in zip(frames, order.split(counts), strict=True):
        rows = rows[:most]
        found.append(
            Detections(
                frame.undo(boxes[rows].float()).cpu(),
                scores[rows].float().cpu(),
                labels[rows].long().cpu(),
                classes,
                frame.source,
            )
        )
    return found
