"""FSSD: Feature Fusion Single Shot Multibox Detector. Li & Zhou 2017, arXiv 1712.00960.

SSD predicts each scale from its own layer, so the fine maps, where small objects are found, know
little of what is around. FSSD first brings maps of three depths to one size (38x38), joins them and
normalises them once, and then makes a new pyramid of that one map for SSD's predictors to read. It
costs a fifth of SSD's speed and is worth 1.6 mAP on VOC at 300.

Shape letters: B images, A default boxes, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor, nn

from boxatlas.backbones.choice import BackboneChoices
from boxatlas.backbones.vgg import VGG16, VGGChoices
from boxatlas.boxes.matching import MatchChoices
from boxatlas.boxes.nms import SuppressionChoices
from boxatlas.errors import InputError
from boxatlas.images import InputChoices
from boxatlas.necks.blocks import UpsamplingChoices
from boxatlas.necks.extra_maps import ExtraMaps, plan
from boxatlas.necks.fusion import (
    FeatureFusion,
    FeaturePyramid,
    FusionChoices,
    Generator,
    layers_after_fc7,
)
from boxatlas.options import Width, idea, setting
from boxatlas.parts.default_boxes import (
    DefaultBoxChoices,
    FirstMapChoices,
    TableChoices,
    even_steps,
    ssd_boxes,
)
from boxatlas.parts.dense import DenseChoices, grids_of
from boxatlas.parts.single_shot import MultiboxChoices, SingleShot, backbone_of
from boxatlas.registry import Method, Published

METHOD = Method(
    "FSSD", "FSSD: Feature Fusion Single Shot Multibox Detector", "1712.00960", 2017, "one-stage"
)
Source = Literal["conv3_3", "conv4_3", "fc7", "conv7_2"]
STRIDES: dict[str, int] = {"conv3_3": 4, "conv4_3": 8, "fc7": 16, "conv7_2": 32}


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
    VGGChoices,
    FusionChoices,
    UpsamplingChoices,
):
    """FSSD's ideas. On another backbone than VGG-16 the sources are its maps of their strides."""

    sources: tuple[Source, ...] = idea(
        ("conv4_3", "fc7", "conv7_2"), "table 3: the layers that are fused"
    )
    fuse: Literal["concat", "sum"] = idea("concat", "table 3: how the layers are joined")
    fuse_norm: bool = idea(True, "table 3: batch norm after the layers are joined")
    generator: Generator = idea(
        "simple", "figure 4: the pyramid starts from the fused map (direct) or a layer after it"
    )
    pyramid_width: Annotated[Width, Field(multiple_of=2)] = setting(
        512, "section 3.3: channels of the pyramid's two finest new maps; the others have half"
    )

    backbone = "vgg16"
    score = 0.01  # SSD, section 3.7, as are the next two
    nms_iou = 0.45
    max_detections = 200

    def idle(self) -> dict[str, str]:
        why = super().idle()
        if len(set(self.sources)) == 1:
            why["fuse"] = "there is one source, which is joined to none"
        return why


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
        maps = list(maps) if self.extras is None else self.extras(maps)
        return self.pyramid(self.fusion([maps[i] for i in self.keep]))


class FSSD(SingleShot):
    """Backbone -> fused map -> pyramid -> a predictor on each of its maps."""

    config: Config

    def __init__(self, classes: Sequence[str], config: Config) -> None:
        sources = [s for s in STRIDES if s in config.sources]
        if "conv4_3" not in sources:
            raise InputError(
                "the maps are fused at the size of conv4_3", field="sources", value=config.sources
            )
        # VGG's own layers end with fc7; conv7_2 is made of it, at half its size.
        of_vgg = [s for s in sources if s != "conv7_2"]
        of_vgg += ["fc7"] if "conv7_2" in sources and "fc7" not in of_vgg else []
        backbone, preprocess = backbone_of(
            config,
            config.shape,
            [STRIDES[s] for s in sources],
            vgg16=lambda: VGG16(of_vgg, ceil_pools=config.ceil_pools),
        )
        extras, names, channels = None, list(sources), list(backbone.channels)
        if config.backbone == "vgg16" and "conv7_2" in sources:
            extras = ExtraMaps(backbone.channels, layers_after_fc7(config.extra_padding))
            names, channels = [*of_vgg, "conv6_2", "conv7_2"], extras.channels
        keep = [names.index(s) for s in sources]
        fusion = FeatureFusion(
            [channels[i] for i in keep],
            sources.index("conv4_3"),
            fuse=config.fuse,
            norm=config.fuse_norm,
            affine=config.fuse_norm_affine,
            reduce_all=config.reduce_all,
            align_corners=config.align_corners,
        )
        grid = grids_of(backbone, config.shape)[names.index("conv4_3")]
        pyramid = FeaturePyramid(
            fusion.channels, plan(grid), config.generator, config.pyramid_width
        )
        boxes = ssd_boxes(config, len(pyramid.channels), steps=even_steps)
        neck = FusionNeck(extras, keep, fusion, pyramid)
        super().__init__(classes, preprocess, config, backbone, neck, pyramid.channels, boxes)


# -- the models -----------------------------------------------------------------------------------


_README = "README of the authors' repository"
_GPU = "GTX 1080 Ti"


@METHOD.model(
    "VGG-16",
    "300",
    Published("VOC07 test (07+12)", "mAP@0.5", 78.8, 65.8, _GPU, _README),
    Published("VOC07 test (07+12+COCO)", "mAP@0.5", 82.7, 65.8, _GPU, _README),
    Published("COCO test-dev", "AP", 27.1, 65.8, _GPU, _README),
)
def fssd300_vgg16(classes: Sequence[str], **options: Any) -> FSSD:
    """FSSD at 300x300: three layers fused at 38x38, 8732 default boxes."""
    return FSSD(classes, Config.of(options, size=300))


@METHOD.model(
    "VGG-16",
    "512",
    Published("VOC07 test (07+12)", "mAP@0.5", 80.9, 35.7, _GPU, _README),
    Published("VOC07 test (07+12+COCO)", "mAP@0.5", 84.5, 35.7, _GPU, _README),
    Published("COCO test-dev", "AP", 31.8, 35.7, _GPU, _README),
)
def fssd512_vgg16(classes: Sequence[str], **options: Any) -> FSSD:
    """FSSD at 512x512 as its authors built it: conv3_3 too, the fused map predicts; 24564 boxes."""
    own: dict[str, Any] = {
        "size": 512,
        "sources": ("conv3_3", "conv4_3", "fc7", "conv7_2"),
        "generator": "direct",
    }
    return FSSD(classes, Config.of(options, **own))
