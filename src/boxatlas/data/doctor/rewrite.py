"""Editing annotations where they stand, one function for each layout."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, tostring

from boxatlas.data.doctor.plan import Plan
from boxatlas.data.doctor.reading import utf8_json
from boxatlas.data.doctor.sets import apart, known
from boxatlas.data.formats import voc, yolo
from boxatlas.data.formats.building import lines_of, read_text
from boxatlas.data.formats.json_stream import members
from boxatlas.errors import InputError
from boxatlas.files import write_text

if TYPE_CHECKING:
    from boxatlas.data.doctor import Report


# -- VOC -----------------------------------------------------------------------------------------


def voc_set(report: Report, plan: Plan, out: Path) -> None:
    """Annotations, lists and classes.txt."""
    folder = report.folder
    table = report.parts[0].table if report.parts else None
    path_of = dict(zip(table.ids, table.paths, strict=True)) if table is not None else {}
    kept: set[str] = set()
    for file in sorted((folder / "Annotations").rglob("*.xml")):
        name = file.relative_to(folder / "Annotations").with_suffix("").as_posix()
        image = path_of.get(name)
        if image in plan.images or str(file) in plan.files:
            continue
        kept.add(name)
        _voc_file(file, image, plan, out / file.relative_to(folder))
    splits = voc.splits(folder)
    for file in sorted((folder / "ImageSets" / "Main").glob("*.txt")):
        gone = {
            path
            for split, paths in plan.leaked.items()
            for path in paths
            if file.stem == split or (split in file.stem and file.stem not in apart(splits))
        }
        lines = {}
        for line in lines_of(file):
            name = voc.member(line, folder)
            if name in kept and path_of.get(name) not in gone:
                lines.setdefault(name, line)
        write_text(out / file.relative_to(folder), "".join(f"{v}\n" for v in lines.values()))
    if (folder / "classes.txt").is_file():
        names = dict.fromkeys(lines_of(folder / "classes.txt"))  # each once
        write_text(out / "classes.txt", "".join(f"{name}\n" for name in names))


def _voc_file(file: Path, image: str | None, plan: Plan, to: Path) -> None:
    """An annotation with its changes, or as it is. Raises InputError for one nested too deep."""
    if image not in plan.sizes and not any(
        str(file) in of for of in (plan.objects, plan.boxes, plan.texts)
    ):
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, to)
        return
    root = voc.parse(file)
    _voc_objects(root, str(file), plan)
    _voc_size(root, image, plan)
    try:
        write_text(to, tostring(root, encoding="unicode") + "\n")
    except RecursionError:
        raise InputError("is nested too deep", file=file) from None


def _voc_objects(root: Element, file: str, plan: Plan) -> None:
    things = list(root.iter("object"))
    parents = {child: parent for parent in root.iter() for child in parent}
    for number in plan.objects.get(file, ()):
        parents[things[number]].remove(things[number])
    for number, (x1, y1, x2, y2) in plan.boxes.get(file, {}).items():
        box = things[number].find("bndbox")
        if box is None or number in plan.objects.get(file, ()):
            continue
        values = {"xmin": x1 + 1, "ymin": y1 + 1, "xmax": x2, "ymax": y2}
        for side, value in values.items():
            found = box.find(side)
            if found is not None:
                found.text = f"{value:.4f}".rstrip("0").rstrip(".")


def _voc_size(root: Element, image: str | None, plan: Plan) -> None:
    size = plan.sizes.get(image or "")
    if size is None:
        return
    for name, value in zip(("height", "width"), size, strict=True):
        found = root.find(f"size/{name}")
        if found is not None:
            found.text = str(value)


# -- COCO ----------------------------------------------------------------------------------------


def coco_set(report: Report, plan: Plan, out: Path) -> None:
    """The annotation files; ids are kept unless one is 0, missing or there twice."""
    for file in report.module.annotation_files(report.folder):
        to = out / file.relative_to(report.folder)
        if str(file) in plan.unread:
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(utf8_json(file) or b"")
        if str(file) in plan.files | plan.unread:
            continue
        part = next((p for p in report.parts if p.builder.files[:1] == [str(file)]), None)
        document = _coco_document(file)
        split = part.split if part is not None else None
        left = plan.images | plan.leaked.get(split or "", set())
        paths = {} if part is None else dict(zip(part.table.ids, part.table.paths, strict=True))
        merged = _coco_images(document, str(file), plan, paths, left)
        renamed = _coco_categories(document)
        _coco_annotations(document, str(file), plan, merged, renamed)
        write_text(to, json.dumps(document))


def _coco_document(file: Path) -> dict[str, Any]:
    """The file whole; a list that is there twice is one list, as the reader has it."""
    document: dict[str, Any] = {}
    for key, i, value in members(file):
        if i is None:
            document[key] = value
        elif i < 0:
            held = document.get(key)
            document[key] = held if isinstance(held, list) else []
        else:
            document[key].append(value)
    return document


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str)


def _coco_images(
    document: dict[str, Any], file: str, plan: Plan, paths: dict[Any, str], left: set[str]
) -> dict[Any, Any]:
    """Each image file once; id -> the id that its file keeps."""
    gone, kept, first = plan.entries.get(file, set()), list[Any](), dict[Any, Any]()
    merged: dict[Any, Any] = {}
    for i, image in enumerate(document["images"]):
        id_ = image.get("id") if isinstance(image, dict) else None
        if i in gone or not _is_id(id_) or id_ in merged or paths.get(id_) in left:
            continue
        if i in plan.sides.get(file, ()):
            _coco_sides(image)
        elif id_ not in paths:
            continue
        merged[id_] = first.setdefault(paths.get(id_, (id_,)), id_)
        if merged[id_] == id_:
            size = plan.sizes.get(paths.get(id_, ""))
            kept.append(image if size is None else {**image, "height": size[0], "width": size[1]})
    document["images"] = kept
    return merged


def _coco_sides(image: dict[str, Any]) -> None:
    """A size in digits becomes a number; any other is not stated, so that the image's counts."""
    sides = [str(image.pop(name, "")) for name in ("width", "height")]
    if all(side.isdecimal() and len(side) < 7 for side in sides):
        image |= {"width": int(sides[0]), "height": int(sides[1])}


def _coco_categories(document: dict[str, Any]) -> dict[Any, Any]:
    """Each id and each name once; id -> the id that its name keeps."""
    first: dict[str, Any] = {}
    renamed: dict[Any, Any] = {}
    kept = []
    for category in document["categories"]:
        id_, name = (
            (category.get("id"), category.get("name"))
            if isinstance(category, dict)
            else (None, None)
        )
        if not isinstance(name, str) or not _is_id(id_) or id_ in renamed:
            continue
        renamed[id_] = first.setdefault(name, id_)
        if renamed[id_] == id_:
            kept.append(category)
    document["categories"] = kept
    return renamed


def _coco_annotations(
    document: dict[str, Any],
    file: str,
    plan: Plan,
    merged: dict[Any, Any],
    renamed: dict[Any, Any],
) -> None:
    gone, boxes = plan.objects.get(file, set()), plan.boxes.get(file, {})
    masks, fields = plan.masks.get(file, {}), plan.fields.get(file, {})
    kept, ids = [], set()
    for i, thing in enumerate(document["annotations"]):
        if i in gone or not isinstance(thing, dict):
            continue
        image, category = thing.get("image_id"), thing.get("category_id")
        if not _is_id(image) or not _is_id(category):
            continue
        if image not in merged or category not in renamed:
            continue
        thing["image_id"], thing["category_id"] = merged[image], renamed[category]
        if i in boxes:
            x1, y1, x2, y2 = boxes[i]
            thing["bbox"] = [round(v, 4) for v in (x1, y1, x2 - x1, y2 - y1)]
        if masks.get(i) == "polygons":
            thing["segmentation"] = [p for p in thing["segmentation"] if len(p) >= 6]
        elif i in masks:
            thing.pop("segmentation", None)
        if fields.get(i) == "area":
            thing["area"] = thing["bbox"][2] * thing["bbox"][3]
        if i in fields and thing.get("iscrowd") in ("0", "1"):
            thing["iscrowd"] = int(thing["iscrowd"])
        ids.add(thing["id"] if _is_id(thing.get("id")) else None)
        kept.append(thing)
    if len(ids) < len(kept) or 0 in ids or None in ids:
        kept = [{**thing, "id": n} for n, thing in enumerate(kept, 1)]
    document["annotations"] = kept


# -- YOLO ----------------------------------------------------------------------------------------


def yolo_set(report: Report, plan: Plan, out: Path) -> None:
    """Label files, data.yaml and the lists of images."""
    folder = report.folder
    description = yolo.describe(folder, known)
    classes = yolo.classes_of(folder, description, known)
    roots = yolo.roots(folder, description, known)
    lists = {root for found in roots.values() for root in found if root.is_file()}
    head = {yolo.description_file(folder), folder / "classes.txt"}
    for root in (root for found in roots.values() for root in found if root.is_dir()):
        (out / root.relative_to(folder)).mkdir(parents=True, exist_ok=True)
    _yolo_labels(report, plan, out, classes.numbers, lists | head)
    own = _yolo_lists(report, plan, out, roots)
    if classes.numbers is not None and "names" not in description:
        write_text(out / "classes.txt", "".join(f"{name}\n" for name in classes.names or ()))
    _yolo_description(folder, out, description, classes, own)
    for file in sorted([*folder.glob("*.txt"), *filter(None, head)]):
        if file.is_file() and not (out / file.name).exists():
            write_text(out / file.name, read_text(file))


def _yolo_labels(
    report: Report, plan: Plan, out: Path, numbers: list[int] | None, others: set[Any]
) -> None:
    """Every label file but those of images that are left out. numbers: what a class becomes."""
    folder = report.folder
    size_of: dict[Path, list[int]] = {}
    gone = {yolo.label_of(Path(path)) for path in plan.images}
    for part in report.parts:
        leaked = plan.leaked.get(part.split or "", set())
        for i, path in enumerate(part.table.paths):
            if path in leaked | plan.images:
                gone.add(Path(part.file(i)))
            else:
                size_of[Path(part.file(i))] = part.table.sizes[i].tolist()
    found = {file for file in report.module.annotation_files(folder) if file.suffix == ".txt"}
    for file in sorted((found | set(size_of)) - others):
        left = str(file) in plan.files or (file in gone and file not in size_of)
        if left or not file.is_file():
            continue
        lines = _yolo_lines(file, size_of.get(file), plan, numbers)
        write_text(out / file.relative_to(folder), "".join(f"{line}\n" for line in lines))


def _yolo_lines(
    file: Path, size: list[int] | None, plan: Plan, numbers: list[int] | None
) -> Iterator[str]:
    gone, boxes = plan.objects.get(str(file), set()), plan.boxes.get(str(file), {})
    for n, line in enumerate(read_text(file).split("\n"), 1):
        words = line.split()
        if n in gone or not words:
            continue
        if numbers is not None and words[0].isdecimal() and int(words[0]) < len(numbers):
            words[0] = str(numbers[int(words[0])])
        if n in boxes and len(words) > 5:  # a polygon, which reaches beyond the image
            words[1:] = [f"{min(max(float(v), 0.0), 1.0):.8f}" for v in words[1:]]
        elif n in boxes and size is not None:
            x1, y1, x2, y2 = boxes[n]
            height, width = size
            row = (
                (x1 + x2) / 2 / width,
                (y1 + y2) / 2 / height,
                (x2 - x1) / width,
                (y2 - y1) / height,
            )
            words[1:] = [f"{v:.8f}" for v in row]
        yield " ".join(words)


def _yolo_lists(
    report: Report, plan: Plan, out: Path, roots: dict[str, list[Path]]
) -> dict[str, str]:
    """The lists of images without what is left out.

    Returns split -> its new list, where it shares a folder or a list with the split that keeps an
    image of both.
    """
    folder, own = report.folder, dict[str, str]()
    kept = {part.split: set(part.table.paths) - plan.images for part in report.parts}
    for split, paths in plan.leaked.items():
        kept[split] -= paths
    for file in sorted({root for found in roots.values() for root in found if root.is_file()}):
        users = [split for split, found in roots.items() if file in found]
        stay = {path for split in users for path in kept.get(split, ())}
        gone, lines = plan.objects.get(str(file), set()), read_text(file).split("\n")
        lines = [line.strip() for n, line in enumerate(lines, 1) if n not in gone]
        lines = [line for line in lines if str(folder / line.removeprefix("./")) in stay]
        write_text(out / file.relative_to(folder), "".join(f"{line}\n" for line in lines))
    for split, paths in plan.leaked.items():
        others = {path for name, found in kept.items() if name != split for path in found}
        alone = all(
            root.is_file() and sum(root in found for found in roots.values()) == 1
            for root in roots.get(split, ())
        )
        if alone or others.isdisjoint(paths):
            continue
        own[split] = f"{split}_own.txt" if (folder / f"{split}.txt").exists() else f"{split}.txt"
        names = sorted(Path(path).relative_to(folder).as_posix() for path in kept[split])
        write_text(out / own[split], "".join(f"{name}\n" for name in names))
    return own


def _yolo_description(
    folder: Path, out: Path, description: dict[str, Any], classes: yolo.Classes, own: dict[str, str]
) -> None:
    """data.yaml: each name once and numbered, no entry that leaves the folder, the new lists."""
    import yaml

    path = yolo.description_file(folder)
    new = dict(description)
    for split, entry in yolo.entries(description):
        if isinstance(entry, str) and yolo.leads_out(entry):
            given = new[split] if isinstance(new[split], list) else [new[split]]
            new[split] = [one for one in given if one != entry]
            if not new[split]:
                del new[split]
    new |= own
    names = description.get("names")
    if classes.names is not None and names is not None:
        mended = dict(enumerate(classes.names))
        given = names if isinstance(names, dict) else dict(enumerate(names))
        if {n: str(name) for n, name in given.items()} != mended:
            new["names"] = mended if isinstance(names, dict) else list(mended.values())
            new |= {"nc": len(mended)} if "nc" in new else {}
    if path is not None and new != description:
        text = yaml.safe_dump(new, sort_keys=False, allow_unicode=True)
        write_text(out / path.name, text)
