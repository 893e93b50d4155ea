"""What every reader needs: collecting rows into a table, numbers checked, paths held inside."""

from __future__ import annotations

import codecs
import json
import math
import os
import re
import sys
from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxatlas.data.extras import Extras
from boxatlas.data.masks import Mask, Packer
from boxatlas.data.numbers import number
from boxatlas.data.table import Table
from boxatlas.errors import InputError
from boxatlas.files import check_file
from boxatlas.images import size_of

Box = tuple[float, float, float, float]
_LARGE = 1 << 26  # bytes
_PLAIN_FLAGS = (0, 1, "0", "1")  # False and True are among them
_NO_FLAGS = ("", "unspecified", "none", "null")
_FLAGS = {"0": False, "0.0": False, "false": False, "no": False}
_FLAGS |= {"1": True, "1.0": True, "true": True, "yes": True}
ODDLY = "is only written oddly, and read as what it says"


class Builder:
    """Rows of a table, in flat arrays.

    strict: the first flaw is raised. Else flaws are gathered in `problems` and what has one is left
    out, which is how `data check` reads: both see the same flaws; `remarks` are what is read all
    the same. For it, `files` [N] and
    `origins` [T] say where each image and object came from, and `no_sizes` what an annotation
    states of an image (by its number) that is no size.
    """

    def __init__(self, strict: bool = True) -> None:
        self.strict, self.problems, self.remarks = strict, list[InputError](), list[InputError]()
        self.paths, self.files = list[str](), list[str]()
        self.ids = list[str | int]()
        self.sizes = list[tuple[int, int]]()
        self.image_label = array("i")
        self.boxes, self.areas = array("d"), array("d")
        self.labels, self.owners, self.numbers = array("i"), array("i"), array("i")
        self.ignore, self.masks = bytearray(), Packer()
        self.truncated, self.any_truncated = bytearray(), False
        self.no_sizes = dict[int, tuple[int, int]]()
        self.headers = False  # whether a size was read from an image's header
        self.notes = list[str]()
        # What goes into the table's extras: of images, of objects by their number, and so on.
        self.image_texts, self.object_texts = list[str](), dict[int, str]()
        self.head, self.class_extras = dict[str, Any](), dict[str, dict[str, Any]]()
        self.extra_names = dict[str, None]()
        self.origins = np.zeros(0, np.int64)

    def refuse(self, error: InputError) -> None:
        """Raise the flaw, or gather it."""
        if self.strict:
            raise error
        self.problems.append(error)

    def remark(self, error: InputError) -> None:
        """Something that is read as what it says and yet worth telling: for `data check` alone."""
        if not self.strict:
            self.remarks.append(error)

    def number(self, value: Any, file: Path, field: str) -> float:
        """A finite number of JSON; one written as text is taken too, and remarked on."""
        if type(value) is str:
            found = number(value, file, field)
            self.oddly(value, file, field)
            return found
        return json_number(value, file, field)

    def oddly(self, value: Any, file: Path, field: str) -> None:
        """Remark on a value that is only written oddly."""
        if not self.strict:
            self.remarks.append(InputError(ODDLY, file=file, field=field, value=value))

    def flag(self, value: Any, file: Path, field: str, usual: type = int) -> bool | None:
        """A truth value, 0 or 1 however it is written; None where nothing is stated.

        usual: the type in which it is not remarked on.
        """
        if type(value) is usual and value in _PLAIN_FLAGS:
            return bool(int(value))
        text = str(value).strip().lower()
        if value is None or text in _NO_FLAGS:
            return None
        if text not in _FLAGS:
            raise InputError("must be 0 or 1", file=file, field=field, value=value)
        self.oddly(value, file, field)
        return _FLAGS[text]

    def image(
        self,
        path: Path,
        id_: str | int,
        size: tuple[int, int] | None,
        file: Path,
        image_label: int = -1,
        extra: str = "",
    ) -> None:
        """Begin an image; size (height, width) as stated, or None. extra: see `data.extras`.

        Where it is none, or not above 0, it is read from the file later.
        """
        usable = above_zero(size)
        if size is not None and usable is None:
            self.no_sizes[len(self.paths)] = size
        self.paths.append(str(path))
        self.ids.append(id_)
        self.sizes.append(usable or (0, 0))
        self.files.append(str(file))
        self.image_label.append(image_label)
        self.image_texts.append(sys.intern(extra))

    def add(
        self,
        box: Box,
        label: int,
        number: int,
        *,
        ignore: bool = False,
        mask: Mask = None,
        area: float = math.nan,
        image: int = -1,
        truncated: bool | None = None,
        extra: str = "",
    ) -> None:
        """An object, the number-th of its file, of the image begun last or of image `image`.

        truncated: None where the file does not say. Raises ValueError or TypeError for what is no
        mask.
        """
        self.masks.add(mask)
        if extra:
            self.object_texts[len(self.owners)] = sys.intern(extra)
        self.boxes.extend(box)
        self.labels.append(label)
        self.numbers.append(number)
        self.owners.append(image if image >= 0 else len(self.paths) - 1)
        self.ignore.append(ignore)
        self.areas.append(area)
        self.truncated.append(bool(truncated))
        self.any_truncated |= truncated is not None

    def add_many(
        self,
        boxes: NDArray[np.float64],
        number: int,
        *,
        ignore: NDArray[np.bool_],
        areas: NDArray[np.float64],
    ) -> None:
        """Objects, the number-th of their file and those that follow it, without label and image.

        boxes [N, 4] x1, y1, x2, y2. Their masks are `masks`'s to add.
        """
        none = bytes(4 * len(boxes))
        self.boxes.frombytes(np.ascontiguousarray(boxes).tobytes())
        self.labels.frombytes(none)
        self.owners.frombytes(none)
        self.numbers.extend(range(number, number + len(boxes)))
        self.ignore += ignore.tobytes()
        self.areas.frombytes(areas.tobytes())
        self.truncated += bytes(len(boxes))

    def keep(self, rows: Sequence[int]) -> None:
        """Only these objects (numbers in the order they were added) stay."""
        if len(rows) == len(self.owners):
            return
        index = np.asarray(rows, np.int64)
        boxes = np.asarray(self.boxes).reshape(-1, 4)[index]
        self.boxes = array("d", boxes.ravel().tobytes())
        for name in ("labels", "owners", "numbers", "areas"):
            old = getattr(self, name)
            setattr(self, name, array(old.typecode, np.asarray(old)[index].tobytes()))
        for name in ("ignore", "truncated"):
            old = np.frombuffer(getattr(self, name), np.uint8)
            setattr(self, name, bytearray(old[index].tobytes()))
        texts = self.object_texts
        self.object_texts = {n: texts[row] for n, row in enumerate(rows) if row in texts}
        masks, self.masks = self.masks.masks(), Packer()
        for row in rows:
            self.masks.add(masks[row])

    def table(self, classes: Sequence[str], layout: str = "") -> Table:
        """What was collected. Sizes that no annotation states are read from the images' headers.

        layout: whose extras were.
        """
        self._sizes()
        owners = np.asarray(self.owners, np.int64)
        order = np.argsort(owners, kind="stable")
        counts = np.bincount(owners, minlength=len(self.paths))
        self.origins = np.asarray(self.numbers, np.int64)[order]
        boxes = np.asarray(self.boxes).reshape(-1, 4)[order].astype(np.float32)
        areas = np.asarray(self.areas)[order].astype(np.float32)
        own = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        return Table(
            tuple(classes),
            self.paths,
            self.ids,
            np.asarray(self.sizes, np.int32).reshape(-1, 2),
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            boxes,
            np.asarray(self.labels, np.int32)[order],
            np.frombuffer(self.ignore, np.uint8)[order].astype(bool),
            self.masks.masks().take(order) if self.masks.any else None,
            None if np.isnan(areas).all() else np.where(np.isnan(areas), own, areas),
            np.asarray(self.image_label, np.int32),
            tuple(self.notes),
            np.frombuffer(self.truncated, np.uint8)[order].astype(bool)
            if self.any_truncated
            else None,
            extras=self._extras(layout, order),
        )

    def _extras(self, layout: str, order: NDArray[np.int64]) -> Extras | None:
        names = tuple(dict.fromkeys([*self.head, *self.extra_names]))
        if not names:
            return None
        texts = self.object_texts
        return Extras(
            layout,
            names,
            [self.head],
            [0] * len(self.paths),
            self.class_extras,
            self.image_texts,
            [texts.get(row, "") for row in order.tolist()] if texts else [],
        )

    def _sizes(self) -> None:
        unknown = [i for i, size in enumerate(self.sizes) if size == (0, 0)]
        self.headers |= bool(unknown)
        found = sizes_of([self.paths[i] for i in unknown])
        for i, size in zip(unknown, found, strict=True):
            if isinstance(size, InputError):
                self.refuse(size)
            else:
                self.sizes[i] = size


def sizes_of(paths: Sequence[str | Path]) -> list[tuple[int, int] | InputError]:
    """(height, width) of each image from its header, or what is wrong with it."""

    def one(path: str | Path) -> tuple[int, int] | InputError:
        try:
            return size_of(path)
        except InputError as error:
            return error

    if not paths:
        return []
    with ThreadPoolExecutor() as pool:
        return list(pool.map(one, paths))


def json_number(value: Any, file: Path, field: str) -> float:
    """The same of a value of JSON, where text and truth values are none."""
    if isinstance(value, str | bool):
        raise InputError("is not a number", file=file, field=field, value=value)
    return number(value, file, field)


def stated_size(
    height: Any,
    width: Any,
    file: Path,
    field: str,
    read: Callable[[Any, Path, str], float] = json_number,
) -> tuple[int, int] | None:
    """(height, width) as an annotation states it, which may be 0 or less; None where it does not.

    read: `number` where they are text.
    """
    if height is None or width is None:
        return None
    return int(read(height, file, f"{field}height")), int(read(width, file, f"{field}width"))


def above_zero(size: tuple[int, int] | None) -> tuple[int, int] | None:
    """A stated size if it can be one."""
    return size if size is not None and min(size) > 0 else None


def inside(folder: Path, name: str, file: Path, field: str) -> Path:
    """folder / name, which must not lead out of `folder`."""
    if leaves(name):
        raise InputError("a path that leaves the folder", file=file, field=field, value=name)
    return folder / name


def leaves(name: str) -> bool:
    """Whether a relative name leads out of its folder, or is none."""
    parts = name.replace("\\", "/").split("/")
    return ".." in parts or Path(name).is_absolute() or "\0" in name or name[1:2] == ":"


def read_text(path: Path) -> str:
    """A text file in its encoding (see `decoded`). Every line end becomes a line feed."""
    check_file(path)
    try:
        raw = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot be read: {reason}", file=path) from None
    text, _ = decoded(raw)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def decoded(raw: bytes) -> tuple[str, str]:
    """Bytes as text, and in which encoding: what a byte order mark or else an XML declaration says,
    UTF-8 where neither is there, Latin-1 where they are not in that. The mark is dropped."""
    declared = re.match(rb"""<\?xml[^>]{0,80}?encoding\s*=\s*["']([\w.-]+)["']""", raw)
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        encodings = ["UTF-16"]
    else:
        encodings = [declared[1].decode()] if declared else []
    for encoding in (*encodings, "UTF-8-SIG"):
        try:
            text = raw.decode(encoding)
        except (ValueError, LookupError):  # not in it, or there is no such encoding
            continue
        if declared is None or text.lstrip("\ufeff").startswith("<?xml"):
            return text.removeprefix("\ufeff"), encoding
    return raw.decode("latin-1"), "Latin-1"


def encoding_of(path: Path) -> str:
    """The encoding of a text file that is read piece by piece, as `decoded` has it; a large one is
    not looked through, and UTF-8 where no byte order mark says otherwise."""
    check_file(path)
    with open(path, "rb") as file:
        start = file.read(2)
        if start in (b"\xff\xfe", b"\xfe\xff"):
            return "utf-16"
        if os.fstat(file.fileno()).st_size > _LARGE:
            return "utf-8-sig"
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            decoder.decode(start)
            while piece := file.read(1 << 20):
                decoder.decode(piece)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "latin-1"
    return "utf-8-sig"


def lines_in(path: Path) -> Iterator[tuple[int, str]]:
    """(number, line) of a text file that is read a line at a time."""
    try:
        with open(path, encoding=encoding_of(path)) as file:
            yield from enumerate(file, 1)
    except FileNotFoundError:
        raise InputError("no such file", file=path) from None
    except UnicodeDecodeError as error:
        raise InputError(f"is not UTF-8 text: {error.reason}", file=path) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from None


def json_of(path: Path) -> Any:
    """A JSON document, whole. Raises InputError for what is none."""
    try:
        return json.loads(read_text(path))
    except RecursionError:
        raise InputError("is nested too deep", file=path) from None
    except ValueError as error:
        raise InputError(f"is not valid JSON: {error}", file=path) from None


def lines_of(path: Path) -> list[str]:
    """The lines of a text file, stripped, without empty ones."""
    return [line for line in map(str.strip, read_text(path).split("\n")) if line]
