"""A feature pyramid and the heads on it. Lin et al. 2016, arXiv 1612.03144.

Shape letters: B images, R RoIs, C channels.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from boxatlas.backbones.choice import BackboneChoices, TrunkChoices, pyramid_backbone
from boxatlas.necks.fpn import FPN
from boxatlas.options import Options, Width, habit, idea, setting
from boxatlas.parts.region.heads import ConvFC, TwoFC

SIDE = 7  # cells a side to which a RoI is pooled (section 4.2)

# The heads of a RoI by the value of `box_head`: each (channels, side, width) -> module.
HEADS: dict[str, type[TwoFC] | type[ConvFC]] = {"2fc": TwoFC, "4conv1fc": ConvFC}


class PyramidChoices(Options):
    """The pyramid and the kind of head on it."""

    top_down: bool = idea(True, "FPN table 1 (d): the top-down pathway")
    lateral: bool = idea(True, "FPN table 1 (e): the lateral connections")
    one_level: bool = idea(False, "FPN table 1 (f): all anchors and RoIs on P2 alone")
    p6: Literal["maxpool", "conv"] = idea(
        "maxpool", "FPN section 4.1, footnote 2: P5 subsampled; a strided 3x3 as in RetinaNet"
    )

    width: Width = setting(256, "channels of the pyramid's maps")

    fpn_norm: Literal["none", "batch"] = habit("none", "norms after the pyramid's convolutions")
    box_head: Literal["2fc", "4conv1fc"] = habit(
        "2fc", "a RoI's head: two fully connected layers, or four convolutions and one layer"
    )

    def idle(self) -> dict[str, str]:
        why = super().idle()
        if self.one_level:
            why["p6"] = "one_level looks at P2 alone"
        if not self.lateral:  # a level is then the one above, enlarged: nothing to add to
            why["top_down"] = "without lateral connections nothing else reaches a level"
        return why


class Pyramid(nn.Module):
    """Backbone and FPN: images -> P2..P6, or P2 alone (table 1 f), with `width` and `strides`.

    p6: whether an RPN looks at P6; RoIs are pooled from the maps of `roi_strides` alone.
    """

    def __init__(self, config: PyramidChoices, p6: bool = True) -> None:
        super().__init__()
        # Groups of every config with a pyramid, which a type cannot say of two together.
        assert isinstance(config, BackboneChoices)
        assert isinstance(config, TrunkChoices)
        self.backbone = pyramid_backbone(
            config.backbone,
            pretrained=config.pretrained,
            norm=config.norm,
            norm_eps=config.norm_eps,
            stride_in_1x1=config.stride_in_1x1,
            fold=config.fold_norms,
        )
        self.neck = FPN(
            self.backbone.channels,
            config.width,
            extra=config.p6 if p6 else "none",
            top_down=config.top_down,
            lateral=config.lateral,
            norm=nn.BatchNorm2d if config.fpn_norm == "batch" else None,
        )
        self.width, self.one_level = config.width, config.one_level
        strides = tuple(self.backbone.strides)
        self.roi_strides = strides[:1] if self.one_level else strides
        self.strides = self.roi_strides if self.one_level else (*strides, 2 * strides[-1])

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images [B, 3, h, w] -> maps [B, width, h / stride, w / stride], fine to coarse."""
        levels = self.neck(self.backbone(images))
        return levels[:1] if self.one_level else levels


# A pyramid for small machines, with fewer proposals and RoIs.
LIGHT: dict[str, Any] = {
    "backbone": "timm/tf_efficientnet_lite0",
    "size": 320,
    "width": 128,
    "box_width": 512,
    "anchor_sizes": (16, 32, 64, 128, 256),
    "proposals_loss": (500, 500),
    "proposals_detect": (300, 300),
    "roi_count": 128,
}
