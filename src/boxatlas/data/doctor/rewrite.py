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
from boxatlas.data.formats import (
    coco,
    coco_taking,
    voc,
    voc_files,
    voc_xml,
    yolo,
    yolo_labels,
    yolo_yaml,
)
from boxatlas.data.formats.building import Builder, lines_of, number, read_text
from boxatlas.data.formats.json_stream import members
from boxatlas.data.formats.places import Place, split_name
from boxatlas.data.masks import extent
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
    place = report.place
    for found in voc_files.xml_files(place):
        file, name = place.path(found), voc_files.id_of(found)
        image = path_of.get(name)
        if image in plan.images or str(file) in plan.files:
            continue
        kept.add(name)
        _voc_file(file, image, plan, out / found, voc.first_pixel(place))
    splits = voc.splits(place)
    lists = [place.path(n) for n in place.files if "ImageSets" in n and n.endswith(".txt")]
    for file in lists:
        gone = {
            path
            for split, paths in plan.leaked.items()
            for path in paths
            if split_name(file.stem) == split
            or (split in file.stem and file.stem not in apart(splits))
        }
        lines = {}
        for line in lines_of(file):
            name = voc_files.member(line, place, place.relative(file))
            if name in kept and path_of.get(name) not in gone:
                lines.setdefault(name, line)
        write_text(out / file.relative_to(folder), "".join(f"{v}\n" for v in lines.values()))
    for name in place.called("classes.txt"):
        names = dict.fromkeys(lines_of(place.path(name)))  # each once
        write_text(out / name, "".join(f"{one}\n" for one in names))
    for name in place.called("labelmap.txt"):
        shutil.copyfile(place.path(name), out / name)


def _voc_file(file: Path, image: str | None, plan: Plan, to: Path, first: int) -> None:
    """An annotation with its changes, or as it is. Raises InputError for one nested too deep."""
    if image not in plan.sizes and not any(
        str(file) in of for of in (plan.objects, plan.boxes, plan.texts, plan.plain)
    ):
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, to)
        return
    root = voc_xml.parse(file)
    _voc_objects(root, str(file), plan, first)
    _voc_size(root, image, plan)
    try:
        write_text(to, tostring(root, encoding="unicode") + "\n")
    except RecursionError:
        raise InputError("is nested too deep", file=file) from None


def _voc_objects(root: Element, file: str, plan: Plan, first: int) -> None:
    things = list(root.iter("object"))
    if file in plan.plain:
        _voc_flags(things, Path(file))
    parents = {child: parent for parent in root.iter() for child in parent}
    for k in plan.objects.get(file, ()):
        parents[things[k]].remove(things[k])
    for k, (x1, y1, x2, y2) in plan.boxes.get(file, {}).items():
        box = things[k].find("bndbox")
        if box is None or k in plan.objects.get(file, ()):
            continue
        values = {"xmin": x1 + first, "ymin": y1 + first, "xmax": x2, "ymax": y2}
        for side, value in values.items():
            found = box.find(side)
            if found is not None:
                found.text = f"{value:.4f}".rstrip("0").rstrip(".")


def _voc_flags(things: list[Element], file: Path) -> None:
    """Flags that are written otherwise (true, 1.0) as 0 or 1."""
    builder = Builder()
    for i, thing in enumerate(things):
        for name in ("difficult", "truncated"):
            found = thing.find(name)
            try:
                value = voc_xml.flag(builder, thing, file, i, name)
            except InputError:
                continue
            if found is not None and value is not None:
                found.text = str(int(value))


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
    for file in report.place.paths(coco.annotation_names(report.place)):
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
        if "annotations" in document:
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


def _coco_images(
    document: dict[str, Any], file: str, plan: Plan, paths: dict[Any, str], left: set[str]
) -> dict[Any, Any]:
    """Each image file once; id -> the id that its file keeps."""
    gone, kept, first = plan.entries.get(file, set()), list[Any](), dict[Any, Any]()
    merged: dict[Any, Any] = {}
    for i, image in enumerate(document["images"]):
        id_ = coco_taking.plain_id(image.get("id")) if isinstance(image, dict) else None
        if i in gone or id_ is None or id_ in merged or paths.get(id_) in left:
            continue
        if i in plan.sides.get(file, ()):
            _coco_sides(image)
        elif id_ not in paths:
            continue
        merged[id_] = first.setdefault(paths.get(id_, (id_,)), id_)
        if merged[id_] == id_:
            size = plan.sizes.get(paths.get(id_, ""))
            sides = {key: plain_number(image[key]) for key in ("height", "width") if key in image}
            if size is not None:
                sides = {"height": size[0], "width": size[1]}
            kept.append({**image, "id": id_, **sides})
    document["images"] = kept
    return merged


def _coco_sides(image: dict[str, Any]) -> None:
    """A size that is no number is not stated, so that the image's counts."""
    for name in ("width", "height"):
        if type(plain_number(image.get(name))) not in (int, float):
            image.pop("width", None)
            image.pop("height", None)


def plain_number(value: Any) -> Any:
    """A number that is written as text as one; all else as it is."""
    if not isinstance(value, str):
        return value
    try:
        found = number(value, Path(), "")
    except InputError:
        return value
    return int(found) if found == int(found) else found


def _coco_categories(document: dict[str, Any]) -> dict[Any, Any]:
    """Each id and each name once; id -> the id that its name keeps."""
    first: dict[str, Any] = {}
    renamed: dict[Any, Any] = {}
    kept = []
    for category in document["categories"]:
        if not isinstance(category, dict):
            continue
        id_, name = coco_taking.plain_id(category.get("id")), category.get("name")
        name = str(name) if type(name) in (int, float) else name
        if not isinstance(name, str) or id_ is None or id_ in renamed:
            continue
        renamed[id_] = first.setdefault(name, id_)
        if renamed[id_] == id_:
            kept.append({**category, "id": id_, "name": name})
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
        image = _known(thing.get("image_id"), merged)
        category = _known(thing.get("category_id"), renamed)
        if image is None or category is None:
            continue
        _coco_plainly(thing)
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
        ids.add(coco_taking.plain_id(thing.get("id")))
        kept.append(thing)
    if len(ids) < len(kept) or 0 in ids or None in ids:
        kept = [{**thing, "id": n} for n, thing in enumerate(kept, 1)]
    document["annotations"] = kept


def _known(id_: Any, known: dict[Any, Any]) -> Any:
    """The id that a reference means; None where it is none of those known."""
    id_ = coco_taking.plain_id(id_)
    if id_ is None or id_ in known:
        return id_
    other = coco_taking.other_way(id_)
    return other if other in known else None


def _coco_plainly(thing: dict[str, Any]) -> None:
    """What is only written oddly, as the reader understands it."""
    thing["id"] = coco_taking.plain_id(thing.get("id"))
    box, mask = thing.get("bbox"), thing.get("segmentation")
    if isinstance(mask, list) and mask and isinstance(mask[0], int | float):
        thing["segmentation"] = mask = [mask]
    if isinstance(box, list) and box:
        thing["bbox"] = [plain_number(v) for v in box]
    elif mask:
        found = extent(mask)
        if found is not None:
            x1, y1, x2, y2 = found.tolist()
            thing["bbox"] = [x1, y1, x2 - x1, y2 - y1]
    if "area" in thing:
        thing["area"] = plain_number(thing["area"])
    if "iscrowd" in thing:
        thing["iscrowd"] = int(bool(Builder().flag(thing["iscrowd"], Path(), "iscrowd")))


# -- YOLO ----------------------------------------------------------------------------------------


def yolo_set(report: Report, plan: Plan, out: Path) -> None:
    """Label files, data.yaml and the lists of images."""
    folder, place = report.folder, report.place
    description = yolo_yaml.describe(place, known)
    classes = yolo_yaml.classes_of(place, description, known)
    roots, _ = yolo_yaml.roots(place, description)
    lists = {root for found in roots.values() for root in found if root.is_file()}
    pose = yolo_yaml.keypoint_values(description)
    names = yolo_yaml.names_file(place, known)
    head = {*map(place.path, yolo_yaml.description_files(place)[:1]), names} - {None}
    for root in (root for found in roots.values() for root in found if root.is_dir()):
        (out / root.relative_to(folder)).mkdir(parents=True, exist_ok=True)
    _yolo_labels(report, plan, out, classes.numbers, lists | head, pose)
    own = _yolo_lists(report, plan, out, roots)
    if classes.numbers is not None and "names" not in description and names is not None:
        listed = "".join(f"{name}\n" for name in classes.names or ())
        write_text(out / names.relative_to(folder), listed)
    _yolo_description(place, out, description, classes, own)
    for file in sorted([*folder.glob("*.txt"), *filter(None, head)]):
        to = out / file.relative_to(folder)
        if file.is_file() and not to.exists():
            write_text(to, read_text(file))


def _yolo_labels(
    report: Report, plan: Plan, out: Path, numbers: list[int] | None, others: set[Any], pose: int
) -> None:
    """Every label file but those of images that are left out. numbers: what a class becomes."""
    folder = report.folder
    size_of: dict[Path, list[int]] = {}
    gone = {yolo_labels.label_of(report.place, Path(path)) for path in plan.images}
    for part in report.parts:
        leaked = plan.leaked.get(part.split or "", set())
        for i, path in enumerate(part.table.paths):
            if path in leaked | plan.images:
                gone.add(Path(part.file(i)))
            else:
                size_of[Path(part.file(i))] = part.table.sizes[i].tolist()
    files = report.place.paths(yolo.annotation_names(report.place))
    found = {file for file in files if file.suffix == ".txt"}
    for file in sorted((found | set(size_of)) - others):
        left = str(file) in plan.files or (file in gone and file not in size_of)
        if left or not file.is_file():
            continue
        lines = _yolo_lines(file, size_of.get(file), plan, numbers, pose)
        write_text(out / file.relative_to(folder), "".join(f"{line}\n" for line in lines))


def _yolo_lines(
    file: Path, size: list[int] | None, plan: Plan, numbers: list[int] | None, pose: int
) -> Iterator[str]:
    gone, boxes = plan.objects.get(str(file), set()), plan.boxes.get(str(file), {})
    for n, line in enumerate(read_text(file).split("\n"), 1):
        words = line.split()
        if n in gone or not words:
            continue
        if str(file) in plan.plain:
            words[0] = str(plain_number(words[0]))
            words = words[:5] if len(words) == 6 else words
        if numbers is not None and words[0].isdecimal() and int(words[0]) < len(numbers):
            words[0] = str(numbers[int(words[0])])
        points = words[5:] if len(words) == 6 or (pose and len(words) == 5 + pose) else []
        words = words[:5] if points else words
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
        yield " ".join([*words, *points])


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
        lines = [
            line.strip()
            for n, line in enumerate(lines, 1)
            if n not in gone and _listed(line.strip(), n, file, report.place) in stay
        ]
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


def _listed(line: str, n: int, file: Path, place: Place) -> str:
    """The image that a line names, "" where it names none."""
    try:
        return str(yolo.listed(line, n, file, place)) if line else ""
    except InputError:
        return ""


def _is_there(place: Place, description: dict[str, Any], entry: str, split: str) -> bool:
    try:
        yolo_yaml.resolve(place, description, entry, split)
    except InputError:
        return False
    return True


def _yolo_description(
    place: Place,
    out: Path,
    description: dict[str, Any],
    classes: yolo_yaml.Classes,
    own: dict[str, str],
) -> None:
    """data.yaml: each name once and numbered, no entry that leaves the folder, the new lists."""
    import yaml

    path = yolo_yaml.description_file(place)
    new = dict(description)
    for split, entry in yolo_yaml.entries(description):
        if not isinstance(entry, str) or not yolo_yaml.leads_out(entry):
            continue
        if not _is_there(place, description, entry, split):
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
        if yolo_yaml.wrong_count(place, new, classes) is not None:
            new["nc"] = len(mended)
    if path is not None and new != description:
        text = yaml.safe_dump(new, sort_keys=False, allow_unicode=True)
        write_text(out / path, text)
