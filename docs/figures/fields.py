"""What a cell sees, and which level sees a region: asked of built blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import boxatlas
from boxatlas.detectors.rfbnet import Config
from boxatlas.figures.svg import FILLS, GREY, INK, LINES, Drawing, Plot
from boxatlas.necks.receptive_field import Branch, ReceptiveField, rfb, rfb_rates, rfb_s
from boxatlas.parts.region.detector import RegionDetector
from boxatlas.parts.region.roi import roi_levels as levels_of

_SIDE = 19  # cells of the map that is looked at


def branches_of(kind: str, dilated: bool) -> list[Branch]:
    """The branches of RFB or RFB-s by the paper's rates, or all of rate 1."""
    if kind == "rfb":
        return rfb(64, rfb_rates(Config.of({}).rates, narrow=False) if dilated else (1, 1, 1))
    return rfb_s(64) if dilated else rfb_s(64, (1, 1, 1, 1))


def seen(branch: nn.Module, channels: int) -> Tensor:
    """[side, side] bool: cells that change the middle of a branch's output."""
    for module in branch.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1.0)
    given = torch.ones(1, channels, _SIDE, _SIDE, requires_grad=True)
    out = branch.eval()(given)
    out[..., _SIDE // 2, _SIDE // 2].sum().backward()
    assert given.grad is not None
    return given.grad[0].abs().sum(0) > 0


def receptive_field(kind: str = "rfb", dilated: bool = True) -> str:
    """Each branch of a block by itself: the cells that its middle sees."""
    block = ReceptiveField(64, 64, branches_of(kind, dilated))
    title = f"A block {kind} {'as published' if dilated else 'without dilation'}"
    drawing = Drawing(300, title)
    drawing.text(20, 30, title, size=21, bold=True)
    count = len(block.branches)
    wide = 620 / count
    cell = min(10.0, (wide - 16) / _SIDE)
    for k, branch in enumerate(block.branches):
        assert isinstance(branch, nn.Sequential)
        cells = seen(branch, 64)
        left, top = 14 + wide * k, 50.0
        drawing.box(left, top, _SIDE * cell, _SIDE * cell, stroke=GREY, width=1)
        for r, c in cells.nonzero().tolist():
            drawing.box(
                left + c * cell, top + r * cell, cell, cell, fill=FILLS[0], stroke=LINES[0], width=1
            )
        middle = _SIDE // 2
        drawing.box(
            left + middle * cell, top + middle * cell, cell, cell, fill=LINES[1], stroke=LINES[1]
        )
        kernels = [m.kernel_size for m in branch.modules() if isinstance(m, nn.Conv2d)]
        rate = [m.dilation[0] for m in branch.modules() if isinstance(m, nn.Conv2d)][-1]
        words = ", ".join(f"{a}×{b}" for a, b in kernels[:-1])
        foot = top + _SIDE * cell
        size = 19 if count < 4 else 18
        drawing.text(left, foot + 26, words, size=size, fill=INK)
        drawing.text(left, foot + 50, f"3×3 of rate {rate}", size=size, data_rate=rate)
    return str(drawing)


def roi_levels(model: str = "faster_rcnn_r50_fpn") -> str:
    """The level of a square RoI by its side, from the model's own rule."""
    with torch.device("meta"):
        detector = boxatlas.create_model(model)
    assert isinstance(detector, RegionDetector)
    sides = torch.arange(10.0, 901.0)
    boxes = torch.stack([torch.zeros_like(sides)] * 2 + [sides] * 2, 1)
    first = int(torch.tensor(float(detector.roi_strides[0])).log2())
    level = levels_of(detector.config, boxes, detector.roi_strides) + first
    drawing = Drawing(400, "The pyramid's level of a square RoI, by its side")
    plot = Plot(
        drawing,
        (70, 60, 540, 260),
        (0, 900),
        (1.5, 5.5),
        labels=("side of the RoI in pixels", "level"),
        ticks=((112, 224, 448, 900), (2, 3, 4, 5)),
    )
    plot.curve(sides.tolist(), level.tolist(), 0, model)
    steps = [int(s) for s, a, b in zip(sides[1:], level, level[1:], strict=False) if a != b]
    drawing.text(600, 290, f"steps at {', '.join(map(str, steps))}", size=19, anchor="end")
    return str(drawing)
