"""Several processes, as `torchrun` starts them: who am I, and the few things said between them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class World:
    """This process among all: rank in 0..size-1, and its place on this machine."""

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """The process that prints and writes."""
        return self.rank == 0


@contextmanager
def world(device: torch.device) -> Iterator[tuple[World, torch.device]]:
    """Join the processes that torchrun started, if any; leave them at the end.

    Yields the world and this process's device: `cuda` becomes the GPU of its own.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(), device
        return
    here = World(int(os.environ["RANK"]), size, int(os.environ.get("LOCAL_RANK", "0")))
    if device.type == "cuda":
        device = torch.device("cuda", here.local)
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield here, device
    finally:
        dist.destroy_process_group()


def gathered(value: Any, here: World) -> list[Any]:
    """The value of every process, in order of rank, on the first; [] on the others."""
    if here.size == 1:
        return [value]
    out: list[Any] | None = [None] * here.size if here.first else None
    dist.gather_object(value, out)
    return out or []


def any_of(flag: bool, here: World, device: torch.device) -> bool:
    """Whether the flag is set on any process. All must call it."""
    if here.size == 1:
        return flag
    told = torch.tensor([float(flag)], device=device)
    dist.all_reduce(told)
    return bool(told.item())


def wait(here: World) -> None:
    """Until every process is here."""
    if here.size > 1:
        dist.barrier()
