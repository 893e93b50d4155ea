"""boxatlas compare and ablate."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from boxatlas.cli.ablate import combinations, folder_name, parse_grid
from boxatlas.errors import InputError
from boxatlas.evaluation.comparison import published_row, survey_rows
from boxatlas.zoo import list_models, model_info


def test_the_published_table(say) -> None:
    code, out, _ = say("compare", "--json")
    rows = json.loads(out)["rows"]
    assert code == 0
    assert len(rows) == 22
    first = rows[0]
    assert (first["method"], first["backbone"]) == ("Faster R-CNN", "VGG-16")
    assert (first["published_fps"], first["published_ap"]) == (7.0, 21.9)
    assert all(row["fps"] is None for row in rows)


def test_the_published_table_agrees_with_the_models_own_papers() -> None:
    known = set(list_models())
    checked = 0
    for row in survey_rows():
        if row.model not in known or row.size is not None:
            continue
        values = [p.value for p in model_info(row.model).published if p.metric == "AP"]
        if values:  # a paper has several trainings; a survey takes one
            assert min(abs(v - (row.published_ap or 0)) for v in values) < 1, row
            checked += 1
    assert checked >= 8


def test_a_models_own_published_numbers() -> None:
    row = published_row("ssd300_vgg16")
    assert (row.published_voc07, row.published_ap, row.published_fps) == (77.2, 25.1, 46)
    many = published_row("m2det512_vgg16")
    assert many.published_ap == 37.6  # not the one over many scales


def test_measured_beside_published(
    say, checkpoint: Path, made_scenes: Path, tmp_path: Path
) -> None:
    out = tmp_path / "compared"
    code, printed, err = say(
        "compare",
        checkpoint,
        "--data",
        made_scenes,
        "--seconds",
        0,
        "--out",
        out,
        "--json",
        "--device",
        "cpu",
    )
    assert code == 0, err
    document = json.loads(printed)
    (mine,) = [row for row in document["rows"] if row["fps"] is not None]
    assert mine["model"] == "ssdlite320_efficientnet_lite0"
    assert mine["input"] == "96x96"
    assert 0 <= mine["ap"] <= 1
    assert mine["source"] == str(checkpoint)
    assert document["images"] == 4
    kept = json.loads((out / "comparison.json").read_text())
    assert kept["rows"] == document["rows"]
    assert kept["command"].startswith(f"boxatlas compare {checkpoint} --data {made_scenes}")
    with open(out / "comparison.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 23
    assert (out / "speed_accuracy.svg").read_text().startswith("<svg")
    page = (out / "report.html").read_text()
    assert "SSD300*" in page
    assert "FPS (here)" in page
    code, _, err = say("compare", "--out", out)
    assert code == 2
    assert "already exists" in err


def test_a_model_of_the_published_size_shares_its_line() -> None:
    from boxatlas.cli.compare import _place

    rows = survey_rows()
    new = published_row("ssd300_vgg16")
    new.fps, new.ap = 12.0, 0.2
    _place(rows, new)
    assert len(rows) == 22
    (line,) = [r for r in rows if r.fps == 12.0]
    assert (line.method, line.published_fps) == ("SSD300*", 43.0)
    other = published_row("ssd300_vgg16")
    other.size = 96
    _place(rows, other)
    assert len(rows) == 23


def test_a_grid() -> None:
    grid = parse_grid(["negatives=1,3", "model.l2norm=true, false"])
    assert grid == {"negatives": ["1", "3"], "l2norm": ["true", "false"]}
    assert combinations(grid)[1] == {"negatives": "1", "l2norm": "false"}
    assert len(combinations(grid)) == 4
    assert folder_name({"a": "1/2", "b": "x"}) == "a=1-2_b=x"
    for wrong in (["negatives"], ["=1"], ["a=,"], ["a=1", "a=2"]):
        with pytest.raises(InputError):
            parse_grid(wrong)


@pytest.mark.parametrize(
    ("switch", "message"),
    [("negativs=1,3", "did you mean 'negatives'"), ("negatives=1,many", "negatives")],
)
def test_a_wrong_switch_is_said_before_anything_trains(
    say, made_scenes: Path, tmp_path: Path, switch: str, message: str
) -> None:
    out = tmp_path / "grid"
    code, _, err = say(
        "ablate",
        "ssdlite320_efficientnet_lite0",
        "--switch",
        switch,
        "--data",
        made_scenes,
        "--out",
        out,
        "--set",
        "train_split=val",
    )
    assert code == 2
    assert message in err
    assert not out.exists()


@pytest.mark.slow
def test_a_grid_trains_and_is_gone_on_with(say, made_scenes: Path, tmp_path: Path) -> None:
    arguments = (
        "ablate",
        "ssdlite320_efficientnet_lite0",
        "--switch",
        "negatives=1,3",
        "--data",
        made_scenes,
        "--out",
        tmp_path / "grid",
        "--set",
        "init=none",
        "--set",
        "model.size=96",
        "--set",
        "batch=2",
        "--set",
        "epochs=1",
        "--set",
        "train_split=test",
        "--device",
        "cpu",
        "--json",
    )
    code, out, err = say(*arguments)
    assert code == 0, err
    rows = json.loads(out)["rows"]
    assert [r["switches"]["negatives"] for r in rows] == ["1", "3"]
    assert all(r["iterations"] == 2 and r["fps"] > 0 for r in rows)
    assert json.loads((tmp_path / "grid" / "results.json").read_text()) == rows
    with open(tmp_path / "grid" / "results.csv", newline="") as file:
        assert [r["negatives"] for r in csv.DictReader(file)] == ["1", "3"]
    assert say(*arguments)[0] == 2
    code, out, _ = say(*arguments, "--resume")
    assert code == 0
    assert [r["mAP"] for r in json.loads(out)["rows"]] == [r["mAP"] for r in rows]
