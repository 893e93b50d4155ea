"""Small labelled scenes made in code: for the demo, for tests, for trying things out.

Solid things of six kinds lie on textured ground under one light, among clutter, partly hidden by
one another and cut by the border. Nothing here is a photo. A scene depends on its seed alone.

    scenes.write("scenes", {"train": 200, "val": 40, "test": 40})            # VOC layout
    scenes.write("scenes", {"train": 200}, layout="coco", seed=1)            # with masks
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from boxatlas.errors import InputError, nearest
from boxatlas.files import replacing

Grid = NDArray[np.floating[Any]]
Colour = NDArray[np.floating[Any]]  # RGB, 0..1
Rng = np.random.Generator
Layout = Literal["voc", "coco", "yolo"]

CLASSES = ("ball", "cone", "cube", "cup", "ring", "star")
_SHOWN = 0.4  # of an object's pixels stay visible, else it is not there
_EMPTY = 0.05  # of the scenes hold no object


@dataclass(frozen=True)
class Scene:
    """image uint8 [H, W, 3]; boxes float32 [M, 4] xyxy around the visible pixels; labels [M] index
    CLASSES; masks bool [M, H, W], the visible pixels."""

    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    masks: NDArray[np.bool_]


def make(seed: int | Sequence[int], size: tuple[int, int] = (240, 320)) -> Scene:
    """One scene of `size` (height, width)."""
    rng = np.random.default_rng(seed)
    height, width = size
    canvas = _ground(rng, height, width)
    light = _unit(rng.uniform(-0.7, 0.7), rng.uniform(-0.9, -0.3), 0.8)
    for _ in range(int(rng.integers(2, 9))):
        _clutter(canvas, rng, light)
    labels: list[int] = []
    owner = np.full(size, -1, np.int16)  # which object each pixel shows
    whole: list[int] = []  # pixels of each object were nothing before it
    wanted = 0 if rng.random() < _EMPTY else int(rng.integers(1, 8))
    for _ in range(wanted * 4):
        if len(labels) == wanted:
            break
        label = int(rng.integers(len(CLASSES)))
        alpha, rgb = _placed(rng, _KINDS[CLASSES[label]], height, width, light)
        body = alpha > 0.5
        if body.sum() < 40 or not _leaves_enough(owner, body, whole):
            continue
        _shadow(canvas, alpha, light, rng)
        _paint(canvas, alpha, rgb)
        owner[body] = len(labels)
        labels.append(label)
        whole.append(int(body.sum()))
    for _ in range(int(rng.integers(0, 4))):  # sticks before everything
        body = _clutter(canvas, rng, light, thin=True)
        owner[body] = -1
    masks = owner[None] == np.arange(len(labels))[:, None, None]
    kept = [i for i, mask in enumerate(masks) if mask.sum() >= 0.5 * _SHOWN * whole[i]]
    masks = masks[kept]
    boxes = np.array([_box(mask) for mask in masks], np.float32).reshape(-1, 4)
    return Scene(_photo(canvas, rng), boxes, np.array(labels, np.int64)[kept], masks)


def write(
    folder: str | Path,
    splits: Mapping[str, int],
    *,
    seed: int = 0,
    size: tuple[int, int] = (240, 320),
    layout: Layout = "voc",
    each: Callable[[Iterable[int], str], Iterable[int]] | None = None,
) -> Path:
    """A data set of scenes: so many of each split, JPEG, in VOC, COCO (with masks) or YOLO layout.

    A split's scenes do not depend on the other splits. each: wraps the count, to show progress.
    Raises InputError where the folder holds something already.
    """
    from boxatlas.data.masks import encode
    from boxatlas.data.table import Table
    from boxatlas.data.writing import WRITERS

    folder = Path(folder)
    if layout not in WRITERS:
        raise InputError(
            "no such layout", field="layout", value=layout, hint=nearest(layout, WRITERS)
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError("holds something already", file=folder)
    jobs = [(split, i) for split, count in splits.items() for i in range(count)]
    members: dict[str, list[int]] = {split: [] for split in splits}
    names, parts, masks = [], [], []
    numbers = range(len(jobs))
    for k in numbers if each is None else each(numbers, "making scenes"):
        split, i = jobs[k]
        scene = make([seed, zlib.crc32(split.encode()), i], size)
        name = f"{split}_{i:05d}.jpg"
        place = {"voc": "JPEGImages", "coco": split, "yolo": f"images/{split}"}[layout]
        with replacing(folder / place / name) as temporary:
            Image.fromarray(scene.image).save(temporary, "jpeg", quality=92)
        members[split].append(k)
        names.append(name)
        parts.append((scene.boxes, scene.labels))
        masks += [encode(mask) if layout == "coco" else None for mask in scene.masks]
    counts = [len(labels) for _, labels in parts]
    boxes = np.concatenate([np.zeros((0, 4), np.float32), *(b for b, _ in parts)])
    labels = np.concatenate([np.zeros(0, np.int32), *(v.astype(np.int32) for _, v in parts)])
    areas = [mask_area(mask) for mask in masks] if layout == "coco" else None
    table = Table(
        CLASSES,
        names,
        list(names),
        np.tile(np.array(size, np.int32), (len(names), 1)),
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes,
        labels,
        np.zeros(len(boxes), bool),
        masks if layout == "coco" else None,
        None if areas is None else np.array(areas, np.float32),
    )
    WRITERS[layout].write(table, folder, names, members)
    return folder


def mask_area(rle: Mapping[str, list[int]] | None) -> float:
    """The pixels that a run-length mask covers: every second run."""
    return 0.0 if rle is None else float(sum(rle["counts"][1::2]))


# -- the picture ----------------------------------------------------------------------------------


def _ground(rng: Rng, height: int, width: int) -> Grid:
    """[H, W, 3]: two or three colours mixed by noise of several scales, boards or tiles."""
    noise = _noise(rng, height, width)
    low, high = rng.uniform(0.1, 0.8, 3), rng.uniform(0.2, 0.95, 3)
    kind = rng.integers(4)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    if kind < 2:  # boards or tiles
        period, angle = rng.uniform(18, 60), rng.uniform(0, np.pi)
        along = x * np.cos(angle) + y * np.sin(angle)
        across = y * np.cos(angle) - x * np.sin(angle)
        number = np.floor(along / period)
        if kind == 1:
            number = number + np.floor(across / period)
        noise = 0.6 * noise + 0.4 * ((number * 0.618) % 1)
        seam = np.minimum(along % period, period - along % period) < 1
        noise = np.where(seam, noise * 0.5, noise)
    mixed = low + (high - low) * noise[..., None]
    grain = rng.normal(0, rng.uniform(0.01, 0.06), (height, width, 1))
    return (mixed + grain).astype(np.float32)


def _noise(rng: Rng, height: int, width: int) -> Grid:
    """[H, W] in 0..1: smooth noise summed over octaves."""
    total, weight = np.zeros((height, width), np.float32), 0.0
    cells, share = int(rng.integers(2, 5)), 1.0
    for _ in range(4):
        coarse = Image.fromarray(rng.random((cells, cells + 1), np.float32))
        total += share * np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
        weight += share
        cells, share = cells * 3, share * rng.uniform(0.4, 0.8)
    return (total / weight).clip(0, 1)


def _photo(canvas: Grid, rng: Rng) -> NDArray[np.uint8]:
    """uint8: falling light, a slight blur, the sensor's noise and the camera's exposure."""
    height, width, _ = canvas.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    slope = rng.uniform(-0.25, 0.25, 2)
    shade = 1 + slope[0] * (x / width - 0.5) + slope[1] * (y / height - 0.5)
    lit = (canvas * shade[..., None] * rng.uniform(0.75, 1.15)).clip(0, 1)
    image = Image.fromarray((lit * 255).astype(np.uint8))
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.9)))
    noisy = np.asarray(image) + rng.normal(0, rng.uniform(1, 6), canvas.shape)
    return noisy.clip(0, 255).astype(np.uint8)


def _paint(canvas: Grid, alpha: Grid, rgb: Grid) -> None:
    canvas += alpha[..., None] * (rgb - canvas)


def _shadow(canvas: Grid, alpha: Grid, light: Colour, rng: Rng) -> None:
    """The thing darkens the ground on the side away from the light."""
    reach = rng.uniform(3, 9)
    dx, dy = int(-light[0] * reach), int(-light[1] * reach)
    moved = np.roll(alpha, (dy, dx), (0, 1))
    image = Image.fromarray((moved * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(3))
    canvas *= 1 - 0.5 * np.asarray(image, np.float32)[..., None] / 255


def _clutter(canvas: Grid, rng: Rng, light: Colour, thin: bool = False) -> NDArray[np.bool_]:
    """A stick, blade, slab or half disc, which is none of the classes; returns its pixels."""
    height, width, _ = canvas.shape
    kinds = [_stick, _blade] if thin else [_stick, _blade, _slab, _half]
    kind = kinds[int(rng.integers(len(kinds)))]
    alpha, rgb = _placed(rng, kind, height, width, light)
    if not thin:
        _shadow(canvas, alpha, light, rng)
    _paint(canvas, alpha, rgb)
    return alpha > 0.5


def _placed(rng: Rng, kind: Shape, height: int, width: int, light: Colour) -> tuple[Grid, Grid]:
    """(alpha [H, W], colour [H, W, 3]) of a thing at a random place, size, turn and colour."""
    radius = min(height, width) * float(np.exp(rng.uniform(np.log(0.07), np.log(0.26))))
    cx, cy = rng.uniform(0.02, 0.98) * width, rng.uniform(0.02, 0.98) * height
    turn = rng.uniform(-np.pi, np.pi) if kind in _ANY_WAY else rng.uniform(-0.35, 0.35)
    reach = int(radius * 1.5) + 2
    x1, x2 = max(0, int(cx) - reach), min(width, int(cx) + reach)
    y1, y2 = max(0, int(cy) - reach), min(height, int(cy) + reach)
    y, x = np.mgrid[y1:y2, x1:x2].astype(np.float32) + 0.5
    u0, v0 = (x - cx) / radius, (y - cy) / radius
    u = u0 * np.cos(turn) + v0 * np.sin(turn)
    v = v0 * np.cos(turn) - u0 * np.sin(turn)
    own = np.array(
        [
            light[0] * np.cos(turn) + light[1] * np.sin(turn),
            light[1] * np.cos(turn) - light[0] * np.sin(turn),
            light[2],
        ]
    )
    distance, rgb = kind(u, v, _paint_of(rng), own, rng)
    alpha, colour = np.zeros((height, width), np.float32), np.zeros((height, width, 3), np.float32)
    alpha[y1:y2, x1:x2] = (0.5 - distance * radius).clip(0, 1)
    colour[y1:y2, x1:x2] = rgb.clip(0, 1)
    return alpha, colour


def _paint_of(rng: Rng) -> Colour:
    """A colour that is neither black nor white; the classes do not differ in colour."""
    colour = rng.uniform(0.1, 1.0, 3)
    return (colour / colour.max() * rng.uniform(0.55, 1.0)).astype(np.float32)


def _leaves_enough(owner: NDArray[np.int16], body: NDArray[np.bool_], whole: list[int]) -> bool:
    """Every object before this one keeps enough of itself in sight."""
    covered = np.bincount(owner[body & (owner >= 0)], minlength=len(whole))
    shown = np.bincount(owner[owner >= 0], minlength=len(whole))
    return all(s - c >= _SHOWN * w for s, c, w in zip(shown, covered, whole, strict=True))


def _box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _unit(*vector: float) -> Colour:
    return np.array(vector, np.float32) / np.linalg.norm(vector).astype(np.float32)


# -- the things: (u, v) in about -1..1 -> signed distance in units of the radius, colour -----------

Shape = Callable[[Grid, Grid, Colour, Colour, Rng], tuple[Grid, Grid]]


def _lit(colour: Colour | Grid, x: Grid, y: Grid, z: Grid, light: Colour) -> Grid:
    """Matt shading of a surface of normal (x, y, z), with a small highlight."""
    facing = (x * light[0] + y * light[1] + z * light[2]).clip(0, 1)[..., None]
    return colour * (0.35 + 0.65 * facing) + 0.35 * facing**24


def _ball(u: Grid, v: Grid, colour: Colour, light: Colour, rng: Rng) -> tuple[Grid, Grid]:
    r = np.hypot(u, v)
    z = np.sqrt((1 - r**2).clip(0, 1))
    skin: Colour | Grid = colour
    if rng.random() < 0.5:  # a band around it
        band = np.abs(v * 0.8 + z * 0.6 * rng.choice([-1, 1])) < rng.uniform(0.12, 0.3)
        skin = np.where(band[..., None], _paint_of(rng), colour)
    return r - 1, _lit(skin, u, v, z, light)


def _cone(u: Grid, v: Grid, colour: Colour, light: Colour, rng: Rng) -> tuple[Grid, Grid]:
    half = 0.72 * (v + 1) / 1.7  # half its width at this height
    side = np.maximum(np.abs(u) - half, v - 0.7) * 0.9
    foot = np.hypot(u / 0.72, (v - 0.7) / 0.22) - 1
    across = (u / half.clip(0.05)).clip(-1, 1)
    skin: Colour | Grid = colour
    if rng.random() < 0.5:  # stripes
        skin = np.where((v * rng.uniform(3, 5) % 2 < 1)[..., None], _paint_of(rng), colour)
    lit = _lit(skin, across, np.full_like(u, -0.3), np.sqrt(1 - across**2), light)
    return np.minimum(side, foot * 0.22), lit


def _cube(u: Grid, v: Grid, colour: Colour, light: Colour, rng: Rng) -> tuple[Grid, Grid]:
    yaw, tilt = rng.uniform(0.35, 1.2), rng.uniform(0.35, 0.6)
    c, s, up = np.cos(yaw) * 0.95, np.sin(yaw) * 0.95, np.cos(tilt) * 0.95
    a, b = (c, s * np.sin(tilt)), (-s, c * np.sin(tilt))  # the floor's two edges, projected
    corner = ((a[0] + b[0]) / 2, (a[1] + b[1] - up) / 2)  # the top's near corner
    distance, rgb = np.full_like(u, 9.0), np.zeros((*u.shape, 3), np.float32)
    down = (0.0, up)
    faces = [
        ((-a[0], -a[1]), (-b[0], -b[1]), 1.0),
        ((-a[0], -a[1]), down, 0.75),
        ((-b[0], -b[1]), down, 0.5),
    ]
    toward = 0.8 + 0.2 * float(light[2])
    for first, second, bright in faces:
        area = first[0] * second[1] - first[1] * second[0]
        p = ((u - corner[0]) * second[1] - (v - corner[1]) * second[0]) / area
        q = ((v - corner[1]) * first[0] - (u - corner[0]) * first[1]) / area
        inner = np.minimum(np.minimum(p, 1 - p), np.minimum(q, 1 - q))
        own = -inner * 0.7
        edge = np.where((inner < 0.06)[..., None], 0.8, 1.0)
        rgb = np.where((own < distance)[..., None], colour * bright * toward * edge, rgb)
        distance = np.minimum(distance, own)
    return distance, rgb


def _cup(u: Grid, v: Grid, colour: Colour, light: Colour, rng: Rng) -> tuple[Grid, Grid]:
    half = 0.62 - 0.1 * (v + 0.65)  # narrower below
    body = np.maximum(np.abs(u + 0.15) - half, np.abs(v) - 0.75)
    foot = (np.hypot((u + 0.15) / 0.48, (v - 0.75) / 0.14) - 1) * 0.14
    mouth = (np.hypot((u + 0.15) / 0.63, (v + 0.72) / 0.2) - 1) * 0.2
    handle = np.abs(np.hypot((u - 0.5) / 0.9, v) - 0.38) - 0.09
    handle = np.where(u > 0.3, handle, 9.0)
    across = ((u + 0.15) / half.clip(0.1)).clip(-1, 1)
    rgb = _lit(colour, across, np.zeros_like(u), np.sqrt(1 - across**2), light)
    inside = colour * (0.25 + 0.2 * (u[..., None] + 1))
    rgb = np.where((mouth < -0.02)[..., None], inside, rgb)
    outside = np.minimum(np.minimum(body, foot), mouth)
    rgb = np.where((outside > 0)[..., None], colour * 0.6, rgb)
    return np.minimum(outside, handle), rgb


def _ring(u: Grid, v: Grid, colour: Colour, light: Colour, rng: Rng) -> tuple[Grid, Grid]:
    thick, squash = rng.uniform(0.2, 0.3), rng.uniform(0.75, 1.0)
    v = v / squash
    r = np.hypot(u, v)
    middle = 1 - thick
    out = ((r - middle) / thick).clip(-1, 1)  # -1 at the inner rim, 1 at the outer
    r = r.clip(1e-3)
    lit = _lit(colour, out * u / r, out * v / r, np.sqrt(1 - out**2), light)
    return (np.abs(r - middle) - thick) * squash, lit


def _star(u: Grid, v: Grid, colour: Colour, light: Colour, rng: Rng) -> tuple[Grid, Grid]:
    deep, fifth = rng.uniform(0.4, 0.55), np.pi / 5
    r, angle = np.hypot(u, v), np.arctan2(v, u)
    folded = np.abs((angle % (2 * fifth)) - fifth)  # 0 at an inner corner, pi/5 at a tip
    tip, inner = (np.cos(fifth), np.sin(fifth)), (deep, 0.0)
    nx, ny = tip[1] - inner[1], inner[0] - tip[0]  # across the edge from the inner corner to a tip
    length = np.hypot(nx, ny)
    x, y = r * np.cos(folded), r * np.sin(folded)
    distance = ((x - inner[0]) * nx + (y - inner[1]) * ny) / length
    ridge = (angle % fifth) / fifth  # each arm is folded along its middle
    bright = np.where((angle // fifth) % 2 == 0, 0.95, 0.6) - 0.1 * ridge
    return distance.astype(np.float32), colour * bright[..., None]


def _stick(u: Grid, v: Grid, colour: Colour, light: Colour, rng: Rng) -> tuple[Grid, Grid]:
    thick = rng.uniform(0.03, 0.1)
    distance = np.hypot(u - u.clip(-1.3, 1.3), v) - thick
    across = (v / thick).clip(-1, 1)
    return distance, _lit(colour, np.zeros_like(u), across, np.sqrt(1 - across**2), light)


def _blade(u: Grid, v: Grid, colour: Colour, light: Colour, rng: Rng) -> tuple[Grid, Grid]:
    bend = rng.uniform(-0.3, 0.3)
    width = rng.uniform(0.08, 0.3) * (1 - (u / 1.3) ** 2)
    off = np.abs(v - bend * u**2)
    vein = np.where((off < 0.02)[..., None], 0.7, 1.0)
    return np.maximum(off - width, np.abs(u) - 1.3), colour * vein * (0.6 + 0.3 * light[2])


def _slab(u: Grid, v: Grid, colour: Colour, light: Colour, rng: Rng) -> tuple[Grid, Grid]:
    wide, high = rng.uniform(0.4, 1.0), rng.uniform(0.15, 0.5)
    printed = np.where((np.sin(u * rng.uniform(5, 20)) > 0.6)[..., None], 0.7, 1.0)
    return np.maximum(np.abs(u) - wide, np.abs(v) - high), colour * printed * (0.5 + 0.4 * light[2])


def _half(u: Grid, v: Grid, colour: Colour, light: Colour, rng: Rng) -> tuple[Grid, Grid]:
    shade = (0.6 + 0.3 * (u + 1) / 2)[..., None]
    return np.maximum(np.hypot(u, v) - 0.9, v - rng.uniform(-0.2, 0.1)), colour * shade


_KINDS: dict[str, Shape] = {
    "ball": _ball,
    "cone": _cone,
    "cube": _cube,
    "cup": _cup,
    "ring": _ring,
    "star": _star,
}
# What may lie any way up; the rest stands about upright.
_ANY_WAY = (_ball, _ring, _star, _stick, _blade, _slab, _half)
