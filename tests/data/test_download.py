"""Downloading, against a server of our own: resumed, checked, unpacked with care."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loopback import Server, serving

from boxatlas import fetching
from boxatlas.data import download as module
from boxatlas.data.download import SETS, Archive, download, unpack
from boxatlas.errors import InputError
from boxatlas.fetching import fetch

DATA = bytes(range(256)) * 2000
MD5 = hashlib.md5(DATA).hexdigest()
SUM = f"md5:{MD5}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(fetching, "_WAIT", 0.0)
    monkeypatch.setenv("no_proxy", "*")
    with serving() as made:
        yield made


def test_a_file_is_fetched_whole_and_progress_told(server: Server, tmp_path: Path):
    server.files["a.tar"] = DATA
    told: list[tuple[int, int | None]] = []
    fetch(
        f"{server.url}/a.tar", tmp_path / "a", SUM, lambda done, total: told.append((done, total))
    )
    assert (tmp_path / "a").read_bytes() == DATA
    assert told[-1] == (len(DATA), len(DATA))


def test_what_breaks_off_goes_on_where_it_stopped(server: Server, tmp_path: Path):
    server.files["a.tar"], server.cut = DATA, 200_000
    fetch(f"{server.url}/a.tar", tmp_path / "a", SUM)
    assert (tmp_path / "a").read_bytes() == DATA
    assert [r for _, r in server.asked] == [None, "bytes=200000-", "bytes=400000-"]


def test_a_run_that_was_killed_is_gone_on_with(server: Server, tmp_path: Path):
    server.files["a.tar"] = DATA
    (tmp_path / "a").write_bytes(DATA[:12345])
    fetch(f"{server.url}/a.tar", tmp_path / "a", SUM)
    assert (tmp_path / "a").read_bytes() == DATA
    assert server.asked == [("a.tar", "bytes=12345-")]
    fetch(f"{server.url}/a.tar", tmp_path / "a", SUM)  # whole already: nothing after it
    assert (tmp_path / "a").read_bytes() == DATA


def test_a_server_that_cannot_resume_sends_it_anew(server: Server, tmp_path: Path):
    server.files["a.tar"], server.ranges = DATA, False
    (tmp_path / "a").write_bytes(b"something else")
    fetch(f"{server.url}/a.tar", tmp_path / "a", SUM)
    assert (tmp_path / "a").read_bytes() == DATA


def test_a_file_that_changed_meanwhile_is_not_glued_together(server: Server, tmp_path: Path):
    server.files["a.tar"], server.cut = DATA[::-1], 1000
    with pytest.raises(InputError, match="ends too early"):
        fetch(f"{server.url}/a.tar", tmp_path / "a", SUM)
    server.files["a.tar"], server.tag, server.cut = DATA, '"two"', 0
    fetch(f"{server.url}/a.tar", tmp_path / "a", SUM)
    assert (tmp_path / "a").read_bytes() == DATA


def test_a_wrong_checksum_is_refused_and_the_file_removed(server: Server, tmp_path: Path):
    server.files["a.tar"] = DATA[:-1] + b"x"
    with pytest.raises(InputError, match="another checksum"):
        fetch(f"{server.url}/a.tar", tmp_path / "a", SUM)
    assert list(tmp_path.iterdir()) == []


def test_errors_name_the_address(server: Server, tmp_path: Path):
    with pytest.raises(InputError, match=r"b\.tar: the server answers 404"):
        fetch(f"{server.url}/b.tar", tmp_path / "b", SUM)
    with pytest.raises(InputError, match="cannot be fetched"):
        fetch("http://127.0.0.1:9/a.tar", tmp_path / "b", SUM)
    with pytest.raises(InputError, match="no http address"):
        fetch("file:///etc/passwd", tmp_path / "b", SUM)


def tar(files: dict[str, bytes], extra: tarfile.TarInfo | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            made.addfile(entry, io.BytesIO(data))
        if extra is not None:
            made.addfile(extra)
    return out.getvalue()


def zipped(files: dict[str, bytes], modes: dict[str, int] | None = None) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (modes or {}).get(name, 0o100644) << 16
            made.writestr(entry, data, zipfile.ZIP_DEFLATED)
    return out.getvalue()


VOC_TAR = {
    "VOCdevkit/VOC2007/Annotations/1.xml": b"<annotation/>",
    "VOCdevkit/VOC2007/ImageSets/Main/train.txt": b"1\n",
    "VOCdevkit/VOC2007/ImageSets/Layout/train.txt": b"1\n",
    "VOCdevkit/VOC2007/JPEGImages/1.jpg": b"jpeg",
    "VOCdevkit/VOC2007/SegmentationClass/1.png": b"png",
}


def archive_of(server: Server, name: str, data: bytes, **options: Any) -> Archive:
    server.files[name] = data
    return Archive(f"http://elsewhere.invalid/{name}", hashlib.md5(data).hexdigest(), **options)


def test_a_set_is_unpacked_into_one_layout(server: Server, tmp_path: Path):
    options = {"strip": "VOCdevkit/VOC2007/", "keep": SETS["voc2007"][0].keep}
    first = archive_of(server, "trainval.tar", tar(VOC_TAR), **options)
    second = archive_of(
        server,
        "test.tar",
        tar({"VOCdevkit/VOC2007/Annotations/2.xml": b"<annotation/>"}),
        **options,
    )
    out = tmp_path / "voc"
    assert download((first, second), out, mirror=server.url) == ["trainval.tar", "test.tar"]
    found = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    assert found == [
        ".boxatlas-download.json",
        "Annotations/1.xml",
        "Annotations/2.xml",
        "ImageSets/Main/train.txt",
        "JPEGImages/1.jpg",
    ]
    asked = len(server.asked)
    assert download((first, second), out, mirror=server.url) == []
    assert len(server.asked) == asked


def test_stopped_between_archives_it_goes_on_with_the_next(server: Server, tmp_path: Path):
    first = archive_of(server, "a.zip", zipped({"a.txt": b"a"}))
    second = archive_of(server, "b.zip", zipped({"b.txt": b"b"}))
    del server.files["b.zip"]
    with pytest.raises(InputError, match="404"):
        download((first, second), tmp_path / "set", mirror=server.url)
    server.files["b.zip"] = zipped({"b.txt": b"b"})
    assert download((first, second), tmp_path / "set", mirror=server.url) == ["b.zip"]
    assert (tmp_path / "set" / "a.txt").read_bytes() == b"a"
    assert (tmp_path / "set" / "b.txt").read_bytes() == b"b"


def test_stopped_while_it_unpacks_it_goes_on(server: Server, tmp_path: Path, monkeypatch):
    made = archive_of(server, "a.zip", zipped({"a.txt": b"a", "b.txt": b"b"}))

    def stopped(entry: Any, to: Path) -> None:
        to.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "_write", stopped)
        with pytest.raises(KeyboardInterrupt):
            download((made,), tmp_path / "set", mirror=server.url)
    assert download((made,), tmp_path / "set", mirror=server.url) == ["a.zip"]
    assert (tmp_path / "set" / "a.txt").read_bytes() == b"a"


@pytest.mark.parametrize("mirror", ["ftp://a", "http://[a", "http://a b", "http://", "http://a:b"])
def test_an_address_that_is_none_leaves_nothing(tmp_path: Path, mirror: str):
    made = Archive("http://elsewhere.invalid/a.zip", "0" * 32)
    with pytest.raises(InputError, match="no http address"):
        download((made,), tmp_path / "set", mirror=mirror)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path):
    (tmp_path / "file").write_text("")
    for out in ("file", "file/set"):
        with pytest.raises(InputError, match="cannot be written into"):
            download((Archive("http://a.invalid/a", "0" * 32),), tmp_path / out)


def test_a_folder_in_use_is_left_alone(server: Server, tmp_path: Path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(InputError, match="holds something"):
        download((archive_of(server, "a.zip", zipped({"a": b"a"})),), tmp_path, mirror=server.url)
    assert server.asked == []


def link(name: str, to: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, to
    return entry


def spoilt_zip(local: int, central: int, value: int) -> bytes:
    """A zip file whose two headers of its entry have this value there."""
    raw = bytearray(zipped({"a": b"abc" * 99}))
    raw[local] = raw[raw.find(b"PK\x01\x02") + central] = value
    return bytes(raw)


EVIL = {
    "up": tar({"good": b"1", "../evil": b"2"}),
    "root": tar({"/etc/evil": b"2"}),
    "link": tar({"good": b"1"}, link("evil", "/etc/passwd")),
    "up zip": zipped({"good": b"1", "a/../../evil": b"2"}),
    "drive zip": zipped({"C:\\evil": b"2"}),
    "link zip": zipped({"evil": b"/etc/passwd"}, {"evil": 0o120777}),
    "bomb": zipped({"zeros": bytes(50_000_000)}),
    "no archive": b"text",
    "locked zip": spoilt_zip(6, 8, 1),
    "unknown compression": spoilt_zip(8, 10, 99),
    "file and folder": tar({"good": b"1", "a": b"2", "a/b": b"3"}),
    "cut tar": tar({"a": bytes(5000)})[:2000],
}


@pytest.mark.parametrize("name", list(EVIL))
def test_archives_that_mean_harm_are_refused(tmp_path: Path, name: str):
    (tmp_path / "archive").write_bytes(EVIL[name])
    out = tmp_path / "deep" / "out"
    out.mkdir(parents=True)
    with pytest.raises(InputError, match="archive"):
        unpack(tmp_path / "archive", out)
    if name != "cut tar":  # which is only seen to be cut while it is read
        assert list(out.iterdir()) == []
    assert not (tmp_path / "evil").exists()
    assert not (tmp_path / "deep" / "evil").exists()


def test_the_published_sets_are_named_and_checked():
    assert set(SETS) == {"voc2007", "voc2012", "coco2017"}
    for archives in SETS.values():
        for archive in archives:
            assert re.fullmatch(r"[0-9a-f]{32}", archive.md5)
            assert archive.url.startswith("http")
