"""A mask for each RoI, beside its class and box. He et al. 2017, arXiv 1703.06870, section 3.

Shape letters: B images, P RoIs of an image, N masks, K classes, m the side of a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxatlas.errors import InputError
from boxatlas.losses.masks import mask_loss
from boxatlas.ops.masks import MaskTargetRule, mask_targets, paste_masks
from boxatlas.options import Layers, Options, Width, habit, idea, setting
from boxatlas.parts.base import ClassRows, Raw
from boxatlas.parts.region.detector import RegionDetector
from boxatlas.parts.region.roi import pool_rois
from boxatlas.parts.region.targets import HeadBatch, SampledRoIs
from boxatlas.structures import Detections, Frame, Targets


class MaskChoices(Options):
    """The mask branch, its targets and its loss."""

    mask_loss: Literal["sigmoid", "softmax"] = idea(
        "sigmoid", "table 2b: a map for each class by itself, or classes that compete"
    )
    mask_agnostic: bool = idea(False, "section 4.2: one map for all classes")
    mask_head: Literal["fcn", "mlp"] = idea("fcn", "table 2e: convolutions or a perceptron")
    mask_threshold: float = idea(
        0.5, "section 3.1: probability above which a pixel is the object's", gt=0, lt=1
    )

    mask_convs: Layers = setting(4, "3x3 convolutions of the mask branch before its map is doubled")
    mask_width: Width = setting(256, "channels of the mask branch")
    mask_norm: Literal["none", "batch"] = habit(
        "none", "norms after the mask branch's convolutions"
    )
    mask_background: bool = habit(
        False, "the mask branch's first map is the background's, which nothing reads"
    )
    mask_target: Literal["polygon", "bitmap", "soft"] = habit(
        "soft",
        "a mask's target: drawn in the RoI; or the object's pixels sampled, hard or averaged",
    )
    mask_aligned: bool = habit(True, "sampled mask targets have RoIAlign's half-pixel shift")
    mask_paste: Literal["whole", "continuous"] = habit(
        "continuous", "a mask is sampled at each pixel, or stretched over whole pixels"
    )

    def idle(self) -> dict[str, str]:
        why = super().idle()
        if self.mask_head == "mlp":
            why |= dict.fromkeys(("mask_convs", "mask_width"), "mask_head mlp has no convolutions")
        return why


if TYPE_CHECKING:
    from boxatlas.parts.region.detector import RegionConfig

    class MaskConfig(RegionConfig, MaskChoices):
        """What the config of every detector with masks holds."""


class MaskBranch(nn.Module):
    """Figure 4: 3x3 convolutions, a transposed one that doubles the map, one map for each output.

    "mlp" is table 2e's other head: two layers of 1024 and one that writes all maps.
    """

    def __init__(self, config: MaskChoices, channels: int, side: int, maps: int) -> None:
        super().__init__()
        width = config.mask_width
        self.maps, self.side, self.mlp = maps, 2 * side, config.mask_head == "mlp"
        if self.mlp:
            self.fc1 = nn.Linear(channels * side * side, 1024)
            self.fc2 = nn.Linear(1024, 1024)
            self.logits = nn.Linear(1024, maps * self.side**2)
        else:
            normed = config.mask_norm == "batch"
            rows = []
            for i in range(config.mask_convs):
                conv = nn.Conv2d(
                    channels if i == 0 else width, width, 3, padding=1, bias=not normed
                )
                rows.append(nn.Sequential(conv, *([nn.BatchNorm2d(width)] if normed else [])))
            self.convs = nn.ModuleList(rows)
            self.deconv = nn.ConvTranspose2d(width if rows else channels, width, 2, 2)
            self.logits = nn.Conv2d(width, maps, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.logits.weight, std=0.001)  # a mask starts undecided

    def forward(self, rois: Tensor) -> Tensor:
        """[N, C, s, s] -> logits [N, maps, 2 s, 2 s]."""
        if self.mlp:
            x = F.relu(self.fc2(F.relu(self.fc1(rois.flatten(1)))))
            return self.logits(x).view(rois.shape[0], self.maps, self.side, self.side)
        for conv in self.convs:
            rois = F.relu(conv(rois), inplace=True)
        return self.logits(F.relu(self.deconv(rois), inplace=True))


class WithMasks(RegionDetector):
    """A region detector with a mask branch; its RoIs are pooled to mask_side x mask_side."""

    config: MaskConfig  # pyright: ignore[reportIncompatibleVariableOverride]
    mask: MaskBranch
    mask_side: int

    def branch(self, channels: int, side: int) -> MaskBranch:
        """A branch for RoI features of so many channels and cells a side."""
        maps = (1 if self.config.mask_agnostic else self.num_classes) + self.first_map
        return MaskBranch(self.config, channels, side, maps)

    @property
    def first_map(self) -> int:
        """How many maps come before the classes'."""
        return int(self.config.mask_background or self.config.mask_loss == "softmax")

    def mask_features(self, features: list[Tensor], boxes: Tensor) -> Tensor:
        """Boxes [B, P, 4] -> what the branch sees of them, [B * P, C, s, s]."""
        return pool_rois(self.config, features, boxes, self.roi_strides, self.mask_side)

    def masks(
        self, features: list[Tensor], boxes: Tensor, branch: MaskBranch | None = None
    ) -> Tensor:
        """Boxes [B, P, 4] -> mask logits [B, P, maps, m, m]; branch: another than `mask`."""
        logits = (branch or self.mask)(self.mask_features(features, boxes))
        return logits.view(*boxes.shape[:2], *logits.shape[1:])

    def map_of(self, label: Tensor) -> Tensor:
        """The map that shows a class 0..K-1."""
        shown = torch.zeros_like(label) if self.config.mask_agnostic else label
        return shown + self.first_map

    # -- training -----------------------------------------------------------------------------

    def head_loss(self, given: HeadBatch) -> dict[str, Tensor]:
        """Section 3: L = L_cls + L_box + L_mask."""
        rois = self.draw(given)
        mask = self.mask_loss(given.features, rois, given.targets)
        return {**self.box_loss(given.features, rois), "mask": mask}

    def mask_loss(
        self,
        features: list[Tensor],
        rois: SampledRoIs,
        targets: Targets,
        branch: MaskBranch | None = None,
    ) -> Tensor:
        """Of the RoIs on objects: each trains the map of its class, and no other."""
        if targets.masks is None:
            problem = f"{self.name or 'this method'} learns masks, and the data holds none"
            hint = "give COCO annotations with segmentations, or train a detector of boxes"
            raise InputError(problem, hint=hint)
        positive = rois.labels > 0
        first = positive.int().argsort(dim=1, descending=True, stable=True)
        first = first[:, : int(positive.sum(1).max())] if len(first) else first
        real = positive.gather(1, first)
        if first.shape[1] == 0:
            return features[0].sum() * 0.0
        boxes = rois.boxes.gather(1, first[..., None].expand(-1, -1, 4))
        logits = self.masks(features, boxes, branch)[real]
        image = real.nonzero()[:, 0]
        wanted = self._targets(
            targets, image, rois.owner.gather(1, first)[real], boxes[real], features[0]
        )
        column = self.map_of(rois.labels.gather(1, first)[real] - 1)
        return mask_loss(logits, wanted, column, self.config.mask_loss)

    def _targets(
        self, targets: Targets, image: Tensor, owner: Tensor, boxes: Tensor, like: Tensor
    ) -> Tensor:
        """[N, m, m] for RoIs [N, 4], each of an object of an image."""
        config = self.config
        starts, flat = [0], []
        for masks in targets.masks or []:
            flat += masks
            starts.append(len(flat))
        index = torch.tensor(starts, device=image.device)[image] + owner
        stride = self.roi_strides[0]
        size = (like.shape[-2] * stride, like.shape[-1] * stride)
        rule = MaskTargetRule(
            "polygon" if config.mask_target == "polygon" else "bitmap",
            config.mask_aligned,
            None if config.mask_target == "soft" else 0.5,
        )
        return mask_targets(flat, index, boxes, self.mask.side, size, rule).to(like.dtype)

    # -- detecting ----------------------------------------------------------------------------

    def extra_raw(self, features: list[Tensor]) -> Raw:
        """The maps that masks are drawn from, once the boxes are known."""
        return {f"map{i}": maps for i, maps in enumerate(features[: len(self.roi_strides)])}

    def postprocess(
        self,
        raw: Raw,
        frames: Sequence[Frame],
        *,
        score: float | None = None,
        max_detections: int | None = None,
    ) -> list[Detections]:
        """As without masks; the branch then draws the boxes that are left (section 3.1)."""
        detections = super().postprocess(raw, frames, score=score, max_detections=max_detections)
        features = [raw[f"map{i}"] for i in range(len(self.roi_strides))]
        most = max((len(image) for image in detections), default=0)
        boxes = features[0].new_zeros(len(detections), most, 4)
        for i, (image, frame) in enumerate(zip(detections, frames, strict=True)):
            boxes[i, : len(image)] = frame.apply(image.boxes.to(boxes))
        logits = self.masks(features, boxes) if most else None
        return [
            replace(image, masks=self._pasted(None if logits is None else logits[i], image))
            for i, image in enumerate(detections)
        ]

    def _pasted(self, logits: Tensor | None, detections: Detections) -> Tensor:
        """[N, H, W] bool in the source image."""
        if logits is None or len(detections) == 0:
            return torch.zeros(len(detections), *detections.size, dtype=torch.bool)
        labels = detections.labels.to(logits.device)
        return self.pasted(self.mask_chances(logits[: len(detections)], labels), detections)

    def mask_chances(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits [N, maps, m, m] of classes [N] -> probabilities [N, m, m], of their own maps."""
        softmax = self.config.mask_loss == "softmax"
        chance = logits.float().softmax(1) if softmax else logits.float().sigmoid()
        rows = torch.arange(labels.shape[0], device=logits.device)
        return chance[rows, self.map_of(labels)]

    def pasted(self, chances: Tensor, detections: Detections) -> Tensor:
        """Probabilities [N, m, m] in the boxes of detections -> [N, H, W] bool in the source."""
        pasted = paste_masks(
            chances,
            detections.boxes.to(chances),
            detections.size,
            grid=self.config.mask_paste,
            threshold=self.config.mask_threshold,
        )
        return pasted.cpu()

    def class_rows(self) -> dict[str, ClassRows]:
        rows = dict(super().class_rows())
        if not self.config.mask_agnostic:
            width = self.mask.side**2 if self.mask.mlp else 1
            own = ClassRows(1, self.first_map, width)
            for name, module in self.named_modules():
                if isinstance(module, MaskBranch):
                    rows |= {f"{name}.logits.weight": own, f"{name}.logits.bias": own}
        return rows
