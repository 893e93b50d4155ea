"""`boxatlas propose` as a user runs it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import boxatlas
from boxatlas import scenes
from boxatlas.cli import main
from boxatlas.data.proposals import read_proposals
from boxatlas.ops import selective_search
from boxatlas.proposing import Found, by_detector


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    try:
        main([str(a) for a in arguments])
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    (folder / "more").mkdir()
    for i, name in enumerate(("a.jpg", "b.png", "more/a.jpg")):
        Image.fromarray(scenes.make(i, (60, 80)).image).save(folder / name)
    return folder


def test_one_image_gives_picture_json_and_npz(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = said(
        capsys,
        "propose",
        photos / "b.png",
        "--out",
        tmp_path / "o",
        "--json",
        "--max-boxes",
        40,
        "--seed",
        3,
    )
    assert code == 0, err
    document = json.loads(out)
    expected = selective_search(photos / "b.png", seed=3, max_boxes=40)
    held = read_proposals(document["file"])
    assert np.array_equal(held["b.png"], expected)
    assert held.sizes.tolist() == [[60, 80]]
    written = json.loads((tmp_path / "o" / "json" / "b.png.json").read_text())
    assert written["width"] == 80
    np.testing.assert_allclose(written["boxes"], expected, atol=0.006)
    picture = np.asarray(Image.open(tmp_path / "o" / "pictures" / "b.png.jpg"))
    assert picture.shape == (60, 80, 3)
    assert (picture != np.asarray(Image.open(photos / "b.png").convert("RGB"))).any()


def test_a_folder_goes_on_and_names_every_image(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "broken.jpg").write_bytes(b"no image")
    try:
        ask = ("propose", photos, "--out", tmp_path, "--write", "npz", "--mode", "single", "--json")
        code, out, err = said(capsys, *ask)
        assert code == 0
        assert "skipped: " in err
        first = json.loads(out)
        assert (first["images"], first["made_now"], len(first["skipped"])) == (3, 3, 1)
        assert set(read_proposals(first["file"]).names) == {"a.jpg", "b.png", "more/a.jpg"}
        second = json.loads(said(capsys, *ask)[1])
        assert (second["images"], second["made_now"]) == (3, 0)
        code, _, err = said(capsys, *ask, "--seed", 1)
        assert code == 2
        assert "other options" in err
        assert said(capsys, *ask, "--seed", 1, "--force")[0] == 0
    finally:
        (photos / "broken.jpg").unlink()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no such file or folder"),
        (["."], "holds no image"),
        (["x.jpg"], "not an image"),
        (["x.jpg", "--mode", "fats"], "mode"),
        (["x.jpg", "--write", "picture"], "did you mean 'pictures'"),
        (["x.jpg", "--device", "cpu"], "--device: does not apply"),
        (["x.jpg", "--write", "json", "--draw", "3"], "--draw: does not apply"),
        (["x.jpg", "--model", "m.safetensors", "--mode", "single"], "--mode: does not apply"),
        (["x.jpg", "--model", "m.safetensors", "--width", "9"], "--width: does not apply"),
        (["x.jpg", "--model", "m.safetensors", "--seed", "0"], "--seed: does not apply"),
        (["x.jpg", "--out", "x.jpg"], "x.jpg: is a file, not a folder"),
        (["x.jpg", "--out", "x.jpg/o"], "x.jpg: is a file, not a folder"),
    ],
)
def test_what_is_wrong_is_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    if arguments[0] == "x.jpg":
        Path("x.jpg").write_bytes(b"no image")
    code, out, err = said(capsys, "propose", "--out", tmp_path / "out", *arguments)
    assert code == 2
    assert message in err
    assert err.startswith("boxatlas: error:")
    assert len(err.strip().splitlines()) == 1
    assert out == ""


ONE = ("--mode", "single", "--json")


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """A folder of two small images."""
    folder = tmp_path / "few"
    folder.mkdir()
    for i, name in enumerate(("a.jpg", "b.png")):
        Image.fromarray(scenes.make(i, (30, 40)).image).save(folder / name)
    return folder


def held(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_an_image_is_never_replaced_by_its_drawing(
    few: Path, capsys: pytest.CaptureFixture[str], force: tuple[str, ...]
) -> None:
    images = few.rename(few.parent / "pictures")
    before = held(images.parent)
    code, _, err = said(capsys, "propose", images, "--out", images.parent, *ONE, *force)
    assert code == 2
    assert "a.jpg: is one of the images" in err
    assert held(images.parent) == before


def test_drawings_are_not_searched(few: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask = ("propose", few, "--out", few, *ONE)
    assert json.loads(said(capsys, *ask)[1])["images"] == 2
    before = held(few)
    for more, made in ((), 0), (("--force",), 2):
        again = json.loads(said(capsys, *ask, *more)[1])
        assert (again["images"], again["made_now"]) == (2, made)
        assert set(held(few)) == set(before)
    code, _, err = said(capsys, "propose", few / "pictures" / "b.png.jpg", "--out", few, *ONE)
    assert code == 2
    assert "holds no image but pictures of proposals" in err


def test_another_s_file_is_not_replaced(few: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = few.parent / "out"
    (out / "json").mkdir(parents=True)
    (out / "json" / "b.png.json").write_text("mine")
    ask = ("propose", few, "--out", out, *ONE)
    code, _, err = said(capsys, *ask)
    assert code == 2
    assert "b.png.json: already exists" in err
    assert held(out) == {"json/b.png.json": b"mine"}
    assert said(capsys, *ask, "--force")[0] == 0
    assert json.loads((out / "json" / "b.png.json").read_text())["image"] == "b.png"


def test_another_image_of_that_name_is_refused(
    few: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = few.parent / "out"
    assert said(capsys, "propose", few / "a.jpg", "--out", out, *ONE)[0] == 0
    before = held(out)
    Image.fromarray(scenes.make(7, (30, 40)).image).save(few / "a.jpg")
    code, _, err = said(capsys, "propose", few / "a.jpg", "--out", out, *ONE)
    assert code == 2
    assert "another image called a.jpg" in err
    assert held(out) == before


def test_files_asked_for_later_are_made_of_the_boxes_there(
    few: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    late, once = few.parent / "late", few.parent / "once"
    assert said(capsys, "propose", few, "--out", late, *ONE, "--write", "npz")[0] == 0
    assert set(held(late)) == {"proposals.npz"}
    second = json.loads(said(capsys, "propose", few, "--out", late, *ONE)[1])
    assert (second["made_now"], second["files_written"]) == (0, 4)
    assert said(capsys, "propose", few, "--out", once, *ONE)[0] == 0
    assert held(late) == held(once)
    (late / "json" / "a.jpg.json").unlink()
    assert json.loads(said(capsys, "propose", few, "--out", late, *ONE)[1])["files_written"] == 1
    assert held(late) == held(once)


def test_what_fails_takes_nothing_away_and_leaves_nothing(
    few: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, bad = few.parent / "out", few.parent / "bad"
    bad.mkdir()
    for name in ("x.jpg", "y.jpg"):
        (bad / name).write_bytes(b"no image")
    code, _, err = said(capsys, "propose", bad, "--out", out, *ONE)
    assert code == 2
    assert f"{bad}: holds no image that can be read" in err
    assert not out.exists()
    assert said(capsys, "propose", few, "--out", out, *ONE, "--seed", 1)[0] == 0
    before = held(out)
    for source in (bad, bad / "x.jpg"):
        assert said(capsys, "propose", source, "--out", out, *ONE, "--force")[0] == 2
        assert held(out) == before


def test_force_writes_every_file_anew(few: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, once = few.parent / "out", few.parent / "once"
    assert said(capsys, "propose", few, "--out", out, *ONE)[0] == 0
    seeded = (*ONE, "--seed", 1)
    assert said(capsys, "propose", few, "--out", out, *seeded, "--force")[0] == 0
    assert said(capsys, "propose", few, "--out", once, *seeded)[0] == 0
    assert held(out) == held(once)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labelled")
    scenes.write(folder, {"test": 4}, seed=3, size=(96, 128))
    return folder


def test_a_negative_seed_is_refused(
    labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = said(capsys, "propose", labelled, "--out", tmp_path / "o", "--seed", -1)
    assert code == 2
    assert "--seed: " in err
    assert not (tmp_path / "o").exists()


def test_options_of_detectors_do_not_apply_to_proposals(
    labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option in (["--metric", "voc07"], ["--no-speed"]):
        code, _, err = said(capsys, "eval", "--proposals", "f.npz", "--data", labelled, *option)
        assert code == 2
        assert f"{option[0].replace('--no-', '--')}: does not apply" in err


@pytest.fixture(scope="module")
def rpn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector with an RPN that has learned nothing."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("rpn") / "detector.safetensors"
    boxatlas.create_model("faster_rcnn_mobilenet_v3_fpn", num_classes=2, size=(96, 160)).save(file)
    return file


def test_proposals_of_files_and_rpns_are_measured_side_by_side(
    labelled: Path, rpn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, made = labelled / "JPEGImages", tmp_path / "made"
    assert said(capsys, "propose", images, "--out", made, "--write", "npz")[0] == 0
    file = made / "proposals.npz"
    code, out, err = said(
        capsys,
        "eval",
        "--proposals",
        file,
        "--proposals",
        rpn,
        "--data",
        labelled,
        "--out",
        tmp_path / "report",
        "--json",
    )
    assert code == 0, err
    document = json.loads(out)
    search, network = (document["proposals"][str(name)] for name in (file, rpn))
    assert search["images"] == network["images"] == 4
    assert search["recall"][-1][0] > 0.5  # made scenes are easy
    assert set(search["per_class"]) == set(scenes.CLASSES)
    assert json.loads((tmp_path / "report" / "proposals.json").read_text()) == document
    assert (tmp_path / "report" / "proposals.png").stat().st_size > 1000
    code, out, _ = said(capsys, "eval", "--proposals", file, "--data", labelled)
    assert code == 0
    assert "average recall" in out
    assert "MABO per class" in out


def test_an_rpn_writes_the_same_files(
    labelled: Path, rpn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = said(
        capsys,
        "propose",
        labelled / "JPEGImages",
        "--out",
        tmp_path,
        "--model",
        rpn,
        "--max-boxes",
        30,
        "--write",
        "npz,json",
        "--json",
    )
    assert code == 0, err
    held = read_proposals(json.loads(out)["file"])
    assert len(held) == 4
    assert held.scores is not None
    for i, name in enumerate(held.names):
        part = slice(int(held.offsets[i]), int(held.offsets[i + 1]))
        assert 0 < len(held[name]) <= 30
        assert (np.diff(held.scores[part]) <= 0).all()  # best first
        assert (held[name] <= [128, 96, 128, 96]).all()
    row = json.loads((tmp_path / "json" / f"{held.names[0]}.json").read_text())
    assert len(row["scores"]) == len(row["boxes"])


def test_an_rpn_s_boxes_have_the_least_side(labelled: Path, rpn: Path) -> None:
    """The best of those that are large enough, as many as are asked for."""
    detector, paths = boxatlas.load(rpn), sorted((labelled / "JPEGImages").iterdir())[:1]
    (all_,) = by_detector(detector, paths, 1000)
    (large,) = by_detector(detector, paths, 5, min_side=30)
    assert isinstance(all_, Found)
    assert isinstance(large, Found)
    enough = (all_.boxes[:, 2:] - all_.boxes[:, :2] >= 30).all(1)
    assert 5 < enough.sum() < len(enough)
    assert np.array_equal(large.boxes, all_.boxes[enough][:5])


def test_retrained_weights_at_the_same_path_are_others(
    labelled: Path, rpn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = shutil.copy(rpn, tmp_path / "detector.safetensors")
    image = next((labelled / "JPEGImages").iterdir())
    ask = ("propose", image, "--out", tmp_path / "o", "--model", weights, "--write", "npz")
    assert said(capsys, *ask)[0] == 0
    detector = boxatlas.load(weights)
    with torch.no_grad():
        next(detector.parameters()).add_(1)
    detector.save(weights)
    code, _, err = said(capsys, *ask)
    assert code == 2
    assert "made with other options" in err


def test_a_detector_without_rpn_makes_none(
    labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "detector.safetensors"
    boxatlas.create_model("ssdlite320_efficientnet_lite0", num_classes=2).save(file)
    code, _, err = said(capsys, "eval", "--proposals", file, "--data", labelled)
    assert code == 2
    assert "no proposals of its own" in err


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_made(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for i in range(90):
        Image.fromarray(scenes.make(i, (240, 320)).image).save(photos / f"{i:02d}.jpg")
    command = [
        sys.executable,
        "-m",
        "boxatlas",
        "propose",
        str(photos),
        "--out",
        str(out),
        "--write",
        "npz,json",
        "--json",
    ]
    # What runs in the background may ignore the signal, and its children with it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    running = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, before)
    until = time.monotonic() + 120
    while not list(out.glob("proposals.parts/*.npz")) and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(running.pid, signal.SIGINT)
    running.communicate(timeout=120)
    assert running.returncode == 130
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    document = json.loads(done.stdout)
    assert document["images"] == document["files_written"] == 90
    assert document["made_now"] <= 26  # a file of 64 was written
