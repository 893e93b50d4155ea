"""The backbone of a pyramid by name: ResNet, ResNeXt, MobileNetV3, Darknet, anything of timm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import field_validator

from boxatlas.backbones.darknet import INPUTS, STAGES, Darknet
from boxatlas.backbones.mobilenet_v3 import MobileNetV3Features
from boxatlas.backbones.resnet import ResNet, norm_layer
from boxatlas.backbones.timm_features import PREFIX, TimmFeatures, normalisation
from boxatlas.images import Preprocess
from boxatlas.options import NotNegative, Options, Pixels, habit, setting

Backbone = ResNet | MobileNetV3Features | TimmFeatures | Darknet


class BackboneChoices(Options):
    """Which network makes the maps, and where it starts; every method has these."""

    backbone: str = setting("resnet50", 'the network that makes the maps, or "timm/NAME"')
    pretrained: bool = setting(False, "the backbone starts from ImageNet weights")
    fold_norms: bool = setting(
        False, "a timm backbone's batch norms are folded into its convolutions before training"
    )

    def idle(self) -> dict[str, str]:
        folds = self.backbone.startswith(PREFIX)
        return super().idle() | ({} if folds else {"fold_norms": "only timm backbones fold"})


def side_limits(size: object) -> object:
    """One number s as (s, 5/3 s): 800 pixels go with at most 1333, 600 with 1000."""
    if isinstance(size, int) and not isinstance(size, bool):
        return (size, round(size * 5 / 3))
    return size


class TrunkChoices(Options):
    """What `pyramid_backbone` and `pyramid_preprocess` read beside `BackboneChoices`."""

    size: tuple[Pixels, Pixels] = setting(
        (800, 1333), "shorter side of an input, and the longer one's limit; s alone: s and 5/3 s"
    )
    train_sizes: tuple[Pixels, ...] = setting((), "shorter sides that training changes among")
    norm: Literal["frozen", "batch"] = habit("frozen", "batch norms of a ResNet or MobileNet")
    norm_eps: NotNegative = habit(1e-5, "epsilon of the backbone's batch norms")
    stride_in_1x1: bool = habit(
        False, "a ResNet's blocks stride in their 1x1 convolution, as the original's, not the 3x3"
    )

    _one_number = field_validator("size", mode="before")(side_limits)

    @field_validator("size")
    @classmethod
    def _shorter_first(cls, size: tuple[int, int]) -> tuple[int, int]:
        if size[1] < size[0]:
            raise ValueError("the limit of the longer side is below the shorter side")
        return size


def pyramid_backbone(
    name: str,
    stages: Sequence[int] = (2, 3, 4, 5),
    *,
    pretrained: bool = False,
    norm: Literal["frozen", "batch"] = "frozen",
    norm_eps: float = 1e-5,
    stride_in_1x1: bool = False,
    fold: bool = False,
) -> Backbone:
    """A module images -> maps of `stages` (C2 at stride 4 to C5 at 32), with `channels`, `strides`.

    name: resnet50, resnext101_32x8d, mobilenet_v3_large (two maps of stride 32), or one whose norms
    are its own: darknet19, darknet53, extraction, "timm/NAME" (fold: those of timm go into the
    convolutions before them). pretrained: ImageNet weights. Raises InputError for an unknown name,
    or weights out of reach.
    """
    if name.startswith(PREFIX):
        return TimmFeatures(name, [2**s for s in stages], pretrained=pretrained, fold=fold)
    if name in STAGES:
        darknet = Darknet(name, [2**s for s in stages])
        if pretrained:
            darknet.load_pretrained()
        return darknet
    made = norm_layer(norm, norm_eps)
    backbone = (
        MobileNetV3Features(made)
        if name == "mobilenet_v3_large"
        else ResNet(name, stages=stages, norm=made, stride_in_1x1=stride_in_1x1)
    )
    if pretrained:
        backbone.load_pretrained()
    return backbone


def has_own_norms(name: str) -> bool:
    """Whether a backbone is timm's or Darknet's: their norms and strides are not chosen here."""
    return name.startswith(PREFIX) or name in STAGES


def pyramid_preprocess(name: str, size: tuple[int, int]) -> Preprocess:
    """Shorter side to size[0], longer at most size[1], colours as the backbone's weights expect."""
    if name in STAGES:
        return Preprocess.of(size=size, resize="shorter", **INPUTS)
    if not name.startswith(PREFIX):
        return Preprocess.of(size=size, resize="shorter")
    mean, std = normalisation(name)
    return Preprocess.of(size=size, resize="shorter", mean=mean, std=std)
