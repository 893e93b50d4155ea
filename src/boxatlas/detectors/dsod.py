"""DSOD: Deeply Supervised Object Detectors from Scratch. Shen et al. 2017, arXiv 1708.01241.

Detectors start from ImageNet weights, which fixes the backbone to what classification likes. DSOD
learns from scratch, which SSD cannot: in a dense net every layer is reached directly by the loss
(deep supervision), a stem of three 3x3 convolutions loses less of the image than a strided 7x7, and
transition layers without pooling let it be deep at any resolution. The maps for prediction are
dense too: each learns half of its channels and reuses the map before it for the other half.

Shape letters: B images, A default boxes, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import nn

from boxatlas.backbones.dsod import DSODNet
from boxatlas.necks.blocks import BatchNorm, xavier
from boxatlas.necks.dense_prediction import DensePrediction, map_channels
from boxatlas.ops.norm import L2Norm
from boxatlas.options import convention, switch
from boxatlas.parts.base import ClassRows
from boxatlas.parts.default_boxes import (
    NormPlace,
    SingleShot,
    SingleShotConfig,
    backbone_of,
    per_cell,
    ssd_ratios,
    ssd_sizes,
    ssd_steps,
)
from boxatlas.parts.dense import DenseHead, Predictor, grids_of
from boxatlas.registry import Published, register_model


class DSODConfig(SingleShotConfig):
    """Every choice of DSOD; DS/64-192-48-1 is stem, bottleneck, growth and compression."""

    backbone: str = convention("dsod", 'dsod or "timm/NAME"')

    # The paper's own ablations (table 2).
    stem_block: bool = switch(True, "section 3.2: three 3x3 convolutions; off: DenseNet's 7x7")
    stem: int = switch(64, "table 2: width of the first convolution", ge=1)
    bottleneck: int = switch(192, "table 2: width of the 1x1 in a dense layer", ge=1)
    growth: int = switch(48, "table 2: channels that a dense layer adds", ge=1)
    compression: float = switch(1.0, "table 2: channels that a transition keeps", gt=0, le=1)
    transition_without_pooling: bool = switch(True, "section 3.2: transitions that keep the size")
    dense_supervision: bool = switch(
        True, "section 3.2: each layer reads all before it in its block; off: the last alone"
    )
    prediction: Literal["dense", "plain"] = switch(
        "dense", "section 3.2: maps reuse half of the one before; plain: as SSD"
    )
    boxes_on_first_map: Literal[4, 6] = switch(4, "SSD, 3.1: boxes in a cell of the first map")

    # How programs differ.
    l2norm_maps: Literal["all", "first"] = convention("all", "which maps have the L2 norm")
    norm_eps: float = convention(1e-10, "of the L2 norm")
    norm_place: NormPlace = convention("inside_root", "where that epsilon goes")
    last_map: Literal[1, 2] = convention(2, "cells along the coarsest map's side")
    head_norm: bool = convention(True, "predictors have batch norm and no bias")
    learned_first: bool = convention(False, "of a map's halves the learned one comes first")
    blocks_first: bool = convention(True, "of Second's halves the dense blocks' comes first")


class NormPredictor(nn.Sequential):
    """3x3 convolution without bias, batch norm."""

    def __init__(self, channels: int, out: int) -> None:
        conv = xavier(nn.Conv2d(channels, out, 3, padding=1, bias=False))
        super().__init__(conv, BatchNorm(out, eps=1e-3))


class DSOD(SingleShot):
    """Dense net -> First and the last map -> denser and denser, coarser maps -> predictors."""

    config: DSODConfig

    def __init__(self, classes: Sequence[str], config: DSODConfig) -> None:
        backbone, preprocess = backbone_of(
            config,
            (8, 16),
            dsod=lambda: DSODNet(
                stem=config.stem,
                growth=config.growth,
                bottleneck=config.bottleneck,
                compression=config.compression,
                stem_block=config.stem_block,
                transitions=config.transition_without_pooling,
                dense=config.dense_supervision,
            ),
        )
        grid = grids_of(backbone, config.shape)[-1]
        channels = map_channels(backbone.channels, grid, config.last_map)
        normed = len(channels) if config.l2norm_maps == "all" else 1
        neck = DensePrediction(
            backbone.channels,
            grid,
            [
                L2Norm(c, 20.0, config.norm_eps, config.norm_place) if i < normed else nn.Identity()
                for i, c in enumerate(channels)
            ],
            dense=config.prediction == "dense",
            learned_first=config.learned_first,
            blocks_first=config.blocks_first,
            last_map=config.last_map,
        )
        ratios = ssd_ratios(config, len(channels), config.boxes_on_first_map)
        head = DenseHead(
            channels,
            per_cell(ratios),
            len(classes) + 1,
            NormPredictor if config.head_norm else Predictor,
        )
        super().__init__(
            classes,
            preprocess,
            config,
            backbone=backbone,
            neck=neck,
            head=head,
            ratios=ratios,
            sizes=ssd_sizes(config, len(channels)),
            steps=ssd_steps,
        )

    def class_rows(self) -> dict[str, ClassRows]:
        """The rows of a predictor's convolution and of its batch norm."""
        rows = super().class_rows()
        if not self.config.head_norm:
            return rows
        made = {}
        for name, found in rows.items():
            stem, _, leaf = name.rpartition(".0.")
            if leaf == "weight":
                made[name] = found
                leaves = ("weight", "bias", "running_mean", "running_var")
                made |= {f"{stem}.1.{own}": found for own in leaves}
        return made


# -- the models -----------------------------------------------------------------------------------

_README = "README of the authors' repository"
_GPU = "Titan X, batch 1"


@register_model(
    method="DSOD",
    title="DSOD: Learning Deeply Supervised Object Detectors from Scratch",
    arxiv="1708.01241",
    year=2017,
    family="one-stage",
    backbone="DS/64-192-48-1",
    size="300",
    published=(
        Published("VOC07 test (07+12)", "mAP@0.5", 77.7, 17.4, _GPU, _README),
        Published("VOC12 test (07++12)", "mAP@0.5", 76.3, 17.4, _GPU, _README),
        Published("COCO test-dev2015", "AP", 29.3, 17.4, _GPU, _README),
    ),
)
def dsod300(classes: Sequence[str], **options: Any) -> DSOD:
    """DSOD at 300x300, from scratch: six maps, the last 2x2, 8744 default boxes."""
    return DSOD(classes, DSODConfig.of(**{"size": 300, **options}))
