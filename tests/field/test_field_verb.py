"""boxatlas field on made scenes: trained, stopped and gone on with, judged, shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from boxatlas import scenes
from boxatlas.cli import main
from boxatlas.fetching import digest_of
from boxatlas.field.plan import ENTRIES
from boxatlas.training.loop import Descent

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Call the command line: (exit code, standard output, standard error)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            main(["field", *map(str, arguments)])
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("field") / "scenes"
    scenes.write(folder, {"train": 16, "test": 4, "test_small": 3}, size=(64, 80))
    return folder


@pytest.mark.slow
def test_a_stopped_field_goes_on_and_ends_alike(
    say: Say, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(where: str, images: int = 32) -> tuple[int, str, str]:
        folders = ("--out", tmp_path / where, "--field", tmp_path / f"{where}_field")
        return say(
            "train",
            "ssd",
            "--data",
            data,
            *folders,
            "--images",
            images,
            "--device",
            "cpu",
            "--json",
        )

    def file(where: str, images: int = 32) -> Path:
        return tmp_path / where / "packed" / f"ssd-{images}.safetensors"

    code, out, err = train("whole")
    assert code == 0, err
    (named,) = json.loads(out)["judged"]
    judged = {key: value for key, value in named.items() if key != "name"}
    stored = json.loads((tmp_path / "whole_field" / "results" / "ssd.json").read_text())
    assert stored["judged"] == [judged]
    assert judged["sha256"] == digest_of(file("whole"))
    assert judged["test_images"] == 4

    after = Descent._after

    def stop(self: Descent, resumed: bool = False) -> None:
        self.stop.asked = self.position.step == 2
        after(self, resumed)

    with monkeypatch.context() as patched:
        patched.setattr(Descent, "_after", stop)
        code, _, err = train("stopped")
    assert code == 130
    assert "go on with" in err
    assert not (tmp_path / "stopped_field").exists()
    code, _, err = train("stopped")
    assert code == 0, err
    ours, theirs = (load_file(file(where)) for where in ("stopped", "whole"))
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    code, out, err = train("stopped")  # judged already: nothing is trained
    assert (code, json.loads(out)["judged"]) == (0, [])

    code, _, err = train("stopped", 64)  # made longer
    assert code == 0, err
    code, out, _ = say("table", "--field", tmp_path / "stopped_field", "--json")
    (row,) = json.loads(out)["field"]
    assert (row["name"], row["images"]) == ("ssd", 64)
    assert row["unfinished"] is not None  # half of it was judged

    shared = ("--out", tmp_path / "stopped", "--field", tmp_path / "stopped_field", "--json")
    code, out, err = say("speed", "--data", data, *shared, "--seconds", 0, "--device", "cpu")
    assert code == 0, err
    assert json.loads(out)["methods"]["ssd"]["fps"] > 0
    code, out, err = say("pairs", "--data", data, *shared)
    assert code == 0, err
    assert {one["images"] for one in json.loads(out)["intervals"].values()} == {32, 64}


def test_the_plan_is_listed(say: Say) -> None:
    code, out, _ = say("plan", "--json")
    rows = json.loads(out)["field"]
    assert code == 0
    assert [row["name"] for row in rows] == [one.name for one in ENTRIES]
    assert all(row["rate"] > 0 for row in rows)


def test_wrong_names_and_folders_are_one_line(say: Say, data: Path, tmp_path: Path) -> None:
    out = ("--data", data, "--out", tmp_path / "out", "--field", tmp_path / "field")
    code, _, err = say("train", "sdd", *out)
    assert code == 2
    assert "sdd" in err.splitlines()[-1]
    assert "ssd" in err.splitlines()[-1]
    code, _, err = say("train", "ssd", *out[2:], "--data", tmp_path / "nothing")
    assert (code, "nothing" in err.splitlines()[-1]) == (2, True)
    lacking = tmp_path / "lacking"
    scenes.write(lacking, {"train": 2, "test": 2}, size=(64, 80))
    code, _, err = say("train", "ssd", *out[2:], "--data", lacking)
    assert (code, "test_small" in err.splitlines()[-1]) == (2, True)  # before anything is trained
    assert not (tmp_path / "out").exists()
    code, _, err = say("table", "--field", tmp_path / "gone")
    assert code == 2
    assert "gone" in err.splitlines()[-1]
    for verb in ("pairs", "speed"):
        code, _, err = say(verb, *out)
        assert (code, "nothing was judged yet" in err) == (2, True)
    assert not (tmp_path / "field").exists()


def test_a_page_is_not_replaced_silently(say: Say, tmp_path: Path) -> None:
    page = tmp_path / "field.html"
    (tmp_path / "field" / "results").mkdir(parents=True)
    assert say("page", "--field", tmp_path / "field", "--out", page)[0] == 0
    assert "Published and measured" in page.read_text()
    code, _, err = say("page", "--field", tmp_path / "field", "--out", page)
    assert (code, "already exists" in err) == (2, True)
