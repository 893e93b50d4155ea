"""Reading for the doctor: as training reads, but gathering what is wrong instead of stopping."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from boxatlas.data.doctor.flaws import Flaw
from boxatlas.data.formats import place_of, voc, yolo
from boxatlas.data.formats.building import ODDLY, Builder
from boxatlas.data.formats.places import Place
from boxatlas.data.table import Table
from boxatlas.errors import InputError

# The readers' words -> the kind of flaw. Words that are not here are "annotation_invalid".
_KIND_OF = {
    ODDLY: "value_odd",
    "no box is stated": "value_odd",
    "there are": "class_count",
    "the image of this annotation is missing": "image_missing",
    "the image is missing": "image_missing",
    "the split's images are missing": "split_empty",
    "not an image that can be read": "image_unreadable",
    "is not a number": "not_a_number",
    "is not a finite number": "not_a_number",
    "is far too large": "not_a_number",
    "a path that leaves the folder": "path_leaves",
    "an image that is not listed": "annotation_orphan",
    "no such category": "class_unknown",
    "no such class": "class_unknown",
    "a class that classes.txt does not list": "class_unknown",
    "class numbers must run from 0": "class_unnamed",
    "two categories of one": "class_twice",
    "two classes of one name": "class_twice",
    "two images of one id": "id_twice",
    "two annotations of one id": "id_twice",
    "a polygon of fewer than three points": "mask_points",
    "is no mask": "mask_invalid",
    "is not valid": "file_invalid",
    "XML that defines entities": "file_invalid",
    "is not UTF-8 text": "file_invalid",
    "cannot be read": "file_invalid",
    "is nested too deep": "file_invalid",
    "no object at the top": "file_invalid",
}


@dataclass(frozen=True)
class Part:
    """One split (or all of a set without any) as it was read; files and origins are the builder's:
    where image i and object k came from."""

    split: str | None
    table: Table
    builder: Builder
    module: ModuleType

    def file(self, image: int) -> str:
        return self.builder.files[image]

    def field(self, k: int | np.intp) -> str:
        """Where object k is in its file; with its image's name where a file holds many images and
        numbers the objects of each anew."""
        field = self.module.FIELD.format(int(self.builder.origins[k]))
        if not getattr(self.module, "OF_IMAGE", False):
            return field
        image = int(np.searchsorted(self.table.offsets, k, side="right")) - 1
        return f"{Path(self.table.paths[image]).name}: {field}"


def parts_of(folder: Path, format: str | None) -> tuple[Place, ModuleType, list[Part], list[Flaw]]:
    """The place, its layout, what was read of each split, and what could not be read.

    VOC's splits are lists over one set of annotations, so it is read as a whole.
    """
    place, module = place_of(folder, format)
    problems: list[InputError] = []
    splits: list[str] = []
    try:
        if module is yolo:
            splits = yolo.splits(place, problems.append)
        elif module is not voc:
            splits = module.splits(place)
    except InputError as error:
        return place, module, [], [flaw_of(error)]
    parts = []
    for split in splits or [None]:
        builder = Builder(strict=False)
        try:
            table = module.read(place, split, builder)
        except InputError as error:  # the file as a whole
            problems.append(error)
        else:
            parts.append(Part(split, table, builder, module))
        problems += [*builder.problems, *builder.remarks]
    # What is wrong for all splits is said once.
    return place, module, parts, list(dict.fromkeys(map(flaw_of, problems)))


def flaw_of(error: InputError) -> Flaw:
    """A reader's complaint as a flaw."""
    kind = next(
        (kind for said, kind in _KIND_OF.items() if error.problem.startswith(said)),
        "annotation_invalid",
    )
    if kind == "image_unreadable":
        message, whole = str(error), str(error.file or "")
        kind = "image_truncated" if "truncated" in message else kind
        return Flaw(kind, whole, "", message.removeprefix(f"{whole}: "), whole, remedy="image")
    message = str(error)
    where = ": ".join(str(part) for part in (error.file, error.field) if part is not None)
    field = error.field or ""
    number = re.search(r"(?:annotations|object|images|categories|line) ?\[?(\d+)", field)
    return Flaw(
        kind,
        str(error.file or ""),
        field,
        message.removeprefix(f"{where}: "),
        number=int(number[1]) if number else None,
        remedy=_remedy(error),
    )


def _remedy(error: InputError) -> str:
    """What repair does about a complaint, where its kind does not say it."""
    field = error.field or ""
    if field.startswith("images["):
        return "side" if field.endswith((".width", ".height")) else "image"
    if field.startswith("categories["):
        return "category"
    if error.problem.startswith("is not UTF-8") and utf8_json(Path(error.file or "")) is not None:
        return "transcode"
    return "number" if field.endswith(".area") else "drop"


def utf8_json(path: Path) -> bytes | None:
    """A JSON file in another encoding as UTF-8; None where it is none."""
    raw = path.read_bytes()
    for encoding in (json.detect_encoding(raw), "latin-1"):
        try:
            text = raw.decode(encoding).removeprefix("\ufeff")
            json.loads(text)
            return text.encode()
        except (ValueError, RecursionError):
            continue
    return None
