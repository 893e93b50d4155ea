"""What stops a run in good order: a loss that is not finite, Ctrl-C, a request to end."""

from __future__ import annotations

import _thread
import json
import math
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from boxatlas.errors import InputError
from boxatlas.files import write_tensors
from boxatlas.structures import Batch

_SHARED = "/dev/shm"


class Stop:
    """Set by Ctrl-C or SIGTERM; the loop ends at the next whole iteration.

    A second one, or one while the weights stand still (`at_once`), raises KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self.asked = False
        self.at_once = False

    @contextmanager
    def listening(self) -> Iterator[Stop]:
        """Take the signals while in the block (only the main thread may)."""

        def handle(number: int, frame: object) -> None:
            again, self.asked = self.asked, True
            if again or self.at_once:
                raise KeyboardInterrupt

        try:
            before = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread: nobody sends it signals
            before = {}
        try:
            yield self
        finally:
            for number, old in before.items():
                signal.signal(number, old)


class Patience:
    """Ends the wait for a batch that will not come: workers that starve, as where shared memory is
    full, neither deliver nor end. `over` says that it was so; the wait then ends as by Ctrl-C."""

    def __init__(self, seconds: float) -> None:
        self.over = False
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def _end(self) -> None:
        self.over = True
        _thread.interrupt_main()

    def __enter__(self) -> Patience:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()


WITHOUT_WORKERS = "go on with --resume and --set workers=0"


def of_workers(error: BaseException) -> InputError | None:
    """What is said of an error of the processes that read images; None: it is not of them."""
    text = str(error)
    signs = ("DataLoader worker", "shared memory", "Bus error", "Too many open files", "/torch_")
    if not any(sign in text for sign in signs):
        return None
    return InputError(
        f"a process that reads images was lost: {(text.splitlines() or [''])[0][:120]}",
        field="workers",
        hint=WITHOUT_WORKERS,
    )


def check_shared_memory(workers: int, batch_bytes: int) -> None:
    """Raise InputError where the batches that workers hold ready do not fit in shared memory, as
    in a container with its usual 64 MB: they would wait for ever."""
    if workers == 0 or not hasattr(os, "statvfs") or not os.path.isdir(_SHARED):
        return
    status = os.statvfs(_SHARED)
    free = status.f_bavail * status.f_frsize
    if free < batch_bytes * 2:
        raise InputError(
            f"shared memory has {free / 2**20:.0f} MB free and a batch takes "
            f"{batch_bytes / 2**20:.0f}",
            field="workers",
            value=workers,
            hint="--set workers=0, or give the container more (--shm-size)",
        )


class FiniteLoss:
    """Raises where a loss is NaN or infinite, the batch saved and its images named.

    On a CPU the check is at once. On a GPU the values are copied out without waiting and looked at
    an iteration or two later, so that the device never stands still; `drain` looks at all.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held: deque[tuple[torch.cuda.Event, Tensor, list[str], Batch, int]] = deque()

    def watch(self, losses: dict[str, Tensor], batch: Batch, step: int) -> None:
        """Look at the losses of a batch; those of earlier ones where they are on a GPU."""
        names = list(losses)
        values = torch.stack([v.detach().float() for v in losses.values()])
        if values.device.type != "cuda":
            self._check(values, names, batch, step)
            return
        copy = torch.empty(values.shape, pin_memory=True)
        copy.copy_(values, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._held.append((event, copy, names, batch, step))
        while self._held and (self._held[0][0].query() or len(self._held) > 4):
            self._look()

    def drain(self) -> None:
        """Look at all that is still held; before anything is saved."""
        while self._held:
            self._look()

    def _look(self) -> None:
        event, values, names, batch, step = self._held.popleft()
        event.synchronize()
        self._check(values, names, batch, step)

    def _check(self, values: Tensor, names: list[str], batch: Batch, step: int) -> None:
        parts = dict(zip(names, values.tolist(), strict=True))
        if all(math.isfinite(v) for v in parts.values()):
            return
        path = self.folder / f"not_finite_{step}.safetensors"
        save_batch(batch, path, step=step, losses={k: str(v) for k, v in parts.items()})
        shown = ", ".join(f"{k} {v:g}" for k, v in parts.items())
        images = ", ".join(batch.names[:8]) + (", ..." if len(batch.names) > 8 else "")
        raise InputError(
            f"the loss is not finite at iteration {step} ({shown}) on the images {images}",
            hint=f"that batch is saved as {path}; try a lower lr, clip, or `boxatlas data check`",
        )


def save_batch(batch: Batch, path: Path, **extra: object) -> None:
    """A batch as safetensors, with its images' names in the header, to look into later."""
    targets = batch.targets
    tensors = {
        "images": batch.images,
        "boxes": targets.boxes,
        "labels": targets.labels,
        "ignore": targets.ignore,
        "image_label": targets.image_label,
        "proposals": batch.proposals,
        "valid": batch.valid,
    }
    kept = {k: v for k, v in tensors.items() if v is not None}
    write_tensors(path, kept, {"names": json.dumps(batch.names), "about": json.dumps(extra)})
