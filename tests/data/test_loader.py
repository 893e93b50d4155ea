"""The loader: the same batches for a seed, whatever the number of workers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sets import picture, table_of

from boxatlas.data import augmentation, make_loader
from boxatlas.data.loader import Sizes
from boxatlas.data.table import Table
from boxatlas.errors import InputError
from boxatlas.images import Preprocess

PREPROCESS = Preprocess(size=(32, 40))


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Table:
    folder = tmp_path_factory.mktemp("images")
    boxes = [[[4, 4, 30, 30]] * (i % 3) for i in range(7)]
    made = table_of(boxes, [[i % 3] * (i % 3) for i in range(7)], [(48, 64)] * 7)
    for i in range(7):
        picture(folder / f"{i}.png", (48, 64), seed=i)
    made.paths[:] = [str(folder / f"{i}.png") for i in range(7)]
    return made


def batches(table: Table, epoch: int = 0, start: int = 0, **options):
    options = {"batch_size": 2, "shuffle": True, "seed": 5, **options}
    loader = make_loader(table, PREPROCESS, augment=augmentation("ssd"), **options)
    return list(loader.epoch(epoch, start))


def same(a, b) -> bool:
    return all(
        x.names == y.names
        and torch.equal(x.images, y.images)
        and torch.equal(x.targets.boxes, y.targets.boxes)
        and torch.equal(x.targets.labels, y.targets.labels)
        for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(table: Table, workers: int):
    assert same(batches(table), batches(table, workers=workers))


def test_epochs_differ_and_are_repeatable(table: Table):
    assert same(batches(table, 3), batches(table, 3))
    first, second = batches(table, 0), batches(table, 1)
    assert [b.names for b in first] != [b.names for b in second]
    assert not same(batches(table, 0), batches(table, 0, seed=6))


def test_an_epoch_begun_in_the_middle_goes_on_the_same(table: Table):
    assert same(batches(table, 2)[2:], batches(table, 2, start=2))


def test_every_image_comes_once_and_ranks_share_them(table: Table):
    names = [n for b in batches(table) for n in b.names]
    assert sorted(names) == sorted(table.paths)
    halves = [[n for b in batches(table, rank=r, world=2) for n in b.names] for r in (0, 1)]
    assert [len(h) for h in halves] == [4, 4]  # as many on each rank; one image comes twice
    assert set(halves[0]) | set(halves[1]) == set(table.paths)


def test_an_image_without_objects_is_an_ordinary_image(table: Table):
    loader = make_loader(table.select([0, 3]), PREPROCESS, batch_size=2, shuffle=False, seed=0)
    (batch,) = loader.epoch(0)
    assert batch.images.shape == (2, 3, 32, 40)
    assert batch.targets.boxes.shape == (2, 0, 4)
    assert not batch.targets.valid.any()


def test_boxes_are_in_input_pixels(table: Table):
    loader = make_loader(table.select([1]), PREPROCESS, batch_size=1, shuffle=False, seed=0)
    (batch,) = loader.epoch(0)
    scale = np.array([40 / 64, 32 / 48] * 2)
    expected = np.array([4, 4, 30, 30]) * scale
    np.testing.assert_allclose(batch.targets.boxes[0, 0].numpy(), expected, atol=1e-4)


def test_proposals_are_padded_and_what_is_cut_away_is_not_valid(table: Table):
    proposals = {
        p: np.array([[0, 0, 64, 48], [1, 1, 9, 9]][: i % 3]) for i, p in enumerate(table.paths)
    }
    loader = make_loader(
        table, PREPROCESS, batch_size=7, shuffle=False, seed=0, proposals=proposals
    )
    (batch,) = loader.epoch(0)
    assert batch.proposals is not None
    assert batch.valid is not None
    assert batch.proposals.shape == (7, 2, 4)
    assert batch.valid.sum(1).tolist() == [0, 1, 2, 0, 1, 2, 0]
    np.testing.assert_allclose(batch.proposals[1, 0].numpy(), [0, 0, 40, 32], atol=1e-4)


SIZES = Sizes([(32, 32), (48, 48), (64, 64), (80, 80)], epoch_steps=30)


def inputs(table: Table, sizes: Sizes, epoch: int = 0) -> list[tuple[int, ...]]:
    """The inputs of an epoch of 30 batches of one image."""
    many = table.select([0, 1, 2] * 10)
    loader = make_loader(many, PREPROCESS, batch_size=1, shuffle=False, seed=1)
    loader.change_sizes(sizes)
    return [tuple(b.images.shape[2:]) for b in loader.epoch(epoch)]


def test_sizes_change_every_ten_batches(table: Table):
    seen = inputs(table, SIZES)
    assert all(len(set(seen[i : i + 10])) == 1 for i in (0, 10, 20))
    assert len(set(seen)) > 1
    assert set(seen) <= set(SIZES.choices)


def test_sizes_change_every_ten_steps_of_two_batches(table: Table):
    seen = inputs(table, replace(SIZES, parts=2))
    assert len(set(seen[:20])) == len(set(seen[20:])) == 1


def test_ten_steps_at_one_size_span_epochs():
    """As Darknet counts batches over the whole training: 7 steps an epoch, 0..9 at one size."""
    sizes = Sizes([(32 * i, 32 * i) for i in range(1, 100)], epoch_steps=7, parts=2)
    seen = [sizes.at(3, epoch, number) for epoch in range(6) for number in range(14)]
    changes = [i for i in range(1, len(seen)) if seen[i] != seen[i - 1]]
    assert changes == [20, 40, 60, 80]  # of 84 batches, two a step


def test_after_a_step_sizes_change_to_the_largest_only(table: Table):
    """As Darknet: 30 steps of 30 an epoch, so the second begins with step 30; `>`, not `>=`."""
    free = inputs(table, SIZES, epoch=1)
    for largest_after, first in ((29, 0), (30, 10), (49, 20), (50, 30)):
        seen = inputs(table, replace(SIZES, largest_after=largest_after), epoch=1)
        assert seen == free[:first] + [(80, 80)] * (30 - first)
    assert set(free) != {(80, 80)}


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read_is_named(table: Table, tmp_path: Path, workers: int):
    data = Path(table.paths[0]).read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    broken = table.select([0])
    broken.paths[0] = str(tmp_path / "cut.png")
    loader = make_loader(broken, PREPROCESS, batch_size=1, shuffle=False, seed=0, workers=workers)
    with pytest.raises(InputError, match=r"cut\.png"):
        list(loader.epoch(0))


def test_a_size_that_is_not_the_pictures_is_an_error_that_names_both(table: Table):
    """As of a picture before its EXIF rotation: the boxes would lie elsewhere."""
    turned = replace(table, sizes=table.sizes[:, ::-1].copy())
    i = int((table.sizes[:, 0] != table.sizes[:, 1]).argmax())
    height, width = table.sizes[i].tolist()
    loader = make_loader(
        turned.select([i]), Preprocess(size=(8, 8)), batch_size=1, shuffle=False, seed=0
    )
    said = f"{Path(table.paths[i]).name}: size: is {width} x {height}, .* states {height} x {width}"
    with pytest.raises(InputError, match=said):
        next(iter(loader))
