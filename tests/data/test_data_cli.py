"""`boxatlas data` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sets import two_images, write_set

from boxatlas.cli import main


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    code = 0
    try:
        main([str(a) for a in arguments])
    except SystemExit as done:
        code = int(done.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def as_json(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> Any:
    got, out, _ = run(capsys, "data", *arguments, "--json")
    assert got == code
    return json.loads(out)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_set(tmp_path / "set", two_images(), "voc", {"train": [0, 1], "test": [2]})


def spoiled(folder: Path) -> Path:
    path = folder / "Annotations" / "0.xml"
    path.write_text(path.read_text().replace("<xmax>60</xmax>", "<xmax>160</xmax>"))
    return folder


def test_check_of_a_sound_set(folder: Path, capsys):
    code, out, _ = run(capsys, "data", "check", folder)
    assert code == 0
    assert "3 images (test 1, train 2), 5 objects: 0 errors" in out
    found = as_json(capsys, "check", folder)
    assert (found["layout"], found["images"], found["errors"]) == ("voc", 3, 0)


def test_check_lists_flaws_and_mends_a_copy(folder: Path, tmp_path: Path, capsys):
    spoiled(folder)
    code, out, _ = run(capsys, "data", "check", folder, "--no-images")
    assert code == 1
    assert "0.xml: object[0]: (10, 20, 160, 90) reaches beyond the image of 120 x 100" in out
    found = as_json(capsys, "check", folder, "--fix", tmp_path / "fixed", code=1)
    assert found["counts"]["box_beyond"] == 1
    (action,) = [a for a in found["repaired"]["actions"] if a["kind"] == "box_beyond"]
    assert action["did"] == "clipped"
    assert found["repaired"]["errors left"] == []
    assert as_json(capsys, "check", tmp_path / "fixed")["errors"] == 0
    code, _, err = run(capsys, "data", "check", folder, "--fix", tmp_path / "fixed")
    assert code == 2
    assert err.count("\n") == 1
    assert "holds something already" in err


def test_a_copy_of_which_nothing_is_left_is_said_to_be_so(tmp_path: Path, capsys):
    folder = write_set(tmp_path / "set", two_images(), "coco")
    (folder / "annotations" / "instances_train.json").write_text("{")
    code, out, _ = run(capsys, "data", "check", folder, "--fix", tmp_path / "fixed")
    assert code == 1
    assert "still there: " in out
    assert "holds nothing of the layout coco" in out


def test_many_flaws_are_counted_once(folder: Path, monkeypatch, capsys):
    """The table and the order of what is printed come from one count, however many flaws."""
    from boxatlas.data import doctor

    counts = []
    counted = doctor.counted
    monkeypatch.setattr(doctor, "counted", lambda flaws: counts.append(1) or counted(flaws))
    path = spoiled(folder) / "Annotations" / "0.xml"
    text = path.read_text()
    thing = text[text.index("<object>") : text.index("</object>") + len("</object>")]
    path.write_text(text.replace(thing, thing * 40))
    code, out, _ = run(capsys, "data", "check", folder, "--no-images", "--all")
    assert code == 1
    assert out.count("reaches beyond the image of") == 40
    assert len(counts) < 5


def test_half_of_a_pair_in_a_name_can_be_printed(tmp_path: Path):
    from boxatlas.data.doctor import Flaw

    assert str(Flaw("class_unused", "set", "", "owl\n\ud800")) == "set: owl \\ud800"


def test_stats(folder: Path, tmp_path: Path, capsys):
    code, out, _ = run(capsys, "data", "stats", folder, "--out", tmp_path / "s.png")
    assert code == 0
    assert "tea pot" in out
    found = as_json(capsys, "stats", folder, "--split", "train")
    assert found["splits"]["train"]["objects"] == 2  # the third is ignored
    with Image.open(tmp_path / "s.png") as image:
        assert image.format == "PNG"
    code, _, err = run(capsys, "data", "stats", folder, "--out", tmp_path / "s.png")
    assert (code, "already exists" in err) == (2, True)


def test_view(folder: Path, tmp_path: Path, capsys):
    found = as_json(capsys, "view", folder, "--out", tmp_path / "v.png", "--count", 2)
    assert len(found["images"]) == 2
    assert Path(found["picture"]).is_file()
    found = as_json(
        capsys,
        "view",
        folder,
        "--out",
        tmp_path / "a.png",
        "--augmented",
        "ssd",
        "--class",
        "tea pot",
    )
    assert [Path(p).name for p in found["images"]] == ["0.png"]
    code, _, err = run(
        capsys, "data", "view", folder, "--out", tmp_path / "b.png", "--augmented", "sdd"
    )
    assert (code, "did you mean 'ssd'" in err) == (2, True)


def test_convert(folder: Path, tmp_path: Path, capsys):
    found = as_json(capsys, "convert", folder, tmp_path / "yolo", "--to", "yolo")
    assert (found["images"], found["objects"]) == (3, 5)
    assert any("ignored objects" in note for note in found["left out"])
    assert as_json(capsys, "check", tmp_path / "yolo")["layout"] == "yolo"


def test_split(folder: Path, tmp_path: Path, capsys):
    found = as_json(capsys, "split", folder, tmp_path / "s", "--parts", "train=2,test=1")
    assert sum(found["splits"].values()) == 3
    again = as_json(capsys, "split", folder, tmp_path / "t", "--parts", "train=2,test=1")
    assert again["splits"] == found["splits"]
    assert as_json(capsys, "check", tmp_path / "s")["splits"] == found["splits"]


def test_anchors(folder: Path, tmp_path: Path, capsys):
    found = as_json(
        capsys,
        "anchors",
        folder,
        "--k",
        2,
        "--split",
        "test",
        "--size",
        320,
        "--out",
        tmp_path / "a.png",
    )
    assert found["k"] == 2
    # Two objects, two priors: each its own; 20 x 15 and 35 x 55 of 80 x 70, in pixels of 320.
    assert found["pixels"] == [[80.0, 68.57], [140.0, 251.43]]
    assert found["average_iou"] == pytest.approx(1.0)
    assert [row["k"] for row in found["curve"]] == [1, 2]
    code, _, err = run(capsys, "data", "anchors", folder, "--k", 9)
    assert (code, "fewer boxes than priors" in err) == (2, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "absent"),
        ("check", ".", "--format", "bad"),
        ("stats", "."),
        ("convert", "absent", "out", "--to", "voc"),
        ("download", "voc2077"),
        ("anchors", "absent"),
    ],
)
def test_mistakes_are_one_line(arguments, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, "data", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("boxatlas: error: ")


def test_help_has_examples(capsys):
    for verb in ("check", "stats", "view", "convert", "split", "anchors", "download"):
        code, out, _ = run(capsys, "data", verb, "--help")
        assert code == 0
        assert f"boxatlas data {verb}" in out
