"""A repaired copy of a data set, and the list of what was done to it.

The copy keeps its layout and everything that is not wrong: annotations are edited where they
stand, not written anew.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from boxatlas.data.doctor import Report, rewrite
from boxatlas.data.doctor.flaws import KINDS, Flaw
from boxatlas.data.doctor.plan import Action, Plan
from boxatlas.data.doctor.renew import renewed
from boxatlas.data.doctor.sets import memberships, strength
from boxatlas.data.formats import coco, folders, voc, yolo
from boxatlas.errors import InputError
from boxatlas.files import new_folder

Each = Callable[[Iterable[Any]], Iterable[Any]]


def repair(report: Report, out: str | Path, each: Each = iter) -> list[Action]:
    """Write a repaired copy of the report's set to `out`; what could not be mended is not listed.

    VOC's, COCO's and YOLO's files are edited where they stand, others are written anew (`renew`).
    The copy appears when it is whole. each: wraps the iteration over the images, to show progress.
    Raises InputError where `out` holds something, lies in the set, or the set holds no boxes.
    """
    out, folder = Path(out), report.folder
    write: Callable[[Report, Plan, Path], None] | None = {
        voc: rewrite.voc_set,
        coco: rewrite.coco_set,
        yolo: rewrite.yolo_set,
    }.get(report.module)
    if report.module is folders:
        raise InputError("a set without boxes is not repaired", file=folder)
    files = report.place.paths(report.module.annotation_names(report.place))
    outside = [file for file in files if ".." in _inner(file, folder)]
    if outside and write is not None:
        raise InputError("lies apart from its images: move it to them first", file=outside[0])
    if out.resolve().is_relative_to(folder.resolve()):
        raise InputError("a copy must not lie within the set itself", file=out)
    plan, actions = planned(report)
    if write is None:
        renewed(report, plan, actions, out, partial(_copy_image, plan), each)
        return actions
    with new_folder(out) as temporary:
        _copy_images(report, plan, temporary, each)
        write(report, plan, temporary)
    return actions


def _inner(file: Path, folder: Path) -> list[str]:
    return os.path.relpath(file, folder).replace(os.sep, "/").split("/")


def planned(report: Report) -> tuple[Plan, list[Action]]:
    """What a repaired copy changes, and what that does about which flaw."""
    plan, actions = Plan(), []
    for flaw in report.flaws:
        if KINDS[flaw.kind].repair or flaw.remedy in ("text", "renumber"):
            did = _take(plan, flaw)
            if did:
                actions.append(Action(flaw, did))
    undone = set()
    for split, paths in memberships(report.place, report.parts).items():
        if paths and plan.leaked.get(split, set()).issuperset(paths):  # nothing would be left
            del plan.leaked[split]
            undone.add(_left_out_of(split))
    texts = {flaw.file for flaw in report.flaws if flaw.remedy == "text"} & plan.files
    kept = [a for a in actions if a.did not in undone]
    return plan, [a for a in kept if not (a.flaw.remedy == "text" and a.flaw.file in texts)]


def _take(plan: Plan, flaw: Flaw) -> str:
    """Put a flaw's remedy into the plan; what will be done, "" where nothing can be."""
    remedy, repair = flaw.remedy, KINDS[flaw.kind].repair
    if flaw.kind in _REWRITTEN or remedy in ("line", "category"):  # the rewriter sees them again
        return "second one left out" if flaw.field.endswith(".id") else repair
    if Path(flaw.file).suffix in (".yaml", ".yml"):  # what is right in it would be lost
        return repair if flaw.kind in ("path_leaves", "class_count") else ""
    if flaw.kind in ("leak_same", "split_shared"):
        return _leak(plan, flaw)
    if flaw.kind == "value_odd":
        plan.plain.add(flaw.file)
        return repair
    if flaw.kind == "box_zero_based" and remedy is None:
        return ""
    if flaw.kind in ("box_format", "box_zero_based"):
        part, rows, fixed = remedy
        owner = part.table.image_of
        for k, box in zip(rows, fixed.tolist(), strict=True):
            plan.boxes[part.file(int(owner[k]))][int(part.builder.origins[k])] = box
        return repair
    if remedy in ("text", "transcode"):
        (plan.texts if remedy == "text" else plan.unread).add(flaw.file)
        return "written as plain UTF-8"
    if remedy == "renumber":
        return "ids begin at 1"
    return _take_thing(plan, flaw) or repair


# Kinds that the rewriter finds for itself.
_REWRITTEN = ("split_unknown", "class_twice", "class_unnamed", "image_twice")


def _take_thing(plan: Plan, flaw: Flaw) -> str:
    """The remedy of one file, image or object; what is done, "" where its kind says it."""
    remedy, number = flaw.remedy, flaw.number
    if remedy == "image" and number is not None:
        plan.entries[flaw.file].add(number)
    elif remedy == "image":
        plan.images.add(flaw.image)
    elif remedy == "upright":
        plan.upright.add(flaw.image)
    elif isinstance(remedy, tuple):
        plan.sizes[flaw.image] = remedy
        return "the size restated"
    elif number is None or remedy == "file" or flaw.kind == "file_invalid":
        plan.files.add(flaw.file)  # an annotation as a whole
        return "the file left out"
    elif remedy in ("mask", "polygons"):
        plan.masks[flaw.file][number] = remedy
        return "polygon left out" if remedy == "polygons" else "mask left out"
    elif remedy == "number":
        plan.fields[flaw.file][number] = flaw.field.rpartition(".")[2]
        return "the box's area" if flaw.field.endswith(".area") else "written as a number"
    elif remedy == "side":
        plan.sides[flaw.file].add(number)
        return "written as a number, or not stated"
    elif isinstance(remedy, list):
        plan.boxes[flaw.file][number] = remedy
    else:
        plan.objects[flaw.file].add(number)
        return "line left out" if flaw.kind in ("image_missing", "path_leaves") else ""
    return ""


def _leak(plan: Plan, flaw: Flaw) -> str:
    if flaw.kind == "split_shared":
        paths, splits = (flaw.image, flaw.image), flaw.remedy
    else:
        paths, splits = flaw.remedy[:2], flaw.remedy[2:]
    weaker = min(range(2), key=lambda n: strength(splits[n]))
    plan.leaked[splits[weaker]].add(paths[weaker])
    return _left_out_of(splits[weaker])


def _left_out_of(split: str) -> str:
    return f"left out of {split}"


def _copy_images(report: Report, plan: Plan, out: Path, each: Each) -> None:
    """Every image that can be read, its rotation tag removed where the boxes are of the rest."""
    folder = report.folder
    keep = {
        path
        for part in report.parts
        for path in part.table.paths
        if path not in plan.leaked.get(part.split or "", ())
    }
    wanted = keep | {str(report.place.path(name)) for name in report.place.images}
    left = plan.images | ({path for paths in plan.leaked.values() for path in paths} - keep)
    for path in each(sorted(wanted - left)):
        to = out / Path(path).relative_to(folder)
        _copy_image(plan, path, to)


def _copy_image(plan: Plan, path: str, to: Path) -> None:
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
