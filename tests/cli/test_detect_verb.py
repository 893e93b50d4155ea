"""boxatlas detect."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from boxatlas.cli.detect import find_pictures
from boxatlas.errors import InputError
from boxatlas.weights import load


@pytest.fixture
def photos(made_scenes: Path, tmp_path: Path) -> Path:
    """Two folders with a picture of the same name, and one PNG."""
    source = sorted((made_scenes / "JPEGImages").iterdir())
    for folder in ("a", "b"):
        (tmp_path / "photos" / folder).mkdir(parents=True)
        shutil.copy(source[0], tmp_path / "photos" / folder / f"same{source[0].suffix}")
    Image.open(source[1]).save(tmp_path / "photos" / "c.png")
    (tmp_path / "photos" / "notes.txt").write_text("no picture")
    return tmp_path / "photos"


def test_what_is_written(say, checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "found"
    arguments = ("detect", photos, "--model", checkpoint, "--score", 0.15, "--out", out)
    code, printed, err = say(*arguments, "--json")
    assert code == 0, err
    document = json.loads(printed)
    assert document == json.loads((out / "detections.json").read_text())
    assert [Path(i["file_name"]).name for i in document["images"]] == [
        "same.jpg",
        "same.jpg",
        "c.png",
    ] or len(document["images"]) == 3
    assert len(list((out / "pictures").iterdir())) == 3  # equal names told apart
    alone = load(checkpoint).detect(photos / "c.png", score=0.15)
    place = next(i for i in document["images"] if i["file_name"].endswith("c.png"))
    mine = [a for a in document["annotations"] if a["image_id"] == place["id"]]
    assert len(mine) == len(alone) > 0
    x1, y1, x2, y2 = alone.boxes[0].tolist()
    assert mine[0]["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=1e-2)
    names = {c["id"]: c["name"] for c in document["categories"]}
    assert names[mine[0]["category_id"]] == alone.names[0]
    assert (place["height"], place["width"]) == (72, 96)
    with open(out / "detections.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(document["annotations"])
    assert all(float(r["score"]) >= 0.15 for r in rows)
    code, _, err = say(*arguments)
    assert code == 2
    assert "already exists" in err


def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    say, photos: Path, tmp_path: Path
) -> None:
    """The checkpoint, which is not there either, is never looked for."""
    out = photos / "c.png" / "found"
    code, printed, err = say("detect", photos, "--model", tmp_path / "no.safetensors", "--out", out)
    assert (code, printed) == (2, "")
    assert err.startswith(f"boxatlas: error: {out.parent}: is a file, not a folder")


def test_ids_are_cocos(say, checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    """pycocotools opens the file as a data set of its own."""
    from pycocotools.coco import COCO

    say(
        "detect",
        photos,
        "--model",
        checkpoint,
        "--score",
        0.1,
        "--out",
        tmp_path / "o",
        "--no-pictures",
    )
    assert not (tmp_path / "o" / "pictures").exists()
    opened = COCO(str(tmp_path / "o" / "detections.json"))
    assert len(opened.getImgIds()) == 3
    assert min(opened.getAnnIds()) == 1


def test_only_some_classes(say, checkpoint: Path, photos: Path) -> None:
    code, out, _ = say(
        "detect",
        photos,
        "--model",
        checkpoint,
        "--score",
        0.05,
        "--class",
        "cup",
        "--class",
        "star",
        "--json",
    )
    document = json.loads(out)
    kept = {a["category_id"] for a in document["annotations"]}
    names = {c["id"]: c["name"] for c in document["categories"]}
    assert code == 0
    assert {names[k] for k in kept} == {"cup", "star"}
    code, _, err = say("detect", photos, "--model", checkpoint, "--class", "cap")
    assert code == 2
    assert "did you mean 'cup'" in err


def test_a_picture_that_cannot_be_read_is_passed_over(say, checkpoint: Path, photos: Path) -> None:
    whole = (photos / "c.png").read_bytes()
    (photos / "torn.png").write_bytes(whole[: len(whole) // 2])
    code, out, err = say("detect", photos, "--model", checkpoint, "--json")
    document = json.loads(out)
    assert code == 1
    assert len(document["images"]) == 3
    assert "torn.png" in document["unreadable"][0]
    assert "torn.png" in err


def test_where_no_picture_can_be_read_it_is_an_error(say, checkpoint: Path, tmp_path: Path) -> None:
    torn = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in torn:
        path.write_bytes(b"no picture")
    given = ("--model", checkpoint, "--json", "--out", tmp_path / "found")
    code, out, err = say("detect", torn[0], *given)
    assert (code, out) == (2, "")
    assert err == f"boxatlas: error: {torn[0]}: not an image that can be read\n"
    code, out, err = say("detect", *torn, *given)
    assert (code, out) == (2, "")
    assert "none of the 2 pictures can be read" in err
    assert not (tmp_path / "found").exists()


def test_sources(photos: Path) -> None:
    assert len(find_pictures([str(photos)])) == 3
    assert len(find_pictures([str(photos / "*.png"), str(photos / "c.png")])) == 1
    assert len(find_pictures([str(photos / "**" / "*.jpg")])) >= 2
    for source, message in (
        (str(photos / "no.png"), "no such file"),
        (str(photos / "*.gif"), "no picture matches"),
    ):
        with pytest.raises(InputError, match=message):
            find_pictures([source])
    (photos / "empty").mkdir()
    with pytest.raises(InputError, match="holds no picture"):
        find_pictures([str(photos / "empty")])
