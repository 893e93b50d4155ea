"""R-CNN: regions with CNN features. Girshick, Donahue, Darrell, Malik 2014, arXiv 1311.2524.

Before it, detectors scored hand-made features at every place. R-CNN takes some 2000 regions that
selective search proposes, warps each to one size with some context, lets a network that was trained
on whole images (and fine-tuned on such crops) describe it, scores the description with one linear
SVM a class, and moves the box by a regression from the same network. Every step is trained by
itself: see `phases`.

Shape letters: B images, P proposals of an image, R crops, K classes, M objects, T boxes of all
images, D width of a feature. Column 0 of the softmax is the background.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxatlas.backbones.alexnet import LRNOrder
from boxatlas.backbones.crop_networks import crop_network
from boxatlas.boxes.coders import DeltaCoder
from boxatlas.boxes.nms import batched_nms
from boxatlas.errors import InputError
from boxatlas.images import Preprocess
from boxatlas.ops.crops import Crop
from boxatlas.options import Options, convention, switch
from boxatlas.parts.base import ClassRows, Detector, Phase, Raw, Track, clipped
from boxatlas.parts.fits.feature_cache import FeatureCache
from boxatlas.parts.fits.labelled_boxes import Windows
from boxatlas.parts.fits.ridge import RidgeRule, fit_ridge
from boxatlas.parts.fits.svm import SVMRule, mine, sampled_scale
from boxatlas.parts.region.detector import RoITargets, all_rois
from boxatlas.parts.region.search import searched
from boxatlas.registry import Published, register_model
from boxatlas.structures import Batch, Detections, Frame


class RCNNConfig(Options):
    """What R-CNN may be varied in."""

    backbone: str = convention("caffenet", 'caffenet, vgg16, darknet19, ... or "timm/NAME"')
    pretrained: bool = convention(False, "the network starts from ImageNet weights")
    fold_norms: bool = convention(False, "a timm network's batch norms go into its convolutions")
    lrn_order: LRNOrder = convention("relu_pool_lrn", "CaffeNet; AlexNet: relu_lrn_pool")

    # ideas
    feature_layer: Literal["pool5", "fc6", "fc7"] = switch("fc7", "table 2: what the SVMs see")
    fine_tune: bool = switch(True, "table 2: the network is fine-tuned on crops")
    classifier: Literal["svm", "softmax"] = switch("svm", "appendix B: 54.2 against 50.9 mAP")
    box_regression: bool = switch(True, "table 2, FT fc7 BB: 58.5 against 54.2 mAP")
    crop_mode: Literal["warp", "square", "square_masked"] = switch(
        "warp", "appendix A: 3 to 5 points of mAP; the tightest square with or without its context"
    )
    crop_padding: int = switch(16, "appendix A: pixels of context; 0: none", ge=0)
    positive_iou: float = switch(0.5, "section 2.3: positives of fine-tuning", gt=0, le=1)
    svm_negative_iou: float = switch(0.3, "section 2.3: negatives of the SVMs", gt=0, le=1)

    # conventions
    longest: int = convention(1000, "larger images are reduced to it; VOC's are not", ge=32)
    crop_size: int = convention(227, "side of a crop", ge=32)
    max_proposals: int = convention(2000, "proposals of an image", ge=1)
    min_box_side: float = convention(20, "of a search: narrower or lower boxes are left out", ge=0)
    windows: tuple[int, int] = convention((32, 96), "positives and background of an iteration")
    box_iou: float = convention(0.6, "appendix C: regression learns from closer boxes", gt=0, lt=1)
    ridge: float = convention(1000.0, "appendix C: lambda", gt=0)
    svm_c: float = convention(1e-3, "C of the SVMs", gt=0)
    score: float | None = convention(None, "lowest score; None: margin -1 (SVM), 0.01 (softmax)")
    nms_iou: float = convention(0.3, "suppression within a class", gt=0, lt=1)
    class_candidates: int = convention(100, "boxes of a class before suppression", ge=1)
    max_detections: int = convention(1000, "of an image", ge=1)
    crops_at_once: int = convention(64, "crops in one pass of the network", ge=1)


class RCNN(Detector):
    """The crop network with its softmax, the SVMs, and the box regressors."""

    config: RCNNConfig
    svm_weight: Tensor
    svm_bias: Tensor
    svm_fitted: Tensor
    box_weight: Tensor
    box_bias: Tensor

    def __init__(self, classes: Sequence[str], config: RCNNConfig) -> None:
        if config.classifier == "softmax" and not config.fine_tune:
            raise InputError(
                "a softmax is only trained by fine-tuning",
                field="classifier",
                value="softmax",
                hint="use svm, or fine_tune=true",
            )
        if 2 * config.crop_padding >= config.crop_size:
            raise InputError(
                "leaves nothing of the crop", field="crop_padding", value=config.crop_padding
            )
        network, colours = crop_network(
            config.backbone,
            config.crop_size,
            pretrained=config.pretrained,
            fold=config.fold_norms,
            lrn_order=config.lrn_order,
        )
        size = (config.longest, config.longest)
        super().__init__(classes, Preprocess(size=size, resize="limit", **colours), config)
        if config.feature_layer not in network.widths:
            raise InputError(
                f"{config.backbone} has no such layer",
                field="feature_layer",
                value=config.feature_layer,
                hint=f"choose from: {', '.join(network.widths)}",
            )
        self.network = network
        self.takes_proposals = config.max_proposals
        self.min_proposal_side = config.min_box_side
        self.crop = Crop(config.crop_size, config.crop_mode, config.crop_padding)
        self.coder = DeltaCoder()
        count, widths = len(self.classes), network.widths
        self.classifier = nn.Linear(widths["fc7"], count + 1)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)
        if config.classifier == "svm":
            self.register_buffer("svm_weight", torch.zeros(count, widths[config.feature_layer]))
            self.register_buffer("svm_bias", torch.zeros(count))
            self.register_buffer("svm_fitted", torch.tensor(False))
        if config.box_regression:
            self.register_buffer("box_weight", torch.zeros(count, 4, widths["pool5"]))
            self.register_buffer("box_bias", torch.zeros(count, 4))

    # -- the network ----------------------------------------------------------------------------

    def forward(
        self,
        images: Tensor,
        frames: Sequence[Frame] | None = None,
        proposals: Tensor | None = None,
    ) -> Raw:
        """-> scores [B, P, K] in 0..1, deltas [B, P, K, 4], proposals [B, P, 4], valid [B, P]."""
        if proposals is None:
            proposals = searched(
                images,
                frames,
                self.preprocess,
                most=self.takes_proposals,
                min_side=self.min_proposal_side,
            )
        valid = (proposals[..., 2:] > proposals[..., :2]).all(-1)
        image, row = valid.nonzero(as_tuple=True)
        count = self.num_classes
        scores = images.new_zeros(*valid.shape, count)
        deltas = images.new_zeros(*valid.shape, count, 4)
        done = 0
        for found in self.features(images, proposals[image, row], image, frames):
            part = slice(done, done + len(found["fc7"]))
            scores[image[part], row[part]] = self.scores(found)
            deltas[image[part], row[part]] = self.deltas(found)
            done = part.stop
        return {"scores": scores, "deltas": deltas, "proposals": proposals, "valid": valid}

    def features(
        self, images: Tensor, boxes: Tensor, image: Tensor, frames: Sequence[Frame] | None
    ) -> Iterator[dict[str, Tensor]]:
        """The layers (pool5, fc6, fc7) of boxes [R, 4] in images [R], a few crops at a time."""
        sizes = content_sizes(images, frames)
        for crops in self.crop.batches(images, boxes, image, sizes, self.config.crops_at_once):
            yield self.network(crops)

    def logits(self, fc7: Tensor) -> Tensor:
        """[R, K + 1], background first."""
        return self.classifier(F.dropout(fc7, self.network.dropout, self.training))

    def scores(self, found: Mapping[str, Tensor]) -> Tensor:
        """[R, K]: the logistic of the SVMs' margins, so that 0.5 is their boundary; or the softmax.

        Until the SVMs are fitted the softmax stands in for them.
        """
        if self.config.classifier == "svm" and bool(self.svm_fitted):
            features = found[self.config.feature_layer]
            return torch.sigmoid(F.linear(features, self.svm_weight, self.svm_bias))
        return self.logits(found["fc7"]).softmax(-1)[:, 1:]

    def deltas(self, found: Mapping[str, Tensor]) -> Tensor:
        """[R, K, 4]: how each class moves the box; zeros without box regression."""
        pool5 = found["pool5"]
        if not self.config.box_regression:
            return pool5.new_zeros(len(pool5), self.num_classes, 4)
        flat = F.linear(pool5, self.box_weight.flatten(0, 1), self.box_bias.flatten())
        return flat.view(len(pool5), -1, 4)

    def probe(self, images: Tensor) -> list[Tensor]:
        """The crop network's layers, an image being one crop."""
        side = self.config.crop_size
        return list(self.network(F.interpolate(images, (side, side))).values())

    # -- learning -------------------------------------------------------------------------------

    def phases(self) -> list[Phase]:
        """Fine-tuning, then the SVMs, then the box regressors, as far as they are wanted."""
        config, out = self.config, []
        if config.fine_tune:
            out.append(Phase("fine_tune", learn=("network.*", "classifier.*")))
        if config.classifier == "svm":
            out.append(Phase("svms", init_from=_last(out), fit=self.fit_svms))
        if config.box_regression:
            out.append(Phase("boxes", init_from=_last(out), fit=self.fit_boxes))
        return out

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Cross-entropy of crops drawn over the whole batch (section 2.3): 32 that overlap an
        object by half, objects themselves among them, and 96 of the rest, fewer where there are
        none. The same one may be drawn twice, as Caffe's window layer draws them."""
        if batch.proposals is None or batch.valid is None:
            raise ValueError("this method learns from proposals, and the batch holds none")
        rule = RoITargets(high=self.config.positive_iou)
        rois = all_rois(rule, batch.proposals, batch.valid, batch.targets)
        chosen, masks = [], (rois.labels > 0, rois.labels == 0)
        for mask, most in zip(masks, self.config.windows, strict=True):
            rows = mask.flatten().nonzero()[:, 0]
            if len(rows):
                draw = torch.randint(len(rows), (most,), generator=generator, device=rows.device)
                chosen.append(rows[draw])
        if not chosen:
            return {"cls": self.classifier.weight.sum() * 0}
        rows = torch.cat(chosen)
        image = rows // rois.labels.shape[1]
        boxes, labels = rois.boxes.flatten(0, 1)[rows], rois.labels.flatten()[rows]
        crops = self.crop(batch.images, boxes, image, content_sizes(batch.images, batch.frames))
        return {"cls": F.cross_entropy(self.logits(self.network(crops)["fc7"]), labels)}

    def fit_svms(self, loader: Any, folder: Path, track: Track) -> None:
        """Describe every box of every image, then train the SVMs with hard negatives mined."""
        config, layer = self.config, self.config.feature_layer
        windows = Windows.of(loader, folder, self.num_classes, track)
        cache = self._described(loader, folder, track, windows, layer)
        rule = SVMRule(C=config.svm_c, negative_iou=config.svm_negative_iou)
        weight, bias, scale = mine(cache, windows.overlaps, windows.own, rule, track)
        self.svm_weight.copy_(torch.from_numpy(weight) * scale)  # features go in as they are
        self.svm_bias.copy_(torch.from_numpy(bias))
        self.svm_fitted.fill_(True)
        cache.remove()

    def fit_boxes(self, loader: Any, folder: Path, track: Track) -> None:
        """Describe the boxes that lie on an object by pool5, and fit each class's regressor."""
        rule = RidgeRule(min_iou=self.config.box_iou, ridge=self.config.ridge)
        windows = Windows.of(loader, folder, self.num_classes, track).close(rule.min_iou)
        cache = self._described(loader, folder, track, windows, "pool5")
        scale = sampled_scale(cache, len(windows.counts), rule.norm)
        targets = self.coder.encode(
            torch.from_numpy(windows.nearest), torch.from_numpy(windows.boxes)
        )
        for label in track(range(self.num_classes), "box regression"):
            rows = np.flatnonzero(windows.label == label)
            if len(rows):
                features = torch.from_numpy(cache.rows[rows].astype(np.float32)) * scale
                weight, bias = fit_ridge(features, targets[rows], rule).linear()
                self.box_weight[label] = (weight * scale).T
                self.box_bias[label] = bias
        cache.remove()

    def _described(
        self, loader: Any, folder: Path, track: Track, windows: Windows, layer: str
    ) -> FeatureCache:
        """The windows' features in a cache of the folder, gone on with after a stop."""
        cache = FeatureCache(folder, windows.counts.tolist(), self.network.widths[layer])
        size = getattr(loader, "batch_size", 1)
        start = cache.done // size
        cache.done = start * size  # whole batches
        fast = self.fast()
        assert isinstance(fast, RCNN)
        shown = track(range(start, len(loader)), cache.announced())
        for _, batch in zip(shown, loader.epoch(0, start=start), strict=True):
            own = [
                torch.from_numpy(windows.boxes[cache.of(cache.done + i)]) for i in range(len(batch))
            ]
            image = torch.repeat_interleave(torch.tensor([len(b) for b in own]))
            boxes = torch.cat(own).to(self.device)
            images = batch.images.to(self.device)
            rows = [
                found[layer].cpu().half().numpy()
                for found in fast.features(images, boxes, image.to(self.device), batch.frames)
            ]
            described = np.concatenate(rows) if rows else np.zeros((0, cache.rows.shape[1]))
            for one in np.split(described, np.cumsum([len(b) for b in own])[:-1]):
                cache.add(one)
        cache.commit()
        return cache

    def class_rows(self) -> Mapping[str, ClassRows]:
        rows = {f"classifier.{leaf}": ClassRows(1, 1) for leaf in ("weight", "bias")}
        held = ("svm_weight", "svm_bias", "box_weight", "box_bias")
        return rows | {name: ClassRows(1, 0) for name in held if hasattr(self, name)}

    # -- detecting ------------------------------------------------------------------------------

    def postprocess(
        self,
        raw: Raw,
        frames: Sequence[Frame],
        *,
        score: float | None = None,
        max_detections: int | None = None,
    ) -> list[Detections]:
        """Boxes of a class above `score` are moved, clipped, and suppressed greedily by score."""
        config = self.config
        most = config.max_detections if max_detections is None else max_detections
        scores = raw["scores"]
        # The method's own threshold is exceeded; one that a caller gives is reached.
        hit = scores > self.threshold if score is None else scores >= score
        image, row, label = (hit & raw["valid"][..., None]).nonzero(as_tuple=True)
        found = scores[image, row, label]
        boxes = self.coder.decode(raw["deltas"][image, row, label], raw["proposals"][image, row])
        boxes = clipped(boxes, frames, image)
        keep = batched_nms(
            boxes,
            found,
            image * self.num_classes + label,
            config.nms_iou,
            group_candidates=config.class_candidates,
        )
        kept = [keep[image[keep] == i][:most] for i in range(len(frames))]
        return [
            Detections(
                frame.undo(boxes[rows].float()).cpu(),
                found[rows].float().cpu(),
                label[rows].cpu(),
                self.classes,
                frame.source,
            )
            for frame, rows in zip(frames, kept, strict=True)
        ]

    @property
    def threshold(self) -> float:
        """The lowest score that counts, where none is given."""
        if self.config.score is not None:
            return self.config.score
        svm = self.config.classifier == "svm" and bool(self.svm_fitted)
        return 1 / (1 + float(np.e)) if svm else 0.01


def content_sizes(images: Tensor, frames: Sequence[Frame] | None) -> Tensor:
    """[B, 2] int64: height and width of each input's content."""
    if frames is None:
        return torch.tensor([images.shape[-2:]], device=images.device).expand(len(images), 2)
    return torch.tensor([frame.content for frame in frames], device=images.device)


def _last(phases: Sequence[Phase]) -> str | None:
    return phases[-1].name if phases else None


# -- the models -----------------------------------------------------------------------------------


def _register(backbone: str, size: str, *published: Published) -> Any:
    return register_model(
        method="R-CNN",
        title="Rich feature hierarchies for accurate object detection and semantic segmentation",
        arxiv="1311.2524",
        year=2014,
        family="two-stage",
        backbone=backbone,
        size=size,
        published=published,
    )


@_register(
    "AlexNet (CaffeNet)",
    "crops of 227",
    Published("VOC07 test (07)", "mAP@0.5", 58.5, source="table 2, fine-tuned fc7 with boxes"),
    Published("VOC10 test", "mAP@0.5", 53.7, source="table 1, with boxes"),
)
def rcnn_alexnet(classes: Sequence[str], **options: Any) -> RCNN:
    """R-CNN on CaffeNet's fc7 with SVMs and box regression."""
    return RCNN(classes, RCNNConfig.of(**options))


@_register(
    "VGG-16",
    "crops of 224",
    Published("VOC07 test (07)", "mAP@0.5", 66.0, source="table 3, with boxes"),
)
def rcnn_vgg16(classes: Sequence[str], **options: Any) -> RCNN:
    """R-CNN on VGG-16 (the paper's O-Net): slower by seven, better by 7.5 points."""
    return RCNN(classes, RCNNConfig.of(**{"backbone": "vgg16", "crop_size": 224, **options}))


@_register("EfficientNet-Lite0", "crops of 128")
def rcnn_efficientnet_lite0(classes: Sequence[str], **options: Any) -> RCNN:
    """The light R-CNN, for a CPU: crops of 128 pixels, 9 of them context on each side."""
    own = {
        "backbone": "timm/tf_efficientnet_lite0",
        "crop_size": 128,
        "crop_padding": 9,
        "max_proposals": 200,
        "min_box_side": 0,
    }
    return RCNN(classes, RCNNConfig.of(**{**own, **options}))
