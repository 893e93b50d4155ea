"""The things that travel: Targets, Batch, Detections; and Frame, from `frame`.

Shape letters: B images, M objects (the largest count in the batch), P proposals, N detections.
Boxes are float32 xyxy in continuous pixels: a box of a whole W x H image is [0, 0, W, H].
Labels are 0..K-1; background is never a label, -1 is padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from boxatlas.frame import Frame
from boxatlas.ops.rle import encode, packed

if TYPE_CHECKING:
    from PIL.Image import Image

Polygons = list[list[float]]  # COCO polygons of one object, x, y alternating
RLE = dict[str, Any]  # COCO run-length encoding, {"size": [h, w], "counts": ...}


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


@dataclass
class Detections:
    """What was found in one image, best first.

    boxes [N, 4] in the source image's pixels, scores [N], labels [N] int64, all on the CPU;
    masks [N, H, W] bool or None; classes, the names that labels index; size (height, width) of the
    source image; image, the source as uint8 [H, W, 3], where it is still at hand.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    classes: tuple[str, ...] = ()
    size: tuple[int, int] = (0, 0)
    masks: Tensor | None = None
    image: Any = None
    path: str | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: Any) -> Detections:
        """Select by slice, index list or boolean mask."""
        if isinstance(index, int):
            index = slice(index, index + 1) if index != -1 else slice(-1, None)
        index = index if isinstance(index, slice) else torch.as_tensor(index)
        return replace(
            self,
            boxes=self.boxes[index],
            scores=self.scores[index],
            labels=self.labels[index],
            masks=None if self.masks is None else self.masks[index],
        )

    @property
    def names(self) -> list[str]:
        """The class name of each detection."""
        return [self.classes[i] for i in self.labels.tolist()]

    def above(self, score: float) -> Detections:
        """Those that score at least `score`."""
        return self[self.scores >= score]

    def draw(self, image: Any = None) -> Image:
        """The image with boxes, masks and names drawn on it. Raises where no image is at hand.

        image: anything that `images.read` takes, instead of the one that was kept.
        """
        from boxatlas.drawing import draw
        from boxatlas.images import read

        if image is None:
            image = self.image
        if image is None:
            raise ValueError("these detections carry no image; pass one: found.draw(image)")
        return draw(
            read(image),
            self.boxes.numpy(),
            self.names,
            self.labels.tolist(),
            self.scores.tolist(),
            None if self.masks is None else self.masks.numpy(),
        )

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
            return None
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

    def to_supervision(self) -> Any:
        """supervision.Detections (extra `supervision`)."""
        import numpy as np
        import supervision  # pyright: ignore[reportMissingImports]

        return supervision.Detections(
            xyxy=self.boxes.numpy(),
            confidence=self.scores.numpy(),
            class_id=self.labels.numpy(),
            mask=None if self.masks is None else self.masks.numpy(),
            data={"class_name": np.array(self.names)},
        )


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
