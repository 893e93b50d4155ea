"""`boxatlas propose` as a user runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from boxatlas import scenes
from boxatlas.cli import main
from boxatlas.data.proposals import read_proposals
from boxatlas.ops import selective_search


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
    code, out, err = said(capsys, "propose", photos / "b.png", "--out", tmp_path / "o", "--json",
                          "--max-boxes", 40, "--seed", 3)  # fmt: skip
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
        assert "passed over" in err
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
    ],
)
def test_what_is_wrong_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    if arguments[0] == "x.jpg":
        Path("x.jpg").write_bytes(b"no image")
    code, out, err = said(capsys, "propose", *arguments, "--out", tmp_path / "out")
    assert code == 2
    assert message in err
    assert err.startswith("boxatlas: error:")
    assert len(err.strip().splitlines()) == 1
    assert out == ""


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_made(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for i in range(60):
        Image.fromarray(scenes.make(i, (240, 320)).image).save(photos / f"{i:02d}.jpg")
    command = [sys.executable, "-m", "boxatlas", "propose", str(photos), "--out", str(out),
               "--write", "npz,json", "--json"]  # fmt: skip
    running = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while len(list(out.glob("json/*"))) < 5 and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(running.pid, signal.SIGINT)
    running.communicate(timeout=120)
    assert running.returncode == 130
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    document = json.loads(done.stdout)
    assert document["images"] == 60
    assert document["made_now"] <= 55
