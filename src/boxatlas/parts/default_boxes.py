"""What the detectors on default boxes share: the box tables, matching, mining and loss of SSD.

SSD, DSSD, FSSD, DSOD, RFBNet, RefineDet and M2Det differ in backbone, neck, head and tables and say
so in their own files. Shape letters: B images, A default boxes, K classes, M objects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from boxatlas.backbones.darknet import INPUTS, STAGES, Darknet
from boxatlas.backbones.resnet import ResNet
from boxatlas.backbones.timm_features import PREFIX, TimmFeatures, normalisation
from boxatlas.boxes.anchors import DefaultBoxLevel, default_boxes
from boxatlas.boxes.coders import CLAMP, DeltaCoder
from boxatlas.boxes.matching import Matches, match_argmax_per_object, match_bipartite
from boxatlas.errors import InputError
from boxatlas.images import Preprocess
from boxatlas.losses.multibox import multibox_loss
from boxatlas.options import convention, switch
from boxatlas.parts.dense import DenseConfig, DenseDetector, Grid
from boxatlas.structures import Batch, Targets

NormPlace = Literal["inside_root", "added_to_root", "norm_clamped_below", "clamp_sum_of_squares"]
Step = float | tuple[float, float]  # pixels between centres, or (vertical, horizontal)
Tables = tuple[list[float], list[float | None]]  # (min sizes, max sizes) of each map


class SingleShotConfig(DenseConfig):
    """Every choice that the family has in common. Sizes and steps are pixels of the input."""

    size: int | tuple[int, int] = convention(300, "input (height, width)")
    backbone: str = convention("vgg16", 'the paper\'s own or "timm/NAME"')
    pretrained: bool = convention(False, "the backbone starts from ImageNet weights")
    fold_norms: bool = convention(
        False, "a timm backbone's norms are folded into its convolutions before it learns"
    )

    negatives: float = switch(3.0, "SSD, section 2.2: hard negatives for each positive", ge=0)
    match_iou: float = switch(0.5, "SSD, section 2.2: a box above this overlap is positive")
    loc_weight: float = switch(1.0, "SSD, equation 1: weight of the localisation loss", ge=0)

    # How programs differ.
    boxes: Literal["voc", "coco"] = convention("voc", "which published table of sizes")
    min_sizes: tuple[float, ...] | None = convention(None, "of each map; None: the table's")
    max_sizes: tuple[float | None, ...] | None = convention(None, "of each map; None: the table's")
    ratios: tuple[tuple[float, ...], ...] | None = convention(
        None, "of each map; None: the table's"
    )
    steps: tuple[float, ...] | None = convention(None, "between centres; None: the table's")
    offset: float | tuple[float, ...] = convention(0.5, "of the first centre (of each map)")
    offset_unit: Literal["steps", "pixels"] = convention("steps", "of that offset")
    cell_order: Literal["ssd", "ratio"] = convention(
        "ssd", "ratio: the square of the mean size, then by rising ratio"
    )
    clip_boxes: Literal["none", "each", "size"] = convention("none", "cut default boxes: see boxes")
    truncate_sizes: bool = convention(False, "sizes lose their fractions, as in Caffe")
    match: Literal["bipartite", "argmax"] = convention("bipartite", "argmax: as the ports do")
    difficult: Literal["keep", "drop"] = convention("keep", "difficult objects in training")
    variances: tuple[float, float, float, float] = convention((0.1, 0.1, 0.2, 0.2), "of the code")
    clamp_deltas: bool = convention(False, "decoded boxes grow at most 62.5 times")

    @property
    def shape(self) -> tuple[int, int]:
        return (self.size, self.size) if isinstance(self.size, int) else self.size


class SingleShot(DenseDetector):
    """A dense detector on default boxes. `ratios`, `sizes` and `steps` are a method's tables."""

    def __init__(
        self,
        classes: Sequence[str],
        preprocess: Preprocess,
        config: SingleShotConfig,
        *,
        backbone: nn.Module,
        neck: nn.Module | None,
        head: nn.Module,
        ratios: Sequence[tuple[float, ...]],
        sizes: Tables,
        steps: Callable[[Sequence[Grid], tuple[int, int]], list[Step]] | None = None,
    ) -> None:
        clamp = CLAMP if config.clamp_deltas else None
        super().__init__(
            classes,
            preprocess,
            config,
            backbone=backbone,
            neck=neck,
            head=head,
            coder=DeltaCoder.from_variances(config.variances, clamp=clamp),
        )
        self.shared = config
        self.ratios, self.default_steps = list(ratios), steps or even_steps
        levels = len(self.ratios)
        self.min_sizes = given(config.min_sizes, sizes[0], "min_sizes")
        # A map's largest size is by rule the next one's smallest: given sizes move it along.
        follows = config.min_sizes is not None and None not in sizes[1]
        upper = [*self.min_sizes[1:], sizes[1][-1]] if follows else sizes[1]
        self.max_sizes = given(config.max_sizes, upper, "max_sizes")
        if isinstance(config.offset, tuple):
            given(config.offset, [0.0] * levels, "offset")

    def make_anchors(self, grids: Sequence[Grid], image: tuple[int, int]) -> Tensor:
        """The default boxes of SSD, section 2.2: [A, 4] xyxy in pixels."""
        config = self.shared
        offset = config.offset
        offsets = offset if isinstance(offset, tuple) else (offset,) * len(grids)
        steps = given(config.steps, self.default_steps(grids, image), "steps")
        parts = zip(grids, steps, self.min_sizes, self.max_sizes, self.ratios, offsets, strict=True)
        levels = [DefaultBoxLevel(*part) for part in parts]
        if config.cell_order == "ratio":
            levels = [_by_ratio(level, config.truncate_sizes) for level in levels]
        return default_boxes(
            levels,
            image,
            clip=config.clip_boxes,
            truncate_sizes=config.truncate_sizes,
            centre="offset + index * step"
            if config.offset_unit == "pixels"
            else "(index + offset) * step",
        )

    def matches(self, anchors: Tensor, boxes: Tensor, valid: Tensor) -> Matches:
        """Which object each default box answers for (SSD, section 2.2, matching strategy)."""
        if self.shared.match == "argmax":
            return match_argmax_per_object(anchors, boxes, valid, self.shared.match_iou)
        return match_bipartite(anchors, boxes, valid, self.shared.match_iou)

    def learned(self, targets: Targets) -> Tensor:
        """[B, M] bool: the objects that training learns."""
        valid = targets.valid
        return valid & ~targets.ignore if self.shared.difficult == "drop" else valid

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """SSD, equation 1: confidence over positives and hard negatives, localisation."""
        return self.multibox(self(batch.images), batch.targets)

    def multibox(self, raw: Mapping[str, Tensor], targets: Targets) -> dict[str, Tensor]:
        """Equation 1 of raw outputs."""
        matches = self.matches(raw["anchors"], targets.boxes, self.learned(targets))
        found = multibox_loss(
            raw["logits"],
            raw["deltas"],
            matches,
            raw["anchors"],
            targets.boxes,
            targets.labels,
            self.coder,
            ratio=self.shared.negatives,
            neg_overlap=self.shared.match_iou,
        )
        box = self.shared.loc_weight * found.box
        return {"classification": found.classes, "localisation": box}


def _by_ratio(level: DefaultBoxLevel, truncate_sizes: bool) -> DefaultBoxLevel:
    """The same boxes of a cell: the second square, then by width / height."""
    shapes = level.cell(truncate_sizes)
    second = shapes[1:2] if level.max_size is not None else []
    rest = [s for s in shapes if s not in second]
    return replace(level, shapes=(*second, *sorted(rest, key=lambda s: s[0] / s[1])))


# -- SSD's tables, which most of the family keeps --------------------------------------------------


def ssd_sizes(config: SingleShotConfig, levels: int) -> Tables:
    """(min sizes, max sizes) of each map in pixels: SSD's equation 4 as the scripts round it.

    The first map has a size of its own; the others run to 90 % of the input in whole percents, and
    each map's max size is the next one's min.
    """
    side = min(config.shape)
    large = side >= 512
    table = {"voc": (7, 15) if large else (10, 20), "coco": (4, 10) if large else (7, 15)}
    first, start = table[config.boxes]
    step = (90 - start) // max(1, levels - 2)
    lows = [first, *(start + step * i for i in range(levels - 1))]
    return percents([*lows, start + step * (levels - 1)], side)


def percents(edges: Sequence[float], side: float) -> Tables:
    """(min sizes, max sizes) between edges in percent of the input's side."""
    pixels = [percent * side / 100 for percent in edges]
    return pixels[:-1], list(pixels[1:])


def ssd_ratios(
    config: SingleShotConfig, levels: int, boxes_on_first_map: int
) -> list[tuple[float, ...]]:
    """The aspect ratios of each map: 2 and 3, but 2 alone on the finest and the two coarsest."""
    rows: list[tuple[float, ...]] = [
        (2.0, 3.0) if i < levels - 2 else (2.0,) for i in range(levels)
    ]
    rows[0] = (2.0,) if boxes_on_first_map == 4 else (2.0, 3.0)
    return given(config.ratios, rows, "ratios")


def even_steps(grids: Sequence[Grid], image: tuple[int, int]) -> list[Step]:
    """Pixels between centres: input / map."""
    return [(image[0] / rows, image[1] / columns) for rows, columns in grids]


def ssd_steps(grids: Sequence[Grid], image: tuple[int, int]) -> list[Step]:
    """As `even_steps`, except SSD300's, which the scripts give by hand."""
    if image == (300, 300) and [g[0] for g in grids][:5] == [38, 19, 10, 5, 3] and len(grids) == 6:
        return [8, 16, 32, 64, 100, 300]
    return even_steps(grids, image)


def per_cell(ratios: Sequence[tuple[float, ...]], squares: int = 2) -> list[int]:
    """Boxes in a cell of each map: the squares and two for each ratio."""
    return [squares + 2 * len(r) for r in ratios]


def given(values: Sequence[Any] | None, table: Sequence[Any], field: str) -> list[Any]:
    """An option that is given for each map, or the table's."""
    if values is None:
        return list(table)
    if len(values) != len(table):
        raise InputError(f"needs one for each of the {len(table)} maps", field=field, value=values)
    return list(values)


# -- backbones -------------------------------------------------------------------------------------

_SMALLEST = 32  # side of an input: the deepest map has a cell then
_CAFFE_RGB = {"mean": (123.0, 117.0, 104.0), "std": (1.0, 1.0, 1.0), "scale": 1.0}
_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "scale": 1 / 255}
_HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "scale": 1 / 255}
_INPUTS = {
    "vgg16": _CAFFE_RGB,
    "resnet101": _IMAGENET,
    "mobilenet_v3_large": _HALF,
    "mobilenet_v1": _IMAGENET,
    "dsod": _CAFFE_RGB,
}


def backbone_of(
    config: SingleShotConfig, strides: Sequence[int], **own: Callable[[], Any]
) -> tuple[Any, Preprocess]:
    """The backbone that the config names, and what its weights expect of an image.

    strides: of the maps of a timm backbone; own: makers of the paper's backbones by name.
    """
    name = config.backbone
    if min(config.shape) < _SMALLEST:
        raise InputError(f"must be at least {_SMALLEST}", field="size", value=config.size)
    if name.startswith(PREFIX):
        backbone = TimmFeatures(name, strides, pretrained=config.pretrained, fold=config.fold_norms)
        mean, std = normalisation(name)
        inputs: dict[str, Any] = {"mean": mean, "std": std, "scale": 1 / 255}
    elif name in own:
        backbone, inputs = own[name](), _INPUTS[name]
        if config.pretrained:
            if not hasattr(backbone, "load_pretrained"):
                raise InputError(
                    f"there are no ImageNet weights for {name}",
                    field="pretrained",
                    value=True,
                    hint="pretrained=false, or a timm backbone",
                )
            backbone.load_pretrained()
    elif name in STAGES:
        backbone, inputs = Darknet(name, strides), {**INPUTS, "scale": 1 / 255}
        if config.pretrained:
            backbone.load_pretrained()
    else:
        raise InputError(
            "no such backbone",
            field="backbone",
            value=name,
            hint=", ".join([*own, *STAGES, "or timm/NAME"]),
        )
    return backbone, Preprocess.of(size=config.shape, **inputs)


def caffe_resnet101(
    stages: Sequence[int],
    residual_stride: Literal["1x1", "3x3"],
    eps: float,
    dilate_c5: bool = False,
) -> ResNet:
    """ResNet-101 as Caffe has it: pool1 without padding, rounding up."""
    return ResNet(
        "resnet101",
        stages=stages,
        norm=lambda channels: nn.BatchNorm2d(channels, eps),
        stride_in_1x1=residual_stride == "1x1",
        ceil_pool=True,
        pool_padding=0,
        dilate_c5=dilate_c5,
    )
