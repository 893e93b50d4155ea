"""Darknet's files of weights: a header, then float32 numbers in the order of the layers.

Public: Header, Numbers, read_numbers, write_numbers, conv_parts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from boxatlas.errors import InputError
from boxatlas.files import replacing

Part = tuple[str, Tensor]  # a name for messages, and the parameter or buffer


@dataclass(frozen=True)
class Header:
    """Version and the images seen in training. `transposed`: matrices are stored (in, out)."""

    major: int = 0
    minor: int = 2
    revision: int = 0
    seen: int = 0

    @property
    def wide(self) -> bool:
        """Whether `seen` takes eight bytes."""
        return self.major * 10 + self.minor >= 2 and self.major < 1000 and self.minor < 1000

    @property
    def transposed(self) -> bool:
        return self.major > 1000 or self.minor > 1000

    @property
    def size(self) -> int:
        return 20 if self.wide else 16

    def packed(self) -> bytes:
        version = np.array([self.major, self.minor, self.revision], "<i4").tobytes()
        return version + np.array([self.seen], "<u8" if self.wide else "<i4").tobytes()


class Numbers:
    """The numbers of a file after its header, taken in order."""

    def __init__(self, path: Path, header: Header, values: np.ndarray) -> None:
        self.path, self.header, self.values, self.taken = path, header, values, 0

    @property
    def offset(self) -> int:
        """In bytes, from the start of the file."""
        return self.header.size + 4 * self.taken

    @property
    def left(self) -> int:
        return len(self.values) - self.taken

    @torch.no_grad()
    def fill(self, name: str, target: Tensor) -> None:
        """Copy the next numbers into a tensor. Raises InputError where the file ends first."""
        count = target.numel()
        if count > self.left:
            raise InputError(
                f"ends at byte {self.header.size + 4 * len(self.values)}, within {name}, which "
                f"begins at byte {self.offset} and takes {4 * count} bytes",
                file=self.path,
                hint="truncated, or the weights of another network",
            )
        part = np.array(self.values[self.taken : self.taken + count], np.float32)
        if not np.isfinite(part).all():
            place = self.offset + 4 * int(np.flatnonzero(~np.isfinite(part))[0])
            problem = f"holds a number that is not finite at byte {place}, in {name}"
            raise InputError(problem, file=self.path, hint="damaged, or of another network")
        if self.header.transposed and name.endswith("matrix"):
            rows, columns = target.shape
            target.copy_(torch.from_numpy(part.reshape(columns, rows)).t())
        else:
            target.copy_(torch.from_numpy(part).view(target.shape))
        self.taken += count

    def end(self) -> None:
        """Raise InputError where numbers are left over."""
        if self.left:
            raise InputError(
                f"goes on after the network's last number, from byte {self.offset} to "
                f"{self.header.size + 4 * len(self.values)}",
                file=self.path,
                hint="the weights of another network",
            )


def read_numbers(path: str | Path) -> Numbers:
    """Open a file of weights of any version. Raises InputError where it cannot be one."""
    path = Path(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(20)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from None
    if size < 16:
        problem = f"ends at byte {size}, within the header"
        raise InputError(problem, file=path, hint="not a Darknet file of weights")
    major, minor, revision = (int(v) for v in np.frombuffer(head[:12], "<i4"))
    header = Header(major, minor, revision)
    if not 0 <= major < 100_000 or not 0 <= minor < 100_000 or not 0 <= revision < 100_000:
        problem = f"its version at byte 0 is {major}.{minor}.{revision}"
        raise InputError(problem, file=path, hint="not a Darknet file of weights")
    if size < header.size or (size - header.size) % 4:
        problem = f"ends at byte {size}, within a number"
        raise InputError(problem, file=path, hint="truncated, or not a Darknet file of weights")
    kind = "<u8" if header.wide else "<i4"
    seen = int(np.frombuffer(head[12 : header.size], kind)[0])
    values = np.memmap(path, "<f4", "r", header.size) if size > header.size else np.zeros(0, "<f4")
    return Numbers(path, Header(major, minor, revision, seen), np.asarray(values))


def write_numbers(path: str | Path, parts: Iterable[Tensor], header: Header) -> None:
    """Write a file of weights, atomically."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(header.packed())
        for part in parts:
            file.write(part.detach().cpu().contiguous().numpy().astype("<f4").tobytes())


def conv_parts(conv: nn.Conv2d, norm: nn.Module | None, where: str) -> list[Part]:
    """A convolution's tensors in a file's order: bias, or beta, gamma, mean, variance; weight."""
    parts: list[Part] = []
    if norm is None:
        assert conv.bias is not None
        parts.append((f"{where}.bias", conv.bias))
    else:
        names = {
            "bias": "bias",
            "scales": "weight",
            "running_mean": "running_mean",
            "running_var": "running_var",
        }
        parts += [(f"{where}.{theirs}", getattr(norm, ours)) for theirs, ours in names.items()]
    return [*parts, (f"{where}.weight", conv.weight)]
