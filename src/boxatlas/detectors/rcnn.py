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
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxatlas.backbones.choice import BackboneChoices
from boxatlas.backbones.crop_networks import CropNetworkChoices, crop_network
from boxatlas.boxes.coders import DeltaCoder
from boxatlas.boxes.matching import BACKGROUND, IGNORED, Assigned
from boxatlas.boxes.nms import SuppressionChoices, batched_nms
from boxatlas.errors import InputError
from boxatlas.images import Preprocess
from boxatlas.ops.crops import Crop
from boxatlas.options import (
    AtLeastOne,
    Count,
    Fraction,
    NotNegative,
    Pixels,
    Positive,
    idea,
    setting,
)
from boxatlas.parts.base import ClassRows, Detector, Phase, Raw, Track, clipped
from boxatlas.parts.fits.described import described
from boxatlas.parts.fits.feature_cache import FeatureCache
from boxatlas.parts.fits.labelled_boxes import ImageLoader, LabelledBoxes
from boxatlas.parts.fits.ridge import RidgeRule, fit_ridge
from boxatlas.parts.fits.svm import SVMRule, mine, sampled_scale
from boxatlas.parts.region.search import selective_search_proposals, with_proposals
from boxatlas.parts.region.targets import assigned_rois, label_rois
from boxatlas.registry import Method, Published
from boxatlas.structures import Batch, Detections, Frame, detections_of

METHOD = Method(
    "R-CNN",
    "Rich feature hierarchies for accurate object detection and semantic segmentation",
    "1311.2524",
    2014,
    "two-stage",
)

CANDIDATES = 100  # boxes of a class that enter suppression


class Config(BackboneChoices, CropNetworkChoices, SuppressionChoices):
    """R-CNN's ideas, and the settings of its proposals, crops and fits."""

    gone: ClassVar[Mapping[str, Any]] = {"svm_c": 1e-3, "class_candidates": CANDIDATES}

    feature_layer: Literal["pool5", "fc6", "fc7"] = idea("fc7", "table 2: what the SVMs see")
    fine_tune: bool = idea(True, "table 2: the network is fine-tuned on crops")
    classifier: Literal["svm", "softmax"] = idea("svm", "appendix B: 54.2 against 50.9 mAP")
    box_regression: bool = idea(True, "table 2, FT fc7 BB: 58.5 against 54.2 mAP")
    crop_mode: Literal["warp", "square", "square_masked"] = idea(
        "warp", "appendix A: 3 to 5 points of mAP; the tightest square with or without its context"
    )
    crop_padding: Count = idea(16, "appendix A: pixels of context; 0: none")
    positive_iou: Fraction = idea(0.5, "section 2.3: positives of fine-tuning", gt=0)
    svm_negative_iou: Fraction = idea(0.3, "section 2.3: negatives of the SVMs", gt=0)

    longest: Pixels = setting(1000, "larger images are reduced to this side; VOC's are not", ge=32)
    crop_size: int = setting(227, "side of a crop, in pixels", ge=32, le=1024)
    max_proposals: AtLeastOne = setting(2000, "proposals of an image")
    min_box_side: NotNegative = setting(
        20, "a search leaves out narrower or lower boxes, in pixels"
    )
    windows: tuple[AtLeastOne, AtLeastOne] = setting(
        (32, 96), "crops on objects and on background in an iteration of fine-tuning"
    )
    box_iou: float = setting(
        0.6, "appendix C: IoU with an object from which a box trains the regression", gt=0, lt=1
    )
    ridge: Positive = setting(1000.0, "appendix C: lambda, the weight of the regression's ridge")
    crops_at_once: AtLeastOne = setting(64, "crops in one pass of the network")

    # Declared anew: what counts as high depends on the classifier, so that there may be no value.
    score: Fraction | None = setting(  # pyright: ignore[reportIncompatibleVariableOverride]
        None, "a detection must score more than this; None: a margin of -1 (SVM), 0.01 (softmax)"
    )

    backbone = "caffenet"
    nms_iou = 0.3
    max_detections = 1000

    def idle(self) -> dict[str, str]:
        why = super().idle()
        if self.classifier == "softmax":
            of_svms = ("feature_layer", "svm_negative_iou")
            why |= dict.fromkeys(of_svms, "the softmax sees fc7, and no SVM is trained")
        if not self.fine_tune:
            why |= dict.fromkeys(("positive_iou", "windows"), "nothing is fine-tuned")
        if not self.box_regression:
            why |= dict.fromkeys(("box_iou", "ridge"), "box_regression is off")
        return why


class RCNN(Detector):
    """The crop network with its softmax, the SVMs, and the box regressors."""

    config: Config
    svm_weight: Tensor
    svm_bias: Tensor
    svm_fitted: Tensor
    box_weight: Tensor
    box_bias: Tensor

    def __init__(self, classes: Sequence[str], config: Config) -> None:
        if config.classifier == "softmax" and not config.fine_tune:
            problem = "a softmax is only trained by fine-tuning"
            hint = "use svm, or fine_tune=true"
            raise InputError(problem, field="classifier", value="softmax", hint=hint)
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
            problem = f"{config.backbone} has no such layer"
            hint = f"choose from: {', '.join(network.widths)}"
            raise InputError(problem, field="feature_layer", value=config.feature_layer, hint=hint)
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
        self, images: Tensor, frames: Sequence[Frame] | None = None, proposals: Tensor | None = None
    ) -> Raw:
        """-> scores [B, P, K] in 0..1, deltas [B, P, K, 4], proposals [B, P, 4], valid [B, P]."""
        if proposals is None:
            proposals = selective_search_proposals(
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
        done, svms = 0, self.svm_scores
        for layers in self.features(images, proposals[image, row], image, frames):
            part = slice(done, done + len(layers["fc7"]))
            scores[image[part], row[part]] = self.scores(layers, svms)
            deltas[image[part], row[part]] = self.deltas(layers)
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

    @property
    def svm_scores(self) -> bool:
        """Whether the SVMs score: until they are fitted the softmax stands in for them."""
        return self.config.classifier == "svm" and bool(self.svm_fitted)

    def scores(self, layers: Mapping[str, Tensor], svms: bool) -> Tensor:
        """[R, K]: the logistic of the SVMs' margins, so that 0.5 is their boundary; or, without
        svms, the softmax."""
        if svms:
            features = layers[self.config.feature_layer]
            return torch.sigmoid(F.linear(features, self.svm_weight, self.svm_bias))
        return self.logits(layers["fc7"]).softmax(-1)[:, 1:]

    def deltas(self, layers: Mapping[str, Tensor]) -> Tensor:
        """[R, K, 4]: how each class moves the box; zeros without box regression."""
        pool5 = layers["pool5"]
        if not self.config.box_regression:
            return pool5.new_zeros(pool5.shape[0], self.num_classes, 4)
        flat = F.linear(pool5, self.box_weight.flatten(0, 1), self.box_bias.flatten())
        return flat.view(pool5.shape[0], -1, 4)

    def probe(self, images: Tensor) -> list[Tensor]:
        """The crop network's layers, an image being one crop."""
        side = self.config.crop_size
        return list(self.network(F.interpolate(images, (side, side))).values())

    # -- training -------------------------------------------------------------------------------

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

    @torch.no_grad()
    def assigned(self, batch: Batch) -> list[Assigned]:
        """The boxes that fine-tuning draws from, then what an SVM of the object's class is told.

        An SVM's objects are the objects themselves; boxes between its background and them tell it
        nothing.
        """
        batch = with_proposals(batch, self)
        assert batch.proposals is not None
        assert batch.valid is not None
        given = (batch.proposals, batch.valid, batch.targets)
        tuned = label_rois(*given, positive_iou=self.config.positive_iou)
        steps = [assigned_rois("boxes of fine-tuning", tuned, tuned.boxes)]
        if self.config.classifier == "svm":
            near = label_rois(*given, positive_iou=self.config.svm_negative_iou)
            index = torch.where(near.labels == 0, BACKGROUND, IGNORED)
            objects = torch.arange(batch.targets.labels.shape[1], device=index.device)
            index[:, : len(objects)] = torch.where(
                tuned.labels[:, : len(objects)] > 0, objects, IGNORED
            )
            steps.append(Assigned("boxes of the SVMs", near.boxes, index))
        return steps

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Cross-entropy of crops drawn over the whole batch (section 2.3): 32 that overlap an
        object by half, objects themselves among them, and 96 of the rest, fewer where there are
        none. The same one may be drawn twice, as Caffe's window layer draws them."""
        if batch.proposals is None or batch.valid is None:
            raise ValueError("this method learns from proposals, and the batch holds none")
        rois = label_rois(
            batch.proposals, batch.valid, batch.targets, positive_iou=self.config.positive_iou
        )
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

    def fit_svms(self, loader: ImageLoader, folder: Path, track: Track) -> None:
        """Describe every box of every image, then train the SVMs with hard negatives mined."""
        labelled = LabelledBoxes.of(loader, folder, self.num_classes, track)
        cache = self._described(loader, folder, track, labelled, self.config.feature_layer)
        rule = SVMRule(negative_iou=self.config.svm_negative_iou)
        weight, bias, scale = mine(cache, labelled.overlaps, labelled.own, rule, track)
        self.svm_weight.copy_(torch.from_numpy(weight) * scale)  # features go in as they are
        self.svm_bias.copy_(torch.from_numpy(bias))
        self.svm_fitted.fill_(True)
        cache.remove()

    def fit_boxes(self, loader: ImageLoader, folder: Path, track: Track) -> None:
        """Describe the boxes that lie on an object by pool5, and fit each class's regressor."""
        rule = RidgeRule(min_iou=self.config.box_iou, ridge=self.config.ridge)
        labelled = LabelledBoxes.of(loader, folder, self.num_classes, track).close(rule.min_iou)
        cache = self._described(loader, folder, track, labelled, "pool5")
        scale = sampled_scale(cache, len(labelled.counts), rule.norm)
        targets = self.coder.encode(
            torch.from_numpy(labelled.nearest), torch.from_numpy(labelled.boxes)
        )
        for label in track(range(self.num_classes), "box regression"):
            rows = np.flatnonzero(labelled.label == label)
            if len(rows):
                features = torch.from_numpy(cache.rows[rows].astype(np.float32)) * scale
                weight, bias = fit_ridge(features, targets[rows], rule).linear()
                self.box_weight[label] = (weight * scale).T
                self.box_bias[label] = bias
        cache.remove()

    def _described(
        self, loader: ImageLoader, folder: Path, track: Track, labelled: LabelledBoxes, layer: str
    ) -> FeatureCache:
        """A layer's features of all boxes, by the fast form of the network."""
        fast, width = self.fast(), self.network.widths[layer]
        assert isinstance(fast, RCNN)

        def describe(batch: Batch, boxes: list[Tensor]) -> Sequence[Tensor]:
            counts = [len(rows) for rows in boxes]
            image = torch.repeat_interleave(torch.tensor(counts)).to(self.device)
            crops = (batch.images.to(self.device), torch.cat(boxes).to(self.device), image)
            rows = [layers[layer].cpu() for layers in fast.features(*crops, batch.frames)]
            return torch.cat([torch.zeros(0, width), *rows]).split(counts)

        return described(loader, folder, track, labelled, width, describe)

    def class_rows(self) -> Mapping[str, ClassRows]:
        rows = {f"classifier.{leaf}": ClassRows(1, 1) for leaf in ("weight", "bias")}
        svms = ("svm_weight", "svm_bias") if self.config.classifier == "svm" else ()
        boxes = ("box_weight", "box_bias") if self.config.box_regression else ()
        return rows | {name: ClassRows(1, 0) for name in (*svms, *boxes)}

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
        config, scores = self.config, raw["scores"]
        # The method's own threshold is exceeded; one that a caller gives is reached.
        hit = scores > self.threshold if score is None else scores >= score
        image, row, label = (hit & raw["valid"][..., None]).nonzero(as_tuple=True)
        chance = scores[image, row, label]
        boxes = self.coder.decode(raw["deltas"][image, row, label], raw["proposals"][image, row])
        boxes = clipped(boxes, frames, image)
        group = image * self.num_classes + label
        keep = batched_nms(boxes, chance, group, config.nms_iou, group_candidates=CANDIDATES)
        most = config.max_detections if max_detections is None else max_detections
        return detections_of(
            boxes[keep], chance[keep], label[keep], image[keep], frames, self.classes, most
        )

    @property
    def threshold(self) -> float:
        """The lowest score that counts, where none is given."""
        if self.config.score is not None:
            return self.config.score
        return 1 / (1 + float(np.e)) if self.svm_scores else 0.01


def content_sizes(images: Tensor, frames: Sequence[Frame] | None) -> Tensor:
    """[B, 2] int64: height and width of each input's content."""
    if frames is None:
        return torch.tensor([images.shape[-2:]], device=images.device).expand(len(images), 2)
    return torch.tensor([frame.content for frame in frames], device=images.device)


def _last(phases: Sequence[Phase]) -> str | None:
    return phases[-1].name if phases else None


# -- the models -----------------------------------------------------------------------------------


@METHOD.model(
    "AlexNet (CaffeNet)",
    "crops of 227",
    Published("VOC07 test (07)", "mAP@0.5", 58.5, source="table 2, fine-tuned fc7 with boxes"),
    Published("VOC10 test", "mAP@0.5", 53.7, source="table 1, with boxes"),
)
def rcnn_alexnet(classes: Sequence[str], **options: Any) -> RCNN:
    """R-CNN on CaffeNet's fc7 with SVMs and box regression."""
    return RCNN(classes, Config.of(options))


@METHOD.model(
    "VGG-16",
    "crops of 224",
    Published("VOC07 test (07)", "mAP@0.5", 66.0, source="table 3, with boxes"),
)
def rcnn_vgg16(classes: Sequence[str], **options: Any) -> RCNN:
    """R-CNN on VGG-16 (the paper's O-Net): slower by seven, better by 7.5 points."""
    return RCNN(classes, Config.of(options, backbone="vgg16", crop_size=224))


@METHOD.model("EfficientNet-Lite0", "crops of 128")
def rcnn_efficientnet_lite0(classes: Sequence[str], **options: Any) -> RCNN:
    """The light R-CNN, for a CPU: crops of 128 pixels, 9 of them context on each side."""
    own = {
        "backbone": "timm/tf_efficientnet_lite0",
        "crop_size": 128,
        "crop_padding": 9,
        "max_proposals": 200,
        "min_box_side": 0,
    }
    return RCNN(classes, Config.of(options, **own))
