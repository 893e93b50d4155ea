"""DSSD: Deconvolutional Single Shot Detector, and the SSD on ResNet-101 that it starts from.

Fu et al. 2017, arXiv 1701.06659. Small objects need context, and SSD's fine maps have none. DSSD
exchanges VGG for ResNet-101, puts a residual block (prediction module) before each predictor, and
adds a decoder: from the coarsest map up, deconvolution carries what the deep layers know back to
each finer map, an hourglass with a narrow end. It is trained after the SSD, whose layers stay as
they are.

Shape letters: B images, A default boxes, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from boxatlas.backbones.caffe_resnet import CaffeResNetChoices, caffe_resnet101
from boxatlas.backbones.choice import BackboneChoices
from boxatlas.boxes.matching import MatchChoices
from boxatlas.boxes.nms import SuppressionChoices
from boxatlas.images import InputChoices
from boxatlas.necks.blocks import ConvNorm, xavier
from boxatlas.necks.deconvolution import Decoder, ExtraBlocks
from boxatlas.necks.prediction_module import (
    Kind,
    PredictionModuleChoices,
    module_channels,
    prediction_module,
)
from boxatlas.necks.residual import EachMap
from boxatlas.options import Width, idea, setting
from boxatlas.parts.base import ClassRows, Phase, Raw
from boxatlas.parts.default_boxes import (
    DefaultBoxChoices,
    DefaultBoxes,
    Ratios,
    Sizes,
    TableChoices,
    option_or_table,
    rising_sizes,
    ssd_sizes,
)
from boxatlas.parts.dense import DenseChoices, DenseHead, MakePredictor, grids_of
from boxatlas.parts.single_shot import MultiboxChoices, SingleShot, backbone_of
from boxatlas.registry import Method, Published
from boxatlas.structures import Batch, Frame

_TITLE = "DSSD: Deconvolutional Single Shot Detector"
METHOD = Method("DSSD", _TITLE, "1701.06659", 2017, "one-stage")
START = Method("SSD", _TITLE, "1701.06659", 2017, "one-stage")  # this paper's SSD on ResNet-101

SSD_TERMS = ("ssd_classification", "ssd_localisation")
TERMS = ("classification", "localisation")


class Config(
    BackboneChoices,
    InputChoices,
    SuppressionChoices,
    DenseChoices,
    DefaultBoxChoices,
    TableChoices,
    MatchChoices,
    MultiboxChoices,
    CaffeResNetChoices,
    PredictionModuleChoices,
):
    """The ideas of table 4, and those of training in stages."""

    prediction_module: Kind = idea(
        "c", "figure 2: none; residual with identity; with 1x1 shortcut; two of those"
    )
    decoder: bool = idea(True, "section 3.2: deconvolution modules; off: SSD321, SSD513")
    fusion: Literal["product", "sum"] = idea(
        "product", "section 3.2: how the decoder joins a map to the deeper one"
    )
    finetune: bool = idea(
        False, "section 3.3: a last stage trains all layers (of a training that is staged)"
    )

    staged: bool = setting(False, "section 3.3: first the SSD is trained, then the decoder on it")
    module_widths: Width | tuple[Width, ...] = setting(
        256, "width of the prediction modules, of all maps or of each"
    )
    decoder_width: Width = setting(512, "channels of the decoder's maps")
    extra_width: Width = setting(
        256, "width inside an extra residual block, whose map has 4 times as many channels"
    )
    head_kernels: tuple[Literal[1, 3, 5, 7], ...] | None = setting(
        None, "kernel of each map's predictors; null: 3"
    )
    tower: Width | None = setting(
        None, "width of a 3x3 convolution before each predictor; null: there is none"
    )

    size = 321
    backbone = "resnet101"
    score = 0.01  # SSD, section 3.7, as are the next two
    nms_iou = 0.45
    max_detections = 200

    def idle(self) -> dict[str, str]:
        why = super().idle()
        if not self.decoder:
            of_the_decoder = ("fusion", "decoder_width", "staged")
            why |= dict.fromkeys(of_the_decoder, "there is no decoder")
        if self.prediction_module == "a":
            why["module_widths"] = "prediction_module a is none"
        if not (self.staged and self.decoder):
            why["finetune"] = "the training has no stages: they need staged, and a decoder"
        return why


class DSSD(SingleShot):
    """ResNet -> maps -> decoder -> a prediction module and predictors on each map."""

    config: Config

    def __init__(self, classes: Sequence[str], config: Config) -> None:
        eps = config.bn_eps
        backbone, preprocess = backbone_of(
            config,
            config.shape,
            (8, 16, 32),
            resnet101=lambda: caffe_resnet101((3, 5), config.residual_stride, eps, dilate_c5=True),
        )
        grid = grids_of(backbone, config.shape)[-1]
        neck = ExtraBlocks(backbone.channels, grid, width=config.extra_width, eps=eps)
        channels = neck.channels
        table: Ratios = [(1.6, 2.0, 3.0)] * len(channels)  # section 3.1
        ratios = option_or_table(config.ratios, table, "ratios")
        decoder = None
        if config.decoder:
            halvings = [(2, 2)] * (len(backbone.channels) - 1)
            shapes, width = [*halvings, *neck.shapes], config.decoder_width
            decoder = Decoder(channels, shapes, width=width, fuse=config.fusion, eps=eps)
        boxes = DefaultBoxes(config, ratios, default_sizes(config, len(channels)))
        read = decoder.channels if decoder else channels
        before, seen, makers = _predictors(config, read, config.tower)
        super().__init__(classes, preprocess, config, backbone, neck, seen, boxes, predictor=makers)
        self.decoder, self.before = decoder, before
        self.ssd_before, self.ssd_head = None, None
        if config.staged and decoder is not None:
            self.ssd_before, seen, makers = _predictors(config, channels, None)
            self.ssd_head = DenseHead(seen, boxes.per_cell, len(classes) + 1, makers)

    def forward(
        self, images: Tensor, frames: Sequence[Frame] | None = None, proposals: Tensor | None = None
    ) -> Raw:
        """logits [B, A, K + 1], deltas [B, A, 4] and anchors [A, 4] in input pixels."""
        maps = self.features(images)
        decoded = maps if self.decoder is None else self.decoder(maps)
        return self._raw(self.before, self.head, decoded, images)

    def _raw(
        self, before: nn.Module, head: nn.Module, maps: Sequence[Tensor], images: Tensor
    ) -> Raw:
        logits, deltas = head(before(maps))
        return {"logits": logits, "deltas": deltas, "anchors": self.anchors(maps, images)}

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """SSD's loss; staged, that of the SSD within too, each for its own stage."""
        if self.ssd_head is None or self.ssd_before is None or self.decoder is None:
            return super().loss(batch, generator)
        maps = self.features(batch.images)
        ssd = self._raw(self.ssd_before, self.ssd_head, maps, batch.images)
        dssd = self._raw(self.before, self.head, self.decoder(maps), batch.images)
        first = self.multibox(ssd, batch.targets)
        return self.multibox(dssd, batch.targets) | {f"ssd_{k}": v for k, v in first.items()}

    def phases(self) -> list[Phase]:
        """Section 3.3: the SSD; the decoder, on the SSD as it is; all layers, where asked for."""
        if self.ssd_head is None:
            return super().phases()
        names = [name for name, _ in self.named_parameters()]
        below = ("backbone.*", "neck.*")
        ssd = ("ssd_before.*", "ssd_head.*")
        above = tuple(
            f"{part}.*"
            for part in ("decoder", "before", "head")
            if any(name.startswith(f"{part}.") for name in names)
        )
        ssd = tuple(p for p in ssd if any(name.startswith(p[:-1]) for name in names))
        stages = [
            Phase("ssd", learn=(*below, *ssd), losses=SSD_TERMS),
            Phase("decoder", learn=above, losses=TERMS, init_from="ssd"),
        ]
        if self.config.finetune:
            stages.append(Phase("all", learn=(*below, *above), losses=TERMS, init_from="decoder"))
        return stages

    def class_rows(self) -> dict[str, ClassRows]:
        rows = super().class_rows()
        if isinstance(self.ssd_head, DenseHead):
            rows |= self.ssd_head.class_rows("ssd_head.")
        return rows


def _predictors(
    config: Config, channels: Sequence[int], tower: int | None
) -> tuple[EachMap, list[int], list[MakePredictor]]:
    """(the prediction module of each map, its channels after it, what makes its predictors)."""
    levels = len(channels)
    kind, widths = config.prediction_module, config.module_widths
    each = (widths,) * levels if isinstance(widths, int) else widths
    widths = option_or_table(each, [256] * levels, "module_widths")
    kernels = option_or_table(config.head_kernels, [3] * levels, "head_kernels")
    sizes = list(zip(channels, widths, strict=True))
    modules = EachMap(
        [prediction_module(kind, c, w, config.module_kernel, config.bn_eps) for c, w in sizes]
    )
    makers: list[MakePredictor] = [
        partial(_predictor, kernel=k, tower=tower, eps=config.bn_eps) for k in kernels
    ]
    read = [module_channels(kind, c, w) for c, w in sizes]
    return modules, read, makers


def _predictor(channels: int, out: int, *, kernel: int, tower: int | None, eps: float) -> nn.Module:
    last = xavier(nn.Conv2d(tower or channels, out, kernel, padding=kernel // 2))
    if tower is None:
        return last
    return nn.Sequential(ConvNorm(channels, tower, eps=eps, momentum=0.1), last)


def default_sizes(config: Config, levels: int) -> Sizes:
    """The scripts' percents for 321 on VOC and 513 on COCO; SSD's rule for the others."""
    side = min(config.shape)
    if config.boxes == "voc" and side < 512:
        return rising_sizes(10, 20, 92, side, levels)
    if config.boxes == "coco" and side >= 512:
        return rising_sizes(4, 10, 95, side, levels)
    return ssd_sizes(config.boxes, config.shape, levels)


# -- the models -----------------------------------------------------------------------------------


def _rows(fps: float, voc07: float, voc12: float, coco: float) -> tuple[Published, ...]:
    gpu, paper = "Titan X, batch 1", "the paper, tables 2, 3, 5 and 6"
    return (
        Published("COCO test-dev2015", "AP", coco, fps, gpu, paper),
        Published("VOC07 test (07+12)", "mAP@0.5", voc07, fps, gpu, paper),
        Published("VOC12 test (07++12)", "mAP@0.5", voc12, fps, gpu, paper),
    )


@START.model("ResNet-101", "321", *_rows(11.2, 77.1, 75.4, 28.0))
def ssd321_r101(classes: Sequence[str], **options: Any) -> DSSD:
    """SSD at 321x321 on ResNet-101 with prediction modules: six maps, 17080 default boxes."""
    return DSSD(classes, Config.of(options, size=321, decoder=False))


@START.model("ResNet-101", "513", *_rows(6.8, 80.6, 79.4, 31.2))
def ssd513_r101(classes: Sequence[str], **options: Any) -> DSSD:
    """SSD at 513x513 on ResNet-101 with prediction modules: seven maps, 43688 default boxes."""
    return DSSD(classes, Config.of(options, size=513, decoder=False))


@METHOD.model("ResNet-101", "321", *_rows(9.5, 78.6, 76.3, 28.0))
def dssd321_r101(classes: Sequence[str], **options: Any) -> DSSD:
    """DSSD at 321x321: the decoder over SSD321's six maps."""
    return DSSD(classes, Config.of(options, size=321))


@METHOD.model("ResNet-101", "513", *_rows(5.5, 81.5, 80.0, 33.2))
def dssd513_r101(classes: Sequence[str], **options: Any) -> DSSD:
    """DSSD at 513x513: the decoder over SSD513's seven maps."""
    return DSSD(classes, Config.of(options, size=513))
