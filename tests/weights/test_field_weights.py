"""Detectors by the name "field/NAME": found, checked, loaded, trained from; and small files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import boxatlas
from boxatlas.errors import InputError
from boxatlas.files import write_tensors
from boxatlas.training import Recipe
from boxatlas.training.prepare import resolve_init
from boxatlas.weights import field, file_of, load, load_into
from boxatlas.weights.bundle import FOLDER, about_file, write_card, write_weights
from boxatlas.weights.packing import packed, size_of, unpacked

MODEL = "ssdlite320_efficientnet_lite0"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as the distribution has it, with one small detector, "field/small"."""
    folder = tmp_path / "boxatlas_field"
    folder.mkdir()
    torch.manual_seed(0)
    made = boxatlas.create_model(MODEL, classes=["cat", "dog"], size=96)
    made.save(tmp_path / "made.safetensors", recipe={"data": ["/a/b/set"], "init": "/a/start.x"})
    file, about = write_weights(
        tmp_path / "made.safetensors", folder, name="small", packing="rows of 8 bits"
    )
    coco = {"AP": 0.25, "AP_small": 0.0, "AP_medium": 0.1, "AP_large": 0.3}
    metrics = {
        "data": ["/a/set"], "split": "test", "images": 4, "metric": "voc07", "mAP": 0.5,
        "per_class": {"cat": 0.4, "dog": 0.6}, "voc07": 0.5, "voc12": 0.5, "coco": coco,
    }  # fmt: skip
    write_card(file, about, metrics, data="made", terms="none")
    monkeypatch.setattr(field, "_CLONE", folder)
    monkeypatch.setattr(field, "PACKAGE", "boxatlas_field_that_is_not_installed")
    return folder


def test_a_name_is_loaded_like_a_file(installed: Path, tmp_path: Path) -> None:
    assert field.field_names() == ["field/small"]
    assert file_of("field/small") == installed / "small.safetensors"
    detector = load("field/small")
    whole = load(tmp_path / "made.safetensors")
    assert detector.classes == ("cat", "dog")
    for (name, a), b in zip(
        whole.state_dict().items(), detector.state_dict().values(), strict=True
    ):
        if (
            a.is_floating_point() and a.dim() > 1
        ):  # within half a step of the row, or half precision
            step = a.flatten(1).abs().amax(1).reshape(-1, *[1] * (a.dim() - 1)) / 127
            assert ((a - b).abs() <= 0.501 * step + 1e-3 * a.abs()).all(), name
        else:
            assert torch.equal(a, b)
    assert boxatlas.load("field/small").name == MODEL
    other = boxatlas.create_model(MODEL, classes=["cat", "dog"], size=96)
    assert not load_into(other, "field/small").new
    assert "/a/" not in (installed / "small.json").read_text()  # folders are named, not placed


def test_what_is_not_there_is_said(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"not in the field.*did you mean 'field/small'"):
        load("field/smal")
    card = json.loads((installed / "small.json").read_text())
    shutil.copy(FOLDER / f"{MODEL}.safetensors", installed / "small.safetensors")
    with pytest.raises(InputError, match="not the file that its card is of"):
        load("field/small")
    assert card["packing"] == "rows of 8 bits"
    monkeypatch.setattr(field, "_CLONE", tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"not installed.*pip install boxatlas-field"):
        load("field/small")
    assert field.field_names() == []


def test_a_training_starts_from_it(installed: Path) -> None:
    recipe = Recipe.of(model=MODEL, epochs=1, init="field")
    found = resolve_init(recipe)
    assert found.init == "field/small"
    assert found.options["size"] == 96
    with pytest.raises(InputError, match="nothing of yolov3"):
        resolve_init(Recipe.of(model="yolov3", epochs=1, init="field"))


def test_rows_of_eight_bits_by_hand() -> None:
    """Two rows, the largest of each is 127 steps: 1.27 -> steps of 0.01, 254 -> steps of 2."""
    big = torch.zeros(2, 10_000)
    big[0, :3] = torch.tensor([1.27, -0.5, 0.004])
    big[1, :3] = torch.tensor([254.0, 3.1, -254.0])
    small = torch.randn(3, 4)
    state = {"big": big, "small": small, "bias": torch.randn(5), "count": torch.tensor(7)}
    tensors = packed(state, "rows of 8 bits")
    assert tensors["big"].dtype == torch.int8
    assert tensors["big"][:, :3].tolist() == [[127, -50, 0], [127, 2, -127]]
    assert tensors["big/scale"].tolist() == pytest.approx([0.01, 2.0])
    back = unpacked(tensors)
    torch.testing.assert_close(back["big"][0, :3], torch.tensor([1.27, -0.5, 0.0]))
    torch.testing.assert_close(back["big"][1, :3], torch.tensor([254.0, 4.0, -254.0]))
    assert torch.equal(back["small"], small.half())
    assert torch.equal(back["bias"], state["bias"])
    assert back["count"] == 7
    assert size_of(tensors) == 20_000 + 8 + 24 + 20 + 8


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"a": torch.zeros(3, 2, dtype=torch.int8), "a/scale": torch.ones(2)}, "not of its rows"),
        ({"a": torch.zeros(2, 2), "a/scale": torch.ones(2)}, "not of its rows"),
        ({"a/scale": torch.ones(2)}, "without their tensor"),
    ],
)
def test_damaged_scales_are_one_line(tensors: dict, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, tensors, {"boxatlas": json.dumps({"format": 1})})
    with pytest.raises(InputError, match=said):
        load(path)


def test_a_file_says_of_itself_what_its_card_says(installed: Path) -> None:
    about = about_file(installed / "small.safetensors", "rows of 8 bits")
    card = json.loads((installed / "small.json").read_text())
    assert {key: card[key] for key in about} == about
    assert about["recipe"]["data"] == ["set"]
