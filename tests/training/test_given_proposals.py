"""Where the proposals of a training come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from boxatlas import create_model, scenes
from boxatlas.data import Table, read
from boxatlas.data.proposals import FILE, Proposals
from boxatlas.errors import InputError
from boxatlas.images import Preprocess
from boxatlas.ops import selective_search
from boxatlas.parts.region.search import selective_search_proposals
from boxatlas.training.distributed import World
from boxatlas.training.proposals import proposals_for
from boxatlas.training.recipe import GENERAL, Recipe


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    scenes.write(folder, {"train": 3, "val": 2}, seed=1, size=(60, 80))
    return folder


def tables(data: Path) -> list[Table]:
    return [read(data, "train"), read(data, "val")]


def recipe(data: Path, **values: object) -> Recipe:
    return GENERAL.changed({"model": "x", "data": [str(data)], **values})


def written(file: Path, names: list[str]) -> Path:
    count = len(names)
    Proposals(
        tuple(names),
        np.array([[60, 80]] * count, np.int32),
        np.arange(count + 1) * 2,
        np.ones((2 * count, 4), np.float32),
    ).write(file)
    return file


def test_a_method_that_makes_its_own_is_given_none(data: Path, tmp_path: Path) -> None:
    assert proposals_for(recipe(data), 0, tables(data), tmp_path / "run", World()) == (None, [])
    assert not (tmp_path / "run").exists()


def test_without_a_file_every_image_is_searched_once(data: Path, tmp_path: Path) -> None:
    held, said = proposals_for(recipe(data), 30, tables(data), tmp_path / "run", World())
    assert held is not None
    assert len(held) == 5
    path = tables(data)[1].paths[0]
    assert np.array_equal(held[path], selective_search(path, max_boxes=30))
    assert "selective search" in said[0]
    before = (tmp_path / "run" / FILE).stat().st_mtime_ns
    again, _ = proposals_for(recipe(data), 30, tables(data), tmp_path / "run", World())
    assert (tmp_path / "run" / FILE).stat().st_mtime_ns == before
    assert again is not None
    assert np.array_equal(again[path], held[path])
    for try_out in (False, True):
        large, _ = proposals_for(
            recipe(data),
            30,
            tables(data),
            tmp_path / f"large{try_out}",
            World(),
            min_side=20,
            try_out=try_out,
        )
        assert large is not None
        assert (large[path][:, 2:] - large[path][:, :2]).min() >= 20
        assert (held[path][:, 2:] - held[path][:, :2]).min() < 20


def test_a_file_beside_the_data_or_in_the_recipe_is_taken(data: Path, tmp_path: Path) -> None:
    names = [f"JPEGImages/{Path(p).name}" for t in tables(data) for p in t.paths]
    written(data / FILE, names)
    held, said = proposals_for(recipe(data), 30, tables(data), tmp_path / "run", World())
    assert held is not None
    assert held[tables(data)[0].paths[0]].tolist() == [[1.0] * 4] * 2
    assert str(data / FILE) in said[0]
    other = written(tmp_path / "other.npz", names)
    held, said = proposals_for(
        recipe(data, proposals=str(other)), 1, tables(data), tmp_path, World()
    )
    assert held is not None
    assert len(held[tables(data)[0].paths[0]]) == 1  # no more than the method takes
    assert "other.npz" in said[0]
    # A recipe's file is also for a method that could make its own.
    assert proposals_for(recipe(data, proposals=str(other)), 0, tables(data), tmp_path, World())[0]


def test_a_file_that_lacks_an_image_is_said_before_training(data: Path, tmp_path: Path) -> None:
    written(data / FILE, ["JPEGImages/else.jpg"])
    with pytest.raises(InputError, match=r"proposals\.npz: has no proposals for this image"):
        proposals_for(recipe(data), 30, tables(data), tmp_path / "run", World())


def test_trying_out_searches_no_more_than_is_asked_for(data: Path, tmp_path: Path) -> None:
    held, _ = proposals_for(recipe(data), 9, tables(data), tmp_path / "run", World(), try_out=True)
    assert held is not None
    path = tables(data)[0].paths[2]
    assert np.array_equal(held[path], selective_search(path, max_boxes=9))
    assert not (tmp_path / "run").exists()


def test_a_detector_without_proposals_searches_its_input() -> None:
    """In the input's pixels, within the content, and the same as of the image alone."""
    image = scenes.make(2, (60, 80)).image
    preprocess = Preprocess(size=(128, 128), resize="letterbox")
    images, frames = preprocess.batch([image, image[:, :40]])
    boxes = selective_search_proposals(images, frames, preprocess, most=25)
    assert boxes.shape == (2, 25, 4)
    for i, frame in enumerate(frames):
        real = boxes[i][(boxes[i, :, 2:] > boxes[i, :, :2]).all(1)]
        height, width = frame.content
        x, y = frame.offset
        assert len(real) > 3
        assert (real >= torch.tensor([x, y, x, y])).all()
        assert (real <= torch.tensor([x + width, y + height] * 2)).all()
    plain = Preprocess(size=(500, 500), resize="limit")
    images, frames = plain.batch([image])
    found = selective_search_proposals(images, frames, plain, most=40)[0]
    expected = torch.from_numpy(selective_search(image, max_boxes=40))
    assert torch.equal(found[: len(expected)], expected)
    model = create_model("rcnn_alexnet", num_classes=2, backbone="timm/resnet18", crop_size=64)
    with torch.no_grad():
        seen = model.eval()(images, frames)["proposals"][0]  # R-CNN's program: 20 pixels
    sides = (seen[:, 2:] - seen[:, :2]).amin(1)
    assert sides[sides > 0].min() >= 20
    large = selective_search_proposals(images, frames, plain, most=None, min_side=30)[0]
    assert (large[:, 2:] - large[:, :2]).min() >= 30
