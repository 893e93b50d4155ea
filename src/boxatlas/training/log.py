"""What a run says: metrics.csv always, TensorBoard where it is installed, the console."""

from __future__ import annotations

import csv
import io
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from torch import Tensor

from boxatlas.errors import InputError
from boxatlas.files import write_text
from boxatlas.progress import bar, console

METRICS, TENSORBOARD = "metrics.csv", "tensorboard"  # in the run's folder
_LINE_EVERY = 15.0  # seconds between lines, where there is no terminal
Row = dict[str, Any]


class Meter:
    """Sums of the losses since the last reading, kept on the device so that nothing waits."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self.names: tuple[str, ...] = ()
        self._steps = self._images = 0
        self._since = time.perf_counter()

    def add(self, losses: Mapping[str, Tensor], weight: float = 1.0) -> None:
        """Take in the losses of a micro-batch that counts `weight` of its step."""
        for name, value in losses.items():
            value = value.detach() * weight
            held = self._sums.get(name)
            self._sums[name] = value.clone() if held is None else held.add_(value)

    def step(self, images: int) -> None:
        self._steps += 1
        self._images += images

    def read(self) -> Row:
        """Means since the last reading, the sum of the parts as `loss`, and images per second."""
        parts = {k: float(v) / max(self._steps, 1) for k, v in self._sums.items()}
        self.names = tuple(parts)
        now = time.perf_counter()
        rate = self._images / max(now - self._since, 1e-9)
        self._sums, self._steps, self._images, self._since = {}, 0, 0, now
        return {"loss": sum(parts.values()), **parts, "images_per_second": rate}

    def restart(self) -> None:
        """Do not count the time since the last reading (an evaluation) as training."""
        self._since = time.perf_counter()


def memory_mb(device: torch.device) -> float:
    """Most memory held so far: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


class MetricsTable:
    """metrics.csv: one row a reading, columns added as they come up."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns: list[str] = []
        self.rows: list[Row] = []

    def resume(self, phase: int, step: int) -> None:
        """Keep the rows up to a position; a killed run may have written later ones."""
        if not self.path.exists():
            return
        with open(self.path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            self.columns = list(reader.fieldnames or [])
            whole = [row for row in reader if None not in row and None not in row.values()]
        self.rows = [r for r in whole if _position(r) <= (phase, step)]
        self._write_all()

    def add(self, row: Row) -> None:
        new = [name for name in row if name not in self.columns]
        self.columns += new
        self.rows.append(row)
        if new:
            self._write_all()
            return
        text = io.StringIO()
        csv.DictWriter(text, self.columns, restval="").writerow(_shortened(row))
        try:
            with open(self.path, "a", newline="", encoding="utf-8") as file:
                file.write(text.getvalue())
        except OSError as error:
            raise InputError(
                f"could not be written: {error.strerror}",
                file=self.path,
                hint="--resume when there is room",
            ) from error

    def _write_all(self) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, restval="")
        writer.writeheader()
        writer.writerows(_shortened(row) for row in self.rows)
        write_text(self.path, text.getvalue())


def _position(row: Row) -> tuple[int, int]:
    try:
        return int(row.get("phase") or 0), int(row.get("iteration") or 0)
    except ValueError:  # a line cut short by a kill
        return sys.maxsize, sys.maxsize


def _shortened(row: Row) -> Row:
    return {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()}


class Log:
    """The three outputs together. A log that is not `shown` (another rank) does nothing."""

    def __init__(self, folder: Path, shown: bool = True) -> None:
        self.shown = shown
        self.table = MetricsTable(folder / METRICS)
        self._folder, self._board, self._task = folder, None, None
        self._bar: Progress | None = None
        self._said = time.monotonic()
        self._out = console()

    def open(self, phase: int, step: int) -> None:
        """Begin at a position, forgetting what was written after it."""
        if not self.shown:
            return
        self.table.resume(phase, step)
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._board = SummaryWriter(str(self._folder / TENSORBOARD), purge_step=step + 1)

    def say(self, text: str) -> None:
        if self.shown:
            out = self._out if self._bar is None else self._bar.console
            out.print(text, markup=False)

    def start(self, name: str, total: int, done: int) -> None:
        """Show a bar for a phase."""
        if self.shown and sys.stderr.isatty():
            self._bar = bar()
            self._bar.start()
            self._task = self._bar.add_task(name, total=total, completed=done, note="")
        self._name, self._total, self._from = name, total, (done, time.monotonic())

    def end(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Take the bar away for the block, in which others show theirs."""
        if self._bar is not None:
            self._bar.stop()
        yield
        if self._bar is not None:
            self._bar.start()

    def moved(self, step: int) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step)

    def row(self, row: Row) -> None:
        """Write one reading everywhere."""
        if not self.shown:
            return
        self.table.add(row)
        if self._board is not None:
            for name, value in row.items():
                if isinstance(value, float):
                    self._board.add_scalar(name, value, int(row["iteration"]))
        note = _note(row)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, note=note)
        elif time.monotonic() - self._said >= _LINE_EVERY:
            self._said = time.monotonic()
            place = f"{self._name} {row['iteration']}/{self._total}"
            self._out.print(f"{place} {note}{self._left(row)}", markup=False)

    def _left(self, row: Row) -> str:
        begun, at = self._from
        done = int(row["iteration"]) - begun
        if done <= 0:
            return ""
        left = (time.monotonic() - at) / done * (self._total - int(row["iteration"]))
        return f", eta {int(left) // 60}:{int(left) % 60:02d}"

    def close(self) -> None:
        self.end()
        if self._board is not None:
            self._board.close()


_SHOWN_APART = {
    "phase",
    "iteration",
    "epoch",
    "images",
    "seconds",
    "lr",
    "loss",
    "images_per_second",
    "memory_mb",
}


def _note(row: Row) -> str:
    if "loss" not in row:
        return ""
    parts = " ".join(
        f"{k} {v:.3f}" for k, v in row.items() if k not in _SHOWN_APART and isinstance(v, float)
    )
    speed = f"{row['images_per_second']:.1f} images/s {row['memory_mb'] / 1024:.1f} GB"
    return f"loss {row['loss']:.3f} ({parts}) lr {row['lr']:.2g} {speed}"
