"""What can be wrong with a data set: each kind of flaw, how bad it is, and what repair does."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

Level = Literal["error", "warning"]


@dataclass(frozen=True)
class Kind:
    """A kind of flaw; `repair` is what a repaired copy does about it, "" where it does nothing."""

    level: Level
    meaning: str
    repair: str = ""


KINDS: dict[str, Kind] = {
    # Images
    "image_missing": Kind("error", "an annotation's image is missing", "annotation left out"),
    "image_unreadable": Kind("error", "the image cannot be decoded", "image left out"),
    "image_truncated": Kind("error", "the image file is cut off", "image left out"),
    "image_size": Kind("error", "the image has another size than stated", "the size restated"),
    "image_rotated": Kind(
        "error", "the boxes are of the image before its EXIF rotation", "the rotation tag removed"
    ),
    "image_turned": Kind(
        "warning", "the image has an EXIF rotation; boxes are read as of the upright image"
    ),
    "image_unannotated": Kind("warning", "an image without annotation"),
    "image_empty": Kind("warning", "images without objects; they count as background"),
    "image_ambiguous": Kind("error", "two images beside each other share an annotation"),
    "image_twice": Kind(
        "error",
        "an image is listed twice, each time with some of its objects",
        "listed once, with all",
    ),
    "image_same": Kind("warning", "the same image file twice"),
    "image_near": Kind("warning", "nearly the same image twice"),
    # Splits
    "leak_same": Kind("error", "the same image in two splits", "left out of the training split"),
    "leak_near": Kind("warning", "nearly the same image in two splits"),
    "split_shared": Kind("error", "splits share images", "left out of the training split"),
    "split_empty": Kind("error", "an empty split"),
    "split_unknown": Kind(
        "error", "a split lists an image that has no annotation", "line left out"
    ),
    "split_twice": Kind("warning", "a split lists an image twice", "line left out"),
    "split_none": Kind("warning", "annotations that are in no split"),
    # Boxes
    "box_format": Kind(
        "error", "the boxes look as if they were in another format", "read in that format"
    ),
    "box_inverted": Kind("error", "the box is inverted", "its corners swapped"),
    "box_no_area": Kind("error", "the box has no area", "object left out"),
    "box_outside": Kind("error", "the box lies outside the image", "object left out"),
    "box_beyond": Kind("error", "the box reaches beyond the image", "clipped"),
    "box_edge": Kind("warning", "the box reaches beyond the image by a pixel or less", "clipped"),
    "box_zero_based": Kind(
        "warning",
        "corners of 0 in a layout whose first pixel is 1",
        "all corners moved by a pixel, if none leaves its image",
    ),
    "box_tiny": Kind("warning", "a side of the box is under 2 pixels"),
    "box_whole": Kind("warning", "the box is nearly the whole image"),
    "box_twice": Kind("warning", "the same object twice", "second one left out"),
    "box_two_classes": Kind("warning", "one box with two classes"),
    # Numbers, ids and references
    "not_a_number": Kind(
        "error", "text, NaN or infinity where a number should be", "object left out"
    ),
    "value_odd": Kind(
        "warning",
        "a value that is only written oddly; it is read as what it says",
        "written plainly",
    ),
    "annotation_invalid": Kind("error", "an annotation that cannot be read", "left out"),
    "annotation_orphan": Kind(
        "error", "an annotation of an image that is not listed", "object left out"
    ),
    "annotation_id_zero": Kind(
        "warning", "annotation id 0: some evaluators take it for none", "ids begin at 1"
    ),
    "id_twice": Kind("error", "two things of one id", "second one left out"),
    "id_shared": Kind("warning", "one id, two images in two splits"),
    "id_gaps": Kind("warning", "category ids with gaps; labels are numbered without them"),
    # Classes
    "class_unknown": Kind("error", "a class that is not listed", "object left out"),
    "class_twice": Kind("error", "two classes of one name or id", "merged by name"),
    "class_unnamed": Kind("error", "class numbers without a name", "named by the number"),
    "class_count": Kind(
        "error", "the number of classes stated is not that of the names", "restated"
    ),
    "class_unused": Kind("warning", "classes without objects"),
    "class_imbalance": Kind("warning", "the classes are very unevenly frequent"),
    # Masks
    "mask_invalid": Kind("error", "a mask that cannot be read", "object left out"),
    "mask_points": Kind("error", "a polygon of fewer than three points", "polygon left out"),
    "mask_size": Kind("error", "a run-length mask of another size than the image", "mask left out"),
    "mask_box": Kind("error", "mask and box disagree", "the box drawn around the mask"),
    # Files
    "path_leaves": Kind("error", "a path that leaves the folder", "left out"),
    "path_foreign": Kind("warning", "paths of another machine; they are not used"),
    "file_invalid": Kind("error", "a file that cannot be read", "left out"),
    "file_encoding": Kind("warning", "not plain UTF-8 text"),
    "file_line_ends": Kind("warning", "line ends of another system"),
    "file_name": Kind("warning", "the annotation names another image file than its own name"),
    "label_missing": Kind("warning", "images without a label file; they count as background"),
}


@dataclass(frozen=True)
class Flaw:
    """One flaw. file, field: where it is; image: whose it is; number: the object's in its file.

    row: of an object, the split it was read with and its number in that table.
    count: how many things it stands for, where they are told together.
    """

    kind: str
    file: str
    field: str = ""
    message: str = ""
    image: str = ""
    count: int = 1
    number: int | None = None
    remedy: Any = dataclasses.field(default=None, compare=False)  # what repair needs to know
    row: tuple[str | None, int] | None = dataclasses.field(default=None, compare=False)

    @property
    def level(self) -> Level:
        return KINDS[self.kind].level

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        out: dict[str, Any] = {
            "kind": self.kind,
            "level": self.level,
            "file": self.file,
            "field": self.field,
            "message": self.message,
        }
        if self.image:
            out["image"] = self.image
        if self.count != 1:
            out["count"] = self.count
        return out

    def __str__(self) -> str:
        where = ": ".join(part for part in (self.file, self.field) if part)
        text = " ".join(f"{where}: {self.message or KINDS[self.kind].meaning}".split())
        return text.encode("utf-8", "backslashreplace").decode()  # half of a pair in a name


def counted(flaws: Iterable[Flaw]) -> dict[str, int]:
    """How many things each kind of flaw concerns, errors first, then the most frequent."""
    total: Counter[str] = Counter()
    for flaw in flaws:
        total[flaw.kind] += flaw.count
    order = sorted(total, key=lambda kind: (KINDS[kind].level != "error", -total[kind], kind))
    return {kind: total[kind] for kind in order}
