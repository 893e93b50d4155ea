"""Proposal files: the boxes that R-CNN and Fast R-CNN are given, for every image of a folder.

A file is an npz: `names` [N] (paths under the folder they were made from), `sizes` [N, 2] (height,
width), `offsets` [N + 1], `boxes` [T, 4] float32 xyxy in source pixels, best first, `scores` [T]
where the maker has some, and `about`, JSON that says how they were made. The .mat files of R-CNN
and Fast R-CNN are read too.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePath
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from boxatlas.data.table import Table
from boxatlas.errors import InputError
from boxatlas.files import write_text, write_with

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

    @cached_property
    def _index(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.names)}

    def find(self, path: str | Path) -> int:
        """Which image a path is, by as many of its last parts as a name has, or InputError."""
        whole = PurePath(path)
        for start in range(len(whole.parts)):
            tail = PurePath(*whole.parts[start:]).as_posix()
            found = self._index.get(tail, self._index.get(tail.rsplit(".", 1)[0]))
            if found is not None:
                return found
        raise InputError("has no proposals for this image", file=self.file, value=str(path),
                         hint="`boxatlas propose` makes them")  # fmt: skip

    def __getitem__(self, path: str) -> NDArray[np.float32]:
        i = self.find(path)
        return self.boxes[self.offsets[i] : self.offsets[i + 1]]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def first(self, most: int | None) -> Proposals:
        """At most so many of each image, the best ones."""
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
        for i, path in enumerate(table.paths):
            found = self.find(path)
            held, size = self.sizes[found], table.sizes[i]
            if held.any() and tuple(held) != tuple(size):
                raise InputError(
                    f"proposals are of a {held[1]} x {held[0]} image {self.names[found]}, but "
                    f"{path} is {size[1]} x {size[0]}", file=self.file,
                )  # fmt: skip

    def write(self, path: str | Path) -> None:
        """Write the npz."""
        arrays = {
            "names": np.array(self.names, dtype=np.str_), "sizes": self.sizes,
            "offsets": self.offsets, "boxes": self.boxes,
            "about": np.array(json.dumps(dict(self.about or {}))),
        }  # fmt: skip
        if self.scores is not None:
            arrays["scores"] = self.scores

        def save(temporary: Path) -> None:
            with open(temporary, "wb") as stream:
                np.savez(stream, **arrays)  # pyright: ignore[reportArgumentType]

        write_with(path, save)

    @classmethod
    def join(cls, parts: list[Proposals]) -> Proposals:
        """All images of several; of an image that comes twice, the first."""
        if len(parts) == 1:
            return parts[0]
        seen: set[str] = set()
        rows = [
            (part, i)
            for part in parts
            for i, name in enumerate(part.names)
            if not (name in seen or seen.add(name))
        ]
        counts = np.array([p.offsets[i + 1] - p.offsets[i] for p, i in rows], np.int64)
        scored = bool(parts) and all(part.scores is not None for part in parts)

        def joined(of: str) -> Any:
            pieces = [getattr(p, of)[p.offsets[i] : p.offsets[i + 1]] for p, i in rows]
            return np.concatenate(pieces) if pieces else None

        boxes = joined("boxes")
        return cls(
            tuple(p.names[i] for p, i in rows),
            np.array([p.sizes[i] for p, i in rows], np.int32).reshape(-1, 2),
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            np.zeros((0, 4), np.float32) if boxes is None else boxes,
            joined("scores") if scored else None,
            parts[0].about if parts else None, parts[0].file if parts else None,
        )  # fmt: skip


def beside(folders: Sequence[str | Path]) -> list[Path]:
    """The proposal files of data folders, where every one has its own; else none."""
    found = [Path(folder) / FILE for folder in folders]
    return found if found and all(file.is_file() for file in found) else []


def for_images(files: Sequence[str | Path], tables: Sequence[Table], most: int | None) -> Proposals:
    """The proposals of the tables' images, at most so many of each.

    Raises InputError where an image has none, or those of an image of another size.
    """
    held = Proposals.join([read_proposals(file) for file in files]).first(most)
    for table in tables:
        held.check(table)
    return held


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
        raise InputError("a pickle can run code and is not opened", file=path,
                         hint="give an .npz or a .mat")  # fmt: skip
    try:
        with np.load(path, allow_pickle=False) as held:
            arrays = {name: held[name] for name in held.files}
            about = json.loads(str(arrays.get("about", "{}")))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"not a proposal file: {error}", file=path) from None
    return _checked(path, arrays, about)


def _checked(path: Path, arrays: dict[str, NDArray[Any]], about: Any) -> Proposals:
    for name in ("names", "sizes", "offsets", "boxes"):
        if name not in arrays:
            raise InputError("not a proposal file: lacks an array", file=path, field=name)
    names, offsets, boxes = arrays["names"], arrays["offsets"], arrays["boxes"]
    scores = arrays.get("scores")
    fits = (
        names.dtype.kind == "U"
        and arrays["sizes"].shape == (len(names), 2)
        and offsets.shape == (len(names) + 1,)
        and boxes.ndim == 2
        and boxes.shape[1] == 4
        and (scores is None or len(scores) == len(boxes))
    )
    if not fits or offsets[0] != 0 or offsets[-1] != len(boxes) or (np.diff(offsets) < 0).any():
        raise InputError("its arrays do not fit together", file=path)
    if not np.isfinite(boxes).all():
        raise InputError("holds boxes that are not finite", file=path, field="boxes")
    return Proposals(
        tuple(names.tolist()), arrays["sizes"].astype(np.int32), offsets.astype(np.int64),
        boxes.astype(np.float32), None if scores is None else scores.astype(np.float32),
        about, path,
    )  # fmt: skip


def _from_mat(path: Path) -> Proposals:
    """`images` (names) and `boxes` (a cell of [P, 4], y1 x1 y2 x2, 1-based and inclusive)."""
    from scipy.io import loadmat

    try:
        held = loadmat(path, variable_names=["images", "boxes"])
        names = [str(cell.item()) for cell in held["images"].ravel()]
        cells = list(held["boxes"].ravel())
        rows = [np.asarray(c, np.float32).reshape(-1, 4)[:, [1, 0, 3, 2]] for c in cells]
    except (KeyError, ValueError, TypeError, NotImplementedError, OSError) as error:
        raise InputError(f"not a proposal file of R-CNN: {error}", file=path) from None
    if len(names) != len(rows):
        raise InputError(f"{len(names)} images but {len(rows)} lists of boxes", file=path)
    boxes = np.concatenate(rows) if rows else np.zeros((0, 4), np.float32)
    boxes[:, :2] -= 1
    counts = np.array([len(r) for r in rows], np.int64)
    return Proposals(
        tuple(names), np.zeros((len(names), 2), np.int32),
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), boxes, None,
        {"maker": "mat"}, path,
    )  # fmt: skip


class Store:
    """Proposals on their way to a file, image by image; a stop loses nothing that was added.

        with Store(folder, about) as store:
            for name in names:
                if name not in store: store.add(name, size, boxes)
        store.finish()

    What a folder's file or an earlier, stopped run holds is kept. Raises InputError where that was
    made otherwise (`about` differs), unless `force` removes it.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any], force: bool = False) -> None:
        self.folder, self.about = folder, dict(about)
        self.file, self.work = folder / FILE, folder / "proposals.parts"
        if force:
            self.file.unlink(missing_ok=True)
            shutil.rmtree(self.work, ignore_errors=True)
        said = self.work / "about.json"
        if said.is_file() and json.loads(said.read_text()) != self.about:
            self._differs(said)
        self.done: set[str] = set()
        for path in [self.file, *self._shards()]:
            if path.is_file():
                held = read_proposals(path)
                if path == self.file and dict(held.about or {}) != self.about:
                    self._differs(path)
                self.done.update(held.names)
        self._held: list[tuple[str, tuple[int, int], NDArray[Any], NDArray[Any] | None]] = []

    def _differs(self, path: Path) -> None:
        raise InputError("holds proposals made with other options", file=path,
                         hint="pass another --out, or --force")  # fmt: skip

    def _shards(self) -> list[Path]:
        return sorted(self.work.glob("*.npz"))

    def __contains__(self, name: str) -> bool:
        return name in self.done

    def __enter__(self) -> Self:
        if not self.work.is_dir():
            write_text(self.work / "about.json", json.dumps(self.about))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._flush()

    def add(
        self, name: str, size: tuple[int, int], boxes: NDArray[Any],
        scores: NDArray[Any] | None = None,
    ) -> None:  # fmt: skip
        """One image's boxes [P, 4], best first; size: height, width."""
        self._held.append((name, size, boxes, scores))
        self.done.add(name)
        if len(self._held) == _SHARD:
            self._flush()

    def _flush(self) -> None:
        if not self._held:
            return
        names, sizes, boxes, scores = zip(*self._held, strict=True)
        counts = [len(b) for b in boxes]
        scored = all(s is not None for s in scores)
        number = max((int(p.stem) for p in self._shards()), default=-1) + 1
        Proposals(
            names, np.array(sizes, np.int32), np.concatenate([[0], np.cumsum(counts)]),
            np.concatenate(boxes).astype(np.float32).reshape(-1, 4),
            np.concatenate(scores).astype(np.float32) if scored else None, self.about,
        ).write(self.work / f"{number:06d}.npz")  # fmt: skip
        self._held.clear()

    def finish(self) -> Proposals:
        """Put all into the folder's file and return it."""
        self._flush()
        parts = [read_proposals(p) for p in [self.file, *self._shards()] if p.is_file()]
        if not parts:
            raise InputError("there is no image to propose boxes for", file=self.folder)
        whole = replace(Proposals.join(parts), about=self.about, file=self.file)
        if len(parts) > 1 or parts[0].file != self.file:
            whole.write(self.file)
        shutil.rmtree(self.work, ignore_errors=True)
        return whole
