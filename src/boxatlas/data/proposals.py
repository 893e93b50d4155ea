"""Proposal files: the boxes that R-CNN and Fast R-CNN are given, for every image of a folder.

A file is an npz: `names` [N] (paths under the folder they were made from), `sizes` [N, 2] (height,
width), `offsets` [N + 1], `boxes` [T, 4] float32 xyxy in source pixels, best first, `scores` [T]
where the maker has some, `marks` [N] (`mark_of` each image's file, 0: not known) where any is
known, and `about`, JSON that says how they were made. The .mat files of R-CNN and Fast R-CNN are
read too.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePath
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from boxatlas.archives import read_npz
from boxatlas.data.mat_file import read_mat
from boxatlas.data.table import Table
from boxatlas.errors import InputError, parsing
from boxatlas.files import write_with

FILE = "proposals.npz"  # its name in a data set's folder
_SHARD = 64  # images between two writes of a `Store`


@dataclass(frozen=True)
class Proposals(Mapping[str, NDArray[np.float32]]):
    """Boxes of N images; `proposals[path]` are one image's [P, 4], found by the path's last parts.

    The fields are those of the file.
    """

    names: tuple[str, ...]
    sizes: NDArray[np.int32]
    offsets: NDArray[np.int64]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32] | None = None
    about: Mapping[str, Any] | None = None
    file: Path | None = None
    marks: NDArray[np.uint64] | None = None

    @cached_property
    def _index(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.names)}

    def find(self, path: str | Path) -> int:
        """Which image a path is, by as many of its last parts as a name has, or InputError."""
        number = self._number(path)
        if number is None:
            raise InputError(
                "has no proposals for this image",
                file=self.file,
                value=str(path),
                hint="`boxatlas propose` makes them",
            )
        return number

    def _number(self, path: str | Path) -> int | None:
        whole = PurePath(path)
        for start in range(len(whole.parts)):
            tail = PurePath(*whole.parts[start:]).as_posix()
            number = self._index.get(tail, self._index.get(tail.rsplit(".", 1)[0]))
            if number is not None:
                return number
        return None

    def part(self, i: int) -> slice:
        """Where image i's proposals lie in boxes and scores."""
        return slice(int(self.offsets[i]), int(self.offsets[i + 1]))

    def __getitem__(self, path: str) -> NDArray[np.float32]:
        return self.boxes[self.part(self.find(path))]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def first(self, most: int | None) -> Proposals:
        """At most `most` of each image, the best ones."""
        counts = np.diff(self.offsets)
        if most is None or not len(counts) or counts.max() <= most:
            return self
        kept = np.minimum(counts, most)
        offsets = np.concatenate([[0], np.cumsum(kept)])
        rows = np.repeat(self.offsets[:-1] - offsets[:-1], kept) + np.arange(offsets[-1])
        scores = None if self.scores is None else self.scores[rows]
        return replace(self, offsets=offsets, boxes=self.boxes[rows], scores=scores)

    def check(self, table: Table) -> None:
        """Raise InputError where an image of the table has none, or those of another size."""
        for path, size in zip(table.paths, table.sizes, strict=True):
            self.check_size(self.find(path), path, size)

    def check_size(self, i: int, path: str, size: NDArray[np.int32]) -> None:
        """Raise InputError where image i is known not to be of this size (height, width)."""
        held = self.sizes[i]
        if held.any() and tuple(held) != tuple(size):
            raise InputError(
                f"proposals are of a {held[1]} x {held[0]} image {self.names[i]}, but "
                f"{path} is {size[1]} x {size[0]}",
                file=self.file,
            )

    def write(self, path: str | Path) -> None:
        """Write the npz."""
        arrays = {
            "names": np.array(self.names, dtype=np.str_),
            "sizes": self.sizes,
            "offsets": self.offsets,
            "boxes": self.boxes,
            "about": np.array(json.dumps(dict(self.about or {}))),
        }
        for name in ("scores", "marks"):
            if getattr(self, name) is not None:
                arrays[name] = getattr(self, name)

        def save(temporary: Path) -> None:
            with open(temporary, "wb") as stream:
                np.savez(stream, **arrays)  # pyright: ignore[reportArgumentType]

        write_with(path, save)

    @classmethod
    def join(cls, parts: Sequence[Proposals]) -> Proposals:
        """The images of several, each once. Raises InputError where two hold other boxes of one."""
        if len(parts) == 1:
            return parts[0]
        rows: dict[str, tuple[Proposals, int]] = {}
        for part in parts:
            for i, name in enumerate(part.names):
                _same(name, rows.setdefault(name, (part, i)), (part, i))
        return cls._of(rows)

    @classmethod
    def _of(cls, rows: Mapping[str, tuple[Proposals, int]]) -> Proposals:
        """name -> (proposals, number of the image there), as one."""
        chosen = list(rows.values())
        counts = np.array([p.offsets[i + 1] - p.offsets[i] for p, i in chosen], np.int64)
        scored = bool(chosen) and all(part.scores is not None for part, _ in chosen)
        marks = np.array([0 if p.marks is None else p.marks[i] for p, i in chosen], np.uint64)

        def joined(field: str) -> Any:
            pieces = [getattr(part, field)[part.part(i)] for part, i in chosen]
            return np.concatenate(pieces) if pieces else np.zeros((0, 4), np.float32)

        return cls(
            tuple(rows),
            np.array([p.sizes[i] for p, i in chosen], np.int32).reshape(-1, 2),
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            joined("boxes"),
            joined("scores") if scored else None,
            chosen[0][0].about if chosen else None,
            chosen[0][0].file if chosen else None,
            marks if marks.any() else None,
        )


def _same(path: str, one: tuple[Proposals, int], other: tuple[Proposals, int]) -> None:
    """Raise InputError where two hold different boxes of an image."""
    (first, i), (second, j) = one, other
    if not np.array_equal(first.boxes[first.part(i)], second.boxes[second.part(j)]):
        raise InputError(
            f"holds other boxes of this image than {first.file}", file=second.file, value=path
        )


def mark_of(path: str | Path) -> int:
    """A 64-bit hash of an image file's content; tells apart files of one name; never 0.

    Raises InputError where the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, hashlib.blake2b).digest()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", file=path) from None
    return int.from_bytes(digest[:8], "big") or 1


def beside(folders: Sequence[str | Path]) -> list[Path]:
    """The proposal files of data folders, where every one has its own; else none."""
    files = [Path(folder) / FILE for folder in folders]
    return files if files and all(file.is_file() for file in files) else []


def for_images(
    files: Sequence[str | Path], tables: Sequence[Table], most: int | None, *, own: bool = False
) -> Proposals:
    """The proposals of the tables' images, named as there, at most `most` of each.

    own: the files lie beside the data, and an image in the folder of one is looked up in that one:
    two data sets may give different images one name. Any other image may be in any file. Raises
    InputError where an image has none, has different ones, or has those of an image of another
    size.
    """
    parts = [(PurePath(os.path.abspath(Path(f).parent)), read_proposals(f)) for f in files]
    parts.sort(key=lambda part: len(part[0].parts), reverse=True)  # of nested ones, the inner one
    rows: dict[str, tuple[Proposals, int]] = {}
    for table in tables:
        for path, size in zip(table.paths, table.sizes, strict=True):
            whole = PurePath(os.path.abspath(path))
            around = [part for folder, part in parts if own and whole.is_relative_to(folder)]
            part, i = _look_up(path, around[:1] or [part for _, part in parts])
            part.check_size(i, path, size)
            rows[PurePath(path).as_posix()] = part, i
    return Proposals._of(rows).first(most)


def _look_up(path: str, parts: Sequence[Proposals]) -> tuple[Proposals, int]:
    """(the proposals that hold an image, its number there)."""
    rows = [(part, i) for part in parts if (i := part._number(path)) is not None]
    if not rows:
        parts[0].find(path)  # raises
    for row in rows[1:]:
        _same(path, rows[0], row)
    return rows[0]


def read_proposals(path: str | Path) -> Proposals:
    """The proposals of an npz of ours or of a .mat of R-CNN or Fast R-CNN.

    Raises InputError naming the file and the field for anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("no such file", file=path)
    kind = path.suffix.lower()
    if kind == ".mat":
        return _from_mat(path)
    if kind in (".pkl", ".pickle"):
        raise InputError(
            "a pickle can run code and is not opened", file=path, hint="give an .npz or a .mat"
        )
    arrays = read_npz(path)
    with parsing(path, "not a proposal file"):
        about = json.loads(str(arrays.get("about", "{}")))
    return _checked(path, arrays, about)


def _checked(path: Path, arrays: dict[str, NDArray[Any]], about: Any) -> Proposals:
    for name in ("names", "sizes", "offsets", "boxes"):
        if name not in arrays:
            raise InputError("not a proposal file: lacks an array", file=path, field=name)
    names, offsets, boxes = arrays["names"], arrays["offsets"], arrays["boxes"]
    scores, marks = arrays.get("scores"), arrays.get("marks")
    fits = (
        names.dtype.kind == "U"
        and names.ndim == 1
        and isinstance(about, dict)
        and arrays["sizes"].shape == (len(names), 2)
        and offsets.shape == (len(names) + 1,)
        and boxes.ndim == 2
        and boxes.shape[1] == 4
        and (scores is None or scores.shape == (len(boxes),))
        and (marks is None or (marks.shape == (len(names),) and marks.dtype == np.uint64))
    )
    if not fits or offsets[0] != 0 or offsets[-1] != len(boxes) or (np.diff(offsets) < 0).any():
        raise InputError("its arrays do not fit together", file=path)
    if not np.isfinite(boxes).all():
        raise InputError("holds boxes that are not finite", file=path, field="boxes")
    return Proposals(
        tuple(names.tolist()),
        arrays["sizes"].astype(np.int32),
        offsets.astype(np.int64),
        boxes.astype(np.float32),
        None if scores is None else scores.astype(np.float32),
        about,
        path,
        marks,
    )


def _from_mat(path: Path) -> Proposals:
    """Corners of a .mat are 1-based and inclusive."""
    arrays = read_mat(path)
    names, boxes = arrays["names"], arrays["boxes"]
    boxes[:, :2] -= 1
    return Proposals(
        tuple(names.tolist()),
        np.zeros((len(names), 2), np.int32),
        np.concatenate([[0], np.cumsum(arrays["counts"])]).astype(np.int64),
        boxes,
        None,
        {"maker": "mat"},
        path,
    )


class Store:
    """Collects proposals image by image and writes them to a file; a stop loses none of them.

        with Store(folder, about) as store:
            for name in names:
                if name not in store: store.add(name, size, boxes)
        store.finish()

    What the folder's file or an interrupted run holds is kept. Raises InputError where that was
    made with other options (`about` differs), unless `force`: then `finish` replaces it, and until
    then it stays as it is.

    replaces: whether the folder's file is replaced, by this `force` or by that of the interrupted
    run that is resumed. before: the names of all images that the folder held.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any], force: bool = False) -> None:
        self.about, self.file = dict(about), folder / FILE
        # Replacement shards go to proposals.new, so an earlier interrupted run in proposals.parts
        # stays usable.
        self._parts, self._new = folder / "proposals.parts", folder / "proposals.new"
        self.replaces = force or bool(_shards(self._new))
        self._work = self._new if self.replaces else self._parts
        self._anew = force  # do not resume an interrupted --force run
        self.before: set[str] = set()
        self.done: dict[str, int] = {}  # name -> mark
        for path in [self.file, *_shards(self._parts), *_shards(self._new)]:
            if path.exists():
                self._take(path, force)
        self._held: list[tuple[str, tuple[int, int], NDArray[Any], NDArray[Any] | None, int]] = []

    def _take(self, path: Path, force: bool) -> None:
        """Note which images a file of the folder holds; those of a file that is kept are done."""
        try:
            held = read_proposals(path)
        except InputError:
            if force:
                return
            raise
        self.before.update(held.names)
        if force or (self.replaces and path.parent != self._new):
            return
        if dict(held.about or {}) != self.about:
            raise InputError(
                "holds proposals made with other options",
                file=path,
                hint="pass another --out, or --force",
            )
        marks = np.zeros(len(held), np.uint64) if held.marks is None else held.marks
        self.done.update(zip(held.names, marks.tolist(), strict=True))

    def __contains__(self, name: str) -> bool:
        return name in self.done

    def check(self, name: str, path: Path) -> None:
        """Raise InputError where the proposals under a name are of another image than this file."""
        mark = self.done[name]
        if mark and mark != mark_of(path):
            raise InputError(
                f"holds the boxes of another image called {name}",
                file=self.file,
                value=str(path),
                hint="pass another --out, or --force",
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._flush()

    def add(
        self,
        name: str,
        size: tuple[int, int],
        boxes: NDArray[Any],
        scores: NDArray[Any] | None = None,
        mark: int = 0,
    ) -> None:
        """One image's boxes [P, 4], best first; size: height, width; mark: `mark_of` its file."""
        self._held.append((name, size, boxes, scores, mark))
        self.done[name] = mark
        if len(self._held) == _SHARD:
            self._flush()

    def _flush(self) -> None:
        if not self._held:
            return
        if self._anew:
            shutil.rmtree(self._new, ignore_errors=True)
            self._anew = False
        names, sizes, boxes, scores, marks = zip(*self._held, strict=True)
        counts = [len(b) for b in boxes]
        scored = all(s is not None for s in scores)
        number = max((int(p.stem) for p in _shards(self._work)), default=-1) + 1
        Proposals(
            names,
            np.array(sizes, np.int32),
            np.concatenate([[0], np.cumsum(counts)]),
            np.concatenate(boxes).astype(np.float32).reshape(-1, 4),
            np.concatenate(scores).astype(np.float32) if scored else None,
            self.about,
            marks=np.array(marks, np.uint64) if any(marks) else None,
        ).write(self._work / f"{number:06d}.npz")
        self._held.clear()

    def finish(self) -> Proposals:
        """Write all to the folder's file and return them."""
        self._flush()
        kept = [] if self._anew else _shards(self._work)
        if not self.replaces and self.file.exists():
            kept.insert(0, self.file)
        if not kept:
            raise InputError("there is no image to propose boxes for", file=self.file.parent)
        parts = [read_proposals(path) for path in kept]
        whole = replace(Proposals.join(parts), about=self.about, file=self.file)
        if kept != [self.file]:
            whole.write(self.file)
        self._clear()
        return whole

    def _clear(self) -> None:
        """Remove the shards; rename first, so that a kill midway cannot leave a partial set that
        looks complete."""
        shutil.rmtree(self._parts, ignore_errors=True)
        if self._new.is_dir() and not self._parts.exists():
            self._new.rename(self._parts)
            shutil.rmtree(self._parts, ignore_errors=True)


def _shards(work: Path) -> list[Path]:
    return sorted(work.glob(f"{'[0-9]' * 6}.npz"))
