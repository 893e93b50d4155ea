"""Which public checkpoints there are for the rows of the survey, and fetching one.

Sizes, checksums and licences are those that the publishers (or, for Darknet's files, their users)
name; a licence of a repository is not always meant for its weights, and data have terms of their
own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

from boxatlas.errors import InputError, nearest
from boxatlas.evaluation.survey import SURVEY, SurveyRow
from boxatlas.fetching import Advance, Size, fetch
from boxatlas.files import make_folder
from boxatlas.weights import checkpoints
from boxatlas.weights.source import Checkpoint

# Why a row has none. (model -> what is known of its weights)
NONE: dict[str, str] = {
    "dssd321_r101": "the authors released the 513 models on COCO only",
    "m2det320_vgg16": "the authors released m2det512_vgg.pth only",
    "m2det320_r101": "the authors released m2det512_vgg.pth only",
    "m2det512_r101": "the authors released m2det512_vgg.pth only",
    "m2det800_vgg16": "the authors released m2det512_vgg.pth only",
}


@dataclass(frozen=True)
class Available:
    """A row of the survey, and (source, checkpoint) of what can be imported for its model."""

    row: SurveyRow
    found: tuple[tuple[str, Checkpoint], ...]

    @property
    def none(self) -> str | None:
        """Why there is none; None where there is one."""
        return None if self.found else NONE.get(self.row.model, "no public checkpoint is known")


def by_row() -> list[Available]:
    """Every row of the survey in its order, each with what can be imported for it."""
    known = checkpoints()
    return [
        Available(row, tuple((s, c) for s, c in known if c.model == row.model)) for row in SURVEY
    ]


def find(name: str) -> Checkpoint:
    """The checkpoint of that publisher's name (or the last part of it, where only one ends so).

    Raises InputError, naming the nearest, where there is none, and where several are so called.
    """
    known = {c.file: c for _, c in checkpoints()}
    if name in known:
        return known[name]
    ends = [c for file, c in known.items() if file.rsplit("/", 1)[-1] == name]
    if len(ends) == 1:
        return ends[0]
    problem = "no such checkpoint is known" if not ends else "several checkpoints are called so"
    hint = nearest(name, known) or "`boxatlas weights list`"
    raise InputError(problem, field="fetch", value=name, hint=hint)


def name_of(one: Checkpoint) -> str:
    """The name of the file that its address gives."""
    return Path(urlparse(one.url or one.file).path).name


def fetch_checkpoint(
    one: Checkpoint, out: Path, *, url: str | None = None, advance: Advance | None = None
) -> Path:
    """Fetch what the publisher offers to `out`, resumed and checked.

    url: where it lies, if elsewhere (checksum and size stay the publisher's). The published size
    is compared where there is no checksum, which says more. Raises InputError for what has no
    address of its own, and as `fetching.fetch` does.
    """
    where = url or one.url
    if where is None:
        problem = f"its publisher ({one.where}) names no address that a program can fetch"
        hint = "fetch it by hand as its page says, then `boxatlas weights import`"
        raise InputError(problem, field="fetch", value=one.file, hint=hint)
    part = out.with_name(f".part-{out.name}")
    make_folder(part.parent)
    fetch(where, part, one.checksum, advance, None if one.checksum else size_of(one))
    part.replace(out)
    return out


def size_of(one: Checkpoint) -> Size | None:
    """The least and the most bytes of a file by its published size: one of its last digit off.

    Publishers round up or down, and say MB of 10**6 bytes as well as of 2**20.
    """
    if one.megabytes is None:
        return None
    digits = len(f"{one.megabytes}".partition(".")[2])
    return (one.megabytes - 10**-digits) * 10**6, (one.megabytes + 10**-digits) * 2**20
