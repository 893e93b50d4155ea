"""Mask R-CNN. He, Gkioxari, Dollar, Girshick 2017, arXiv 1703.06870.

Faster R-CNN with a third branch: for each RoI a small network of convolutions draws the object's
mask, one map for every class, beside the branches that classify and place it. The classes' maps do
not compete. A mask needs pixel-to-pixel alignment that RoI pooling's rounding destroys; RoIAlign
samples the map where the RoI lies.

Shape letters: B images, P RoIs of an image, N masks, K classes, m the side of a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxatlas.detectors.faster_rcnn import RESNET, OriginalConfig, OriginalFasterRCNN
from boxatlas.detectors.fpn import LIGHT, FasterRCNN, RegionConfig
from boxatlas.errors import InputError
from boxatlas.losses.masks import mask_loss
from boxatlas.ops.masks import MaskTargetRule, mask_targets, paste_masks
from boxatlas.options import Options, convention, switch
from boxatlas.parts.base import ClassRows, Raw
from boxatlas.parts.region.detector import RegionDetector, RoIRule
from boxatlas.parts.region.single_level import Res5
from boxatlas.parts.region.targets import HeadBatch, SampledRoIs
from boxatlas.registry import Published, register_model
from boxatlas.structures import Detections, Frame, Targets


class MaskChoices(Options):
    """The mask branch's choices."""

    roi_op: Literal["align", "pool", "warp"] = switch("align", "table 2c: how a RoI is pooled")
    roi_reduce: Literal["average", "max"] = switch("average", "table 2c: of a bin's samples")
    mask_loss: Literal["sigmoid", "softmax"] = switch(
        "sigmoid", "table 2b: a map for each class by itself, or classes that compete"
    )
    mask_agnostic: bool = switch(False, "section 4.2: one map for all classes")
    mask_head: Literal["fcn", "mlp"] = switch("fcn", "table 2e: convolutions or a perceptron")
    mask_threshold: float = switch(0.5, "section 3.1: where a soft mask is cut", gt=0, lt=1)

    mask_convs: int = convention(4, "3x3 convolutions before the map is doubled", ge=0)
    mask_width: int = convention(256, "their channels", ge=1)
    mask_norm: Literal["none", "batch"] = convention("none", "norms after them")
    mask_background: bool = convention(False, "map 0 is the background's, which nothing reads")
    mask_target: Literal["polygon", "bitmap", "soft"] = convention(
        "soft", "drawn in the RoI; or the object's pixels sampled, hard or their mean"
    )
    mask_aligned: bool = convention(True, "of sampled targets: RoIAlign's half-pixel shift")
    mask_paste: Literal["whole", "continuous"] = convention(
        "continuous", "a mask is sampled at each pixel, or stretched over whole pixels"
    )


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
            return self.logits(x).view(len(rois), self.maps, self.side, self.side)
        for conv in self.convs:
            rois = F.relu(conv(rois), inplace=True)
        return self.logits(F.relu(self.deconv(rois), inplace=True))


class WithMasks(RegionDetector):
    """A region detector with a mask branch; `choices` is its config."""

    mask: MaskBranch
    mask_roi: RoIRule

    @property
    def choices(self) -> MaskChoices:
        assert isinstance(self.config, MaskChoices)
        return self.config

    def add_masks(self, channels: int, side: int, pooled: int) -> None:
        """Make the branch for RoI features of so many channels and cells; called once, at the end
        of __init__. pooled: the side to which a RoI is pooled."""
        config = self.choices
        self.first_map = int(config.mask_background or config.mask_loss == "softmax")
        self.roi = replace(self.roi, reduce=config.roi_reduce)
        self.mask_roi = replace(self.roi, size=pooled)
        self.mask = self.branch(channels, side)

    def branch(self, channels: int, side: int) -> MaskBranch:
        maps = (1 if self.choices.mask_agnostic else self.num_classes) + self.first_map
        return MaskBranch(self.choices, channels, side, maps)

    def mask_features(self, features: list[Tensor], boxes: Tensor) -> Tensor:
        """Boxes [B, P, 4] -> what the branch sees of them, [B * P, C, s, s]."""
        return self.mask_roi.pool(features, boxes)

    def masks(
        self, features: list[Tensor], boxes: Tensor, branch: MaskBranch | None = None
    ) -> Tensor:
        """Boxes [B, P, 4] -> mask logits [B, P, maps, m, m]; branch: another than `mask`."""
        logits = (branch or self.mask)(self.mask_features(features, boxes))
        return logits.view(*boxes.shape[:2], *logits.shape[1:])

    def map_of(self, label: Tensor) -> Tensor:
        """The map that shows a class 0..K-1."""
        shown = torch.zeros_like(label) if self.choices.mask_agnostic else label
        return shown + self.first_map

    # -- learning -----------------------------------------------------------------------------

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
        """Of the RoIs on objects: each learns the map of its class, and no other."""
        if targets.masks is None:
            raise InputError(
                f"{self.name or 'this method'} learns masks, and the data holds none",
                hint="give COCO annotations with segmentations, or train a detector of boxes",
            )
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
        return mask_loss(logits, wanted, column, self.choices.mask_loss)

    def _targets(
        self, targets: Targets, image: Tensor, owner: Tensor, boxes: Tensor, like: Tensor
    ) -> Tensor:
        """[N, m, m] for RoIs [N, 4], each of an object of an image."""
        config = self.choices
        held = targets.masks or []
        starts, flat = [0], []
        for one in held:
            flat += one
            starts.append(len(flat))
        index = torch.tensor(starts, device=image.device)[image] + owner
        stride = self.roi.strides[0]
        size = (like.shape[-2] * stride, like.shape[-1] * stride)
        soft = config.mask_target == "soft"
        rule = MaskTargetRule(
            "polygon" if config.mask_target == "polygon" else "bitmap",
            config.mask_aligned,
            None if soft else 0.5,
        )
        return mask_targets(flat, index, boxes, self.mask.side, size, rule).to(like.dtype)

    # -- detecting ----------------------------------------------------------------------------

    def extra_raw(self, features: list[Tensor]) -> Raw:
        """The maps that masks are drawn from, once the boxes are known."""
        return {f"map{i}": one for i, one in enumerate(features[: len(self.mask_roi.strides)])}

    def postprocess(
        self,
        raw: Raw,
        frames: Sequence[Frame],
        *,
        score: float | None = None,
        max_detections: int | None = None,
    ) -> list[Detections]:
        """As without masks; the branch then draws the boxes that are left (section 3.1)."""
        found = super().postprocess(raw, frames, score=score, max_detections=max_detections)
        features = [raw[f"map{i}"] for i in range(len(self.mask_roi.strides))]
        most = max((len(one) for one in found), default=0)
        boxes = features[0].new_zeros(len(found), most, 4)
        for i, (one, frame) in enumerate(zip(found, frames, strict=True)):
            boxes[i, : len(one)] = frame.apply(one.boxes.to(boxes))
        logits = self.masks(features, boxes) if most else None
        return [
            replace(one, masks=self._pasted(None if logits is None else logits[i], one))
            for i, one in enumerate(found)
        ]

    def _pasted(self, logits: Tensor | None, found: Detections) -> Tensor:
        """[N, H, W] bool in the source image."""
        if logits is None or len(found) == 0:
            return torch.zeros(len(found), *found.size, dtype=torch.bool)
        config = self.choices
        shown = self.map_of(found.labels.to(logits.device))
        own = logits[: len(found)].float()
        chance = own.softmax(1) if config.mask_loss == "softmax" else own.sigmoid()
        maps = chance[torch.arange(len(found), device=logits.device), shown]
        pasted = paste_masks(
            maps,
            found.boxes.to(maps),
            found.size,
            grid=config.mask_paste,
            threshold=config.mask_threshold,
        )
        return pasted.cpu()

    def class_rows(self) -> dict[str, ClassRows]:
        rows = dict(super().class_rows())
        if not self.choices.mask_agnostic:
            width = self.mask.side**2 if self.mask.mlp else 1
            own = ClassRows(1, self.first_map, width)
            for name, module in self.named_modules():
                if isinstance(module, MaskBranch):
                    rows |= {f"{name}.logits.weight": own, f"{name}.logits.bias": own}
        return rows


class MaskConfig(MaskChoices, RegionConfig):
    """Mask R-CNN on a pyramid: Faster R-CNN's choices, and the mask branch's."""


class MaskRCNN(WithMasks, FasterRCNN):
    """On a pyramid: masks see RoIs of 14 x 14 and have 28 x 28 cells."""

    def __init__(self, classes: Sequence[str], config: MaskConfig) -> None:
        super().__init__(classes, config)
        self.add_masks(config.width, 14, 14)


class C4MaskConfig(MaskChoices, OriginalConfig):
    """Mask R-CNN on a ResNet's conv4."""

    mask_convs: int = convention(0, "3x3 convolutions before the map is doubled", ge=0)


class C4MaskRCNN(WithMasks, OriginalFasterRCNN):
    """On conv4: masks see what conv5 makes of a RoI and have 14 x 14 cells."""

    def __init__(self, classes: Sequence[str], config: C4MaskConfig) -> None:
        super().__init__(classes, config)
        if not isinstance(self.head, Res5):
            raise InputError(
                "masks on one map need a ResNet of 50 layers or more, cut at conv4",
                field="backbone",
                value=config.backbone,
                hint="use mask_rcnn_r50_fpn",
            )
        self.add_masks(self.head.width, 7, config.c4_side)

    def mask_features(self, features: list[Tensor], boxes: Tensor) -> Tensor:
        assert isinstance(self.head, Res5)
        return self.head.blocks(self.mask_roi.pool(features, boxes))


# -- the models -----------------------------------------------------------------------------------


def _register(backbone: str, size: str, *published: Published) -> Any:
    return register_model(
        method="Mask R-CNN",
        title="Mask R-CNN",
        arxiv="1703.06870",
        year=2017,
        family="two-stage",
        backbone=backbone,
        size=size,
        published=published,
    )


def _build(classes: Sequence[str], defaults: dict[str, Any], options: dict[str, Any]) -> MaskRCNN:
    return MaskRCNN(classes, MaskConfig.of(**{**defaults, **options}))


@_register(
    "ResNet-50",
    "shorter side 800",
    Published("COCO val2017", "AP", 36.8, source="Detectron2's zoo"),
    Published("COCO minival", "mask AP", 30.3, source="table 2b"),
)
def mask_rcnn_r50_c4(classes: Sequence[str], **options: Any) -> C4MaskRCNN:
    """Mask R-CNN on ResNet-50's conv4; conv5 is the head of each RoI."""
    own = {**RESNET, "backbone": "resnet50", "rpn_width": 1024}
    return C4MaskRCNN(classes, C4MaskConfig.of(**{**own, **options}))


@_register(
    "ResNet-50",
    "shorter side 800",
    Published("COCO val2017", "AP", 37.7, source="Detectron's zoo, 1x"),
    Published("COCO minival", "mask AP", 33.6, source="table 2a"),
)
def mask_rcnn_r50_fpn(classes: Sequence[str], **options: Any) -> MaskRCNN:
    """Mask R-CNN on ResNet-50 with a feature pyramid."""
    return _build(classes, {}, options)


@_register(
    "ResNet-50", "shorter side 800", Published("COCO val2017", "AP", 47.4, source="torchvision")
)
def mask_rcnn_r50_fpn_v2(classes: Sequence[str], **options: Any) -> MaskRCNN:
    """Batch norm in pyramid and heads, deeper RPN and box head (2111.11429)."""
    own = {
        "norm": "batch",
        "fpn_norm": "batch",
        "rpn_convs": 2,
        "box_head": "4conv1fc",
        "mask_norm": "batch",
    }
    return _build(classes, own, options)


@_register(
    "ResNet-101",
    "shorter side 800",
    Published("COCO test-dev", "AP", 38.2, 5.1, "M40", "table 3; 0.195 s"),
    Published("COCO test-dev", "mask AP", 35.7, 5.1, "M40", "table 1"),
)
def mask_rcnn_r101_fpn(classes: Sequence[str], **options: Any) -> MaskRCNN:
    """Mask R-CNN on ResNet-101 with a feature pyramid."""
    return _build(classes, {"backbone": "resnet101"}, options)


@_register(
    "ResNeXt-101 64x4d",
    "shorter side 800",
    Published("COCO test-dev", "AP", 39.8, 3.3, "M40", "table 3; speed as surveyed"),
    Published("COCO test-dev", "mask AP", 37.1, source="table 1"),
)
def mask_rcnn_x101_fpn(classes: Sequence[str], **options: Any) -> MaskRCNN:
    """Mask R-CNN on ResNeXt-101 with a feature pyramid."""
    return _build(classes, {"backbone": "resnext101_64x4d"}, options)


@_register("EfficientNet-Lite0", "shorter side 320")
def mask_rcnn320_efficientnet_lite0_fpn(classes: Sequence[str], **options: Any) -> MaskRCNN:
    """A light pyramid of 128 channels for small machines; two convolutions before a mask."""
    return _build(classes, {**LIGHT, "mask_convs": 2, "mask_width": 128}, options)
