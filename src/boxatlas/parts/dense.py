"""What every one-stage detector on anchors shares: maps -> head -> logits and deltas -> boxes.

SSD, DSSD, FSSD, DSOD, RFBNet, RefineDet, M2Det and RetinaNet differ in backbone, neck, head,
anchors and loss and say so in their own files. Shape letters: B images, A anchors, K classes, C
columns of the class output (K, or K + 1 with the background at column 0), N candidates over all
images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from boxatlas.boxes.anchors import AnchorCache
from boxatlas.boxes.coders import DeltaCoder
from boxatlas.boxes.nms import Candidates, SuppressionChoices, batched_nms
from boxatlas.images import Preprocess
from boxatlas.necks.extra_maps import conv_norm
from boxatlas.options import AtLeastOne, Options, habit, setting
from boxatlas.parts.base import ClassRows, Detector, Raw, clipped
from boxatlas.structures import Detections, Frame, detections_of

Grid = tuple[int, int]  # rows, columns
MakePredictor = Callable[[int, int], nn.Module]  # (channels, outputs) -> a predictor


class DenseChoices(Options):
    """Which of the thousands of boxes enter suppression, and how."""

    candidates: AtLeastOne | None = setting(
        400, "boxes of a class that enter suppression, per image; null: all"
    )
    clip_before_nms: bool = habit(False, "boxes are cut to the image before suppression")


class Head(nn.Module):
    """Maps, fine to coarse -> logits [B, A, C] and deltas [B, A, 4]."""

    def class_rows(self, prefix: str = "head.") -> dict[str, ClassRows]:
        """Parameters whose first axis holds rows per class, named from `prefix` on."""
        raise TypeError(f"{type(self).__name__} does not define class_rows")


class DenseHead(Head):
    """Per map one predictor of class logits and one of deltas.

    logits [B, A, C], deltas [B, A, 4]: maps fine to coarse, then row, column, box in the cell.
    `boxes` counts the boxes in a cell of each map; `predictor(channels, out)` makes a predictor,
    or one for each map does. background: the first of the `outputs` is no class's.
    """

    def __init__(
        self,
        channels: Sequence[int],
        boxes: Sequence[int],
        outputs: int,
        predictor: MakePredictor | Sequence[MakePredictor],
        *,
        background: bool = True,
    ) -> None:
        super().__init__()
        self.outputs, self.boxes, self.background = outputs, tuple(boxes), background
        makers = [predictor] * len(channels) if callable(predictor) else predictor
        rows = list(zip(channels, boxes, makers, strict=True))
        self.cls = nn.ModuleList(make(c, k * outputs) for c, k, make in rows)
        self.reg = nn.ModuleList(make(c, k * 4) for c, k, make in rows)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        logits = [flat(layer(x), self.outputs) for layer, x in zip(self.cls, maps, strict=True)]
        deltas = [flat(layer(x), 4) for layer, x in zip(self.reg, maps, strict=True)]
        return torch.cat(logits, 1), torch.cat(deltas, 1)

    def class_rows(self, prefix: str = "head.") -> dict[str, ClassRows]:
        """The last convolution of each class predictor and a batch norm after it.

        The background's row comes before the classes'.
        """
        rows: dict[str, ClassRows] = {}
        for i, (layer, k) in enumerate(zip(self.cls, self.boxes, strict=True)):
            modules = list(layer.named_modules())
            last = max(j for j, (_, m) in enumerate(modules) if isinstance(m, nn.Conv2d))
            for inner, module in modules[last:]:
                if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
                    name = ".".join(part for part in (f"{prefix}cls.{i}", inner) if part)
                    rows |= {
                        f"{name}.{leaf}": ClassRows(k, int(self.background))
                        for leaf, values in module.state_dict().items()
                        if values.ndim  # but a norm's count of batches
                    }
        return rows


class Predictor(nn.Conv2d):
    """The published predictor: one 3x3 convolution, Xavier weights, zero bias."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__(channels, out, 3, padding=1)
        nn.init.xavier_uniform_(self.weight)
        assert self.bias is not None
        nn.init.zeros_(self.bias)


class LitePredictor(nn.Sequential):
    """SSDlite's: 3x3 depthwise with batch norm and ReLU6, then 1x1."""

    def __init__(self, channels: int, out: int) -> None:
        depthwise = conv_norm(channels, channels, 3, padding=1, groups=channels)
        super().__init__(depthwise, nn.Conv2d(channels, out, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.03)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


def flat(x: Tensor, columns: int) -> Tensor:
    """[B, k * columns, H, W] -> [B, H * W * k, columns]; no copy of a channels-last map."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, columns)


class DenseDetector(Detector):
    """backbone -> neck -> head beside anchors that depend on the sizes of the maps alone.

    A method passes its parts and defines `make_anchors` and `loss`. Its config has the groups
    `SuppressionChoices` and `DenseChoices`. background: the class output is a softmax whose column
    0 is the background; else one sigmoid per class.
    """

    config: Any  # a union of groups, for which Python has no type; each reader names its group

    def __init__(
        self,
        classes: Sequence[str],
        preprocess: Preprocess,
        config: Options,
        *,
        backbone: nn.Module,
        neck: nn.Module | None,
        head: Head,
        coder: DeltaCoder,
        background: bool = True,
    ) -> None:
        super().__init__(classes, preprocess, config)
        self.backbone, self.neck, self.head = backbone, neck, head
        self.coder, self.background = coder, background
        self._anchors = AnchorCache(self.make_anchors)

    def make_anchors(self, grids: Sequence[Grid], image: tuple[int, int]) -> Tensor:
        """Anchors [A, 4] xyxy in pixels of an input of `image` (height, width)."""
        raise TypeError(f"{type(self).__name__} does not define make_anchors")

    def features(self, images: Tensor) -> list[Tensor]:
        """The maps that the head reads, fine to coarse, of images [B, 3, H, W]."""
        maps = self.backbone(images)
        return maps if self.neck is None else self.neck(maps)

    def forward(
        self, images: Tensor, frames: Sequence[Frame] | None = None, proposals: Tensor | None = None
    ) -> Raw:
        """logits [B, A, C], deltas [B, A, 4] and anchors [A, 4] in input pixels."""
        maps = self.features(images)
        logits, deltas = self.head(maps)
        return {"logits": logits, "deltas": deltas, "anchors": self.anchors(maps, images)}

    def anchors(self, maps: Sequence[Tensor], images: Tensor) -> Tensor:
        """The anchors [A, 4] of these maps, made once for each size of input and device."""
        return self._anchors(maps, (images.shape[-2], images.shape[-1]))

    def class_scores(self, logits: Tensor) -> Tensor:
        """[..., C] -> the classes' probabilities [..., K]."""
        return logits.softmax(-1)[..., 1:] if self.background else logits.sigmoid()

    @torch.no_grad()
    def postprocess(
        self,
        raw: Raw,
        frames: Sequence[Frame],
        *,
        score: float | None = None,
        max_detections: int | None = None,
    ) -> list[Detections]:
        """Threshold, decode what passed, suppress within each class, the best of each image."""
        limits: SuppressionChoices = self.config
        dense: DenseChoices = self.config
        candidates = self.candidates(raw, score)
        boxes = self.decode(raw, candidates)
        if dense.clip_before_nms:
            boxes = clipped(boxes, frames, candidates.image)
        most = limits.max_detections if max_detections is None else max_detections
        rows, scores = self.suppress(candidates, boxes, most)
        labels, image = candidates.label[rows], candidates.image[rows]
        return detections_of(boxes[rows], scores, labels, image, frames, self.classes, most)

    def scores(self, raw: Raw) -> Tensor:
        """[B, A, K]: what each anchor says of each class."""
        return self.class_scores(raw["logits"].float())

    def candidates(self, raw: Raw, score: float | None) -> Candidates:
        """What may become a detection: anchors and classes that pass the threshold."""
        limits: SuppressionChoices = self.config
        scores = self.scores(raw)
        # The published threshold is exceeded; one that a caller gives is reached.
        passes = scores > limits.score if score is None else scores >= score
        where = passes.flatten().nonzero().squeeze(1)
        anchors, classes = scores.shape[1:]
        row = where.div(classes, rounding_mode="floor")
        image = row.div(anchors, rounding_mode="floor")
        label = where - row * classes
        return Candidates(image, row - image * anchors, label, scores.flatten()[where])

    def entering(self, raw: Raw, scores: Tensor) -> Tensor:
        """Which of all scores [B, K, A] may enter suppression, for graphs that cannot choose
        candidates: [B, K, A] bool, the best of each class."""
        dense: DenseChoices = self.config
        if dense.candidates is None:
            return torch.ones_like(scores, dtype=torch.bool)
        most = torch.sym_min(dense.candidates, scores.shape[2])
        return scores >= scores.topk(most, dim=2).values[..., -1:]

    def decode(self, raw: Raw, candidates: Candidates) -> Tensor:
        """The candidates' boxes [N, 4] xyxy in pixels of the input."""
        deltas = raw["deltas"][candidates.image, candidates.row].float()
        return self.coder.decode(deltas, raw["anchors"][candidates.row])

    def suppress(self, candidates: Candidates, boxes: Tensor, most: int) -> tuple[Tensor, Tensor]:
        """Which candidates stay, best first: (rows of boxes [N, 4], their scores).

        most: detections of an image; no more than that of a class need to stay.
        """
        limits: SuppressionChoices = self.config
        dense: DenseChoices = self.config
        rows = batched_nms(
            boxes,
            candidates.score,
            candidates.image * self.num_classes + candidates.label,
            limits.nms_iou,
            group_candidates=dense.candidates,
            limit=most,
        )
        return rows, candidates.score[rows]

    def class_rows(self) -> dict[str, ClassRows]:
        return self.head.class_rows()


def grids_of(backbone: nn.Module, image: tuple[int, int]) -> list[Grid]:
    """Sizes (rows, columns) of a backbone's maps for an input of this size; nothing is computed."""
    state = {k: v.to("meta") for k, v in backbone.state_dict().items()}
    images = torch.empty(2, 3, *image, device="meta")  # two: a norm in training needs two values
    maps = functional_call(backbone, state, (images,))
    return [(int(m.shape[-2]), int(m.shape[-1])) for m in maps]
