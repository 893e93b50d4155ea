"""Runs: a folder that is started, resumed or tried out, and never overwritten."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from boxatlas.errors import InputError
from boxatlas.files import make_folder, write_text
from boxatlas.progress import console
from boxatlas.training.checkpoint import STATE, STEADY, read_header, reopen
from boxatlas.training.detectors import plain
from boxatlas.training.distributed import wait, world
from boxatlas.training.log import METRICS, TENSORBOARD, memory_mb
from boxatlas.training.loop import run
from boxatlas.training.optim import schedule, steps_in
from boxatlas.training.prepare import prepare, resolve_init
from boxatlas.training.recipe import Recipe, differences, read_recipe

RECIPE = "recipe.yaml"
_LOCK_SECONDS = 7.0  # more than torch's workers take to see that their parent is gone
# What may change when a run is resumed: what computes nothing, and how long it is.
_LENGTH = {"iterations", "epochs", "eval_every", "patience"}
_FREE = ("workers", "log_every", "save_every", "save_minutes", "data", "format")


@dataclass
class Trained:
    """What a training left: its folder, checkpoints, iterations, seconds and last metrics."""

    folder: Path
    best: Path
    last: Path
    iterations: int
    seconds: float
    metrics: dict[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        return {
            "run": str(self.folder),
            "best": str(self.best),
            "last": str(self.last),
            "iterations": self.iterations,
            "seconds": round(self.seconds, 1),
            "metrics": plain(self.metrics),
        }


def train(
    recipe: Recipe | None,
    out: str | Path,
    *,
    device: str | torch.device = "cpu",
    resume: bool = False,
) -> Trained:
    """Train a recipe in the folder `out`, alone or as one of torchrun's processes.

    resume: continue where the folder stands, or start if nothing was saved yet; recipe None: the
    folder's own. Raises InputError where the folder is in use and `resume` is not given, where the
    recipe is not the folder's, and as `loop.run` does.
    """
    folder = Path(out)
    recipe = None if recipe is None else resolve_init(recipe)
    with world(torch.device(device)) as (here, own_device), ExitStack() as own:
        recipe = _settled(recipe, folder, resume)
        wait(here)  # all have looked at the folder before the first writes to it
        new = not folder.exists() or not any(folder.iterdir())
        if here.first:
            own.enter_context(held(make_folder(folder)))
            for pattern in (".*.part", ".tmp*"):  # what a kill left half written
                for left in folder.rglob(pattern):
                    left.unlink(missing_ok=True)
            write_text(folder / RECIPE, recipe.text())
        begun = (folder / STATE).exists()
        try:
            job, notes = prepare(recipe, folder, own_device, here, begun=begun)
            if here.first:
                for line in notes:
                    console().print(line, markup=False)
            position = run(job)
        except InputError:
            if new and here.first:
                _withdraw(folder)
            raise
    iterations = int(position.trained)
    return Trained(
        folder,
        folder / "best.safetensors",
        folder / "last.safetensors",
        iterations,
        position.seconds,
        position.metrics,
    )


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """A lock on a run's folder that ends with this process, however that ends.

    Raises InputError where another process trains in it. Reading workers of one that was killed
    hold it for a few seconds more, so that it is tried for so long.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        end = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise InputError(
                        "another process is training in this folder",
                        file=folder,
                        hint="wait for it or stop it, or pass another --out",
                    ) from None
                time.sleep(0.2)
            except OSError:  # a file system without locks
                break
        yield
    finally:
        os.close(handle)


def _withdraw(folder: Path) -> None:
    """Remove a run's first files where an error ended it before there was more to keep."""
    if {path.name for path in folder.iterdir()} <= {RECIPE, METRICS, TENSORBOARD}:
        shutil.rmtree(folder)


def _settled(recipe: Recipe | None, folder: Path, resume: bool) -> Recipe:
    """The recipe of this run. Raises InputError where something would be overwritten."""
    if not resume:
        if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
            raise InputError(
                "holds something already",
                file=folder,
                hint="--resume continues it; or pass another --out",
            )
        if recipe is None:
            raise InputError("no model or recipe was given", field="train")
        return recipe
    held = folder / RECIPE
    if not held.is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise InputError("is not the folder of a run: no recipe.yaml", file=folder)
        if recipe is None:
            raise InputError("there is no run to resume", file=folder)
        return recipe
    old = read_recipe(held)
    if recipe is None:
        return old
    changed = differences(old, recipe, ignoring=_FREE)
    if changed and set(changed) <= _LENGTH and _lengthened(folder, old, recipe):
        return recipe
    if changed and (folder / STATE).exists():
        name = next((one for one in changed if one not in _LENGTH), next(iter(changed)))
        before, now = changed[name]
        raise InputError(
            f"the run has {name} {before!r}, not {now!r}",
            file=held,
            hint="train into another --out to change it",
        )
    return recipe


def _lengthened(folder: Path, old: Recipe, new: Recipe) -> bool:
    """Make ready to go on with a run of one phase that is to be longer; False where it cannot be.

    One of schedule constant_decay goes back to where its rate began to fall, if it came so far:
    until then a longer one is the same. Any other goes on from its last iteration by the new
    schedule. Its detectors stay until the longer run writes its own.
    """
    header = read_header(folder)
    if header is None:
        return True
    position, over = header["position"], header["ended"]
    at = over or position
    per_epoch = max(at.epoch_steps, 1)
    longer = steps_in(new.length, new, per_epoch) - steps_in(old.length, old, per_epoch)
    if longer < 0 or position.phase > 1 or (position.phase and over is None):
        return False
    if longer and new.schedule == "constant_decay" and (folder / STEADY).exists():
        replaced = folder / (STATE + ".part")
        shutil.copyfile(folder / STEADY, replaced)
        os.replace(replaced, folder / STATE)
        return True
    before, after = (schedule(one, per_epoch)(at.step) for one in (old, new))
    said = f"the rate after iteration {at.step} is {after:.3g}, where it was {before:.3g}"
    kind = f"{new.schedule} over {new.length:g} {'epochs' if new.epochs else 'iterations'}"
    console().print(f"from {old.length:g} to {new.length:g}: {kind}; {said}", markup=False)
    if over is not None:
        reopen(folder)
    return True


def try_out(recipe: Recipe, *, device: str | torch.device = "cpu") -> dict[str, Any]:
    """One batch, one iteration, one evaluation, one checkpoint, in a folder that is then removed.

    On a CPU the batch is four images, so that the answer comes in seconds.
    """
    device = torch.device(device)
    batch = min(recipe.batch, 4) if device.type == "cpu" else recipe.batch
    once = resolve_init(recipe).changed(
        {
            "iterations": 1,
            "milestones": [],
            "warmup": 0,
            "eval_every": 1,
            "log_every": 1,
            "batch": batch,
            "micro_batch": min(recipe.micro_batch or batch, batch),
            "workers": 0,
        }
    )
    with tempfile.TemporaryDirectory() as name, world(device) as (here, own_device):
        begun = time.perf_counter()
        job, notes = prepare(once, Path(name), own_device, here, judged=4)
        for line in notes:
            console().print(line, markup=False)
        ready = time.perf_counter()
        position = run(job)
        size = (Path(name) / "last.safetensors").stat().st_size
        return {
            "model": recipe.model,
            "batch": batch,
            "device": str(own_device),
            "seconds_to_prepare": round(ready - begun, 2),
            "seconds_of_iteration_and_evaluation": round(time.perf_counter() - ready, 2),
            "memory_mb": round(memory_mb(own_device)),
            "checkpoint_mb": round(size / 2**20, 1),
            "losses": {k: round(v, 4) for k, v in position.losses.items()},
            "metrics": plain(position.metrics),
        }
