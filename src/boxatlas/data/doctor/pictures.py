"""What can be wrong with the image files, and which of them show the same."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

_SIDE, _CELL = 32, 4  # of a thumbnail, and of the squares that its coarse half is averaged over
_COARSE, _FINE = 0.95, 0.8  # correlations above which two images are nearly the same
_BLOCK = 2048  # images compared at a time
Pairs = list[tuple[int, int]]


@dataclass(frozen=True)
class Picture:
    """What decoding an image file showed.

    flaw: "" or a kind. size (height, width): upright; turn: the EXIF orientation, 1 to 8. digest
    is of the file's bytes; thumbnail uint8 [32, 32], grey.
    """

    flaw: str = ""
    message: str = ""
    size: tuple[int, int] = (0, 0)
    turn: int = 1
    digest: bytes = b""
    thumbnail: NDArray[np.uint8] | None = None


def examined(path: str, quick: bool = False) -> Picture:
    """Decode an image file whole. Never raises.

    quick: a JPEG at an eighth of its size, if that is enough for its thumbnail; whether the rest of
    it is sound is not seen.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        return Picture("image_missing", f"the image cannot be opened: {error.strerror}")
    digest = hashlib.blake2b(data, digest_size=16).digest()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as image:
                turn = image.getexif().get(0x0112, 1)
                if quick:
                    image.draft("RGB", (2 * _SIDE, 2 * _SIDE))
                image.load()
                upright = ImageOps.exif_transpose(image)
                size = (upright.height, upright.width)
                small = upright.convert("RGB").convert("L")
                small = small.resize((_SIDE, _SIDE), Image.Resampling.BOX)
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        said = "it is no image" if isinstance(error, UnidentifiedImageError) else str(error)
        return Picture("image_unreadable", f"cannot be decoded: {said}", digest=digest)
    except Exception as error:  # whatever a decoder raises for a broken file
        cut = "truncated" in str(error) or isinstance(error, EOFError)
        kind = "image_truncated" if cut else "image_unreadable"
        return Picture(kind, f"cannot be decoded: {error}", digest=digest)
    turn = turn if isinstance(turn, int) and 1 <= turn <= 8 else 1
    return Picture("", "", size, turn, digest, np.asarray(small))


def examine(
    paths: Sequence[str], each: Callable[[Iterable[Picture]], Iterable[Picture]] = iter
) -> list[Picture]:
    """Decode image files on all cores. each: wraps the iteration, to show progress."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoders let go of the interpreter
        return list(each(pool.map(examined, paths)))


def doubles(paths: Sequence[str]) -> NDArray[np.int64]:
    """[N]: a number for each image; those that are the same or show nearly the same have one."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pictures = list(pool.map(lambda path: examined(path, quick=True), paths))
    return groups_of(len(paths), [*same_files(pictures), *similar(pictures)])


def same_files(pictures: Sequence[Picture]) -> Pairs:
    """Pairs of equal files: the first with each that repeats it."""
    seen: dict[bytes, int] = {}
    return [
        (seen[p.digest], i)
        for i, p in enumerate(pictures)
        if p.digest and seen.setdefault(p.digest, i) != i
    ]


def similar(pictures: Sequence[Picture]) -> Iterator[tuple[int, int]]:
    """Pairs of images that show nearly the same, though their files differ.

    Of images that are linked through others already no pair is given: a thousand frames of one
    camera are one group by 999 pairs.

    Two thumbnails correlate both in their coarse half (averages over squares, by which candidates
    are found) and in what remains without it, so that two clear skies are not the same.
    """
    rows = [i for i, p in enumerate(pictures) if p.thumbnail is not None]
    if len(rows) < 2:
        return
    thumbs = np.stack([pictures[i].thumbnail for i in rows]).astype(np.float32)  # pyright: ignore[reportArgumentType, reportCallIssue]
    cells = _SIDE // _CELL
    coarse = thumbs.reshape(-1, cells, _CELL, cells, _CELL).mean((2, 4))
    fine = _unit(thumbs - coarse.repeat(_CELL, 1).repeat(_CELL, 2))
    whole = _unit(thumbs.reshape(-1, _SIDE // 2, 2, _SIDE // 2, 2).mean((2, 4)))
    group = np.arange(len(rows))
    for start in range(0, len(rows), _BLOCK):
        for other in range(start, len(rows), _BLOCK):
            near = whole[start : start + _BLOCK] @ whole[other : other + _BLOCK].T > _COARSE
            for a in np.flatnonzero(near.any(1)):
                i = start + int(a)
                found = other + np.flatnonzero(near[a])
                found = found[(found > i) & (group[found] != group[i])]
                for j in found[fine[found] @ fine[i] > _FINE].tolist():
                    differ = pictures[rows[i]].digest != pictures[rows[j]].digest
                    if differ and group[i] != group[j]:
                        group[group == group[j]] = group[i]
                        yield rows[i], rows[j]


def _unit(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Flat, of mean 0 and length 1; an image of one colour is 0."""
    flat = images.reshape(len(images), -1)
    flat = flat - flat.mean(1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.where(length > _SIDE, flat / np.maximum(length, 1e-6), 0).astype(np.float32)


def groups_of(count: int, pairs: Iterable[tuple[int, int]]) -> NDArray[np.int64]:
    """[count]: a number for each image; those that are linked by pairs have the same."""
    parent = np.arange(count)

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = int(parent[i])
        return i

    for a, b in pairs:
        parent[max(root(a), root(b))] = min(root(a), root(b))
    return np.array([root(i) for i in range(count)], np.int64)


def by_group(groups: NDArray[np.int64]) -> list[list[int]]:
    """The members of each group, in order."""
    members: dict[int, list[int]] = defaultdict(list)
    for i, group in enumerate(groups.tolist()):
        members[group].append(i)
    return list(members.values())
