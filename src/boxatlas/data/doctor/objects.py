"""What can be wrong with the boxes and masks of a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from boxatlas.data.doctor.flaws import Flaw
from boxatlas.data.doctor.reading import Part
from boxatlas.data.formats import voc, yolo
from boxatlas.data.masks import extent

TINY = 2.0  # pixels
NEARLY_WHOLE = 0.99  # of the image's area
_FRACTION = 1.5  # no number of a box that is written in fractions is larger
_MOST = 0.9  # of the boxes: so many decide
_FEW = 4  # boxes: of fewer, one that is right as it is speaks for all
_AGREE = 0.5  # IoU of a box and the extent of its mask
Boxes = NDArray[np.float64]


def check_objects(part: Part) -> Iterator[Flaw]:
    """The flaws of a part's boxes and masks."""
    table = part.table
    if len(table.boxes) == 0:
        return
    guess = other_format(part)
    if guess is not None:
        name, share, rows, fixed = guess
        file = part.file(0) if part.module is not voc else _folder(part.file(0))
        yield Flaw(
            "box_format",
            file,
            "",
            f"only {share:.0%} of {len(rows)} boxes lie in their "
            f"images as they are; read as {name}, nearly all do",
            count=len(rows),
            remedy=(part, rows, fixed),
        )
        boxes = table.boxes.copy()
        boxes[rows] = fixed
        part = replace(part, table=replace(table, boxes=boxes))  # what is wrong with them even so
    zero = _from_zero(part) if part.module is voc else 0
    if zero:
        fixed = part.table.boxes + np.float32(1)
        ones = int((part.table.boxes[:, :2] == 0).any(1).sum())  # in files that count from 1
        whole = zero > ones and bool((fixed <= _limits(part) + 1e-3)[:, 2:].all())
        yield Flaw(
            "box_zero_based",
            _folder(part.file(int(part.table.image_of[0]))),
            "bndbox",
            f"{zero} boxes begin at 0: the files count pixels from 0, not from 1",
            count=zero,
            remedy=(part, np.arange(len(fixed)), fixed.astype(np.float64)) if whole else None,
        )
        if whole:  # one cause: that a box begins before its image is not said again
            part = replace(part, table=replace(part.table, boxes=fixed))
    yield from _shapes(part)
    yield from _twice(part)
    if table.masks is not None:
        yield from _masks(part)


def _folder(file: str) -> str:
    return file.replace("\\", "/").rpartition("/")[0]


def _flaw(
    part: Part, k: int | np.intp, image: int, kind: str, message: str, remedy: object = None
) -> Flaw:
    return Flaw(
        kind,
        part.file(image),
        part.field(k),
        message,
        part.table.paths[image],
        number=int(part.builder.origins[k]),
        remedy=remedy,
        row=(part.split, int(k)),
    )


def _limits(part: Part) -> Boxes:
    """[T, 4]: width, height, width, height of each object's image."""
    return part.table.sizes[part.table.image_of][:, [1, 0, 1, 0]].astype(np.float64)


def _shapes(part: Part) -> Iterator[Flaw]:
    table = part.table
    boxes, limit, owner = table.boxes.astype(np.float64), _limits(part), table.image_of
    sides = boxes[:, 2:] - boxes[:, :2]
    inverted = np.any(sides < 0, axis=1)
    # Equal corners are a pixel in VOC's inclusive ones: what a drag of the mouse gone wrong makes.
    flat = np.any(sides <= 0, axis=1) | ((sides.prod(1) <= 1.001) & (part.module is voc))
    flat &= ~inverted
    known = np.all(limit > 0, axis=1)
    outside = known & ((boxes[:, :2] >= limit[:, :2]) | (boxes[:, 2:] <= 0)).any(1) & ~inverted
    over = np.maximum(-boxes[:, :2], boxes[:, 2:] - limit[:, 2:]).max(1)
    over = np.where(known & ~inverted & ~flat & ~outside, over, 0.0)
    beyond, edge = over > 1 + 1e-3, (over > 0.05) & (over <= 1 + 1e-3)
    rest = ~(inverted | flat | outside)
    tiny = rest & (sides < TINY).any(1)
    whole = rest & known & (sides.prod(1) >= NEARLY_WHOLE * limit[:, :2].prod(1))
    clipped = boxes.clip(0, np.where(limit > 0, limit, np.inf))
    pixel = 1.0 if part.module is voc else 0.0  # corners swapped in inclusive pixels
    turned = np.where(sides < 0, pixel, 0.0)
    swapped = np.sort(boxes.reshape(-1, 2, 2), axis=1).reshape(-1, 4)
    swapped = (swapped + np.concatenate([-turned, turned], 1)).clip(0, limit)
    kinds: list[tuple[str, NDArray[np.bool_], str, Boxes | str | None]] = [
        ("box_inverted", inverted, "the corners {} are in the wrong order", swapped),
        ("box_no_area", flat & ~outside, "{} has no area", "drop"),
        ("box_outside", outside, "{} lies outside the image of {}", "drop"),
        ("box_beyond", beyond, "{} reaches beyond the image of {}", clipped),
        ("box_edge", edge, "{} reaches beyond the image of {}", clipped),
        ("box_tiny", tiny, "{} has a side under 2 pixels", None),
        ("box_whole", whole, "{} is nearly the whole image of {}", None),
    ]
    for kind, rows, told, remedy in kinds:
        for k in np.flatnonzero(rows):
            size = f"{limit[k, 0]:.0f} x {limit[k, 1]:.0f}"
            action = remedy[k].tolist() if isinstance(remedy, np.ndarray) else remedy
            yield _flaw(part, k, int(owner[k]), kind, told.format(shown(boxes[k]), size), action)


def _from_zero(part: Part) -> int:
    """How many boxes have a corner of 0 in a layout whose first pixel is 1."""
    return int((part.table.boxes[:, :2] == -1).any(1).sum())


def shown(box: NDArray[np.floating]) -> str:
    """(x1, y1, x2, y2) of continuous pixels, for people."""
    return "(" + ", ".join(f"{v:.6g}" for v in box.tolist()) + ")"


def _twice(part: Part) -> Iterator[Flaw]:
    """The same box again in one image, of the same class or of another."""
    table = part.table
    owner, whole = table.image_of, np.round(table.boxes.astype(np.float64), 2)
    keys = np.column_stack([owner, whole])
    order = np.lexsort((table.labels, *keys.T[::-1]))
    same = (keys[order][1:] == keys[order][:-1]).all(1)
    for n in np.flatnonzero(same):
        first, second = sorted((int(order[n]), int(order[n + 1])))
        names = [table.classes[table.labels[k]] for k in (first, second)]
        kind = "box_twice" if names[0] == names[1] else "box_two_classes"
        what = names[0] if names[0] == names[1] else " and ".join(names)
        message = f"{what} at {shown(table.boxes[second])} is {part.field(first)} again"
        yield _flaw(
            part, second, int(owner[second]), kind, message, "drop" if kind == "box_twice" else None
        )


def _masks(part: Part) -> Iterator[Flaw]:
    table, owner = part.table, part.table.image_of
    for k, mask in enumerate(table.masks or ()):
        if mask is None:
            continue
        image = int(owner[k])
        if isinstance(mask, list) and any(len(polygon) < 6 for polygon in mask):
            yield _flaw(
                part, k, image, "mask_points", "a polygon of fewer than three points", "polygons"
            )
        size = tuple(table.sizes[image].tolist())
        if isinstance(mask, dict) and tuple(mask["size"]) != size:
            yield _flaw(
                part,
                k,
                image,
                "mask_size",
                f"a mask of {mask['size']} for an image of {list(size)} (height, width)",
                "mask",
            )
            continue
        try:
            around = extent(mask)
        except (ValueError, IndexError, OverflowError, MemoryError) as error:
            yield _flaw(part, k, image, "mask_invalid", f"the mask cannot be read: {error}", "mask")
            continue
        if around is None:
            yield _flaw(part, k, image, "mask_points", "the mask is empty", "mask")
        elif _iou(around, table.boxes[k].astype(np.float64)) < _AGREE:
            yield _flaw(
                part,
                k,
                image,
                "mask_box",
                f"the box is {shown(table.boxes[k])}, the mask {shown(around)}",
                around.tolist(),
            )


def _iou(a: Boxes, b: Boxes) -> float:
    """Of two boxes, each grown by a pixel all round: what is thin is not judged by its rounding."""
    pixel = np.array([-1, -1, 1, 1])
    a, b = a + pixel, b + pixel
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    shared = (high - low).clip(0).prod()
    return float(shared / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - shared))


# -- Numbers in another format ---------------------------------------------------------------------


def other_format(part: Part) -> tuple[str, float, NDArray[np.intp], Boxes] | None:
    """(the format the numbers seem to be in, how many boxes are right as read, rows, boxes).

    boxes [n, 4] are the objects of those rows, read in that format; polygons are not among them.
    None where they are right as they are, or no other reading is clearly better. The four numbers
    of each box are tried in every order people have written them in.
    """
    table = part.table
    limit = _limits(part)
    judged = (limit > 0).all(1)
    if part.module is yolo and table.masks is not None:  # a line is a polygon or a box
        judged &= np.array([mask is None for mask in table.masks])
    rows = np.flatnonzero(judged)
    if len(rows) < 3:
        return None
    limit, raw = limit[rows], written_numbers(part)[rows]
    share = float(_fits(table.boxes[rows].astype(np.float64), limit).mean())
    # One wild number must not decide what all are.
    fractions = float((np.abs(raw).max(1) <= _FRACTION).mean()) >= _MOST
    # Fractions read as pixels lie in their images, but within the first pixel.
    tiny = fractions and part.module is not yolo
    if (share >= _MOST or (share > 0 and len(rows) < _FEW)) and not tiny:
        return None
    if part.module is voc and not fractions and not (raw[:, :2] == 0).any():
        raw = raw - np.array([1, 1, 0, 0])  # counted from 1, as the layout has it
    unit, scale = ("fractions", limit) if fractions else ("pixels", np.ones_like(limit))
    best: tuple[float, str, Boxes] | None = None
    own = "centre x, centre y, width, height" if part.module is yolo else ""
    own = "x1, y1, x2, y2" if getattr(part.module, "CORNERS", False) else own
    for name in sorted(_READINGS, key=lambda name: name != own):  # of equals, the layout's own
        boxes = _READINGS[name](raw) * scale
        right = float((_fits(boxes, limit) & _plausible(boxes)).mean())
        if right >= 0.98 and (best is None or right > best[0] + 0.01):
            best = (right, f"{name} in {unit}", boxes)
    return None if best is None else (best[1], 0.0 if tiny else share, rows, best[2])


def written_numbers(part: Part) -> Boxes:
    """[T, 4]: the numbers as the layout has them in its files."""
    boxes = part.table.boxes.astype(np.float64)
    if part.module is voc:
        return boxes + np.array([1, 1, 0, 0])
    if getattr(part.module, "CORNERS", False):
        return boxes
    sides = boxes[:, 2:] - boxes[:, :2]
    if part.module is yolo:
        limit = _limits(part)
        return np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, sides], 1) / limit
    return np.concatenate([boxes[:, :2], sides], 1)


def _fits(boxes: Boxes, limit: Boxes) -> NDArray[np.bool_]:
    """[T]: a box with an area that lies in its image, to a pixel or a hundredth of it."""
    slack = np.maximum(1.0, limit * 0.01)
    right = boxes[:, 2:] > boxes[:, :2]
    right &= boxes[:, :2] >= -slack[:, :2]
    right &= boxes[:, 2:] <= limit[:, 2:] + slack[:, 2:]
    return np.all(right, axis=1)


def _plausible(boxes: Boxes) -> NDArray[np.bool_]:
    """[T]: no side is under a pixel, as all are where fractions are taken for pixels."""
    return np.all(boxes[:, 2:] - boxes[:, :2] >= 1, axis=1)


_READINGS: dict[str, Callable[[Boxes], Boxes]] = {
    "x1, y1, x2, y2": lambda v: v,
    "x, y, width, height": lambda v: np.concatenate([v[:, :2], v[:, :2] + v[:, 2:]], 1),
    "centre x, centre y, width, height": lambda v: np.concatenate(
        [v[:, :2] - v[:, 2:] / 2, v[:, :2] + v[:, 2:] / 2], 1
    ),
    "y1, x1, y2, x2": lambda v: v[:, [1, 0, 3, 2]],
}
