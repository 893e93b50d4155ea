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

from boxatlas.necks.blocks import ConvNorm, xavier
from boxatlas.necks.deconvolution import Decoder, ExtraBlocks
from boxatlas.necks.residual import EachMap, Residual
from boxatlas.options import convention, switch
from boxatlas.parts.base import ClassRows, Phase, Raw
from boxatlas.parts.default_boxes import (
    SingleShot,
    SingleShotConfig,
    Tables,
    backbone_of,
    caffe_resnet101,
    given,
    per_cell,
    percents,
    ssd_sizes,
)
from boxatlas.parts.dense import DenseHead, grids_of
from boxatlas.registry import Published, register_model
from boxatlas.structures import Batch, Frame

SSD_TERMS = ("ssd_classification", "ssd_localisation")
TERMS = ("classification", "localisation")


class DSSDConfig(SingleShotConfig):
    """Every choice of SSD321 / 513 and DSSD321 / 513."""

    size: int | tuple[int, int] = convention(321, "input (height, width)")
    backbone: str = convention("resnet101", 'resnet101 or "timm/NAME"')

    # The paper's own ablations (table 4).
    prediction_module: Literal["a", "b", "c", "d"] = switch(
        "c", "figure 2: none; residual with identity; with 1x1 shortcut; two of those"
    )
    decoder: bool = switch(True, "section 3.2: deconvolution modules; off: SSD321, SSD513")
    fusion: Literal["product", "sum"] = switch("product", "section 3.2: how a step up is joined")
    finetune: bool = switch(False, "section 3.3: after the decoder all layers learn (staged)")

    # How programs differ.
    staged: bool = convention(False, "section 3.3: first the SSD learns, then the decoder on it")
    module_kernel: Literal[1, 3] = convention(3, "of a prediction module's middle convolution")
    module_widths: int | tuple[int, ...] = convention(256, "of the modules, or of each map's")
    decoder_width: int = convention(512, "channels of the decoder's maps", ge=1)
    extra_width: int = convention(256, "inside an extra residual block; its map is 4 times that")
    head_kernels: tuple[int, ...] | None = convention(None, "of each map's predictors; None: 3")
    tower: int | None = convention(None, "width of a 3x3 convolution before each predictor")
    bn_eps: float = convention(1e-5, "of all batch norms")
    residual_stride: Literal["1x1", "3x3"] = convention("1x1", "which convolution strides")


class DSSD(SingleShot):
    """ResNet -> maps -> decoder -> a prediction module and predictors on each map."""

    config: DSSDConfig

    def __init__(self, classes: Sequence[str], config: DSSDConfig) -> None:
        eps = config.bn_eps
        backbone, preprocess = backbone_of(
            config,
            (8, 16, 32),
            resnet101=lambda: caffe_resnet101((3, 5), config.residual_stride, eps, dilate_c5=True),
        )
        grid = grids_of(backbone, config.shape)[-1]
        neck = ExtraBlocks(backbone.channels, grid, width=config.extra_width, eps=eps)
        channels = neck.channels
        ratios = given(config.ratios, [(1.6, 2.0, 3.0)] * len(channels), "ratios")
        decoder = None
        if config.decoder:
            halvings = [(2, 2)] * (len(backbone.channels) - 1)
            decoder = Decoder(
                channels,
                [*halvings, *neck.shapes],
                width=config.decoder_width,
                fuse=config.fusion,
                eps=eps,
            )
        outputs = len(classes) + 1
        before, head = _predictors(
            config, decoder.channels if decoder else channels, ratios, outputs
        )
        super().__init__(
            classes,
            preprocess,
            config,
            backbone=backbone,
            neck=neck,
            head=head,
            ratios=ratios,
            sizes=default_sizes(config, len(channels)),
        )
        self.decoder, self.before = decoder, before
        self.ssd_before, self.ssd_head = None, None
        if config.staged and decoder is not None:
            plain = config.model_copy(update={"tower": None})
            self.ssd_before, self.ssd_head = _predictors(plain, channels, ratios, outputs)

    def forward(
        self,
        images: Tensor,
        frames: Sequence[Frame] | None = None,
        proposals: Tensor | None = None,
    ) -> Raw:
        """logits [B, A, K + 1], deltas [B, A, 4] and anchors [A, 4] in input pixels."""
        maps = self.features(images)
        seen = maps if self.decoder is None else self.decoder(maps)
        return self._raw(self.before, self.head, seen, images)

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
        own = self._raw(self.before, self.head, self.decoder(maps), batch.images)
        first = self.multibox(ssd, batch.targets)
        return self.multibox(own, batch.targets) | {f"ssd_{k}": v for k, v in first.items()}

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
    config: DSSDConfig, channels: Sequence[int], ratios: Sequence[tuple[float, ...]], outputs: int
) -> tuple[EachMap, DenseHead]:
    """(the prediction module of each map, the predictors that read it)."""
    levels = len(channels)
    own = config.module_widths
    widths = [own] * levels if isinstance(own, int) else given(own, [0] * levels, "module_widths")
    kernels = given(config.head_kernels, [3] * levels, "head_kernels")
    modules = EachMap([_module(config, c, w) for c, w in zip(channels, widths, strict=True)])
    seen = [
        c if config.prediction_module in "ab" else 4 * w
        for c, w in zip(channels, widths, strict=True)
    ]
    makers = [partial(_predictor, kernel=k, config=config) for k in kernels]
    return modules, DenseHead(seen, per_cell(ratios), outputs, makers)


def _module(config: DSSDConfig, channels: int, width: int) -> nn.Module:
    """Figure 2: (a) nothing, (b) identity shortcut, (c) 1x1 shortcut, (d) two of (c)."""
    kind = config.prediction_module
    if kind == "a":
        return nn.Identity()
    shape: dict[str, Any] = {"middle": config.module_kernel, "eps": config.bn_eps}
    if kind == "b":
        return Residual(channels, width, channels, identity=True, **shape)
    one, wide = Residual(channels, width, 4 * width, **shape), 4 * width
    return one if kind == "c" else nn.Sequential(one, Residual(wide, width, wide, **shape))


def _predictor(channels: int, out: int, *, kernel: int, config: DSSDConfig) -> nn.Module:
    width = config.tower or channels
    last = xavier(nn.Conv2d(width, out, kernel, padding=kernel // 2))
    if config.tower is None:
        return last
    return nn.Sequential(ConvNorm(channels, width, eps=config.bn_eps, momentum=0.1), last)


def default_sizes(config: DSSDConfig, levels: int) -> Tables:
    """The scripts' percents for 321 on VOC and 513 on COCO; SSD's rule for the others."""
    large, coco = min(config.shape) >= 512, config.boxes == "coco"
    if large != coco:
        return ssd_sizes(config, levels)
    first, start, high = (4, 10, 95) if coco else (10, 20, 92)
    step = (high - start) // max(1, levels - 2)
    lows = [first, *(start + step * i for i in range(levels - 1))]
    return percents([*lows, start + step * (levels - 1)], min(config.shape))


# -- the models -----------------------------------------------------------------------------------


def _register(method: str, size: str, *published: Published) -> Any:
    return register_model(
        method=method,
        title="DSSD: Deconvolutional Single Shot Detector",
        arxiv="1701.06659",
        year=2017,
        family="one-stage",
        backbone="ResNet-101",
        size=size,
        published=published,
    )


def _build(classes: Sequence[str], defaults: dict[str, Any], options: dict[str, Any]) -> DSSD:
    return DSSD(classes, DSSDConfig.of(**{**defaults, **options}))


def _rows(fps: float, voc07: float, voc12: float, coco: float) -> tuple[Published, ...]:
    gpu, paper = "Titan X, batch 1", "the paper, tables 2, 3, 5 and 6"
    return (
        Published("COCO test-dev2015", "AP", coco, fps, gpu, paper),
        Published("VOC07 test (07+12)", "mAP@0.5", voc07, fps, gpu, paper),
        Published("VOC12 test (07++12)", "mAP@0.5", voc12, fps, gpu, paper),
    )


@_register("SSD", "321", *_rows(11.2, 77.1, 75.4, 28.0))
def ssd321_r101(classes: Sequence[str], **options: Any) -> DSSD:
    """SSD at 321x321 on ResNet-101 with prediction modules: six maps, 17080 default boxes."""
    return _build(classes, {"size": 321, "decoder": False}, options)


@_register("SSD", "513", *_rows(6.8, 80.6, 79.4, 31.2))
def ssd513_r101(classes: Sequence[str], **options: Any) -> DSSD:
    """SSD at 513x513 on ResNet-101 with prediction modules: seven maps, 43688 default boxes."""
    return _build(classes, {"size": 513, "decoder": False}, options)


@_register("DSSD", "321", *_rows(9.5, 78.6, 76.3, 28.0))
def dssd321_r101(classes: Sequence[str], **options: Any) -> DSSD:
    """DSSD at 321x321: the decoder over SSD321's six maps."""
    return _build(classes, {"size": 321}, options)


@_register("DSSD", "513", *_rows(5.5, 81.5, 80.0, 33.2))
def dssd513_r101(classes: Sequence[str], **options: Any) -> DSSD:
    """DSSD at 513x513: the decoder over SSD513's seven maps."""
    return _build(classes, {"size": 513}, options)
