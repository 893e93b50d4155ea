"""A repaired copy of a data set, and the list of what was done to it.

The copy keeps its layout and everything that is not wrong: annotations are edited where they
stand, not written anew.
"""

from __future__ import annotations

import shutil
import struct
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from boxatlas.data.doctor import Report, rewrite
from boxatlas.data.doctor.flaws import KINDS, Flaw
from boxatlas.data.formats import coco, voc, yolo
from boxatlas.errors import InputError

_STRENGTH = {"train": 0, "val": 1, "test": 2}  # what is judged keeps an image that leaked
Box = list[float]


@dataclass(frozen=True)
class Action:
    """What was done about a flaw."""

    flaw: Flaw
    did: str

    def as_dict(self) -> dict[str, Any]:
        return {**self.flaw.as_dict(), "did": self.did}


@dataclass
class Plan:
    """What to change. Keys are annotation files and object numbers in them, or image paths."""

    objects: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))  # left out
    boxes: dict[str, dict[int, Box]] = field(default_factory=lambda: defaultdict(dict))  # xyxy
    masks: dict[str, dict[int, str]] = field(default_factory=lambda: defaultdict(dict))
    images: set[str] = field(default_factory=set)  # left out
    entries: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))  # COCO's images
    files: set[str] = field(default_factory=set)  # left out
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)  # height, width
    upright: set[str] = field(default_factory=set)
    leaked: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # split -> paths


def repair(report: Report, out: str | Path) -> list[Action]:
    """Write a repaired copy of the report's set to `out`; what could not be mended is not listed.

    Raises InputError where `out` holds something, lies in the set, or the layout is none that can
    be edited.
    """
    out, folder = Path(out), report.folder
    write: Callable[[Report, Plan, Path], None] | None = {
        voc: rewrite.voc_set, coco: rewrite.coco_set, yolo: rewrite.yolo_set,
    }.get(report.module)  # fmt: skip
    if write is None:
        raise InputError("only VOC, COCO and YOLO sets are repaired", file=folder,
                         hint="convert it first: boxatlas data convert")  # fmt: skip
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError("holds something already", file=out)
    if out.resolve().is_relative_to(folder.resolve()):
        raise InputError("a copy must not lie within the set itself", file=out)
    plan, actions = Plan(), []
    for flaw in report.flaws:
        if KINDS[flaw.kind].repair or flaw.remedy in ("text", "renumber"):
            did = _take(plan, flaw)
            if did:
                actions.append(Action(flaw, did))
    _copy_images(report, plan, out)
    write(report, plan, out)
    return actions


def _take(plan: Plan, flaw: Flaw) -> str:
    """Put a flaw's remedy into the plan; what will be done, "" where nothing can be."""
    remedy, repair = flaw.remedy, KINDS[flaw.kind].repair
    if flaw.kind == "box_format":
        part, fixed = remedy
        for k, box in enumerate(fixed.tolist()):
            image = int(part.table.image_of[k])
            height, width = part.table.sizes[image].tolist()
            limit = (width, height, width, height)
            plan.boxes[part.file(image)][int(part.builder.origins[k])] = [
                min(max(v, 0.0), float(m)) for v, m in zip(box, limit, strict=True)
            ]
    elif flaw.kind in ("leak_same", "split_shared"):
        return _leak(plan, flaw)
    elif flaw.kind in ("split_unknown", "split_twice", "class_twice"):
        pass  # the rewriter sees them again
    elif remedy == "text" or remedy == "renumber":
        return "written as plain UTF-8" if remedy == "text" else "ids begin at 1"
    elif remedy == "file" or flaw.kind == "file_invalid":
        plan.files.add(flaw.file)
    elif remedy == "image" and flaw.number is not None:
        plan.entries[flaw.file].add(flaw.number)
    elif remedy == "image":
        plan.images.add(flaw.image)
    elif remedy == "upright":
        plan.upright.add(flaw.image)
    elif flaw.kind == "image_size":
        plan.sizes[flaw.image] = remedy
    elif flaw.number is None:
        plan.files.add(flaw.file)  # an annotation as a whole
    elif remedy in ("mask", "polygons"):
        plan.masks[flaw.file][flaw.number] = remedy
    elif isinstance(remedy, list):
        plan.boxes[flaw.file][flaw.number] = remedy
    else:
        plan.objects[flaw.file].add(flaw.number)
    return repair


def _leak(plan: Plan, flaw: Flaw) -> str:
    if flaw.kind == "split_shared":
        paths, splits = (flaw.image, flaw.image), flaw.remedy
    else:
        paths, splits = flaw.remedy[:2], flaw.remedy[2:]
    weaker = min(range(2), key=lambda n: _strength(splits[n]))
    plan.leaked[splits[weaker]].add(paths[weaker])
    return f"left out of {splits[weaker]}"


def _strength(split: str) -> int:
    return next((n for name, n in _STRENGTH.items() if split.startswith(name)), 1)


def _copy_images(report: Report, plan: Plan, out: Path) -> None:
    """Every image that can be read, its rotation tag removed where the boxes are of the rest."""
    folder = report.folder
    wanted = {path for part in report.parts for path in part.table.paths}
    wanted |= {str(path) for path in report.module.images_of(folder).values()}
    left = plan.images | {path for paths in plan.leaked.values() for path in paths}
    keep = {path for part in report.parts for path in part.table.paths
            if path not in plan.leaked.get(part.split or "", ())} - plan.images  # fmt: skip
    for path in sorted((wanted - left) | (keep & wanted)):
        to = out / Path(path).relative_to(folder)
        to.parent.mkdir(parents=True, exist_ok=True)
        if path in plan.upright:
            _without_rotation(Path(path), to)
        elif Path(path).is_file():
            shutil.copyfile(path, to)


def _without_rotation(path: Path, to: Path) -> None:
    """A copy whose EXIF orientation is 1; a JPEG's pixels are not touched."""
    data = bytearray(path.read_bytes())
    at = data.find(b"Exif\0\0", 0, 1 << 16)
    if data[:2] == b"\xff\xd8" and at > 0:
        head = at + 6
        order = "<" if data[head : head + 2] == b"II" else ">"
        (start,) = struct.unpack_from(f"{order}I", data, head + 4)
        (count,) = struct.unpack_from(f"{order}H", data, head + start)
        for n in range(count):
            entry = head + start + 2 + 12 * n
            if struct.unpack_from(f"{order}H", data, entry)[0] == 0x0112:
                struct.pack_into(f"{order}H", data, entry + 8, 1)
        to.write_bytes(data)
        return
    with Image.open(path) as image:
        exif = image.getexif()
        exif[0x0112] = 1
        image.save(to, image.format, exif=exif, quality=95)
