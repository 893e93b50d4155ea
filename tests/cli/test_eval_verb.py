"""boxatlas eval."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from pathlib import Path

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import boxatlas
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


def test_where_neither_test_nor_val_is_all_images_are_judged_aloud(
    say, checkpoint: Path, tmp_path: Path
) -> None:
    scenes.write(tmp_path / "one", {"train": 3})
    code, out, err = say("eval", checkpoint, "--data", tmp_path / "one", "--no-speed", "--json")
    assert code == 0, err
    assert json.loads(out)["images"] == 3
    assert "neither test nor val is there: all images are judged (train)" in " ".join(err.split())


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
    for said in ("boxatlas eval", "sha256 ", "Can scores be believed"):
        assert said in (out_folder / "report.html").read_text()
    low, high = numbers["speed"]["fps_between"]
    assert low <= numbers["fps"] <= high
    code, _, err = say(*arguments)  # nothing is overwritten unasked
    assert code == 2
    assert "already exists" in err
    assert say(*arguments, "--no-speed", "--force")[0] == 0


def test_pycocotools_judges_the_files_as_we_do(
    say, checkpoint: Path, made_scenes: Path, tmp_path: Path
) -> None:
    data, out = tmp_path / "coco", tmp_path / "report"
    assert say("data", "convert", made_scenes, data, "--to", "coco")[0] == 0
    file = next(data.rglob("instances_test*.json"))
    known = json.loads(file.read_text())
    for row in (*known["images"], *known["annotations"]):  # ids of the data's own
        key = "image_id" if "image_id" in row else "id"
        row[key] = 1000 + 7 * row[key]
    kinds = {c["id"]: 90 - c["id"] for c in known["categories"]}
    for row in known["categories"]:
        row["id"] = kinds[row["id"]]
    for row in known["annotations"]:
        row["category_id"] = kinds[row["category_id"]]
    file.write_text(json.dumps(known))
    code, printed, err = say(
        "eval", checkpoint, "--data", data, "--split", "test", "--no-speed", "--out", out, "--json"
    )
    assert code == 0, err
    numbers = json.loads(printed)["coco"]
    for truth in (file, out / "objects.json"):
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(str(truth))
            judge = COCOeval(coco, coco.loadRes(str(out / "detections.json")), "bbox")
            judge.evaluate()
            judge.accumulate()
            judge.summarize()
        assert judge.stats[0] == pytest.approx(numbers["AP"], abs=1e-6)
        assert judge.stats[1] == pytest.approx(numbers["AP50"], abs=1e-6)


def test_names_that_are_formulas_or_markup_cost_no_report(
    say, checkpoint: Path, tmp_path: Path
) -> None:
    odd = ("$\\frac{a}$", "ball [red]", "ball [/]", "_hidden", "\x1b[31mred", "=1+1")
    data = tmp_path / "odd"
    scenes.write(data, {"train": 1, "val": 1, "test": 2})
    model = boxatlas.create_model(
        "ssdlite320_efficientnet_lite0", classes=odd, size=96, pretrained=False
    )
    model.save(tmp_path / "odd.safetensors")
    coco = tmp_path / "coco"
    assert say("data", "convert", data, coco, "--to", "coco")[0] == 0
    for file in coco.rglob("instances_*.json"):
        known = json.loads(file.read_text())
        for row, name in zip(known["categories"], odd, strict=False):
            row["name"] = name
        file.write_text(json.dumps(known))
    out = tmp_path / "report"
    arguments = ("eval", tmp_path / "odd.safetensors", "--data", coco, "--split", "test")
    code, printed, err = say(*arguments, "--no-speed", "--out", out)
    assert code == 0, err
    assert "ball [red]" in printed
    assert "ball [/]" in printed
    assert "\x1b" not in printed
    page = (out / "report.html").read_text()
    assert "$\\frac{a}$" in page
    assert "\x1b" not in page
    assert "'=1+1" in (out / "per_class.csv").read_text() or len(known["categories"]) < 6


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
        ("missing.safetensors", "missing.safetensors: no such file"),
        ("ssd300_vg16", "did you mean 'ssd300_vgg16'"),
        ("yolov1", "whose trained weights the package does not carry"),
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
