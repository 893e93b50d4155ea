"""Curves of losses, of box codes and of learning rates, computed by the functions that train."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch

from boxatlas.boxes.coders import DeltaCoder
from boxatlas.figures.svg import FILLS, GREY, INK, LINES, Drawing, Plot
from boxatlas.losses.focal import focal_loss
from boxatlas.losses.regression import smooth_l1
from boxatlas.training.optim import schedule as rate_of
from boxatlas.training.optim import steps_in
from boxatlas.training.recipe import Recipe, find_recipe

MEASURED = Path(__file__).parent / "measured"


def log1p() -> str:
    """The target of a width, log(w / w_a), beside the straight line x."""
    drawing = Drawing(520, "t_w = log(1 + x) and the line x, x = (w - w_a) / w_a")
    near = (0.6, 1 / 0.6)  # widths of centred boxes whose IoU with the anchor is 0.6
    plot = Plot(
        drawing,
        (70, 50, 540, 390),
        (-0.9, 2.0),
        (-2.4, 2.0),
        labels=("x = (w − w_a) / w_a", "target t_w"),
        ticks=((-0.5, 0, 0.5, 1, 1.5, 2), (-2, -1, 0, 1, 2)),
    )
    left, right = plot.at(near[0] - 1, 2.0), plot.at(near[1] - 1, -2.4)
    drawing.box(
        left[0], left[1], right[0] - left[0], right[1] - left[1], fill=FILLS[2], stroke="none"
    )
    xs = [i / 50 - 0.9 for i in range(146)]
    anchor = torch.tensor([0.0, 0.0, 100.0, 100.0])
    ys = []
    for x in xs:
        box = torch.tensor([0.0, 0.0, 100 * (1 + x), 100.0])
        ys.append(float(DeltaCoder().encode(box, anchor)[2]))
    plot.curve(xs, xs, 1, "x")
    plot.curve(xs, ys, 0, "log(1 + x)")
    plot.key(["log(1 + x): what is learned", "x: a straight line"], 290, 330)
    drawing.text(left[0] + 8, left[1] + 26, "IoU ≥ 0.6", size=19, fill=LINES[2], bold=True)
    return str(drawing)


def scale_free() -> str:
    """Two objects of one look and two sizes: their shift in pixels differs, dx does not."""
    drawing = Drawing(400, "The same object twice as large: the same targets")
    coder = DeltaCoder()
    for left, top, size in ((40, 90, 110), (260, 40, 220)):
        given = torch.tensor([left, top, left + size, top + size * 1.2])
        shift = 0.2 * size
        wide = torch.tensor([shift, 0.0, shift * 1.5, 0.0])
        truth = given + wide
        dx, _, dw, _ = coder.encode(truth, given).tolist()
        for box, colour, dash in ((given, LINES[0], "8 5"), (truth, LINES[1], "")):
            x1, y1, x2, y2 = box.tolist()
            drawing.box(x1, y1, x2 - x1, y2 - y1, stroke=colour, width=3, dash=dash)
        foot = top + size * 1.2 + 30
        moved = float((truth[0] + truth[2] - given[0] - given[2]) / 2)
        drawing.text(left, foot, f"centre: {moved:.1f} pixels", size=20)
        drawing.text(left, foot + 28, f"dx {dx:.2f}, dw {dw:.3f}", size=20, bold=True, data_dx=dx)
    drawing.line([(20, 385), (64, 385)], stroke=LINES[0], width=3, dash="8 5")
    drawing.text(72, 391, "proposal", size=19)
    drawing.line([(190, 385), (234, 385)], stroke=LINES[1], width=3)
    drawing.text(242, 391, "object", size=19)
    return str(drawing)


def smooth() -> str:
    """Smooth L1 of two betas beside the square."""
    drawing = Drawing(500, "Smooth L1 of beta 1 and 1/9, L1 and the square")
    plot = Plot(
        drawing,
        (70, 50, 540, 370),
        (-3.0, 3.0),
        (0.0, 3.0),
        labels=("difference d", "loss"),
        ticks=((-3, -2, -1, 0, 1, 2, 3), (0, 1, 2, 3)),
    )
    xs = torch.linspace(-3, 3, 241)
    zero = torch.zeros_like(xs)
    for kind, values in enumerate(
        (
            smooth_l1(xs, zero, 1.0, "none"),
            smooth_l1(xs, zero, 1 / 9, "none"),
            xs.square() / 2,
        )
    ):
        plot.curve(xs.tolist(), values.tolist(), kind)
    plot.key(["smooth L1, beta 1", "beta 1/9", "d²/2"], 250, 70)
    return str(drawing)


def focal(gammas: tuple[float, ...] = (0, 0.5, 1, 2, 5)) -> str:
    """The focal loss of a positive by the probability that it is given (figure 1 of the paper)."""
    drawing = Drawing(520, "Focal loss for several gammas")
    plot = Plot(
        drawing,
        (70, 50, 540, 390),
        (0.0, 1.0),
        (0.0, 4.0),
        labels=("probability of what is right, p_t", "loss"),
        ticks=((0, 0.2, 0.4, 0.6, 0.8, 1), (0, 1, 2, 3, 4)),
    )
    p = torch.linspace(0.02, 0.995, 118)
    for kind, gamma in enumerate(gammas):
        loss = focal_loss(
            torch.logit(p)[:, None],
            torch.ones(len(p), 1),
            alpha=None,
            gamma=gamma,
            reduction="none",
        )
        plot.curve(p.tolist(), loss.flatten().tolist(), kind, f"gamma {gamma:g}")
    names = [f"γ = {g:g}" + (" (cross-entropy)" if g == 0 else "") for g in gammas]
    plot.key(names, 350, 80)
    return str(drawing)


def easy_negatives() -> str:
    """Shares of the loss of a trained detector: positives, hard and easy background."""
    held = json.loads((MEASURED / "easy_negatives.json").read_text(encoding="utf-8"))
    rows = held["shares"]
    drawing = Drawing(70 + 92 * len(rows) + 90, "Who makes up the loss of a trained detector")
    parts = (("objects", 0), ("hard background", 1), ("easy background", 5))
    for k, (name, shares) in enumerate(rows.items()):
        top = 30 + 92 * k
        drawing.text(20, top + 18, name, size=20, bold=True)
        left = 20.0
        for part, colour in parts:
            wide = 600 * shares[part]
            drawing.box(
                left,
                top + 28,
                wide,
                38,
                fill=FILLS[colour],
                stroke=LINES[colour],
                data_part=part,
                data_share=f"{shares[part]:.4f}",
            )
            if wide > 60:
                words = f"{100 * shares[part]:.0f} %"
                drawing.text(left + wide / 2, top + 54, words, size=19, anchor="middle")
            left += wide
    foot = 50 + 92 * len(rows)
    for k, (part, colour) in enumerate(parts):
        drawing.box(20 + 200 * k, foot, 22, 22, fill=FILLS[colour], stroke=LINES[colour])
        drawing.text(50 + 200 * k, foot + 18, part, size=19)
    words = f"{held['images']} images, {held['boxes']:,} boxes; easy: p(background) > 0.9"
    drawing.text(20, foot + 56, words, size=18, fill=GREY)
    return str(drawing)


def schedule(recipe: str = "paper/ssd300_vgg16_voc0712") -> str:
    """The learning rate of a recipe, step by step."""
    values = find_recipe(recipe)
    steps = 1000
    rate = rate_of(values, 100)
    total = _length(values)
    xs = [i * total / steps for i in range(steps)]
    ys = [rate(int(x)) for x in xs]
    top = max(ys)
    drawing = Drawing(420, f"The learning rate of {recipe}")
    plot = Plot(
        drawing,
        (110, 60, 500, 280),
        (0, total / 1000),
        (0, top),
        labels=("thousand steps", "learning rate"),
        ticks=(_ticks(total / 1000), (0, top / 2, top)),
    )
    plot.curve([x / 1000 for x in xs], ys, 0, recipe)
    drawing.text(610, 30, recipe, size=18, anchor="end", fill=INK)
    return str(drawing)


def _length(values: Recipe) -> int:
    return steps_in(values.length, values, 100)


def _ticks(most: float) -> list[float]:
    step = 10 ** math.floor(math.log10(most / 2))
    step *= 2 if most / step > 6 else 1
    return [i * step for i in range(int(most / step) + 1)]
