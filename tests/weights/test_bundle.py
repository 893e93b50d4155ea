"""The detector in the box, made of a small one: written, checked, loaded, fine-tuned from."""

from __future__ import annotations

import hashlib
import json
import re
import runpy
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import boxatlas
from boxatlas.errors import InputError
from boxatlas.photos import photos
from boxatlas.registry import VOC_CLASSES
from boxatlas.training import find_recipe
from boxatlas.training.prepare import detector_of, resolve_init
from boxatlas.weights import bundle, is_bundled, load
from boxatlas.weights.bundle import DEFAULT, bundled, card_text, failings, write_card, write_weights

ROOT = Path(__file__).parents[2]
CLASSES = ("cat", "dog", "cow")
METRICS = {
    "data": ["/home/someone/sets/pets"], "split": "test", "images": 9, "metric": "voc07",
    "mAP": 0.5, "per_class": {"cat": 0.9, "dog": 0.35, "cow": None}, "voc07": 0.5, "voc12": 0.5,
    "coco": {"AP": 0.25, "AP_small": 0.05, "AP_medium": 0.2, "AP_large": 0.4},
    "errors": {"lost_ap": {"background": 0.01, "localisation": 0.1, "missed": None}},
    "speed": {"fps": 40.0, "device": "cpu", "threads": 2, "input": [96, 96]},
}  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = boxatlas.create_model(DEFAULT, classes=CLASSES, size=96)
    path = tmp_path_factory.mktemp("bundle") / "best.safetensors"
    recipe = {"data": ["/home/someone/sets/pets/"], "epochs": 2.0, "init": "imagenet"}
    model.save(path, recipe=recipe, trained={"iteration": 7})
    return path


@pytest.fixture
def box(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package's folder with a bundled detector in it."""
    monkeypatch.setattr(bundle, "FOLDER", tmp_path)
    file, about = write_weights(checkpoint, tmp_path)
    write_card(file, about, METRICS, data="pets", terms="none", notes=["night"])
    return file


def test_the_package_carries_what_its_card_says() -> None:
    file, card = bundled("bundled"), bundle.bundled_card()
    assert file.parent == Path(boxatlas.__file__).parent / "weights" / "bundled"
    assert file.stem == card["model"] == DEFAULT
    assert file.stat().st_size == card["bytes"] <= 12_000_000
    assert hashlib.sha256(file.read_bytes()).hexdigest() == card["sha256"]
    assert sum(p.suffix == ".safetensors" for p in file.parent.iterdir()) == 1
    with safe_open(file, "pt") as held:
        described = json.loads(held.metadata()["boxatlas"])
    for field in ("model", "options", "classes"):
        assert described[field] == card[field]
    assert tuple(card["classes"]) == VOC_CLASSES == tuple(card["evaluation"]["per_class"])
    assert card["evaluation"]["mAP"] >= 0.5
    assert f"{card['evaluation']['mAP']:.3f}" in (ROOT / "docs" / "bundled.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("title", "name"), [("Grace Hopper", "person"), ("Chelsea the cat", "cat")]
)
def test_the_package_s_own_detector_finds_who_is_in_a_photo(title: str, name: str) -> None:
    photo = next(p for p in photos() if p.title == title)  # of packages that are locked
    (found,) = load("bundled").detect([photo.path], score=0.5)
    assert [found.classes[label] for label in found.labels] == [name]
    (box,) = found.boxes
    height, width = found.size
    assert (box[2] - box[0]) * (box[3] - box[1]) > 0.5 * height * width  # who fills the picture


def test_half_precision_in_the_file_single_in_the_detector(box: Path, checkpoint: Path) -> None:
    with safe_open(box, "pt") as file:
        kinds = {
            (file.get_slice(k).get_dtype(), len(file.get_slice(k).get_shape()) > 1)
            for k in file.keys()  # noqa: SIM118
        }
    assert kinds == {("F16", True), ("F32", False), ("I64", False)}
    assert box.stat().st_size < 0.55 * checkpoint.stat().st_size
    ours, theirs = load("bundled").state_dict(), load(checkpoint).state_dict()
    for name, value in theirs.items():
        assert ours[name].dtype == value.dtype
        # 11 bits of a number: half of 2^-10 of it, and 2^-25 where it is smaller than all normals
        bound = value.abs() * 2.0**-11 + 2.0**-25
        assert torch.all((ours[name] - value).abs() <= (bound if value.dim() > 1 else 0)), name


def test_the_detector_is_built_as_it_was_trained(box: Path) -> None:
    model = boxatlas.create_model(DEFAULT, classes=("bird", "dog"), weights="bundled")
    whole = load("bundled")
    assert model.preprocess.size == whole.preprocess.size == (96, 96)
    state, old = model.state_dict(), whole.state_dict()
    rows = whole.class_rows()
    assert all(torch.equal(state[n], old[n]) for n in old if n not in rows)
    name, rule = next((n, r) for n, r in rows.items() if n.endswith("bias"))
    new = state[name].view(rule.groups, -1)
    assert torch.equal(new[:, rule.offset + 1], old[name].view(rule.groups, -1)[:, rule.offset + 1])


def test_another_size_fits_and_another_network_is_refused(box: Path) -> None:
    bigger = boxatlas.create_model(DEFAULT, classes=CLASSES, weights="bundled", size=128)
    assert bigger.preprocess.size == (128, 128)
    with pytest.raises(InputError, match=r"other options.*'size': 96"):
        boxatlas.create_model(DEFAULT, classes=CLASSES, weights="bundled", fold_norms=True)


@pytest.mark.parametrize("size", [224, 320, 512])
def test_the_default_recipe_starts_from_the_package_s_own_at_any_size(size: int) -> None:
    recipe = resolve_init(find_recipe(DEFAULT, [f"model.size={size}"]))
    model, _ = detector_of(recipe, ["cell"])
    held, own = load("bundled").state_dict(), model.state_dict()
    shared = [n for n in held if n.startswith(("backbone.", "head.reg.0.", "head.reg.3."))]
    assert len(shared) > 100
    assert all(torch.equal(own[n], held[n]) for n in shared)


def test_none_in_the_package_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "FOLDER", tmp_path)
    assert not is_bundled("bundled")
    for call in (
        lambda: load("bundled"),
        lambda: bundle.bundled_card(),
    ):
        with pytest.raises(InputError, match="this package carries no trained detector"):
            call()
    with pytest.raises(InputError, match=f"no weights are bundled for {DEFAULT}"):
        boxatlas.create_model(DEFAULT, weights="bundled")


def test_a_changed_byte_is_noticed(box: Path) -> None:
    assert bundled("bundled") == box
    content = bytearray(box.read_bytes())
    content[-1] ^= 1
    box.write_bytes(content)
    with pytest.raises(InputError, match="sha256 differs"):
        load("bundled")


def test_a_damaged_card_is_named(box: Path) -> None:
    box.with_suffix(".json").write_text("{")
    with pytest.raises(InputError, match=r"json: the card of the bundled weights cannot be read"):
        load("bundled")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("options", 3, "options: input should be a valid dictionary (got 3)"),
        ("model", 2, "model: input should be a valid string (got 2)"),
        ("evaluation", None, "evaluation: is missing"),
        ("evaluation", {**METRICS, "coco": {"AP": "x"}}, "evaluation.coco.AP"),
        ("fps", {"fps": 1.0}, "fps.device: is missing"),
    ],
)
def test_a_card_that_lacks_a_field_is_one_line(
    box: Path, field: str, value: object, said: str
) -> None:
    path = box.with_suffix(".json")
    card = {**json.loads(path.read_text()), field: value}
    path.write_text(json.dumps({k: v for k, v in card.items() if v is not None}))
    for call in (
        bundle.bundled_card,
        lambda: bundle.bundled_options(DEFAULT),
        lambda: load("bundled"),
    ):
        with pytest.raises(InputError, match=re.escape(f"{path}: {said}")):
            call()


def test_what_is_too_large_or_out_of_range_is_not_written(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(bundle, "LARGEST", 1000)
    with pytest.raises(InputError, match="more than 0"):
        write_weights(checkpoint, out)
    monkeypatch.undo()
    model = load(checkpoint)
    name, weight = next((n, p) for n, p in model.named_parameters() if p.dim() == 4)
    with torch.no_grad():
        weight[0] = 1e6  # half precision ends at 65504
    model.save(tmp_path / "large.safetensors")
    with pytest.raises(InputError, match=f"{name}.*half precision|half precision.*{name}"):
        write_weights(tmp_path / "large.safetensors", out)
    assert not out.exists()


def made_by_script(*arguments: object) -> int:
    """The exit code of benchmarks/bundle.py."""
    script = runpy.run_path(str(ROOT / "benchmarks" / "bundle.py"))
    try:
        script["main"]([str(a) for a in arguments])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_the_pair_of_the_package_stays_until_the_new_one_is_whole(
    box: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    metrics = tmp_path.parent / "metrics.json"
    metrics.write_text(json.dumps({**METRICS, "mAP": 0.75}))
    broken = tmp_path.parent / "broken.json"
    broken.write_text("[]")
    for arguments in (
        ("--data", tmp_path / "absent", "--force"),
        ("--metrics", broken, "--force"),
        ("--metrics", metrics),
    ):
        assert made_by_script(checkpoint, *arguments) == 2
        assert capsys.readouterr().err.count("\n") == 1
        assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert made_by_script(checkpoint, "--metrics", metrics, "--force") == 0
    assert bundle.bundled_card()["evaluation"]["mAP"] == 0.75
    assert set(tmp_path.iterdir()) == set(before)


def test_the_card_says_what_it_is_and_not_where_it_was_made(box: Path) -> None:
    card = json.loads(box.with_suffix(".json").read_text())
    assert card["recipe"]["data"] == card["evaluation"]["data"] == ["pets"]
    assert card["trained"] == {"iteration": 7}
    assert card["bytes"] == box.stat().st_size
    assert b"/home/someone" not in box.read_bytes()
    assert "/home/someone" not in json.dumps(card)
    text = card_text(card)
    for part in (
        "pets test, 9 images",
        "mAP@0.5 (voc07) 0.500",
        "COCO AP 0.250",
        "cat",
        "0.900",
        card["sha256"],
        "40.0 images a second",
        "2 threads",
        "night",
    ):
        assert part in text


def test_failings_by_hand() -> None:
    said = failings(METRICS)
    assert said == [
        "the classes of the lowest AP: dog 0.35, cat 0.90",
        "1 of 2 classes stay under an AP of 0.5",
        "COCO AP by size of the object: small 0.05, medium 0.20, large 0.40",
        "the mistakes that cost most AP: localisation 0.10, background 0.01",
    ]
