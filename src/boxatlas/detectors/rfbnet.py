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
from torch import Tensor, nn

from boxatlas.backbones.choice import BackboneChoices
from boxatlas.backbones.mobilenet_v1 import MobileNetV1
from boxatlas.backbones.vgg import VGG16, VGGChoices
from boxatlas.boxes.matching import MatchChoices
from boxatlas.boxes.nms import SuppressionChoices
from boxatlas.images import InputChoices
from boxatlas.necks.blocks import ConvNorm, UpsamplingChoices, enlarge, xavier
from boxatlas.necks.extra_maps import ExtraLayer, plan
from boxatlas.necks.receptive_field import (
    Branch,
    ReceptiveField,
    ReceptiveFieldChoices,
    rfb,
    rfb_light,
    rfb_narrow,
    rfb_rates,
    rfb_s,
    rfb_s_wide,
)
from boxatlas.ops.norm import L2Norm, L2NormChoices
from boxatlas.options import idea
from boxatlas.parts.default_boxes import (
    DefaultBoxChoices,
    FirstMapChoices,
    TableChoices,
    percents,
    ssd_boxes,
)
from boxatlas.parts.dense import DenseChoices, Predictor, grids_of
from boxatlas.parts.single_shot import Backbone, MultiboxChoices, SingleShot, backbone_of
from boxatlas.registry import Method, Published

METHOD = Method(
    "RFBNet",
    "Receptive Field Block Net for Accurate and Fast Object Detection",
    "1711.07767",
    2017,
    "one-stage",
)
NARROWEST = 256  # a block's output is as wide as its input, but no narrower than the paper's
LIGHT = "mobilenet_v1"  # the backbone of the version with maps from stride 16
LIGHT_LEVELS = 6  # its maps at 300


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
    L2NormChoices,
    ReceptiveFieldChoices,
    UpsamplingChoices,
):
    """RFBNet's ideas; backbone: vgg16, mobilenet_v1 or "timm/NAME"."""

    rfb: bool = idea(True, "table 3: receptive field blocks; off: plain convolutions")
    rfb_s: bool = idea(True, "table 3: RFB-s on the finest map; off: SSD's L2 norm")
    dilated: bool = idea(True, "table 3: the blocks' last convolutions are dilated")
    version: Literal["standard", "e"] = idea("standard", "section 4.2: RFB Net512-E")
    boxes_on_first_map = idea(6, "table 3: default boxes in a cell of the first map")

    backbone = "vgg16"
    score = 0.01  # SSD, section 3.7, as are the next two
    nms_iou = 0.45
    max_detections = 200

    def idle(self) -> dict[str, str]:
        why = super().idle()
        if self.backbone == LIGHT:
            side = -(-min(self.shape) // 32)  # of the backbone's last map
            if side == 1:
                why["rfb"] = "the one block comes after the last map, which has a cell already"
            if 2 + len(_light_plan((side, side))) == LIGHT_LEVELS:
                why["boxes"] = "the six maps from stride 16 have sizes of their own"
        if not self.rfb_s and (not self.rfb or "rfb" in why):
            why["dilated"] = "without rfb and rfb_s there is no block"
        return why


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
        read = [self.first(fine)]
        read += [block(x) for block, x in zip(self.blocks, maps[1:], strict=True)]
        x = read[-1]
        for layer, shown in zip(self.extras, self._shown, strict=True):
            x = layer(x)
            if shown:
                read.append(x)
        return read


class JoinUp(nn.Module):
    """The E version's first map: half of it from conv4_3, half from fc7, up-sampled."""

    def __init__(self, fine: int, coarse: int, align_corners: bool) -> None:
        super().__init__()
        self.channels, self.align_corners = fine, align_corners
        self.fine = ConvNorm(fine, fine - fine // 2, 1)
        self.coarse = ConvNorm(coarse, fine // 2, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        up = enlarge(self.coarse(maps[1]), maps[0].shape[-2:], self.align_corners)
        return torch.cat([self.fine(maps[0]), up], 1)


class RFBNet(SingleShot):
    """Backbone -> receptive field blocks on its maps and between the coarser -> predictors."""

    config: Config

    def __init__(self, classes: Sequence[str], config: Config) -> None:
        backbone, preprocess = backbone_of(
            config,
            config.shape,
            (8, 16, 32),
            mobilenet_v1=MobileNetV1,
            vgg16=lambda: VGG16(("conv4_3", "fc7"), ceil_pools=config.ceil_pools),
        )
        neck, channels = _neck(config, backbone)
        light, sizes = config.backbone == LIGHT, None
        if light and len(channels) == LIGHT_LEVELS:
            sizes = percents([15, 30, 45, 60, 75, 90, 105], min(config.shape))
        boxes = ssd_boxes(config, len(channels), sizes)
        kind = _predict_1x1 if light else Predictor
        super().__init__(
            classes, preprocess, config, backbone, neck, channels, boxes, predictor=kind
        )


def _predict_1x1(channels: int, out: int) -> nn.Module:
    return xavier(nn.Conv2d(channels, out, 1))


def _neck(config: Config, backbone: Backbone) -> tuple[ReceptiveFieldNeck, list[int]]:
    """(the neck, the channels of its maps)."""
    light = config.backbone == LIGHT
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
        first = (
            L2Norm(fine, 20.0, config.norm_eps, config.norm_place)
            if config.backbone == "vgg16"
            else nn.Identity()
        )
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


def _field(config: Config, channels: int, width: int, stride: int = 1) -> nn.Module:
    """RFB as the version and the published rates have it."""
    if config.backbone == LIGHT:
        return _block(config, channels, width, rfb_light(channels), stride)
    narrow = channels == NARROWEST and stride == 2  # only 512 has such blocks
    if config.version == "e":
        branches = rfb_narrow(channels) if narrow else rfb(channels, (1, 3, 5, 7), wide=True)
    else:
        branches = rfb(channels, rfb_rates(config.rates, narrow))
    return _block(config, channels, width, branches, stride)


def _block(
    config: Config, channels: int, width: int, branches: list[Branch], stride: int = 1
) -> ReceptiveField:
    if not config.dilated:
        branches = [(layers, 1) for layers, _ in branches]
    light = config.backbone == LIGHT
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


_README = "README of the authors' repository"
_GPU = "Titan X (Maxwell)"


@METHOD.model(
    "VGG-16",
    "300",
    Published("COCO test-dev", "AP", 30.3, 66.6, _GPU, "the paper, table 4"),
    Published("VOC07 test (07+12)", "mAP@0.5", 80.7, 83, _GPU, _README),
)
def rfbnet300_vgg16(classes: Sequence[str], **options: Any) -> RFBNet:
    """RFB Net at 300x300: six maps, 11620 default boxes."""
    return RFBNet(classes, Config.of(options, size=300))


@METHOD.model("VGG-16", "300")
def rfbnet300e_vgg16(classes: Sequence[str], **options: Any) -> RFBNet:
    """The E version at 300x300, which the authors' code builds but no table reports."""
    return RFBNet(classes, Config.of(options, size=300, version="e"))


@METHOD.model(
    "VGG-16",
    "512",
    Published("COCO test-dev", "AP", 33.8, 33.3, _GPU, _README),
    Published("VOC07 test (07+12)", "mAP@0.5", 82.2, 38, _GPU, _README),
)
def rfbnet512_vgg16(classes: Sequence[str], **options: Any) -> RFBNet:
    """RFB Net at 512x512: seven maps, 32756 default boxes."""
    return RFBNet(classes, Config.of(options, size=512))


@METHOD.model("VGG-16", "512", Published("COCO test-dev", "AP", 34.4, 30.3, _GPU, _README))
def rfbnet512e_vgg16(classes: Sequence[str], **options: Any) -> RFBNet:
    """RFB Net512-E: fc7 joined to conv4_3, 7x7 branches."""
    return RFBNet(classes, Config.of(options, size=512, version="e"))


@METHOD.model("MobileNet", "300", Published("COCO minival", "AP", 20.7, source=_README))
def rfbnet300_mobilenet(classes: Sequence[str], **options: Any) -> RFBNet:
    """RFB Net on MobileNet: maps from stride 16, depthwise dilated convolutions, 1x1 predictors."""
    return RFBNet(classes, Config.of(options, size=300, backbone="mobilenet_v1", boxes="coco"))
