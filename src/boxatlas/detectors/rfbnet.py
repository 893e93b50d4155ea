"""RFBNet: Receptive Field Block Net. Liu, Huang & Wang 2017, arXiv 1711.07767 (ECCV 2018).

Deeper backbones make better features but slower detectors. RFBNet keeps SSD's VGG-16 and
strengthens its maps instead: the layers after fc7 become receptive field blocks, which look at each
place with small kernels near by and dilated ones further out, and a smaller block (RFB-s) takes the
place of the L2 norm on conv4_3. The E version for 512 also joins fc7, up-sampled, to conv4_3 and
adds a 7x7 branch.

Shape letters: B images, A default boxes, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxatlas.backbones.mobilenet_v1 import MobileNetV1
from boxatlas.backbones.vgg import VGG16
from boxatlas.necks.blocks import ConvNorm, xavier
from boxatlas.necks.extra_maps import ExtraLayer, plan
from boxatlas.necks.receptive_field import (
    ReceptiveField,
    rfb,
    rfb_light,
    rfb_narrow,
    rfb_s,
    rfb_s_wide,
)
from boxatlas.ops.norm import L2Norm
from boxatlas.options import convention, switch
from boxatlas.parts.default_boxes import (
    SingleShot,
    SingleShotConfig,
    backbone_of,
    per_cell,
    percents,
    ssd_ratios,
    ssd_sizes,
    ssd_steps,
)
from boxatlas.parts.dense import DenseHead, Predictor, grids_of
from boxatlas.registry import Published, register_model

NARROWEST = 256  # a block's output is as wide as its input, but no narrower than the paper's


class RFBNetConfig(SingleShotConfig):
    """Every choice of RFBNet."""

    backbone: str = convention("vgg16", 'vgg16, mobilenet_v1 or "timm/NAME"')

    # The paper's own ablations.
    rfb: bool = switch(True, "table 3: receptive field blocks; off: plain convolutions")
    rfb_s: bool = switch(True, "table 3: RFB-s on the finest map; off: SSD's L2 norm")
    dilated: bool = switch(True, "table 3: the blocks' last convolutions are dilated")
    boxes_on_first_map: Literal[4, 6] = switch(6, "table 3: boxes in a cell of the first map")
    version: Literal["standard", "e"] = switch("standard", "section 4.2: RFB Net512-E")

    # How programs differ.
    rates: Literal["paper", "released"] = convention("paper", "1, 3, 5; or the code's 2, 3, 5")
    residual_scale: float = convention(1.0, "of a block before its shortcut is added")
    align_corners: bool = convention(True, "of the E version's up-sampling")
    norm_eps: float = convention(1e-10, "of the L2 norm")
    ceil_pools: tuple[int, ...] = convention((1, 2, 3, 4), "VGG's pools that round up")


class ReceptiveFieldNeck(nn.Module):
    """The backbone's maps -> the same maps through blocks, and coarser ones made of the last.

    first: for the finest map. join: a coarser map is up-sampled and joined to it before (E).
    blocks: one for each further map. extras: (layers, whether their end is a map for the head).
    """

    def __init__(
        self,
        first: nn.Module,
        blocks: Sequence[nn.Module],
        extras: Sequence[tuple[nn.Module, bool]],
        join: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.first, self.join = first, join
        self.blocks = nn.ModuleList(blocks)
        self.extras = nn.ModuleList(layer for layer, _ in extras)
        self._shown = tuple(shown for _, shown in extras)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        fine = maps[0] if self.join is None else self.join(maps)
        made = [self.first(fine)]
        made += [block(x) for block, x in zip(self.blocks, maps[1:], strict=True)]
        x = made[-1]
        for layer, shown in zip(self.extras, self._shown, strict=True):
            x = layer(x)
            if shown:
                made.append(x)
        return made


class JoinUp(nn.Module):
    """The E version's first map: half of it from conv4_3, half from fc7, up-sampled."""

    def __init__(self, fine: int, coarse: int, align_corners: bool) -> None:
        super().__init__()
        self.channels, self.align_corners = fine, align_corners
        self.fine = ConvNorm(fine, fine - fine // 2, 1)
        self.coarse = ConvNorm(coarse, fine // 2, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        up = F.interpolate(
            self.coarse(maps[1]),
            size=maps[0].shape[-2:],
            mode="bilinear",
            align_corners=self.align_corners,
        )
        return torch.cat([self.fine(maps[0]), up], 1)


class RFBNet(SingleShot):
    """Backbone -> receptive field blocks on its maps and between the coarser -> predictors."""

    config: RFBNetConfig

    def __init__(self, classes: Sequence[str], config: RFBNetConfig) -> None:
        backbone, preprocess = backbone_of(
            config,
            (8, 16, 32),
            mobilenet_v1=MobileNetV1,
            vgg16=lambda: VGG16(("conv4_3", "fc7"), ceil_pools=config.ceil_pools),
        )
        neck, channels = _neck(config, backbone)
        ratios = ssd_ratios(config, len(channels), config.boxes_on_first_map)
        light = config.backbone == "mobilenet_v1"
        head = DenseHead(
            channels, per_cell(ratios), len(classes) + 1, _predict_1x1 if light else Predictor
        )
        super().__init__(
            classes,
            preprocess,
            config,
            backbone=backbone,
            neck=neck,
            head=head,
            ratios=ratios,
            sizes=percents([15, 30, 45, 60, 75, 90, 105], min(config.shape))
            if light and len(channels) == 6
            else ssd_sizes(config, len(channels)),
            steps=ssd_steps,
        )


def _predict_1x1(channels: int, out: int) -> nn.Module:
    return xavier(nn.Conv2d(channels, out, 1))


def _neck(config: RFBNetConfig, backbone: Any) -> tuple[ReceptiveFieldNeck, list[int]]:
    """(the neck, the channels of its maps)."""
    light = config.backbone == "mobilenet_v1"
    fine, *further = backbone.channels
    widths = [max(c, NARROWEST) for c in backbone.channels]
    join = None
    if config.version == "e":
        join = JoinUp(fine, further[0], config.align_corners)
    if config.rfb_s:
        kind = rfb_s_wide if config.version == "e" else rfb_s
        first: nn.Module = _block(config, fine, widths[0], kind(fine))
    else:
        widths[0] = fine
        first = L2Norm(fine, 20.0, config.norm_eps) if config.backbone == "vgg16" else nn.Identity()
    if light or not config.rfb:
        blocks: list[nn.Module] = [nn.Identity() for _ in further]
        widths[1:] = further
    else:
        blocks = [_field(config, c, w) for c, w in zip(further, widths[1:], strict=True)]
    grid = grids_of(backbone, config.shape)[-1]
    extras: list[tuple[nn.Module, bool]] = []
    channels = widths[-1]
    for i, step in enumerate(_light_plan(grid) if light else plan(grid)):
        # Blocks only where they halve a map that their kernels fit into.
        if config.rfb and step.stride == 2 and (i == 0 or not light):
            extras.append((_field(config, channels, step.width, stride=2), True))
        else:
            extras.append((ConvNorm(channels, step.squeeze, 1), False))
            shape = (step.kernel, step.stride, step.padding)
            extras.append((ConvNorm(step.squeeze, step.width, *shape), True))
        channels = step.width
        widths.append(channels)
    return ReceptiveFieldNeck(first, blocks, extras, join), widths


def _light_plan(grid: tuple[int, int]) -> list[ExtraLayer]:
    """The MobileNet version halves each map; its last is 128 wide."""
    sides = [min(grid)]
    while sides[-1] > 1:
        sides.append((sides[-1] + 1) // 2)
    widths = [512, *[256] * (len(sides) - 3), 128]
    squeezed = [256, *[128] * (len(sides) - 3), 64]
    return [ExtraLayer(s, w) for s, w in zip(squeezed, widths, strict=True)][: len(sides) - 1]


def _field(config: RFBNetConfig, channels: int, width: int, stride: int = 1) -> nn.Module:
    """RFB as the version and the published rates have it."""
    if config.backbone == "mobilenet_v1":
        return _block(config, channels, width, rfb_light(channels), stride)
    released = config.rates == "released"
    narrow = channels == NARROWEST and stride == 2  # only 512 has such blocks
    if config.version == "e":
        branches = rfb_narrow(channels) if narrow else rfb(channels, (1, 3, 5, 7), wide=True)
    elif released:
        branches = rfb(channels, (1, 2, 3) if narrow else (2, 3, 5))
    else:
        branches = rfb(channels, (1, 3, 5))
    return _block(config, channels, width, branches, stride)


def _block(
    config: RFBNetConfig, channels: int, width: int, branches: list, stride: int = 1
) -> ReceptiveField:
    if not config.dilated:
        branches = [(layers, 1) for layers, _ in branches]
    light = config.backbone == "mobilenet_v1"
    return ReceptiveField(
        channels,
        width,
        branches,
        stride=stride,
        scale=config.residual_scale,
        identity=light,
        depthwise=light,
    )


# -- the models -----------------------------------------------------------------------------------


def _register(size: str, *published: Published, backbone: str = "VGG-16") -> Any:
    return register_model(
        method="RFBNet",
        title="Receptive Field Block Net for Accurate and Fast Object Detection",
        arxiv="1711.07767",
        year=2017,
        family="one-stage",
        backbone=backbone,
        size=size,
        published=published,
    )


def _build(classes: Sequence[str], defaults: dict[str, Any], options: dict[str, Any]) -> RFBNet:
    return RFBNet(classes, RFBNetConfig.of(**{**defaults, **options}))


_README = "README of the authors' repository"
_GPU = "Titan X (Maxwell)"


@_register(
    "300",
    Published("COCO test-dev", "AP", 30.3, 66.6, _GPU, "the paper, table 4"),
    Published("VOC07 test (07+12)", "mAP@0.5", 80.7, 83, _GPU, _README),
)
def rfbnet300_vgg16(classes: Sequence[str], **options: Any) -> RFBNet:
    """RFB Net at 300x300: six maps, 11620 default boxes."""
    return _build(classes, {"size": 300}, options)


@_register("300")
def rfbnet300e_vgg16(classes: Sequence[str], **options: Any) -> RFBNet:
    """The E version at 300x300, which the authors' code builds but no table reports."""
    return _build(classes, {"size": 300, "version": "e"}, options)


@_register(
    "512",
    Published("COCO test-dev", "AP", 33.8, 33.3, _GPU, _README),
    Published("VOC07 test (07+12)", "mAP@0.5", 82.2, 38, _GPU, _README),
)
def rfbnet512_vgg16(classes: Sequence[str], **options: Any) -> RFBNet:
    """RFB Net at 512x512: seven maps, 32756 default boxes."""
    return _build(classes, {"size": 512}, options)


@_register("512", Published("COCO test-dev", "AP", 34.4, 30.3, _GPU, _README))
def rfbnet512e_vgg16(classes: Sequence[str], **options: Any) -> RFBNet:
    """RFB Net512-E: fc7 joined to conv4_3, 7x7 branches."""
    return _build(classes, {"size": 512, "version": "e"}, options)


@_register("300", Published("COCO minival", "AP", 20.7, source=_README), backbone="MobileNet")
def rfbnet300_mobilenet(classes: Sequence[str], **options: Any) -> RFBNet:
    """RFB Net on MobileNet: maps from stride 16, depthwise dilated convolutions, 1x1 predictors."""
    return _build(classes, {"size": 300, "backbone": "mobilenet_v1", "boxes": "coco"}, options)
