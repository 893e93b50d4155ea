"""Batches of a table: the same for a seed and an epoch, whatever the number of workers.

What sample i of epoch e looks like depends on (seed, e, i) alone; an epoch can start at any batch
without decoding those before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from boxatlas.data.opening import opened
from boxatlas.data.table import Table
from boxatlas.data.transforms import NoAugmentation
from boxatlas.data.transforms.sample import Sample
from boxatlas.errors import InputError
from boxatlas.images import Preprocess
from boxatlas.structures import Batch, Frame, Targets

Augment = Callable[[Sample, Preprocess, np.random.Generator], tuple[Tensor, Frame, Sample]]
_SAME_SIZE = 10  # steps at one size, where sizes change (YOLOv2, section 2)


@dataclass(frozen=True)
class Sizes:
    """Inputs (height, width) that training changes among every ten steps, across epochs.

    epoch_steps: steps per epoch; parts: batches per step of the optimizer; after step
    `largest_after` the size stays at the largest (Darknet: the last 200 steps).
    """

    choices: Sequence[tuple[int, int]]
    epoch_steps: int
    parts: int = 1
    largest_after: int | None = None

    def at(self, seed: int, epoch: int, number: int) -> tuple[int, int]:
        """The input of batch `number` of an epoch."""
        change = (epoch * self.epoch_steps + number // self.parts) // _SAME_SIZE
        if self.largest_after is not None and change * _SAME_SIZE > self.largest_after:
            return max(self.choices, key=lambda size: size[0] * size[1])
        rng = np.random.default_rng([seed, change, 1])
        return self.choices[int(rng.integers(len(self.choices)))]


class Packed:
    """Strings in one block of bytes: forked workers share it without copying."""

    def __init__(self, texts: Sequence[str]) -> None:
        data = [text.encode() for text in texts]
        self.bytes = b"".join(data)
        self.ends = np.cumsum([0, *(len(d) for d in data)])

    def __getitem__(self, i: int) -> str:
        return self.bytes[self.ends[i] : self.ends[i + 1]].decode()


class _Batches(Dataset[Any]):
    """(epoch, number of the batch, sample indices) -> Batch, or the InputError that it raised."""

    def __init__(
        self,
        table: Table,
        preprocess: Preprocess,
        augment: Augment,
        seed: int,
        proposals: Mapping[str, Any] | None,
    ) -> None:
        self.paths, self.stated = Packed(table.paths), table.sizes
        self.offsets, self.boxes = table.offsets, table.boxes
        self.labels, self.ignore, self.masks = table.labels, table.ignore, table.masks
        self.image_label = table.image_label
        self.preprocess, self.augment, self.seed = preprocess, augment, seed
        self.proposals = proposals
        self.sizes: Sizes | None = None

    def __getitem__(self, key: tuple[int, int, Sequence[int]]) -> Batch | InputError:
        epoch, number, indices = key
        try:
            return self.batch(epoch, number, indices)
        except InputError as error:  # raised again in the main process
            return error

    def batch(self, epoch: int, number: int, indices: Sequence[int]) -> Batch:
        preprocess = self.preprocess
        if self.sizes is not None:
            size = self.sizes.at(self.seed, epoch, number)
            preprocess = preprocess.model_copy(update={"size": tuple(size)})
        inputs = []
        for i in indices:
            rng = np.random.default_rng([self.seed, epoch, i])
            inputs.append(self.augment(self.sample(i), preprocess, rng))
        samples = [sample for _, _, sample in inputs]
        targets = Targets.collate(
            [torch.from_numpy(s.boxes) for s in samples],
            [torch.from_numpy(s.labels.astype(np.int64)) for s in samples],
            [torch.from_numpy(s.ignore) for s in samples],
            [int(self.image_label[i]) for i in indices],
            None if self.masks is None else [s.masks or [] for s in samples],
        )
        batch = Batch(
            preprocess.collate([image for image, _, _ in inputs]),
            [frame for _, frame, _ in inputs],
            targets,
            names=[self.paths[i] for i in indices],
        )
        if self.proposals is not None:
            batch.proposals, batch.valid = _padded([s.proposals for s in samples])
        return batch

    def sample(self, i: int) -> Sample:
        part = slice(int(self.offsets[i]), int(self.offsets[i + 1]))
        path = self.paths[i]
        proposals = None
        if self.proposals is not None:
            proposals = np.asarray(self.proposals[path], np.float32).reshape(-1, 4)
        return Sample(
            opened(path, self.stated[i]),
            self.boxes[part],
            self.labels[part],
            self.ignore[part],
            None if self.masks is None else list(self.masks[part]),
            proposals,
        )


def _padded(proposals: Sequence[NDArray[np.float32] | None]) -> tuple[Tensor, Tensor]:
    """[B, P, 4] and valid [B, P]; a box cropped away entirely is marked invalid."""
    rows = [np.zeros((0, 4), np.float32) if p is None else p for p in proposals]
    most = max((len(p) for p in rows), default=0)
    boxes = torch.zeros(len(rows), most, 4)
    for i, p in enumerate(rows):
        boxes[i, : len(p)] = torch.from_numpy(p)
    return boxes, (boxes[..., 2:] > boxes[..., :2]).all(-1)


class Loader:
    """A table's batches by epoch: `for batch in loader`, or `loader.epoch(n)` for a certain one.

    `len` is the number of batches in an epoch.
    """

    def __init__(
        self,
        batches: _Batches,
        images: int,
        batch_size: int,
        shuffle: bool,
        seed: int,
        workers: int,
        rank: int,
        world: int,
        drop_last: bool,
    ) -> None:
        self.batches, self.images, self.batch_size = batches, images, batch_size
        self.shuffle, self.seed, self.workers = shuffle, seed, workers
        self.rank, self.world, self.drop_last = rank, world, drop_last
        self.begun = 0  # epochs that were begun by iterating
        self._keys: list[Any] = []
        self._inner: DataLoader[Any] | None = None

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The images of this rank in the order of an epoch.

        When shuffling, every rank gets the same number, so that a few images come twice.
        """
        order = np.arange(self.images)
        if self.shuffle:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.images)
            if self.images:
                order = np.resize(order, -(-self.images // self.world) * self.world)
        return order[self.rank :: self.world]

    def __len__(self) -> int:
        count = len(self.order(0))
        whole = count // self.batch_size
        # A set smaller than a batch is one batch, not none.
        return whole if self.drop_last and whole else -(-count // self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on."""
        order = self.order(epoch).tolist()
        size = self.batch_size
        self._keys[:] = [
            (epoch, number, order[number * size : (number + 1) * size])
            for number in range(start, len(self))
        ]
        for batch in self._batches():
            if isinstance(batch, InputError):
                raise batch
            yield batch

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the next epoch: of the first, the second, ... time it is iterated."""
        self.begun += 1
        return self.epoch(self.begun - 1)

    def change_sizes(self, sizes: Sizes) -> None:
        """Turn on multi-scale inputs from the next batch; workers already running keep the old
        size."""
        self.batches.sizes = sizes

    def _batches(self) -> Iterator[Batch | InputError]:
        if self.workers == 0:
            for key in list(self._keys):
                yield self.batches[key]
            return
        if self._inner is None:
            self._inner = DataLoader(
                self.batches,
                batch_size=None,
                sampler=self._keys,
                num_workers=self.workers,
                persistent_workers=True,
                prefetch_factor=4,
                worker_init_fn=partial(_one_thread),
                pin_memory=torch.cuda.is_available(),
            )
        yield from self._inner


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)


def make_loader(
    table: Table,
    preprocess: Preprocess,
    *,
    augment: Augment | None = None,
    batch_size: int,
    shuffle: bool,
    seed: int,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
    drop_last: bool = False,
    proposals: Mapping[str, Any] | None = None,
) -> Loader:
    """Batches of a table.

    augment: see `augmentation`; None: none. rank, world: this process takes every world-th image.
    proposals: image path -> boxes [P, 4] in source pixels. workers: decoding processes, 0 = none.
    """
    if batch_size < 1:
        raise InputError("must be at least 1", field="batch_size", value=batch_size)
    augment = NoAugmentation() if augment is None else augment
    batches = _Batches(table, preprocess, augment, seed, proposals)
    return Loader(batches, len(table), batch_size, shuffle, seed, workers, rank, world, drop_last)
