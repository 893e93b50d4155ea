"""The survey's plot: every point is named, and no two names cover each other."""

from __future__ import annotations

import itertools
import re

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from boxatlas.evaluation import plots
from boxatlas.evaluation.comparison import published_plot, survey_rows


def test_the_survey_names_every_row_and_tells_methods_and_stages_apart() -> None:
    svg = published_plot(survey_rows())
    assert svg is not None
    rows = survey_rows()
    for row in rows:
        assert f">{row.method}, {row.backbone}<" in svg
    legend = {"SSD", "YOLOv3", "M2Det", "R-FCN", "Cascade R-CNN", "Mask R-CNN"}
    assert all(f">{name}<" in svg for name in legend)
    marks = re.findall(r'<use xlink:href="#(\w+)"[^>]*fill: (#\w{6}); stroke: (#\w{6})', svg)
    points, legend = marks[:22], marks[22:]  # of the survey's rows; of their methods
    assert len(set(points)) == len(legend) == 12
    assert len({shape for shape, _, _ in legend}) == 12  # in grey as well
    two_stage = sum(row.model is not None and "rcnn" in row.model for row in rows) + 1  # R-FCN
    assert [fill for _, fill, _ in points].count("#ffffff") == two_stage == 5


def test_names_cover_neither_each_other_nor_points() -> None:
    """Twelve points in a narrow band, their names longer than the gaps between them."""
    figure = Figure(figsize=(9, 6))
    axes = figure.add_subplot()
    points = [(float(x), 30 + 0.2 * (x % 3), f"a name of some length, {x}") for x in range(10, 22)]
    axes.scatter([p[0] for p in points], [p[1] for p in points])
    axes.set(xlim=(5, 60), ylim=(20, 40), xscale="log")
    plots._name_points(figure, axes, points)
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [text.get_window_extent(renderer) for text in axes.texts]
    assert [text.get_text() for text in axes.texts] == [name for _, _, name in points]
    for a, b in itertools.combinations(boxes, 2):
        shared = plots._overlap(a.extents, b.extents)
        assert shared <= 0.05 * a.width * a.height
    inside = axes.get_window_extent(renderer).extents
    for box in boxes:
        assert plots._overlap(box.extents, inside) == pytest.approx(box.width * box.height)
