"""Editing annotations where they stand, one function for each layout."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, tostring

from boxatlas.data.doctor.sets import apart
from boxatlas.data.formats import voc
from boxatlas.data.formats.building import lines_of, read_text
from boxatlas.data.formats.json_stream import members
from boxatlas.files import write_text

if TYPE_CHECKING:
    from boxatlas.data.doctor import Report
    from boxatlas.data.doctor.repair import Plan


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
        if image is None or image in plan.images or str(file) in plan.files:
            continue
        kept.add(name)
        root = voc.parse(file)
        _voc_objects(root, str(file), plan)
        _voc_size(root, image, plan)
        text = tostring(root, encoding="unicode")
        write_text(out / "Annotations" / f"{name}.xml", f"{text}\n")
    splits = voc.splits(folder)
    for file in sorted((folder / "ImageSets" / "Main").glob("*.txt")):
        gone = {
            path
            for split, paths in plan.leaked.items()
            for path in paths
            if file.stem == split or (split in file.stem and file.stem not in apart(splits))
        }
        lines = {}
        for line in read_text(file).replace("\r\n", "\n").replace("\r", "\n").split("\n"):
            name = line.split()[0] if line.split() else ""
            if name in kept and path_of[name] not in gone:
                lines.setdefault(name, line.strip())
        write_text(out / file.relative_to(folder), "".join(f"{v}\n" for v in lines.values()))
    if (folder / "classes.txt").is_file():
        names = dict.fromkeys(lines_of(folder / "classes.txt"))  # each once
        write_text(out / "classes.txt", "".join(f"{name}\n" for name in names))


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


def _voc_size(root: Element, image: str, plan: Plan) -> None:
    size = plan.sizes.get(image)
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
        if str(file) in plan.files:
            continue
        part = next((p for p in report.parts if p.builder.files[:1] == [str(file)]), None)
        document: dict[str, Any] = {}
        for key, i, value in members(file):
            if i is None or i < 0:
                document[key] = value
            else:
                document[key].append(value)
        split = part.split if part is not None else None
        left = plan.images | plan.leaked.get(split or "", set())
        paths = {} if part is None else dict(zip(part.table.ids, part.table.paths, strict=True))
        _coco_images(document, str(file), plan, paths, left)
        renamed = _coco_categories(document)
        _coco_annotations(document, str(file), plan, renamed)
        write_text(out / file.relative_to(report.folder), json.dumps(document, ensure_ascii=False))


def _coco_images(
    document: dict[str, Any], file: str, plan: Plan, paths: dict[Any, str], left: set[str]
) -> None:
    gone, seen, kept = plan.entries.get(file, set()), set(), []
    for i, image in enumerate(document["images"]):
        id_ = image.get("id") if isinstance(image, dict) else None
        if i in gone or id_ is None or id_ in seen or paths.get(id_) in left or id_ not in paths:
            continue
        seen.add(id_)
        size = plan.sizes.get(paths[id_])
        kept.append(image if size is None else {**image, "height": size[0], "width": size[1]})
    document["images"] = kept


def _coco_categories(document: dict[str, Any]) -> dict[Any, Any]:
    """Each id and each name once; id -> the id that its name keeps."""
    first: dict[str, Any] = {}
    renamed: dict[Any, Any] = {}
    kept = []
    for category in document["categories"]:
        id_, name = category.get("id"), category.get("name")
        if not isinstance(name, str) or id_ is None or id_ in renamed:
            continue
        renamed[id_] = first.setdefault(name, id_)
        if renamed[id_] == id_:
            kept.append(category)
    document["categories"] = kept
    return renamed


def _coco_annotations(
    document: dict[str, Any], file: str, plan: Plan, renamed: dict[Any, Any]
) -> None:
    images = {image["id"] for image in document["images"]}
    gone, boxes = plan.objects.get(file, set()), plan.boxes.get(file, {})
    masks, kept, ids = plan.masks.get(file, {}), [], set()
    for i, thing in enumerate(document["annotations"]):
        if i in gone or not isinstance(thing, dict):
            continue
        if thing.get("image_id") not in images or thing.get("category_id") not in renamed:
            continue
        thing["category_id"] = renamed[thing["category_id"]]
        if i in boxes:
            x1, y1, x2, y2 = boxes[i]
            thing["bbox"] = [round(v, 4) for v in (x1, y1, x2 - x1, y2 - y1)]
        if masks.get(i) == "polygons":
            thing["segmentation"] = [p for p in thing["segmentation"] if len(p) >= 6]
        elif i in masks:
            thing.pop("segmentation", None)
        ids.add(thing.get("id"))
        kept.append(thing)
    if len(ids) < len(kept) or 0 in ids or None in ids:
        kept = [{**thing, "id": n} for n, thing in enumerate(kept, 1)]
    document["annotations"] = kept


# -- YOLO ----------------------------------------------------------------------------------------


def yolo_set(report: Report, plan: Plan, out: Path) -> None:
    """Label files, data.yaml and the lists of images."""
    folder = report.folder
    for file in report.module.annotation_files(folder):
        if file.parent == folder or file.suffix != ".txt":
            text = read_text(file).replace("\r\n", "\n")
            write_text(out / file.relative_to(folder), text)
    gone = {Path(path).name for path in plan.images.union(*plan.leaked.values())}
    for file in folder.glob("*.txt"):  # lists of images
        lines = read_text(file).splitlines()
        kept = [line for line in lines if Path(line.strip()).name not in gone]
        write_text(out / file.name, "".join(f"{line}\n" for line in kept))
    for part in report.parts:
        left = plan.images | plan.leaked.get(part.split or "", set())
        for i, path in enumerate(part.table.paths):
            file = Path(part.file(i))
            if path in left or not file.is_file():
                continue
            size = part.table.sizes[i].tolist()
            text = "".join(f"{line}\n" for line in _yolo_lines(file, size, plan))
            write_text(out / file.relative_to(folder), text)


def _yolo_lines(file: Path, size: list[int], plan: Plan) -> Iterator[str]:
    gone, boxes = plan.objects.get(str(file), set()), plan.boxes.get(str(file), {})
    height, width = size
    for n, line in enumerate(read_text(file).split("\n"), 1):
        if n in gone or not line.strip():
            continue
        if n in boxes:
            x1, y1, x2, y2 = boxes[n]
            row = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width,
                   (y2 - y1) / height)  # fmt: skip
            yield f"{line.split()[0]} " + " ".join(f"{v:.8f}" for v in row)
        else:
            yield line.strip()
