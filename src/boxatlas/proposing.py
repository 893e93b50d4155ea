"""Proposals of many images: by selective search on all cores, or by a detector's RPN."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from boxatlas.errors import InputError
from boxatlas.files import write_tensors
from boxatlas.images import IMAGE_SUFFIXES, read
from boxatlas.ops.search import SelectiveSearch, cores, hierarchies, in_order, ranked
from boxatlas.parts.base import Detector, Track
from boxatlas.parts.region.detector import RegionDetector


class ImageProposals(NamedTuple):
    """One image's proposals, best first: pixels uint8 [H, W, 3], boxes [P, 4] in its pixels, and
    scores [P] where the maker has some."""

    pixels: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32] | None


def images_under(sources: Sequence[Path]) -> dict[str, Path]:
    """Name -> file of every image given or in a folder given, subfolders too, sorted.

    A name is the path under the folder, with the folder's own name where several are given. Raises
    InputError where a source is missing, where there is no image and where two share a name.
    """
    found: dict[str, Path] = {}
    for source in sources:
        if source.is_dir():
            files = sorted(p for p in source.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
            prefix = f"{source.resolve().name}/" if len(sources) > 1 else ""
            named = {prefix + p.relative_to(source).as_posix(): p for p in files}
        elif source.is_file():
            named = {source.name: source}
        else:
            raise InputError("no such file or folder", file=source)
        for name in named.keys() & found.keys():
            problem = f"two images are called {name}"
            hint = "propose for each folder into an --out of its own"
            raise InputError(problem, file=source, hint=hint)
        found.update(named)
    if not found:
        raise InputError("holds no image", file=sources[0] if sources else None)
    return found


def by_search(
    paths: Sequence[Path], config: SelectiveSearch, seed: int = 0, threads: int | None = None
) -> Iterator[ImageProposals | InputError]:
    """Selective search of each image in turn, or why it cannot be read.

    Several images at a time; a single one has its strategies side by side instead.
    """
    inner = threads if len(paths) == 1 else 1

    def work(path: Path) -> ImageProposals | InputError:
        try:
            pixels = read(path)
        except InputError as error:
            return error
        boxes = ranked(hierarchies(pixels, config, threads=inner), config, seed)
        return ImageProposals(pixels, boxes, None)

    return in_order(work, paths, 1 if len(paths) == 1 else threads or cores())


def by_detector(
    detector: Detector,
    paths: Iterable[Path],
    most: int = 1000,
    batch_size: int = 4,
    min_side: float = 0,
    before: int = 0,
) -> Iterator[ImageProposals | InputError]:
    """The proposals of a detector's RPN for each image in turn, with its logits as scores.

    At most so many of an image, the best of those that are min_side pixels wide and high. before:
    of each level so many enter suppression, if they are more than in a detection. What is proposed
    for an image depends on it alone. Raises InputError for a detector that makes none.
    """
    if not isinstance(detector, RegionDetector) or detector.rpn is None:
        problem = f"{detector.name or 'this detector'} makes no proposals of its own"
        raise InputError(problem, field="--model", hint="give a detector with an RPN")
    before = max(before, detector.rpn.config.proposals_detect[0], most)
    # What is too small goes before the best are counted, so all that NMS leaves is looked at.
    counts = (before, before if min_side else most)
    remaining = iter(paths)
    together = detector.together(batch_size)
    while chunk := list(islice(remaining, together)):
        pixels = [_opened(path) for path in chunk]
        good = [p for p in pixels if not isinstance(p, InputError)]
        proposed = _proposed(detector, good, counts) if good else ()
        made = (_at_least(one, min_side, most) for one in proposed)
        yield from (p if isinstance(p, InputError) else next(made) for p in pixels)


def _at_least(found: ImageProposals, side: float, most: int) -> ImageProposals:
    """The best ones of those that are `side` pixels wide and high."""
    boxes, scores = found.boxes, found.scores
    kept = np.flatnonzero((boxes[:, 2:] - boxes[:, :2] >= side).all(1))[:most]
    return ImageProposals(found.pixels, boxes[kept], None if scores is None else scores[kept])


def _opened(path: Path) -> NDArray[np.uint8] | InputError:
    try:
        return read(path)
    except InputError as error:
        return error


@torch.inference_mode()
def _proposed(
    detector: RegionDetector, pixels: Sequence[NDArray[np.uint8]], counts: tuple[int, int]
) -> list[ImageProposals]:
    images, frames = detector.preprocess.batch(list(pixels))
    fast = detector.fast()
    assert isinstance(fast, RegionDetector)
    images = images.to(detector.device).contiguous(memory_format=torch.channels_last)
    size = (images.shape[-2], images.shape[-1])
    proposals = fast.propose(fast.features(images), frames, size, counts)
    proposals = proposals._replace(boxes=fast.outward(proposals.boxes, frames))
    return [
        ImageProposals(
            one,
            frame.undo(proposals.boxes[i][proposals.valid[i]]).float().cpu().numpy(),
            proposals.scores[i][proposals.valid[i]].float().cpu().numpy(),
        )
        for i, (one, frame) in enumerate(zip(pixels, frames, strict=True))
    ]


_BLOCK = 64  # images whose proposals lie in one file


def stored(
    detector: Detector, paths: Sequence[str], folder: Path, track: Track
) -> dict[str, NDArray[np.float32]]:
    """Image path -> the detector's proposals [P, 4] for training, in source pixels.

    As many as its heads are trained on, all anchors entering suppression. Written to `folder` block
    by block; what lies there from a run before is not made again. Raises InputError for a detector
    that makes none.
    """
    if not isinstance(detector, RegionDetector) or detector.rpn is None:
        raise InputError(f"{detector.name or 'this detector'} makes no proposals of its own")
    most = detector.rpn.config.proposals_loss[1]
    blocks = [list(paths[i : i + _BLOCK]) for i in range(0, len(paths), _BLOCK)]
    found: dict[str, NDArray[np.float32]] = {}
    for number, block in enumerate(track(blocks, "proposals")):
        file = folder / f"{number:06d}.safetensors"
        if not file.exists():
            made = list(by_detector(detector, [Path(path) for path in block], most, before=1 << 30))
            for one in made:
                if isinstance(one, InputError):
                    raise one
            boxes = [torch.from_numpy(one.boxes) for one in made if isinstance(one, ImageProposals)]
            counts = torch.tensor([len(b) for b in boxes])
            write_tensors(file, {"boxes": torch.cat(boxes), "counts": counts})
        held = load_file(file)
        parts = held["boxes"].split(held["counts"].tolist())
        found.update((path, part.numpy()) for path, part in zip(block, parts, strict=True))
    return found
