"""Public checkpoints by the survey's rows; one fetched from a server of our own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback import Server, serving

from boxatlas import fetching
from boxatlas.cli import main
from boxatlas.errors import InputError
from boxatlas.weights import available, checkpoints
from boxatlas.weights.available import by_row, fetch_checkpoint, find, name_of
from boxatlas.weights.source import Checkpoint
from boxatlas.zoo import list_models

DATA = bytes(range(256)) * 1000
SHA = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(fetching, "_WAIT", 0.0)
    monkeypatch.setenv("no_proxy", "*")
    with serving() as made:
        made.files["net-0123.pth"] = DATA
        yield made


def test_every_row_has_checkpoints_or_says_why_it_has_none() -> None:
    rows = by_row()
    assert len(rows) == 22
    for a in rows:
        assert bool(a.found) != bool(a.none)
        assert all(c.model == a.row.model for _, c in a.found)
    without = {(a.row.method, a.row.backbone) for a in rows if a.none}
    never = {  # their authors released other sizes only
        ("DSSD321", "ResNet-101"),
        ("M2Det320", "VGG-16"),
        ("M2Det320", "ResNet-101"),
        ("M2Det512", "ResNet-101"),
        ("M2Det800", "VGG-16"),
    }
    assert never <= without
    assert all("no public" not in str(a.none) for a in rows)  # each reason is a known one
    with_one = {a.row.method for a in rows if a.found}
    assert {"SSD300*", "YOLOv3", "Cascade R-CNN", "Mask R-CNN", "M2Det512"} <= with_one


def test_what_is_said_of_a_file_is_well_formed() -> None:
    models = set(list_models())
    for _, c in checkpoints():
        assert c.model in models
        assert c.megabytes is None or c.megabytes > 1
        if c.checksum is not None:
            kind, _, digest = c.checksum.partition(":")
            assert kind in ("md5", "sha256")
            assert int(digest, 16) >= 0
            assert c.url
            assert len(digest) in (32, 64) or digest in c.url  # whole, or from the file's name


def test_a_file_has_one_name_that_a_publisher_could_give() -> None:
    held = [(c.file, c.url) for _, c in checkpoints()]
    assert len(set(held)) == len({file for file, _ in held}) == len(held)
    assert not [file for file, _ in held if "*" in file]
    cascade = {c.file[-12:-4] for _, c in checkpoints() if c.model == "cascade_rcnn_r101_fpn"}
    assert cascade == {"0b6a2fbf", "5057dcc5"}  # 12 and 20 epochs
    assert find("VOC0712Plus_refinedet_vgg16_320x320_final.caffemodel").data == "VOC 07++12"


def test_torchvisions_files_are_those_that_it_names() -> None:
    from torchvision.models import detection, get_model_weights, list_models

    theirs = {
        w.url: w.meta["_file_size"]
        for name in list_models(module=detection)
        for w in get_model_weights(name)
    }
    ours = [c for source, c in checkpoints() if source == "torchvision"]
    assert len(ours) == 10
    for c in ours:
        assert theirs[c.url] == c.megabytes


def test_fetched_whole_resumed_and_checked(server: Server, tmp_path: Path) -> None:
    one = Checkpoint(
        "net-0123.pth",
        "ssd300_vgg16",
        "VOC",
        "someone",
        f"{server.url}/net-0123.pth",
        checksum=f"sha256:{SHA[:8]}",
    )
    out = tmp_path / "new" / "net.pth"
    server.cut = 100_000
    assert fetch_checkpoint(one, out) == out
    assert out.read_bytes() == DATA
    assert [r for _, r in server.asked] == [None, "bytes=100000-", "bytes=200000-"]
    assert sorted(p.name for p in out.parent.iterdir()) == ["net.pth"]


def test_another_files_checksum_leaves_nothing(server: Server, tmp_path: Path) -> None:
    one = Checkpoint(
        "net-0123.pth",
        "ssd300_vgg16",
        "VOC",
        "someone",
        f"{server.url}/net-0123.pth",
        checksum="sha256:" + "0" * 64,
    )
    with pytest.raises(InputError, match="another checksum"):
        fetch_checkpoint(one, tmp_path / "net.pth")
    assert list(tmp_path.iterdir()) == []


def unchecked(server: Server, megabytes: float | None = None) -> Checkpoint:
    return Checkpoint(
        "net-0123.pth", "ssd300_vgg16", "VOC", "someone", f"{server.url}/net-0123.pth", megabytes
    )


@pytest.mark.parametrize("says_all", [True, False])
def test_more_than_the_whole_file_is_fetched_anew(
    server: Server, tmp_path: Path, says_all: bool
) -> None:
    server.says_all = says_all
    (tmp_path / ".part-net.pth").write_bytes(bytes(2 * len(DATA)))
    fetch_checkpoint(unchecked(server), tmp_path / "net.pth")
    assert (tmp_path / "net.pth").read_bytes() == DATA


def test_a_whole_part_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".part-net.pth").write_bytes(DATA)
    fetch_checkpoint(unchecked(server), tmp_path / "net.pth")
    assert (tmp_path / "net.pth").read_bytes() == DATA
    assert len(server.asked) == 1


def test_a_web_page_is_no_checkpoint(server: Server, tmp_path: Path) -> None:
    server.kind = "text/html; charset=utf-8"
    with pytest.raises(InputError, match="a web page, not the file"):
        fetch_checkpoint(unchecked(server), tmp_path / "net.pth")
    assert list(tmp_path.iterdir()) == []


def test_another_size_than_published_is_refused(server: Server, tmp_path: Path) -> None:
    assert len(DATA) == 256_000  # 0.26 MB of 10**6, 0.24 MB of 2**20 bytes
    for megabytes in (0.26, 0.24, 0.2, 0.3):
        fetch_checkpoint(unchecked(server, megabytes), tmp_path / "net.pth")
    for megabytes in (0.22, 0.28, 1.0, 207):
        with pytest.raises(InputError, match=r"0\.24 MB, not the"):
            fetch_checkpoint(unchecked(server, megabytes), tmp_path / "other.pth")
    assert [p.name for p in tmp_path.iterdir()] == ["net.pth"]


def test_what_has_no_address_says_who_has_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"M2Det.*no address.*by hand"):
        fetch_checkpoint(find("m2det512_vgg.pth"), tmp_path / "x.pth")


def test_found_by_name_or_by_its_end() -> None:
    assert name_of(find("yolov3.weights")) == "yolov3.weights"
    assert find("model_final_f6e8b1.pkl").model == "faster_rcnn_r101_fpn"
    assert name_of(find("ZF_faster_rcnn_final.caffemodel")) == "faster_rcnn_models.tgz"
    with pytest.raises(InputError, match=r"did you mean 'yolov3\.weights'"):
        find("yolov3.weight")


def test_the_verbs(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    main_quiet(["weights", "list", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert len(document["rows"]) == 22
    assert document["rows"][12]["checkpoints"][0]["checksum"].startswith("sha256:523e4e69")
    assert document["rows"][10]["none"] == "the authors released m2det512_vgg.pth only"
    main_quiet(["weights", "list"])
    lines = capsys.readouterr().out.splitlines()
    for entry in document["checkpoints"]:
        assert f"  {entry['file']}" in lines  # unbroken, however narrow the terminal
    about = lines[lines.index("  yolov3.weights") + 1]
    assert about.split("; ")[1:4] == [
        "236.518 MB",
        "sha256 523e4e69e1d0...",
        "licence: public domain",
    ]
    made = Checkpoint(
        "net-0123.pth",
        "ssd300_vgg16",
        "VOC",
        "someone",
        f"{server.url}/net-0123.pth",
        checksum=f"md5:{hashlib.md5(DATA).hexdigest()}",
        licence="MIT",
    )
    monkeypatch.setattr(available, "checkpoints", lambda: [("someone", made)])
    monkeypatch.chdir(tmp_path)
    main_quiet(["weights", "fetch", "net-0123.pth", "--json"])
    assert json.loads(capsys.readouterr().out)["licence"] == "MIT"
    assert Path("net-0123.pth").read_bytes() == DATA
    with pytest.raises(SystemExit) as stopped:  # never over what is there
        main(["weights", "fetch", "net-0123.pth"])
    assert stopped.value.code == 2


def main_quiet(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert not stopped.value.code
