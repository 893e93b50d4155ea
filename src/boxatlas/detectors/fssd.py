"""FSSD: Feature Fusion Single Shot Multibox Detector. Li & Zhou 2017, arXiv 1712.00960.

SSD predicts each scale from its own layer, so the fine maps, where small objects are found, know
little of what is around. FSSD first brings maps of three depths to one size (38x38), joins them and
normalises them once, and then makes a new pyramid of that one map for SSD's predictors to read. It
costs a fifth of SSD's speed and is worth 1.6 mAP on VOC at 300.

Shape letters: B images, A default boxes, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

from boxatlas.backbones.vgg import VGG16
from boxatlas.errors import InputError
from boxatlas.necks.extra_maps import ExtraLayer, ExtraMaps, plan
from boxatlas.necks.fusion import FeatureFusion, FeaturePyramid, Generator
from boxatlas.options import convention, switch
from boxatlas.parts.default_boxes import (
    SingleShot,
    SingleShotConfig,
    backbone_of,
    per_cell,
    ssd_ratios,
    ssd_sizes,
)
from boxatlas.parts.dense import DenseHead, Predictor, grids_of
from boxatlas.registry import Published, register_model

Source = Literal["conv3_3", "conv4_3", "fc7", "conv7_2"]
STRIDES: dict[str, int] = {"conv3_3": 4, "conv4_3": 8, "fc7": 16, "conv7_2": 32}


class FSSDConfig(SingleShotConfig):
    """Every choice of FSSD. On another backbone the sources are its maps of the same strides."""

    backbone: str = convention("vgg16", 'vgg16 or "timm/NAME"')

    # The paper's own ablations.
    sources: tuple[Source, ...] = switch(
        ("conv4_3", "fc7", "conv7_2"), "table 3: the layers that are fused"
    )
    fuse: Literal["concat", "sum"] = switch("concat", "table 3: how they are joined")
    fuse_norm: bool = switch(True, "table 3: batch norm after they are joined")
    generator: Generator = switch(
        "simple", "figure 4: the pyramid starts from the fused map (direct) or a layer after it"
    )
    boxes_on_first_map: Literal[4, 6] = switch(4, "SSD, 3.1: boxes in a cell of the first map")

    # How programs differ.
    fuse_norm_affine: bool = convention(False, "that batch norm scales and shifts")
    align_corners: bool = convention(True, "of the bilinear interpolation")
    reduce_all: bool = convention(False, "1x1 also on a map that has 256 channels already")
    extra_padding: Literal[0, 1] = convention(1, "of conv6_2")
    ceil_pools: tuple[int, ...] = convention((1, 2, 3, 4), "VGG's pools that round up")


class FusionNeck(nn.Module):
    """The backbone's maps (and conv7_2 after VGG's fc7) -> one fused map -> the pyramid."""

    def __init__(
        self,
        extras: ExtraMaps | None,
        keep: Sequence[int],
        fusion: FeatureFusion,
        pyramid: FeaturePyramid,
    ) -> None:
        super().__init__()
        self.extras, self.keep = extras, tuple(keep)
        self.fusion, self.pyramid = fusion, pyramid

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        made = list(maps) if self.extras is None else self.extras(maps)
        return self.pyramid(self.fusion([made[i] for i in self.keep]))


class FSSD(SingleShot):
    """Backbone -> fused map -> pyramid -> a predictor on each of its maps."""

    config: FSSDConfig

    def __init__(self, classes: Sequence[str], config: FSSDConfig) -> None:
        sources = [s for s in STRIDES if s in config.sources]
        if "conv4_3" not in sources:
            raise InputError(
                "the maps are fused at the size of conv4_3", field="sources", value=config.sources
            )
        # VGG's own layers end with fc7; conv7_2 is made of it, at half its size.
        own = [s for s in sources if s != "conv7_2"]
        own += ["fc7"] if "conv7_2" in sources and "fc7" not in own else []
        backbone, preprocess = backbone_of(
            config,
            [STRIDES[s] for s in sources],
            vgg16=lambda: VGG16(own, ceil_pools=config.ceil_pools),
        )
        extras, made, channels = None, list(sources), list(backbone.channels)
        if config.backbone == "vgg16" and "conv7_2" in sources:
            layers = [ExtraLayer(256, 512, 3, 1, config.extra_padding), ExtraLayer(128, 256)]
            extras = ExtraMaps(backbone.channels, layers)
            made, channels = [*own, "conv6_2", "conv7_2"], extras.channels
        keep = [made.index(s) for s in sources]
        fusion = FeatureFusion(
            [channels[i] for i in keep],
            sources.index("conv4_3"),
            fuse=config.fuse,
            norm=config.fuse_norm,
            affine=config.fuse_norm_affine,
            reduce_all=config.reduce_all,
            align_corners=config.align_corners,
        )
        grid = grids_of(backbone, config.shape)[made.index("conv4_3")]
        pyramid = FeaturePyramid(fusion.channels, plan(grid), config.generator)
        ratios = ssd_ratios(config, len(pyramid.channels), config.boxes_on_first_map)
        super().__init__(
            classes,
            preprocess,
            config,
            backbone=backbone,
            neck=FusionNeck(extras, keep, fusion, pyramid),
            head=DenseHead(pyramid.channels, per_cell(ratios), len(classes) + 1, Predictor),
            ratios=ratios,
            sizes=ssd_sizes(config, len(pyramid.channels)),
        )


# -- the models -----------------------------------------------------------------------------------


def _register(size: str, *published: Published) -> Any:
    return register_model(
        method="FSSD",
        title="FSSD: Feature Fusion Single Shot Multibox Detector",
        arxiv="1712.00960",
        year=2017,
        family="one-stage",
        backbone="VGG-16",
        size=size,
        published=published,
    )


_README = "README of the authors' repository"
_GPU = "GTX 1080 Ti"


@_register(
    "300",
    Published("VOC07 test (07+12)", "mAP@0.5", 78.8, 65.8, _GPU, _README),
    Published("VOC07 test (07+12+COCO)", "mAP@0.5", 82.7, 65.8, _GPU, _README),
    Published("COCO test-dev", "AP", 27.1, 65.8, _GPU, _README),
)
def fssd300_vgg16(classes: Sequence[str], **options: Any) -> FSSD:
    """FSSD at 300x300: three layers fused at 38x38, 8732 default boxes."""
    return FSSD(classes, FSSDConfig.of(**{"size": 300, **options}))


@_register(
    "512",
    Published("VOC07 test (07+12)", "mAP@0.5", 80.9, 35.7, _GPU, _README),
    Published("VOC07 test (07+12+COCO)", "mAP@0.5", 84.5, 35.7, _GPU, _README),
    Published("COCO test-dev", "AP", 31.8, 35.7, _GPU, _README),
)
def fssd512_vgg16(classes: Sequence[str], **options: Any) -> FSSD:
    """FSSD at 512x512 as its authors built it: conv3_3 too, the fused map predicts; 24564 boxes."""
    own = {"size": 512, "sources": ("conv3_3", "conv4_3", "fc7", "conv7_2"), "generator": "direct"}
    return FSSD(classes, FSSDConfig.of(**{**own, **options}))
