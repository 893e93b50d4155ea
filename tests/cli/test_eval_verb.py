"""boxatlas eval."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from boxatlas import scenes
from boxatlas.data import read
from boxatlas.evaluation import evaluate, predict
from boxatlas.weights import load


def test_json_is_what_the_library_computes(say, checkpoint: Path, made_scenes: Path) -> None:
    code, out, err = say(
        "eval",
        checkpoint,
        "--data",
        made_scenes,
        "--split",
        "val",
        "--metric",
        "voc07",
        "--no-speed",
        "--json",
        "--device",
        "cpu",
    )
    assert code == 0, err
    document = json.loads(out)
    table = read(made_scenes, "val")
    expected = evaluate(predict(load(checkpoint), table, progress=False), table, "voc07")
    assert document["mAP"] == pytest.approx(expected["mAP"])
    assert set(document["per_class"]) == set(scenes.CLASSES)
    assert document["coco"].keys() == expected["coco"].keys()
    assert document["images"] == 3
    assert document["split"] == "val"
    assert set(document["errors"]["counts"]) >= {"classification", "missed"}


def test_test_is_the_usual_split_and_folders_are_joined(
    say, checkpoint: Path, made_scenes: Path
) -> None:
    code, out, _ = say(
        "eval", checkpoint, "--data", made_scenes, "--data", made_scenes, "--no-speed", "--json"
    )
    assert code == 0
    document = json.loads(out)
    assert (document["split"], document["images"]) == ("test", 8)


def test_the_report_folder(say, checkpoint: Path, made_scenes: Path, tmp_path: Path) -> None:
    out_folder = tmp_path / "report"
    arguments = ("eval", checkpoint, "--data", made_scenes, "--limit", 2, "--out", out_folder)
    code, out, err = say(*arguments)
    assert code == 0, err
    assert "FPS" in out
    assert "mAP" in out
    assert (out_folder / "report.html").read_text().startswith("<!doctype html>")
    numbers = json.loads((out_folder / "metrics.json").read_text())
    assert numbers["fps"] > 0
    assert numbers["images"] == 2
    with open(out_folder / "per_class.csv", newline="") as file:
        assert [r["class"] for r in csv.DictReader(file)] == list(numbers["per_class"])
    rows = json.loads((out_folder / "detections.json").read_text())
    assert {r["image_id"] for r in rows} <= {1, 2}
    code, _, err = say(*arguments)  # nothing is overwritten unasked
    assert code == 2
    assert "already exists" in err
    assert say(*arguments, "--no-speed", "--force")[0] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--metric", "voc2007"], "did you mean 'voc07'"),
        (["--split", "tests"], "did you mean 'test'"),
        (["--data", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_a_mistake_is_one_line(
    say, checkpoint: Path, made_scenes: Path, change: list[str], message: str
) -> None:
    code, out, err = say("eval", checkpoint, "--data", made_scenes, *change)
    assert code == 2
    assert out == ""
    assert err.strip().count("\n") == 0
    assert message in err


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("missing.safetensors", "missing.safetensors: no such checkpoint"),
        ("ssd300_vg16", "did you mean 'ssd300_vgg16'"),
        ("yolov1", "no weights are bundled for yolov1"),
    ],
)
def test_a_detector_that_is_none(say, made_scenes: Path, what: str, message: str) -> None:
    code, _, err = say("eval", what, "--data", made_scenes)
    assert code == 2
    assert message in err


def test_other_classes_than_the_datas(say, checkpoint: Path, tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "images" / "a.png")
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "data.yaml").write_text("names: [zebra]\ntrain: images\n")
    code, _, err = say("eval", checkpoint, "--data", tmp_path)
    assert code == 2
    assert "share no class" in err.splitlines()[-1]
