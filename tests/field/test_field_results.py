"""What is kept of the field, and what its tables say: numbers worked by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from boxatlas.errors import InputError
from boxatlas.evaluation.survey import SURVEY
from boxatlas.field import judging, report, results
from boxatlas.field.document import survey_table, write_document
from boxatlas.field.plan import ENTRIES, entry
from boxatlas.field.timing import survey_key

ROOT = Path(__file__).parents[2]


def judged(images: int, ap: float, **other: Any) -> dict[str, Any]:
    """What `judge` returns, of made numbers."""
    coco = {"AP": ap, "AP50": 2 * ap, "AP75": ap}
    coco |= {"AP_small": -1.0, "AP_medium": ap / 2, "AP_large": 1.5 * ap}
    return {
        "images": images,
        "seconds": 600.0,
        "bytes": 7_000_000,
        "sha256": f"{images}-{ap}",
        "packing": "half",
        "lost_by_packing": 0.001,
        "parameters": 3_500_000,
        "multiply_adds": 620_000_000,
        "test_images": 10,
        "voc07": 2 * ap,
        "voc07_interval": [2 * ap - 0.01, 2 * ap + 0.01],
        "voc12": 2 * ap,
        "coco": coco,
        "per_class": {},
        "lost": dict.fromkeys(report.MISTAKES, 0.05),
        **other,
    }


def put(folder: Path, name: str, *points: tuple[int, float]) -> None:
    for images, ap in points:
        results.add(folder, name, judging.about(entry(name)), judged(images, ap))


def test_points_are_added_in_order_and_replaced_by_number(tmp_path: Path) -> None:
    put(tmp_path, "ssd", (15000, 0.2), (7500, 0.1), (15000, 0.3))
    held = results.read_results(tmp_path)["ssd"]
    assert [(p["images"], p["coco"]["AP"]) for p in held["judged"]] == [(7500, 0.1), (15000, 0.3)]
    assert results.latest(held)["images"] == 15000
    assert results.has(tmp_path, "ssd", 7500)
    assert not results.has(tmp_path, "ssd", 30000)
    assert [p.name for p in tmp_path.iterdir()] == ["ssd.json"]


@pytest.mark.parametrize(
    ("half", "whole", "expected"),
    [(0.20, 0.2201, True), (0.20, 0.2199, False), (0.20, 0.10, False)],
)
def test_a_gain_of_more_than_a_tenth_in_the_last_half_is_unfinished(
    tmp_path: Path, half: float, whole: float, expected: bool
) -> None:
    put(tmp_path, "ssd", (7500, half), (15000, whole))
    document = results.read_results(tmp_path)["ssd"]
    assert results.unfinished(document, 15000) is expected
    assert results.unfinished(document, 7500) is None  # 3,750 was not judged
    assert results.unfinished(document, 30000) is None


def test_only_finished_methods_of_the_common_start_are_ranked(tmp_path: Path) -> None:
    put(tmp_path, "ssd", (7500, 0.20), (15000, 0.21))
    put(tmp_path, "fpn", (7500, 0.20), (15000, 0.30))  # unfinished
    put(tmp_path, "yolov3", (7500, 0.25), (15000, 0.26))
    put(tmp_path, "ssd_imagenet", (7500, 0.22), (15000, 0.22))
    put(tmp_path, "retinanet", (7500, 0.5))  # not judged after so many
    rows = report.table(results.read_results(tmp_path), 15000, {}, {})
    assert [(r["name"], r["rank"], r["unfinished"]) for r in rows] == [
        ("fpn", None, True),
        ("yolov3", 1, False),
        ("ssd_imagenet", None, False),
        ("ssd", 2, False),
    ]


def test_times_and_intervals_are_those_of_the_very_file(tmp_path: Path) -> None:
    put(tmp_path, "ssd", (7500, 0.2))
    known = results.read_results(tmp_path)
    timed = {"fps": 30.0, "fps_between": [28.0, 31.0], "peak_memory_mb": 100.0}
    sure = {"AP": [0.19, 0.21]}
    sha = known["ssd"]["judged"][0]["sha256"]

    def row(of: str) -> dict[str, Any]:
        speed = {"methods": {"ssd": {"sha256": of, **timed}}}
        return report.table(known, 7500, speed, {"intervals": {of: sure}})[0]

    assert (row(sha)["fps"], row(sha)["AP_interval"]) == (30.0, [0.19, 0.21])
    assert (row("another")["fps"], row("another")["AP_interval"]) == (None, None)


def test_the_table_for_people(tmp_path: Path) -> None:
    put(tmp_path, "fpn", (7500, 0.1234))
    row = report.shown(report.table(results.read_results(tmp_path), 7500, {}, {}))[0]
    assert row[""] == "?"
    assert row["AP"] == "12.3"
    assert row["AP at 0.5 (VOC07)"] == "24.7 (23.7 to 25.7)"
    assert "small" not in row  # COCO's -1: there is none, in any row
    assert row["family"] == "regions, two stages"
    assert (row["Mparam"], row["GMAC"], row["file, MB"]) == ("3.50", "0.62", "7.0")
    assert row["minutes of training"] == "10"
    assert "FPS" not in row


def test_broken_results_are_named(tmp_path: Path) -> None:
    (tmp_path / "ssd.json").write_text("{")
    with pytest.raises(InputError, match=r"ssd\.json: not valid JSON"):
        results.read_results(tmp_path)
    (tmp_path / "ssd.json").write_text("[]")
    with pytest.raises(InputError, match=r"ssd\.json"):
        results.read_results(tmp_path)
    put(tmp_path / "whole", "ssd", (7500, 0.2))
    held = json.loads((tmp_path / "whole" / "ssd.json").read_text())
    del held["judged"][0]["coco"]
    (tmp_path / "ssd.json").write_text(json.dumps(held))
    with pytest.raises(InputError, match=r"ssd\.json: judged: coco: is missing"):
        results.read_results(tmp_path)


def test_two_starts_stand_beside_each_other(tmp_path: Path) -> None:
    put(tmp_path, "ssd", (7500, 0.2))
    put(tmp_path, "ssd_imagenet", (7500, 0.1))
    put(tmp_path, "fpn", (7500, 0.3))
    known = results.read_results(tmp_path)
    expected = [{"method": "ssd", "the field's": "20.0", "ImageNet": "10.0"}]
    assert report.starts(known, 7500) == expected
    assert report.starts(known, 15000) == []


def test_the_survey_has_a_line_for_each_published_one() -> None:
    key = survey_key(SURVEY[0])
    rows = survey_table({"rows": {key: {"fps": 0.35, "fps_between": [0.3, 0.4]}}})
    assert len(rows) == len({survey_key(row) for row in SURVEY}) == 22
    assert rows[0]["FPS, here"] == "0.35"
    assert rows[0]["of the published"] == "0.050"  # 0.35 of 7
    assert rows[1]["FPS, here"] == "-"


def test_plots_name_every_method_and_tell_families_apart(tmp_path: Path) -> None:
    for k, one in enumerate(ENTRIES):
        put(tmp_path, one.name, (7500, 0.1 + k / 100), (15000, 0.15 + k / 100))
    known = results.read_results(tmp_path)
    svg = report.learning_plot(known)
    assert svg is not None
    for one in ENTRIES:
        assert svg.count(f">{one.name}<") == 1
        assert f">{report.family_of(one)}<" in svg
    assert report.speed_plot(report.table(known, 7500, {}, {}), "") is None
    assert report.learning_plot({}) is None


def test_the_page_of_the_documents_is_what_the_stored_results_make(tmp_path: Path) -> None:
    files = write_document(ROOT / "field" / "results", tmp_path)
    page = "boxatlas field document"
    assert (ROOT / "docs" / "field.md").read_text() == files[0].read_text(), page
    for plot in files[1:]:
        assert (ROOT / "docs" / "field" / plot.name).is_file(), page


def test_stored_results_are_whole() -> None:
    """Each names the packed file that it was measured on, and no number is missing."""
    for path in (ROOT / "field" / "results").glob("*.json"):
        if path.stem in ("pairs", "speed", "survey"):
            continue
        held = json.loads(path.read_text())
        assert held["name"] == path.stem == entry(path.stem).name
        for point in held["judged"]:
            assert len(point["sha256"]) == 64
            assert 0 <= point["coco"]["AP"] <= point["coco"]["AP50"] <= 1
            assert point["bytes"] <= 12_000_000
            assert abs(point["lost_by_packing"]) <= 0.003
            low, high = point["voc07_interval"]
            assert low <= point["voc07"] <= high


def test_the_field_in_the_comparison(tmp_path: Path) -> None:
    """Beside what was published of the method; its own input, weights, AP and times."""
    put(tmp_path, "ssd", (7500, 0.1), (15000, 0.2))
    put(tmp_path, "dsod", (7500, 0.1))
    known = results.read_results(tmp_path)
    sha = results.latest(known["ssd"])["sha256"]
    timed = {"sha256": sha, "fps": 30.0, "fps_between": [29.0, 31.0], "latency_ms": 33.3}
    ssd, dsod = report.compared(known, {"methods": {"ssd": timed}})
    assert (ssd.source, ssd.input, ssd.backbone) == ("field/ssd", "224x224", "EfficientNet-Lite0")
    assert (ssd.ap, ssd.ap50, ssd.map, ssd.fps) == (0.2, 0.4, 0.4, 30.0)
    assert (dsod.source, dsod.fps) == ("field/dsod", None)
    assert "EfficientNet" not in dsod.backbone
