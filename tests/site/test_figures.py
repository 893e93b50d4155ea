"""Figures are what the code does: change it and they change."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from docs.figures import (
    FIGURES,
    atlas,
    curves,
    fields,
    figure,
    pictures,
    pooling,
    steps,
    structures,
)

from boxatlas.losses import focal as focal_module
from boxatlas.parts import default_boxes


def values(svg: str, name: str) -> list[str]:
    return re.findall(rf'data-{name}="([^"]+)"', svg)


# -- three that change with the code --------------------------------------------------------------


def test_default_boxes_change_with_their_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice as large a table: twice as large boxes."""
    pictures.built.cache_clear()
    before = values(pictures.anchors("ssd300_vgg16", level=1), "box")
    assert before == ["60×60", "82×82", "85×42", "42×85", "104×35", "35×104"]  # 60, sqrt(60 * 111)
    sizes = default_boxes.ssd_sizes

    def twice(*given: Any) -> Any:
        low, high = sizes(*given)
        return [2 * v for v in low], [None if v is None else 2 * v for v in high]

    monkeypatch.setattr("boxatlas.detectors.ssd.ssd_sizes", twice)
    pictures.built.cache_clear()
    assert values(pictures.anchors("ssd300_vgg16", level=1), "box")[0] == "120×120"
    pictures.built.cache_clear()


def test_a_structure_changes_with_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six boxes instead of four in a cell of the first map: 6 * 21 channels, not 4 * 21."""
    assert values(structures.structure("ssd"), "shape")[8] == "84x38x38"
    shown = structures.SHOWN["ssd"]
    monkeypatch.setitem(structures.SHOWN, "ssd", replace(shown, options={"boxes_on_first_map": 6}))
    assert values(structures.structure("ssd"), "shape")[8] == "126x38x38"


def test_the_focal_curves_change_with_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """At p_t = 0.995 the cross-entropy is 0.005013; of gamma 2 it is left 0.005^2 of that."""
    last = [float(v) for v in values(curves.focal((0, 2)), "last")]
    assert last[0] == pytest.approx(0.0050125, rel=1e-3)
    assert last[1] == pytest.approx(0.0050125 * 0.005**2, rel=1e-3)
    plain = focal_module.focal_loss
    monkeypatch.setattr(curves, "focal_loss", lambda *a, **k: 3 * plain(*a, **k))
    assert float(values(curves.focal((0,)), "last")[0]) == pytest.approx(0.0150376, rel=1e-3)


# -- facts that figures show ----------------------------------------------------------------------


def test_ssd300_has_8732_boxes() -> None:
    assert values(pictures.anchors("ssd300_vgg16", level=2), "total") == ["8732"]


@pytest.mark.parametrize("method", sorted(structures.SHOWN))
def test_every_structure_is_drawn(method: str) -> None:
    svg = structures.structure(method)
    shapes = values(svg, "shape")
    assert len(shapes) >= 2
    assert all(re.fullmatch(r"\d+(x\d+)*", shape) for shape in shapes)


def test_structures_have_the_papers_shapes() -> None:
    ssd = values(structures.structure("ssd"), "shape")
    assert ssd[2:8] == [
        "512x38x38", "1024x19x19", "512x10x10", "256x5x5", "256x3x3", "256x1x1",
    ]  # fmt: skip
    assert values(structures.structure("yolov1"), "shape")[-1] == "1470"  # 7 * 7 * 30
    assert values(structures.structure("yolov2"), "shape")[-1] == "125x13x13"  # 5 * (5 + 20)
    assert "1029x38x50" in values(structures.structure("rfcn"), "shape")  # 7 * 7 * 21
    assert values(structures.structure("mask_rcnn"), "shape")[-1] == "20x28x28"


def test_the_surveys_region_pools_as_it_says_and_as_caffe_does() -> None:
    def rounded(rows: list[list[float]]) -> list[list[float]]:
        return [[round(v, 6) for v in row] for row in rows]

    assert rounded(pooling.even()) == [[0.8, 0.6], [0.9, 0.6]]
    assert rounded(pooling.pooled()) == [[0.9, 0.6], [0.9, 0.6]]
    assert pooling.caffe_bins(5) == [(0, 3), (2, 5)]  # rows 0 to 2 and 2 to 4 share one
    assert pooling.plain_bins(5) == [(0, 2), (2, 5)]
    assert values(pooling.roi_pool("caffe"), "value")[0] == "0.9000"


def test_position_sensitive_parts_vote() -> None:
    """A region on the object: every part says 1; one that misses it by a part's width: none."""
    assert values(pooling.position_sensitive(3), "value") == ["1.000"] * 9
    assert values(pooling.position_sensitive(3, shift=3), "value") == ["0.000"] * 9
    third = [float(v) for v in values(pooling.position_sensitive(3, shift=1), "value")]
    assert all(v == pytest.approx(2 / 3, abs=1e-3) for v in third)  # two of three columns


def test_a_dilated_branch_sees_a_wider_field() -> None:
    """A 3x3 of rate r behind kernels of extent e reaches e + 2 r cells, and skips some."""
    branches = fields.branches_of("rfb", True)
    block = fields.ReceptiveField(64, 64, branches)
    reach = []
    for branch in block.branches:
        rows = fields.seen(branch, 64).any(1).nonzero().flatten()
        reach.append(int(rows.max() - rows.min()) + 1)
    assert [rate for _, rate in branches] == [1, 3, 5]
    assert reach == [1 + 2, 3 + 6, 5 + 10]
    assert values(fields.receptive_field("rfb", dilated=False), "rate") == ["1", "1", "1"]


def test_levels_change_at_112_224_and_448() -> None:
    """Equation 1 of FPN: floor(4 + log2(side / 224)), from P2 to P5."""
    assert "steps at 112, 224, 448" in fields.roi_levels()


def test_suppression_keeps_the_best_of_each_object() -> None:
    svg = steps.suppression(0.5)
    assert values(svg, "kept") == ["True", "False", "False", "True", "False", "True", "True"]
    assert "IoU 0.73 with A: goes" in svg


def test_average_precision_by_hand() -> None:
    """Precision at the first answer that reaches each recall, as counted on paper."""
    steps_of_recall = [1, 1, 3 / 4, 4 / 7, 5 / 10]
    eleven = [1, 1, 1, 1, 3 / 4, 3 / 4, 4 / 7, 5 / 10, 5 / 10, 0, 0]
    _, _, found = steps.measured()
    assert found["area (VOC 2010 on)"] == pytest.approx(sum(steps_of_recall) / 6)
    assert found["11 points (VOC 2007)"] == pytest.approx(sum(eleven) / 11)
    assert values(steps.precision_recall("area"), "ap") == [f"{sum(steps_of_recall) / 6:.4f}"]


def test_box_codes_do_not_know_the_scale() -> None:
    small, large = (float(v) for v in values(curves.scale_free(), "dx"))
    assert small == pytest.approx(large, abs=1e-6)


def test_the_timeline_has_every_method_in_order() -> None:
    months = [float(v) for v in values(atlas.timeline(), "month")]
    assert len(months) == 19
    assert months == sorted(months)
    assert values(atlas.timeline(), "method")[0] == "rcnn"
    assert set(values(atlas.taxonomy(), "method")) == set(values(atlas.timeline(), "method"))


def test_the_tree_gives_products() -> None:
    svg = atlas.word_tree()
    chance = dict(zip(values(svg, "word"), map(float, values(svg, "p")), strict=True))
    assert chance["animal"] + chance["vehicle"] == pytest.approx(1, abs=2e-3)
    assert chance["terrier"] + chance["hound"] == pytest.approx(chance["dog"], abs=2e-3)


def test_shares_of_the_loss_are_whole() -> None:
    shares = [float(v) for v in values(curves.easy_negatives(), "share")]
    for k in range(0, 9, 3):
        assert sum(shares[k : k + 3]) == pytest.approx(1, abs=3e-3)
    assert shares[2] > 0.5  # easy background, if all boxes count alike


def test_regions_are_merged_one_by_one() -> None:
    tree_sizes = [said for _, said in pictures.search((40, 12, 4))]
    assert tree_sizes[1:] == ["40 regions", "12 regions", "4 regions"]
    assert int(tree_sizes[0].split()[0]) > 40


def test_a_rate_falls_where_its_recipe_says() -> None:
    svg = curves.schedule("paper/ssd300_vgg16_voc0712")
    assert float(values(svg, "last")[0]) == pytest.approx(1e-5)  # 0.001, divided by ten twice


def test_an_unknown_figure_is_refused() -> None:
    with pytest.raises(ValueError, match="no figure is called 'nonsense'"):
        figure("nonsense level=1")


def test_every_svg_says_what_it_is() -> None:
    for name in ("log1p", "smooth-l1", "focal", "suppression", "timeline", "word-tree"):
        svg = FIGURES[name]()
        assert re.search(r"<title>[^<]{10,}</title>", svg)
        sizes = [float(v) for v in re.findall(r'font-size="([\d.]+)"', svg)]
        assert min(sizes) >= 18  # of 640 units: 10 pixels on a phone of 360
