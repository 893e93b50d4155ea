"""DSOD: Deeply Supervised Object Detectors from Scratch. Shen et al. 2017, arXiv 1708.01241.

Detectors start from ImageNet weights, which fixes the backbone to what classification likes. DSOD
is trained from scratch, where SSD fails: in a dense net the loss reaches every layer directly
(deep supervision), a stem of three 3x3 convolutions loses less of the image than a strided 7x7, and
transition layers without pooling let it be deep at any resolution. The maps for prediction are
dense too: each computes half of its channels anew and reuses the map before it for the other half.

Shape letters: B images, A default boxes, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import nn

from boxatlas.backbones.choice import BackboneChoices
from boxatlas.backbones.dsod import DSODNet
from boxatlas.boxes.matching import MatchChoices
from boxatlas.boxes.nms import SuppressionChoices
from boxatlas.images import InputChoices
from boxatlas.necks.dense_prediction import (
    DensePrediction,
    DensePredictionChoices,
    NormPredictor,
    map_channels,
)
from boxatlas.ops.norm import L2Norm, L2NormChoices
from boxatlas.options import Width, idea
from boxatlas.parts.default_boxes import DefaultBoxChoices, FirstMapChoices, TableChoices, ssd_boxes
from boxatlas.parts.dense import DenseChoices, Predictor, grids_of
from boxatlas.parts.single_shot import MultiboxChoices, SingleShot, backbone_of
from boxatlas.registry import Method, Published

METHOD = Method(
    "DSOD",
    "DSOD: Learning Deeply Supervised Object Detectors from Scratch",
    "1708.01241",
    2017,
    "one-stage",
)


class Config(
    BackboneChoices,
    InputChoices,
    SuppressionChoices,
    DenseChoices,
    DefaultBoxChoices,
    TableChoices,
    FirstMapChoices,
    MatchChoices,
    MultiboxChoices,
    L2NormChoices,
    DensePredictionChoices,
):
    """DSOD's ideas; DS/64-192-48-1 is stem, bottleneck, growth and compression."""

    stem_block: bool = idea(True, "section 3.2: three 3x3 convolutions; off: DenseNet's 7x7")
    stem: Width = idea(64, "table 2: width of the first convolution")
    bottleneck: Width = idea(192, "table 2: width of the 1x1 in a dense layer")
    growth: Width = idea(48, "table 2: channels that a dense layer adds")
    compression: Annotated[float, Field(gt=0, le=1)] = idea(
        1.0, "table 2: part of its channels that a transition keeps"
    )
    transition_without_pooling: bool = idea(True, "section 3.2: transitions that keep the size")
    dense_supervision: bool = idea(
        True, "section 3.2: each layer reads all before it in its block; off: the last alone"
    )
    prediction: Literal["dense", "plain"] = idea(
        "dense", "section 3.2: maps reuse half of the one before; plain: as SSD"
    )

    backbone = "dsod"
    score = 0.01  # SSD, section 3.7, as are the next two
    nms_iou = 0.45
    max_detections = 200

    def idle(self) -> dict[str, str]:
        why = super().idle()
        if self.backbone != "dsod":
            of_the_net = (
                "stem_block",
                "stem",
                "bottleneck",
                "growth",
                "compression",
                "transition_without_pooling",
                "dense_supervision",
            )
            why |= dict.fromkeys(of_the_net, "only the backbone dsod is built of dense blocks")
        return why


class DSOD(SingleShot):
    """Dense net -> First and the last map -> denser and denser, coarser maps -> predictors."""

    config: Config

    def __init__(self, classes: Sequence[str], config: Config) -> None:
        backbone, preprocess = backbone_of(
            config,
            config.shape,
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
        norms = [
            L2Norm(c, 20.0, config.norm_eps, config.norm_place) if i < normed else nn.Identity()
            for i, c in enumerate(channels)
        ]
        neck = DensePrediction(
            backbone.channels,
            grid,
            norms,
            dense=config.prediction == "dense",
            learned_first=config.learned_first,
            blocks_first=config.blocks_first,
            last_map=config.last_map,
        )
        boxes = ssd_boxes(config, len(channels))
        kind = NormPredictor if config.head_norm else Predictor
        super().__init__(
            classes, preprocess, config, backbone, neck, channels, boxes, predictor=kind
        )


# -- the models -----------------------------------------------------------------------------------

_README = "README of the authors' repository"
_GPU = "Titan X, batch 1"


@METHOD.model(
    "DS/64-192-48-1",
    "300",
    Published("VOC07 test (07+12)", "mAP@0.5", 77.7, 17.4, _GPU, _README),
    Published("VOC12 test (07++12)", "mAP@0.5", 76.3, 17.4, _GPU, _README),
    Published("COCO test-dev2015", "AP", 29.3, 17.4, _GPU, _README),
)
def dsod300(classes: Sequence[str], **options: Any) -> DSOD:
    """DSOD at 300x300, from scratch: six maps, the last 2x2, 8744 default boxes."""
    return DSOD(classes, Config.of(options, size=300))
