"""A run that was stopped, in any way, ends as one that never was: the same weights bit for bit."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file
from tiny import RECIPE, Tiny, job

from boxatlas.errors import InputError
from boxatlas.training import runs
from boxatlas.training.checkpoint import STATE, read_header
from boxatlas.training.guard import Patience, check_shared_memory, of_workers
from boxatlas.training.loop import run

TINY = Path(__file__).with_name("tiny.py")


def start(folder: Path, iterations: int, pause: float = 0.0) -> subprocess.Popen[str]:
    command = [sys.executable, str(TINY), str(folder), str(iterations), str(pause)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def here(folder: Path, iterations: int) -> None:
    """The same run in this process, on as many threads."""
    threads = torch.get_num_threads()
    try:
        tiny.main(str(folder), str(iterations))
    finally:
        torch.set_num_threads(threads)


def same(a: Path, b: Path) -> None:
    one, two = load_file(a), load_file(b)
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name


def test_killed_again_and_again_it_ends_with_the_same_weights(tmp_path: Path) -> None:
    here(tmp_path / "whole", 60)

    draw, stopped = random.Random(0), tmp_path / "stopped"
    for _ in range(2):
        running = start(stopped, 60, pause=0.02)
        before = read_header(stopped)
        reached = before["position"].trained if before else 0
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:  # until a later state is written, and then somewhat
            header = read_header(stopped)
            if header and header["position"].trained > reached:
                break
            time.sleep(0.005)
        time.sleep(draw.random() * 0.05)
        running.send_signal(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
    header = read_header(stopped)
    assert header is not None
    assert 0 < header["position"].trained < 60
    here(stopped, 60)

    for name in ("last.safetensors", "best.safetensors", STATE):
        same(tmp_path / "whole" / name, stopped / name)
    rows = [
        (tmp_path / run_ / "metrics.csv").read_text().splitlines() for run_ in ("whole", "stopped")
    ]
    assert [r.split(",")[:2] for r in rows[0]] == [r.split(",")[:2] for r in rows[1]]


def test_ctrl_c_ends_with_the_iteration_and_leaves_a_run_to_go_on_with(tmp_path: Path) -> None:
    # A process begun in the background inherits an ignored SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        _ctrl_c(tmp_path)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def _ctrl_c(tmp_path: Path) -> None:
    recipe = RECIPE.changed({"save_every": 0, "eval_every": 1000})
    run(job(tmp_path / "whole", recipe))
    first = job(tmp_path / "stopped", recipe)
    loss, calls = first.model.loss, [0]

    def pressing(*arguments: Any) -> dict[str, torch.Tensor]:
        calls[0] += 1
        if calls[0] == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return loss(*arguments)

    first.model.loss = pressing
    with pytest.raises(KeyboardInterrupt):
        run(first)
    header = read_header(tmp_path / "stopped")
    assert header is not None
    assert header["position"].step == 7
    run(job(tmp_path / "stopped", recipe))
    same(tmp_path / "whole" / STATE, tmp_path / "stopped" / STATE)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("parts", [None, 2])
def test_a_stop_at_any_iteration_changes_nothing(
    tmp_path: Path, optimizer: str, parts: int | None
) -> None:
    recipe = RECIPE.changed(
        {
            "optimizer": optimizer,
            "micro_batch": parts,
            "save_every": 1,
            "iterations": 10,
            "eval_every": 4,
        }
    )
    run(job(tmp_path / "whole", recipe))
    for at in (1, 6, 8):
        folder = tmp_path / f"at{at}"
        first = job(folder, recipe)
        stop_after(first, at)
        with pytest.raises(KeyboardInterrupt):
            run(first)
        second = job(folder, recipe)
        run(second)
        same(tmp_path / "whole" / STATE, folder / STATE)
        # The loader is asked for the batch that comes next, not for those before it.
        micro = parts or 4
        assert second.made[0].given[0] == divmod(at * (4 // micro), 6)  # type: ignore[attr-defined]


def stop_after(one: object, at: int) -> None:
    """Make the model raise as the loss of iteration `at` is asked for."""
    model, calls = one.model, [0]  # type: ignore[attr-defined]
    loss = model.loss
    parts = 4 // (one.recipe.micro_batch or 4)  # type: ignore[attr-defined]

    def stopping(batch: object, generator: object = None) -> object:
        calls[0] += 1
        if calls[0] > at * parts:
            raise KeyboardInterrupt
        return loss(batch, generator)

    model.loss = stopping


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    run(job(tmp_path, RECIPE))
    before = (tmp_path / "last.safetensors").read_bytes()
    position = run(job(tmp_path, RECIPE))
    assert position.trained == 24
    assert (tmp_path / "last.safetensors").read_bytes() == before


def test_the_state_of_another_model_is_refused(tmp_path: Path) -> None:
    recipe = RECIPE.changed({"save_every": 1})
    first = job(tmp_path, recipe)
    stop_after(first, 3)
    with pytest.raises(KeyboardInterrupt):
        run(first)
    with pytest.raises(InputError, match="the state of another model"):
        run(job(tmp_path, recipe, Tiny(("a", "b", "c"))))


def test_a_cut_off_state_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / STATE).write_bytes(b"\x10\x00\x00\x00")
    with pytest.raises(InputError, match="not the state of a run"):
        run(job(tmp_path))


def test_one_process_at_a_time_trains_in_a_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(runs, "_LOCK_SECONDS", 0.3)
    code = (
        "import fcntl, os, sys, time; h = os.open(sys.argv[1], os.O_RDONLY); "
        "fcntl.flock(h, fcntl.LOCK_EX); print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE)
    assert other.stdout is not None
    other.stdout.readline()
    with pytest.raises(InputError, match="another process is training"), runs.held(tmp_path):
        pass
    other.kill()  # the lock dies with the process
    other.wait()
    with runs.held(tmp_path):
        pass


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
        OSError(28, "No space left on device: '/torch_7_8'"),
        RuntimeError("unable to write to file </torch_1>: No space left in shared memory"),
    ],
)
def test_a_lost_worker_costs_nothing(tmp_path: Path, error: Exception) -> None:
    begun = job(tmp_path, RECIPE.changed({"iterations": 4, "save_minutes": 100.0}))
    loaders = begun.loader

    def failing(*args, **options):
        loader = loaders(*args, **options)
        whole = loader.epoch

        def epoch(number: int, start: int = 0):
            for k, batch in enumerate(whole(number, start)):
                if k == 2:
                    raise error
                yield batch

        loader.epoch = epoch
        return loader

    begun.loader = failing
    with pytest.raises(InputError, match=r"workers.*--resume and --set workers=0"):
        run(begun)
    header = read_header(tmp_path)
    assert header is not None
    assert header["position"].step == 2


def test_other_errors_are_not_taken_for_lost_workers() -> None:
    assert of_workers(RuntimeError("shape mismatch")) is None


def test_too_little_shared_memory_is_said_before_training() -> None:
    with pytest.raises(InputError, match="workers=0"):
        check_shared_memory(2, 2**60)
    check_shared_memory(0, 2**60)
    check_shared_memory(2, 1)


def test_waiting_for_a_batch_ends() -> None:
    # As where shared memory is full: workers neither deliver nor end.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), Patience(0.05) as patience:
            time.sleep(5)
        assert patience.over
    finally:
        signal.signal(signal.SIGINT, before)
